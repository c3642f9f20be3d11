"""shrinkd: lower a container's memory without killing it."""

__version__ = "0.2.0"
