"""The types that every kind of policy uses, and the list of the kinds.

A kind is one module in kinds/, found by being there; it ends in `kind = Kind(…)`. Its `decide` is
pure: no I/O, no clock, no random numbers, no logging. Time and everything else that it may know is
in the Observation, so the same code runs live, in observe mode, in evaluate, over a recorded trace
and on the simulator.

    decide(spec, state, observation) -> state', one Decision for each member
"""

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any, Literal, NamedTuple

from shrinkd.backends import Activity, Group, LimitName, MemStat, Pressure, Trigger
from shrinkd.policies import kinds as kinds_folder
from shrinkd.strict_model import Strict

NAME = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"
"""Names of policies: at most 63 characters, as in a DNS name."""
Swap = Literal["allow", "file_only", "anon_only"]
MIN_ASK_BYTES = 1 << 20
"""The smallest amount that is asked for: near the floor v2 answered asks of 0.26, 0.01 and 2.95 MiB
with 26.6, 13.9 and 37.4 MiB (kernel 6.12)."""


class Verdict(StrEnum):
    ACT = "act"
    """An action was granted."""
    WOULD_ACT = "would_act"
    """In observe mode: it would have been granted, and nothing is done."""
    HOLD = "hold"
    """Nothing has to be done, or nothing can be known."""
    BRAKE = "brake"
    """The group stalls for memory: pause, and begin again with smaller steps."""
    COOLDOWN = "cooldown"
    BACKOFF = "backoff"
    """The last passes freed too little: wait, twice as long each time."""
    SUPERSEDED = "superseded"
    """Another policy or a caller goes first in this chain of groups."""
    VETOED = "vetoed"
    """A guard of the host forbids it."""
    TRIPPED = "tripped"
    """The breaker of this policy for this group is open."""
    GONE = "gone"


class Reason(StrEnum):
    """The reason of a decision: the first half is given by kinds, the second by the daemon."""

    FIRST_LOOK = "first_look"
    """The first evaluation: there is nothing to compare with yet."""
    NO_SIGNAL = "no_signal"
    """This kernel does not report what the kind needs."""
    NO_LIMIT = "no_limit"
    """The spec has a percentage of the limit, and the group has no limit."""
    AT_FLOOR = "at_floor"
    ASK_TOO_SMALL = "ask_too_small"
    COOLING_DOWN = "cooling_down"
    LITTLE_FREED = "little_freed"
    BELOW_HIGH = "below_high"
    ABOVE_HIGH = "above_high"
    BELOW_TARGET = "below_target"
    """Pressure leaves room to reclaim."""
    AT_TARGET = "at_target"
    ABOVE_TARGET = "above_target"
    OVERSHOT = "overshot"
    """The last pass freed far more than it was asked for."""
    WITHIN_BUDGET = "within_budget"
    OVER_BUDGET = "over_budget"
    EXEMPT = "exempt"
    """The group had to read back most of what it gave up in the last minute."""
    CPU_BUSY = "cpu_busy"
    CPU_IDLE = "cpu_idle"
    FROZEN = "frozen"
    NOT_DUE = "not_due"
    DUE = "due"
    MISSED = "missed"
    """It was due while the policy was not evaluated, and is skipped."""
    LIMITS_KEPT = "limits_kept"
    LIMITS_DRIFTED = "limits_drifted"

    UNREADABLE = "unreadable"
    """The group could not be read; it is tried again, with a growing delay."""
    OUTRANKED = "outranked"
    CHAIN_BUSY = "chain_busy"
    """A change or a shrink runs in this group, or in one above or below it."""
    MANUAL_CHANGE = "manual_change"
    HOST_PRESSED = "host_pressed"
    RATE_SPENT = "rate_spent"
    SWAP_SCARCE = "swap_scarce"
    OOM_KILLED = "oom_killed"
    FAILED_THRICE = "failed_thrice"
    OUT_OF_HOURS = "out_of_hours"
    GROUP_GONE = "group_gone"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an action, passed to the next evaluation and to no later one.

    Sizes in bytes; `asked_bytes` was granted, `freed_bytes` is what usage fell by.
    """

    asked_bytes: int
    freed_bytes: int
    seconds: float
    errname: str | None = None
    """The errno's symbol when it failed; None for a pass that reached its goal."""
    fault: str | None = None
    """A description of an unexpected error; None for answers that a policy has to expect."""


