"""Names of groups: containers, pods and systemd units by their paths, and globs over paths."""

import re
from fnmatch import fnmatchcase
from functools import lru_cache

_CONTAINER = re.compile(r"(?:docker-|cri-containerd-|crio-|libpod-)?([0-9a-f]{64})(?:\.scope)?")
_POD = re.compile(
    r"(?:kubepods(?:-\w+)?-)?pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12})(?:\.slice)?"
)
_UNIT = re.compile(r"[^/]+\.(?:service|scope|slice|socket|mount|swap)")


def aliases_of(path: str) -> list[str]:
    """Return the `container:`, `pod:` and `unit:` references that a path's last component means."""
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
    """Tell whether a glob matches a path, component by component: a * does not cross a slash."""
    wanted, components = pattern.split("/"), path.split("/")
    return len(components) == len(wanted) and all(map(fnmatchcase, components, wanted))


@lru_cache(maxsize=8192)  # the same paths are asked for at each walk of the tree
def covers(patterns: tuple[str, ...], path: str) -> bool:
    """Tell whether one of the globs matches this path or one above it.

    "/" covers all paths, and so does an empty tuple.
    """
    return not patterns or any(_is_below(pattern.strip("/"), path) for pattern in patterns)


def _is_below(pattern: str, path: str) -> bool:
    return not pattern or matches(pattern, "/".join(path.split("/")[: pattern.count("/") + 1]))
