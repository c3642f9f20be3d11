"""Check and set limits of a simulated group by the rules of its kernel."""

from collections.abc import Mapping

from shrinkd.backends.readings import Group, LimitName
from shrinkd.backends.refusal import busy
from shrinkd.backends.simulator.machine.accounting import Cgroup
from shrinkd.backends.v1.files import LIMIT, MEMSW_LIMIT, SOFT_LIMIT
from shrinkd.backends.v1.limit_order import plan_writes
from shrinkd.backends.v2.files import RECLAIMING_LIMITS
from shrinkd.sizes import PAGE_BYTES


def check_above_usage(cgroup: Cgroup, group: Group, name: LimitName, value: int) -> None:
    """Raise GroupBusy for a maximum or high below usage, for which the kernel would reclaim."""
    if name in RECLAIMING_LIMITS and (usage := cgroup.usage * PAGE_BYTES) >= value:
        raise busy(group, usage, value)


def compare_and_set(cgroup: Cgroup, group: Group, changes: Mapping[LimitName, int | None]) -> None:
    """Set limits of v1, or of the seed, under one lock, all or none.

    Usage has to be below the limit, as the seed compares.
    """
    held = {
        LIMIT: cgroup.max * PAGE_BYTES,
        MEMSW_LIMIT: cgroup.memsw * PAGE_BYTES,
        SOFT_LIMIT: cgroup.soft * PAGE_BYTES,
    }
    writes = dict(plan_writes(group, held, changes))
    if LIMIT in writes and writes[LIMIT] <= (usage := cgroup.usage * PAGE_BYTES):
        raise busy(group, usage, writes[LIMIT])
    wanted = held | writes
    cgroup.max, cgroup.memsw, cgroup.soft = (
        wanted[name] // PAGE_BYTES for name in (LIMIT, MEMSW_LIMIT, SOFT_LIMIT)
    )
