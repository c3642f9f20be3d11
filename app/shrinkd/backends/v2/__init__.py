"""The backend for cgroup v2."""

from shrinkd.backends.v2.backend import backend_class

__all__ = ["backend_class"]
