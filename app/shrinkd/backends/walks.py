"""Walk the tree of groups, and record which entries were skipped and since when walks fail."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from shrinkd.backends.readings import Group, Walk
from shrinkd.errors import (
    Failure,
    InvalidGroupName,
    ShrinkdError,
    classify_failure,
    errno_symbol,
    map_oserror,
)

MAX_NAMED = 10
"""The maximum number of skipped entries that are named; the rest are only counted, since anybody
who may make groups may make thousands."""
LONGEST_PATH_BYTES = 4095
"""PATH_MAX less its NUL, include/uapi/linux/limits.h: the kernel resolves no longer path, though a
deeper directory can be made."""
_LONGEST_FILE_BYTES = 98
"""CGROUP_FILE_NAME_MAX, kernel/cgroup/cgroup.c: the longest name of a control file."""


class SkippedEntries:
    """Collect the entries that one walk, or the listing of one group, skipped as unreadable."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Counts by errno symbol."""
        self.named: list[tuple[str, str]] = []
        """Paths with their errno symbols; at most MAX_NAMED."""

    def add(self, path: str, symbol: str) -> None:
        self.counts[symbol] += 1
        if len(self.named) < MAX_NAMED:
            self.named.append((path, symbol))

    def add_all(self, other: "SkippedEntries") -> None:
        self.counts.update(other.counts)
        self.named += other.named[: MAX_NAMED - len(self.named)]

    def skip_or_raise(self, path: str, error: OSError | ShrinkdError) -> None:
        """Record an unreadable group, ignore a removed one, and raise any other error."""
        failure = classify_failure(error)
        if failure is Failure.UNREADABLE:
            self.add(path, errno_symbol(error))
        elif failure is Failure.UNKNOWN:
            raise error if isinstance(error, ShrinkdError) else map_oserror(error, path) from error


@dataclass(frozen=True, slots=True)
class Listing:
    """List the child groups of one group, and the entries that cannot be used as groups."""

    groups: list[Group] = field(default_factory=list)
    skipped: SkippedEntries | None = None

    def __bool__(self) -> bool:
        return bool(self.groups or self.skipped)


class WalkRecorder:
    """Record the last walk of the whole tree. Thread-safe: the walk that ends last is kept."""

    def __init__(self) -> None:
        self.last = Walk()

    @contextmanager
    def recorded(self, *, is_whole: bool) -> Iterator[SkippedEntries]:
        """Record how a walk ends, if it covers the whole tree.

        It wraps code in which every OSError has become a ShrinkdError.
        """
        skipped = SkippedEntries()
        try:
            yield skipped
        except ShrinkdError as error:
            if is_whole:
                last, moment = self.last, time.monotonic()
                since = moment if last.failing_since is None else last.failing_since
                self.last = Walk(moment, last.unreadable, last.named, error.detail, since)
            raise
        if is_whole:
            self.last = Walk(time.monotonic(), dict(skipped.counts), tuple(skipped.named))


def walk(
    top: Group, depth: int | None, listing_of: Callable[[Group], Listing], skipped: SkippedEntries
) -> list[Group]:
    """List a group and its descendants, parents first.

    An error at the top raises; any other unreadable group is skipped.
    """
    found: list[Group] = []
    level, levels = [top], math.inf if depth is None else depth
    while level and levels:
        read = [
            (group, listing)
            for group in level
            if (listing := _listing_of(group, top, listing_of, skipped)) is not None
        ]
        found += [group for group, _ in read]
        level, levels = [child for _, listing in read for child in listing.groups], levels - 1
    return found + level


def _listing_of(
    group: Group, top: Group, listing_of: Callable[[Group], Listing], skipped: SkippedEntries
) -> Listing | None:
    """Return the listing of a group; None for a group that is skipped."""
    try:
        listing = listing_of(group)
    except (ShrinkdError, OSError) as error:
        if group is top:
            raise
        skipped.skip_or_raise(group.path, error)
        return None
    if listing.skipped:
        skipped.add_all(listing.skipped)
    return listing


def check_length(path: str, root: str) -> None:
    """Raise InvalidGroupName for a group whose control files would have too long a path.

    The path counts from the root directory of the file system.
    """
    length = (
        len(root.encode(errors="surrogateescape")) + len(path.encode()) + _LONGEST_FILE_BYTES + 2
    )
    if length > LONGEST_PATH_BYTES:
        raise InvalidGroupName(
            f"{path[:80]!a}… is too long: with {root!a} before it and the name of a control file "
            f"behind it, it has {length} bytes, "
            f"and the kernel opens no path of more than {LONGEST_PATH_BYTES}. Give the group, or "
            "those around it, shorter names."
        )
