"""Simulate swap on zram or on a disk, optionally with a compressed pool (zswap) before it."""

from dataclasses import dataclass

from shrinkd.backends.simulator.machine.accounting import SWAPPABLE, Area, Cgroup

ZSWAP_RATIO = 3  # pages per page of the pool, as zstd compresses ordinary heaps


@dataclass(slots=True)
class Swap:
    """Hold the swap of the machine, in pages.

    Times are microseconds a page: about 10 for zram, 100 and more for a disk.
    """

    pages: int = 0
    in_us: float = 10.0
    out_us: float = 2.0
    pool: int = 0
    """The maximum size of zswap, compressed."""
    pool_in_us: float = 4.0
    used: int = 0
    pool_used: int = 0

    @property
    def free(self) -> int:
        return self.pages - self.used

    def swap_out(self, area: Area, pages: int) -> int:
        """Swap out pages of an area; return the pages that zswap charges its group for them."""
        self.used += pages
        area.out += pages
        area.cgroup.add_swap(pages)
        fits = min(pages, (self.pool - self.pool_used) * ZSWAP_RATIO)
        return self._compress(area.cgroup, fits) if fits > 0 else 0

    def swap_in(self, area: Area, pages: int) -> float:
        """Swap in or discard pages of an area; return the microseconds to read them."""
        pool = self._pool_of(area.cgroup)
        compressed = 0
        if pool is not None and pool.out:
            swapped = sum(other.out for other in area.cgroup.areas if other.kind in SWAPPABLE)
            compressed = min(-(-pages * pool.out // swapped), pages, pool.out)
            self._compress(area.cgroup, -compressed)
        self.used -= pages
        area.out -= pages
        area.cgroup.add_swap(-pages)
        return compressed * self.pool_in_us + (pages - compressed) * self.in_us

    def _compress(self, cgroup: Cgroup, pages: int) -> int:
        pool = cgroup.area("zswap")
        pool.out += pages
        moved = -(-pool.out // ZSWAP_RATIO) - pool.inactive
        pool.inactive += moved
        self.pool_used += moved
        cgroup.add(moved)
        return moved

    def _pool_of(self, cgroup: Cgroup) -> Area | None:
        return (
            next((area for area in cgroup.areas if area.kind == "zswap"), None)
            if self.pool
            else None
        )
