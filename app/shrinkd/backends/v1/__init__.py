"""The backend for cgroup v1."""

from shrinkd.backends.v1.backend import backend_class

__all__ = ["backend_class"]
