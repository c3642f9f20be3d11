"""Static files of the pages that the daemon serves at /ui."""

__all__: list[str] = []
