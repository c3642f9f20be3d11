"""What a group's memory ought to be.

The vocabulary of group policies, and how a kind of them is found.

A kind is one file of this folder, found by being there; it ends in `kind = Kind(…)`. Its `decide`
is pure: no I/O, no clock, no chance, no logging. Time and everything else that it may know is in
the Observation, so the same code runs live, in observe mode, in evaluate, over a recorded trace and
on the simulator.

    decide(spec, state, observation) -> state', one Decision for each member
"""

import importlib
import pkgutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Any, Literal

from shrinkd.backends import Activity, Group, LimitName, MemStat, Pressure, Trigger
from shrinkd.policies import kinds as kinds_folder
from shrinkd.strict_model import Strict

NAME = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"
"""What a policy may be called: 63 characters at most, as in a DNS name."""
Swap = Literal["allow", "file_only", "anon_only"]
MIN_ASK_BYTES = 1 << 20
"""Less is not asked for: near the floor v2 answered asks of 0.26, 0.01 and 2.95 MiB with 26.6, 13.9
and 37.4 MiB (kernel 6.12)."""


class Verdict(StrEnum):
    ACT = "act"
    """Something is to be done, and was granted."""
    WOULD_ACT = "would_act"
    """The same in observe mode: nothing is done."""
    HOLD = "hold"
    """All is as it ought to be, or cannot be known."""
    BRAKE = "brake"
    """The group suffers: stop, and begin again more gently."""
    COOLDOWN = "cooldown"
    BACKOFF = "backoff"
    """The last passes freed too little: wait, each time twice as long."""
    SUPERSEDED = "superseded"
    """Another policy, or a person, goes first in this chain of groups."""
    VETOED = "vetoed"
    """A guard of the host forbids it."""
    TRIPPED = "tripped"
    """The breaker of this policy for this group is open."""
    GONE = "gone"


class Reason(StrEnum):
    """Why, from a closed list: the first half is for the kinds, the second for the daemon."""

    FIRST_LOOK = "first_look"
    """There is nothing to compare with yet."""
    NO_SIGNAL = "no_signal"
    """This kernel does not tell what the kind goes by."""
    NO_LIMIT = "no_limit"
    """A percentage of a limit that the group does not have."""
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
    """It had to take back most of what it gave up in the last minute."""
    CPU_BUSY = "cpu_busy"
    CPU_IDLE = "cpu_idle"
    FROZEN = "frozen"
    NOT_DUE = "not_due"
    DUE = "due"
    MISSED = "missed"
    """It was due while nobody looked, and is skipped."""
    LIMITS_KEPT = "limits_kept"
    LIMITS_DRIFTED = "limits_drifted"

    UNREADABLE = "unreadable"
    """The group could not be read now; it is tried again, later and later."""
    OUTRANKED = "outranked"
    CHAIN_BUSY = "chain_busy"
    """Something is being done to this group, or to one above or below it."""
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
    """What became of the last grant, told once.

    Sizes in bytes; `asked_bytes` was granted, `freed_bytes` is what usage fell by.
    """

    asked_bytes: int
    freed_bytes: int
    seconds: float
    errname: str | None = None
    """The errno's symbol when it failed; None for a pass that made it."""
    fault: str | None = None
    """What broke, where nobody expects that of a grant: not the kernel's answer to it, nor that of
    somebody who goes first."""


@dataclass(frozen=True, slots=True)
class Member:
    """One group as it is now."""

    group: Group
    stat: MemStat
    floor_bytes: int = 0
    """What usage is never to be brought below: the greatest of the policy's floor, memory.min and
    memory.low, and what cannot go."""
    activity: Activity | None = None
    """Only for the kinds that ask for it."""
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class Host:
    """The machine under the groups, in bytes; `pressure` is its own, None where it is not told."""

    total_bytes: int
    available_bytes: int
    swap_total_bytes: int = 0
    swap_free_bytes: int = 0
    pressure: Pressure | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """All that a decision may know.

    `now_seconds` is monotonic and never jumps; `wall` (aware) is for calendars alone.
    """

    now_seconds: float
    wall: datetime
    host: Host
    members: tuple[Member, ...]
    """One, or for a kind that decides `together` all of its groups, in the order of their paths."""


@dataclass(frozen=True, slots=True)
class Reclaim:
    """Free memory: down to a usage, or so much. Exactly one of the two. No limit moves."""

    target_bytes: int | None = None
    reclaim_bytes: int | None = None
    timeout_seconds: float = 30.0
    is_one_pass: bool = False
    """Nobody asks for what is left of it: it is granted whole, or not yet."""


@dataclass(frozen=True, slots=True)
class Resize:
    """Make these the limits (None: no limit); a maximum below usage by a shrink first."""

    limits: Mapping[LimitName, int | None]


@dataclass(frozen=True, slots=True)
class Switch:
    """Enable or disable another policy."""

    policy: str
    enabled: bool


Ask = Reclaim | Resize | Switch


@dataclass(frozen=True, slots=True)
class Decision:
    """What a kind wants for one group.

    It may not come to it: the daemon's guards and its arbiter have the last word.
    """

    group: Group
    verdict: Verdict
    reason: Reason
    look_seconds: float
    """When to look again, at the latest, from now."""
    signals: Mapping[str, float | int | str | None] = field(default_factory=dict)
    """The numbers that it went by, with their units in their names."""
    ask: Ask | None = None
    """With ACT, and only with it."""
    wakes: tuple[Trigger, ...] = ()
    """What makes it look earlier; with an ask, what is all that it waits for when that was done."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of policy, as its module ends."""

    spec: type[Strict]
    """Its part of a policy's JSON."""
    state: type[Any]
    """A frozen dataclass of JSON values that starts empty: what it remembers between two looks, and
    over a restart."""
    decide: Callable[[Any, Any, Observation], tuple[Any, Sequence[Decision]]]
    together: bool = False
    """One decision over all groups of the policy, instead of one for each."""
    wants_activity: bool = False
    rank: int = 0
    """Whose wish goes first where two meet: the smaller."""
    is_urgent: bool = False
    """What it does not reclaim now the kernel will, from the group's own tasks: no rate holds it."""
    check: Callable[[Any, MemStat, int], None] = lambda _spec, _stat, _total_bytes: None
    """When a policy is written, of each selected group and the host's memory: ValueError says why
    its spec means nothing there."""
    switches: Callable[[Any], Collection[str]] = lambda _spec: ()
    """The policies that a spec enables and disables, by their names: there when it is written."""


@cache
def kinds() -> Mapping[str, Kind]:
    """Every kind by its name, which is that of its module."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(kinds_folder.__path__)
        if not module.name.startswith("_")
    )
    return {name: importlib.import_module(f"{kinds_folder.__name__}.{name}").kind for name in names}
