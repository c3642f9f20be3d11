"""shrinkd: lower a container's memory without killing it."""

__version__ = "0.1.0"
