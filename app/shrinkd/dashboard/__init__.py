"""Static pages that the daemon serves."""

__all__: list[str] = []
