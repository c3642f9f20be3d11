"""Choose the pages to reclaim, after shrink_node() and shrink_lruvec() of mm/vmscan.c.

Reclaim does not know access times. It has LRU lists, and whether a page was used since its accessed
bit was cleared: in an area whose pages are used every `interval` seconds, that is true of 1 -
exp(-age / interval) of them. Used pages go round again, the others are reclaimed. So cold pages go
first only after the lists have been scanned before; and a large reclaim takes pages of every kind.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from shrinkd.backends.simulator.machine.accounting import SWAPPABLE, Area, Cgroup
from shrinkd.backends.simulator.machine.swap import Swap

RECLAIM_US = 2  # one clean page: 2.05 GiB/s in folios of 4 KiB, as measured on 6.18
FOLIO_SPEED = 35  # and so much faster in folios of 2 MiB
WRITE_US = 8  # one dirty page: a disk of some 500 MB/s
UNBOUNDED_US = 2**63  # no limit: a task in direct reclaim waits for as long as it takes
SWAPPINESS_MAX = 201  # SWAPPINESS_ANON_ONLY, "swappiness=max" since 6.16
DEF_PRIORITY = 12  # include/linux/mmzone.h
_GIB_SHIFT = 18  # pages of 4 KiB to GiB


@dataclass(slots=True)
class Scan:
    """Hold one call of reclaim: its goal and options, and its results so far."""

    goal: int
    now_us: int
    swap: Swap
    budget_us: float = UNBOUNDED_US
    swappiness: int | None = None
    may_swap: bool = True
    is_multigenerational: bool = False
    freed: int = 0
    spent_us: float = 0.0
    low_skipped: set[Cgroup] = field(default_factory=set)

    @property
    def wanted(self) -> int:
        return self.goal - self.freed

    def affordable(self, page_us: float) -> int:
        return int((self.budget_us - self.spent_us) / page_us)


def reclaim(target: Cgroup, scan: Scan) -> None:
    """Free scan.goal pages of a subtree, or as many as possible.

    The low of descendants holds until nothing else is left, min always.
    """
    breaches_low = False
    while scan.wanted > 0:
        before, members = scan.freed, _members(target, scan, breaches_low=breaches_low)
        _round(members, scan)
        if scan.freed > before:
            continue
        if breaches_low or not scan.low_skipped:
            break
        breaches_low = True
        for cgroup in scan.low_skipped:
            cgroup.event("low")


def _members(target: Cgroup, scan: Scan, *, breaches_low: bool) -> list[tuple[Cgroup, int]]:
    """Return the groups of a subtree, each with how many of its pages are reclaimable."""
    if not target.children:
        return [(target, 1)]
    found = [(target, _evictable(target, scan))]
    pending = [(target, 0, 0)]
    while pending:
        parent, parent_min, parent_low = pending.pop()
        shares = _shares(parent, parent_min, parent_low, is_target=parent is target)
        for child, (least, low) in zip(parent.children, shares, strict=True):
            guarded = least if breaches_low else max(least, low)
            if low > least and guarded:
                scan.low_skipped.add(child)
            pages = _evictable(child, scan)
            found.append(
                (
                    child,
                    pages - pages * guarded // (child.usage + 1) if guarded < child.usage else 0,
                )
            )
            if child.children:
                pending.append((child, least, low))
    return [(cgroup, pages) for cgroup, pages in found if pages > 0]


def _shares(
    parent: Cgroup, parent_min: int, parent_low: int, *, is_target: bool
) -> list[tuple[int, int]]:
    """Return the effective min and low of each child: effective_protection() of mm/page_counter.c.

    Overcommitted protection is shared out.
    """
    mins = [min(child.usage, child.min) for child in parent.children]
    lows = [min(child.usage, child.low) for child in parent.children]
    if is_target:
        return list(zip(mins, lows, strict=True))
    return list(zip(_fit(mins, parent_min), _fit(lows, parent_low), strict=True))


def _fit(claims: list[int], whole: int) -> list[int]:
    total = sum(claims)
    return claims if total <= whole else [claim * whole // total for claim in claims]


def _evictable(cgroup: Cgroup, scan: Scan) -> int:
    pages = anon = 0
    for area in cgroup.areas:
        if area.kind == "file":
            pages += area.active + area.inactive + area.dirty + area.writeback
        elif area.kind == "slab_reclaimable":
            pages += area.inactive
        elif area.kind in SWAPPABLE:
            anon += area.active + area.inactive
    return pages + min(anon, swap_room(cgroup, scan)) if anon else pages


def swap_room(cgroup: Cgroup, scan: Scan) -> int:
    """Return how many pages of a group may go to swap now. Swappiness 0 forbids it."""
    swappiness = cgroup.swappiness if scan.swappiness is None else scan.swappiness
    if not (scan.may_swap and swappiness and scan.swap.free):
        return 0
    return max(min(scan.swap.free, cgroup.swap_room()), 0)


def _round(members: list[tuple[Cgroup, int]], scan: Scan) -> None:
    if len(members) == 1:
        _shrink(members[0][0], scan.wanted, scan)
    elif scan.is_multigenerational:
        _scan_proportionally(members, scan)
    else:
        _scan_by_priority(members, scan)


def _scan_proportionally(members: list[tuple[Cgroup, int]], scan: Scan) -> None:
    """Reclaim from every group in proportion to its pages.

    With many groups it takes a part at a time, since protection changes with usage.
    """
    total = sum(pages for _, pages in members)
    wanted = min(scan.wanted, max(total // 8, 32))
    taken = passed = 0
    for cgroup, pages in members:
        passed += pages
        share = wanted * passed // total - taken
        taken += share
        if share > 0:
            _shrink(cgroup, share, scan)


def _scan_by_priority(members: list[tuple[Cgroup, int]], scan: Scan) -> None:
    """Scan the groups with rising priority, as do_try_to_free_pages().

    It takes 1/4096 of each, then 1/2048, and so on to all of it. That is in whole pages, so nothing
    of small groups at first, and more of the first ones: both as measured on 6.18.
    """
    for priority in range(DEF_PRIORITY, -1, -1):
        for cgroup, pages in members:
            if share := pages >> priority:
                _shrink(cgroup, min(share, scan.wanted), scan)
            if scan.wanted <= 0:
                return


def _shrink(cgroup: Cgroup, want: int, scan: Scan) -> None:
    """Free pages of one group alone.

    Cache and swappable pages go in the ratio of their cost, then slab, then dirty pages.
    """
    before, goal = scan.freed, scan.freed + want
    files, anons, rest = _lists(cgroup)
    room = swap_room(cgroup, scan) if anons else 0
    anon = _anon_share(cgroup, files, want, scan) if room else 0
    if want > anon:
        _evict(files, want - anon, scan)
    if room and scan.freed < goal:
        _evict(anons, min(goal - scan.freed, room), scan)
    if scan.swappiness != SWAPPINESS_MAX and scan.freed < goal:
        if anon:
            _evict(files, goal - scan.freed, scan)
        for area in rest:
            _reclaim_slow(area, goal - scan.freed, scan)
    cgroup.counts.reclaimed += max(scan.freed - before, 0)


def _lists(cgroup: Cgroup) -> tuple[list[Area], list[Area], list[Area]]:
    """Return the areas of the file lists, of the anonymous lists, and of slab and dirty pages."""
    files, anons, rest = [], [], []
    for area in cgroup.areas:
        if area.kind == "file":
            files.append(area)
            if area.dirty or area.writeback:
                rest.append(area)
        elif area.kind in SWAPPABLE:
            anons.append(area)
        elif area.kind == "slab_reclaimable":
            rest.insert(0, area)
    return files, anons, rest


def _anon_share(cgroup: Cgroup, files: Sequence[Area], want: int, scan: Scan) -> int:
    """Return how many pages should be swapped: get_scan_count().

    None while there is plenty of cache that has not refaulted recently.
    """
    swappiness = cgroup.swappiness if scan.swappiness is None else scan.swappiness
    if swappiness == SWAPPINESS_MAX:
        return want
    if not cgroup.file_cost and sum(area.inactive for area in files) >= want:
        return 0
    total = cgroup.anon_cost + cgroup.file_cost
    anon = swappiness * (total + 1) / (total + cgroup.anon_cost + 1)
    file = (200 - swappiness) * (total + 1) / (total + cgroup.file_cost + 1)
    return int(want * anon / (anon + file))


def _evict(areas: Sequence[Area], want: int, scan: Scan) -> None:
    """Reclaim pages of some lists, ageing them as needed; after two turns used pages as well."""
    if scan.budget_us != UNBOUNDED_US:
        want = min(
            want,
            scan.affordable(
                RECLAIM_US / (FOLIO_SPEED if all(area.folio > 1 for area in areas) else 1)
            ),
        )
    goal = scan.freed + want
    for turn in range(4):
        if scan.freed >= goal:
            return
        _age(areas, scan.now_us, is_desperate=turn > 1)
        _scan_inactive(areas, goal - scan.freed, scan)


def _age(areas: Sequence[Area], now_us: int, *, is_desperate: bool) -> None:
    """Deactivate pages until the inactive list is long enough: inactive_is_low().

    Use is not considered, only the accessed bit is cleared.
    """
    active = inactive = 0
    for area in areas:
        active += area.active
        inactive += area.inactive
    ratio = math.isqrt(10 * ((active + inactive) >> _GIB_SHIFT)) or 1
    moved = active if is_desperate else (active + inactive) // (ratio + 1) - inactive
    if moved <= 0:
        return
    for area in areas:
        if area.active:
            pages = min(-(-moved * area.active // active), area.active)
            area.deactivate(pages, now_us)
            area.cgroup.counts.scanned += pages


def _scan_inactive(areas: Sequence[Area], want: int, scan: Scan) -> None:
    """Scan the inactive list until enough unused pages are found, from each area in proportion."""
    unused = [(area, _unused(area, scan.now_us)) for area in areas if area.inactive]
    expected = 0.0
    for area, share in unused:
        expected += area.inactive * share
    part = want / expected if want < expected else 1.0
    for area, share in unused:
        inactive = area.inactive
        seen = math.ceil(inactive * part) if part < 1 else inactive
        used = int(seen * (1 - share) + 0.5)
        area.cgroup.counts.scanned += seen
        area.active += used
        area.inactive = inactive = inactive - used
        if area.cleared_us is None:
            area.cleared_us = scan.now_us
        gone = seen - used
        gone = min(gone, want)
        if area.folio > 1:
            gone = min(-(-gone // area.folio) * area.folio, inactive)
        # The zswap pool takes pages too, so more are swapped than freed.
        if area.kind in SWAPPABLE:
            gone = min(gone, swap_room(area.cgroup, scan))
        if gone > 0:
            _free(area, gone, scan)
            want -= gone


def _unused(area: Area, now_us: int) -> float:
    """Return the share of the inactive pages that were not used since their bits were cleared.

    A new anonymous page counts as used.
    """
    # The multi-generational LRU sees no use of a file before its first scan.
    if area.cleared_us is None:
        return 1.0 if area.kind == "file" else 0.0
    return math.exp((area.cleared_us - now_us) / 1e6 / area.interval)


def _free(area: Area, pages: int, scan: Scan) -> None:
    """Free inactive pages: pages of files and slab are dropped, the others are swapped."""
    area.inactive -= pages
    area.cgroup.add(-pages)
    scan.freed += pages
    scan.spent_us += pages * RECLAIM_US / (FOLIO_SPEED if area.folio > 1 else 1)
    if area.kind in SWAPPABLE:
        scan.freed -= scan.swap.swap_out(area, pages)
        scan.spent_us += pages * scan.swap.out_us
    else:
        area.out += pages


def _reclaim_slow(area: Area, want: int, scan: Scan) -> None:
    """Free slab, or dirty pages after they have been written to disk."""
    if area.kind != "file":
        _free(area, max(min(area.inactive, want, scan.affordable(RECLAIM_US)), 0), scan)
        return
    pages = max(min(area.dirty + area.writeback, want, scan.affordable(WRITE_US)), 0)
    written = min(area.writeback, pages)
    area.writeback -= written
    area.dirty -= pages - written
    area.inactive += pages
    _free(area, pages, scan)
    scan.spent_us += pages * (WRITE_US - RECLAIM_US)