@dataclass(frozen=True, slots=True)
class Member:
    """One group of a policy, as it was read."""

    group: Group
    stat: MemStat
    floor_bytes: int = 0
    """Usage must never be brought below this: see guards.floor_of()."""
    activity: Activity | None = None
    """Read only for the kinds that need it."""
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """The host, in bytes; `pressure` is that of the host, None where the kernel reports none."""

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """Everything that a decision is made of.

    `now_seconds` is monotonic and never jumps; `wall` (aware) is for calendars alone.
    """

    now_seconds: float
    wall: datetime
    host: Host
    members: tuple[Member, ...]
    """One group, or all groups of the policy by path for a kind that decides together."""


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Reclaim memory, down to a usage or by an amount: exactly one of the two. No limit moves."""

    target_bytes: int | None = None
    reclaim_bytes: int | None = None
    timeout_seconds: float = 30.0
    is_one_pass: bool = False
    """It is granted whole or not at all, since no later ask continues it."""


@dataclass(frozen=True, slots=True)
class Resize:
    """Set limits (None: no limit); to a maximum below usage the group is shrunk first."""

    limits: Mapping[LimitName, int | None]


@dataclass(frozen=True, slots=True)
class Switch:
    """Enable or disable another policy."""

    policy: str
    enabled: bool


Ask = Reclaim | Resize | Switch


@dataclass(frozen=True, slots=True)
class Decision:
    """The decision of a kind for one group. Guards and arbiter may refuse its ask."""

    group: Group
    verdict: Verdict
    reason: Reason
    look_seconds: float
    """Time to the next evaluation, at most."""
    signals: Mapping[str, float | int | str | None] = field(default_factory=dict)
    """The numbers that it was made of, with their units in their names."""
    ask: Ask | None = None
    """Given with ACT, and only with it."""
    wake_on: tuple[Trigger, ...] = ()
    """Events that bring the next evaluation earlier. With an ask: all that the binding waits for
    once the action has succeeded."""


class Example(NamedTuple):
    """A policy of a kind as a client would write it: its members, `kind` left out."""

    summary: str
    policy: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of policy: its law, and the capabilities by which others treat it."""

    spec: type[Strict]
    """The model of a policy's `spec`."""
    state: type[Any]
    """A frozen dataclass of JSON values with defaults: kept from one evaluation to the next, also
    over a restart."""
    decide: Callable[[Any, Any, Observation], tuple[Any, Sequence[Decision]]]
    decides_together: bool = False
    """It decides over all groups of the policy at once, instead of over each."""
    needs_activity: bool = False
    """Members come with their CPU activity, which costs further readings."""
    rank: int = 0
    """The order among proposals for one chain of groups: the smaller goes first."""
    is_urgent: bool = False
    """No rate limits it: what it leaves, the kernel reclaims in the group's own tasks."""
    pauses_under_host_pressure: bool = False
    """It may do nothing while the host itself stalls for memory."""
    check: Callable[[Any, MemStat, int], None] = lambda _spec, _stat, _total_bytes: None
    """Checks a new policy's spec at each selected group, given the host's bytes of memory.
    ValueError says why the spec has no meaning there."""
    switches: Callable[[Any], Collection[str]] = lambda _spec: ()
    """Returns the names of the policies that a spec enables or disables; they have to exist."""
    example: Example | None = None
    """Shown in the API's documentation."""


@cache
def kinds() -> Mapping[str, Kind]:
    """Return every kind by its name, which is that of its module."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(kinds_folder.__path__)
        if not module.name.startswith("_")
    )
    return {name: importlib.import_module(f"{kinds_folder.__name__}.{name}").kind for name in names}
