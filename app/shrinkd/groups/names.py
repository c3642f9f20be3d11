"""Groups by their paths.

The names by which people know them, of a container, a pod or a systemd unit, and globs over them.
"""

import re
from fnmatch import fnmatchcase
from functools import lru_cache

_CONTAINER = re.compile(r"(?:docker-|cri-containerd-|crio-|libpod-)?([0-9a-f]{64})(?:\.scope)?")
_POD = re.compile(
    r"(?:kubepods(?:-\w+)?-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?"
)
_UNIT = re.compile(r"[^/]+\.(?:service|scope|slice|socket|mount|swap)")


def aliases_of(path: str) -> list[str]:
    """The references besides its path and id that name a group, by its last component."""
    name = path.rpartition("/")[2]
    aliases = []
    if match := _CONTAINER.fullmatch(name):
        aliases.append(f"container:{match[1]}")
    if match := _POD.fullmatch(name):
        aliases.append(f"pod:{match[1].replace('_', '-')}")
    if _UNIT.fullmatch(name):
        aliases.append(f"unit:{name}")
    return aliases


def matches(pattern: str, path: str) -> bool:
    """Whether a glob names this path, component by component: a * does not cross a slash."""
    wanted, components = pattern.split("/"), path.split("/")
    return len(components) == len(wanted) and all(map(fnmatchcase, components, wanted))


@lru_cache(maxsize=8192)  # a tree is walked again and again
def covers(patterns: tuple[str, ...], path: str) -> bool:
    """Whether one of the globs names this path or one above it.

    "/" covers all, and so do no globs at all.
    """
    return not patterns or any(_is_below(pattern.strip("/"), path) for pattern in patterns)


def _is_below(pattern: str, path: str) -> bool:
    return not pattern or matches(pattern, "/".join(path.split("/")[: pattern.count("/") + 1]))
