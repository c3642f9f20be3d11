"""Static pages that the daemon serves."""
