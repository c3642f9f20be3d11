"""Compare the paths of groups: equal, below, or one around the other.

A path is below the managed root, has no leading slash, and "" is the root itself. The scopes of
callers, the protection of the daemon's own group, policies and filters in SQL all use these rules,
so "web" never covers "webmail".
"""


def is_at_or_below(path: str, ancestor: str) -> bool:
    """Tell whether a path is another one or below it; everything is at or below the root ""."""
    return not ancestor or path == ancestor or path.startswith(f"{ancestor}/")


def is_below(path: str, ancestor: str) -> bool:
    """Tell whether a path is below another one, which it is not itself."""
    return path != ancestor and is_at_or_below(path, ancestor)


def are_nested(path: str, other: str) -> bool:
    """Tell whether two paths are equal, or one of them is below the other."""
    return is_at_or_below(path, other) or is_at_or_below(other, path)
