"""List the differences between the kernels that a machine can simulate."""

from dataclasses import dataclass, replace
from typing import Literal

from shrinkd.backends.readings import LimitName
from shrinkd.backends.trigger_types import EventsMove, Stalled, Trigger, UsageCrosses

LIMIT_FIELDS: dict[LimitName, str] = {
    "max_bytes": "max",
    "high_bytes": "high",
    "low_bytes": "low",
    "min_bytes": "min",
    "swap_max_bytes": "swap_max",
    "soft_limit_bytes": "soft",
}
"""The Cgroup attribute of each limit; v1 limits swap by `memsw` instead."""


@dataclass(frozen=True, slots=True)
class Profile:
    """Describe the rules of one kernel; the first fields use the vocabulary of Backend."""

    name: str
    cgroup_version: Literal[1, 2]
    settable_limits: frozenset[LimitName]
    has_swappiness: bool
    """memory.reclaim accepts one, since 6.11."""
    has_pressure: bool
    watchable: frozenset[type[Trigger]]
    batch_pages: int
    """The minimum that one call of reclaim frees: SWAP_CLUSTER_MAX, MIN_LRU_BATCH."""
    is_multigenerational: bool
    rounds_up: bool
    """Sizes are rounded up to pages, before page_counter (3.19); later they are rounded down."""
    refuses_limits: bool
    """A maximum below usage is refused in the end; v2 stores it first and kills to meet it."""
    is_strict: bool = False
    """A maximum has to be above usage; since res_counter_set_limit() of 2.6.31 it may equal it."""
    saturates: bool = False
    """memparse() since 7.3: a number above 2^64 saturates instead of wrapping modulo 2^64, and "K"
    is invalid, not 0."""
    reclaims_on_nonblock: bool = False
    """Before 6.16 O_NONBLOCK is ignored: a write to memory.max reclaims and kills all the same."""
    inner_processes: bool = True
    """A group may have processes beside child groups, whatever controllers it has enabled."""


SEED2008 = Profile(
    name="seed2008",
    cgroup_version=1,
    settable_limits=frozenset({"max_bytes"}),
    has_swappiness=False,
    has_pressure=False,
    watchable=frozenset({UsageCrosses, EventsMove}),
    batch_pages=32,
    is_multigenerational=False,
    rounds_up=True,
    refuses_limits=True,
    is_strict=True,
)
"""2.6.26-rc8-mm1 with the four mails of 18 July 2008 as intended: memory.shrink_in_bytes, limits
that shrink, and the notifier that they list as a TODO."""

V1 = Profile(
    name="v1",
    cgroup_version=1,
    settable_limits=frozenset({"max_bytes", "soft_limit_bytes", "swap_max_bytes"}),
    has_swappiness=False,
    has_pressure=True,
    watchable=frozenset({UsageCrosses, EventsMove, Stalled}),
    batch_pages=32,
    is_multigenerational=False,
    rounds_up=False,
    refuses_limits=True,
)
"""Linux 6.18 with CONFIG_MEMCG_V1 and the classic LRU lists. Its pressure is that of the mirror
group in the cgroup2 mount."""

V2 = Profile(
    name="v2",
    cgroup_version=2,
    settable_limits=frozenset(
        {"max_bytes", "high_bytes", "low_bytes", "min_bytes", "swap_max_bytes"}
    ),
    has_swappiness=True,
    has_pressure=True,
    watchable=frozenset({EventsMove, Stalled}),
    batch_pages=64,
    is_multigenerational=True,
    rounds_up=False,
    refuses_limits=False,
    inner_processes=False,
)
"""Linux 6.18 with the multi-generational LRU: O_NONBLOCK stores a maximum, and neither reclaims nor
kills."""

V2_6_12 = replace(V2, name="v2-6.12", reclaims_on_nonblock=True)

PROFILES = {profile.name: profile for profile in (SEED2008, V1, V2, V2_6_12)}
