"""Inject faults into the verbs of the simulator: an error, a delay, or a removed group."""

import errno
import os
import threading
from collections import Counter
from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from shrinkd.backends.simulator.machine.scenarios import GroupPath
from shrinkd.errors import InvalidRequest, ShrinkdError, map_oserror
from shrinkd.strict_model import Strict

MOST_PLANNED = 100
Verb = Literal[
    "usage",
    "stat",
    "activity",
    "set_limits",
    "reclaim",
    "make",
    "remove",
    "attach",
    "groups",
    "watch",
    "node",
]
VERBS: tuple[Verb, ...] = get_args(Verb)
_Refusal = Literal[
    "EACCES",
    "EBUSY",
    "EEXIST",
    "EINVAL",
    "EIO",
    "ELOOP",
    "ENAMETOOLONG",
    "ENOTEMPTY",
    "EPERM",
    "EROFS",
]
_Absence = Literal["ENODEV", "ENOENT", "ESRCH"]
_Shortage = Literal["EAGAIN", "EINTR", "EMFILE", "ENFILE", "ENOMEM"]
Symbol = Literal[_Absence, _Refusal, _Shortage]


class Fault(Strict):
    """Plan an error, a delay, or a vanishing group for the n-th use of a verb from now."""

    verb: Verb = Field(examples=["reclaim"])
    """The verb that the fault affects. One request may use several: a group is looked up by
    `groups`. The daemon's own uses count as well: policies read groups, and every 10 s the history
    reads those without a recent reading."""
    use: int = Field(default=1, ge=1, le=10**9)
    """The use at which the fault occurs, counted from now; 1 is the next."""
    times: int = Field(default=1, ge=1, le=10**9)
    """The number of consecutive uses that meet the fault; a group vanishes once."""
    group: GroupPath | None = Field(default=None, examples=["web"])
    """The path of the group whose uses count; null counts all of them."""
    error: Symbol | None = Field(default=None, examples=["EBUSY"])
    """The errno that the kernel answers, instead of doing anything."""
    delay_seconds: float | None = Field(default=None, gt=0, le=60)
    """Real seconds. Only callers of the verb wait; for the reading verbs that is the whole
    daemon."""
    vanishes: bool = False
    """The group is removed with its descendants, as if by another process, right before the
    verb."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.error is not None) + (self.delay_seconds is not None) + self.vanishes != 1:
            raise ValueError("give exactly one of error, delay_seconds and vanishes")
        if self.vanishes and self.times > 1:
            raise ValueError("a group vanishes once: leave times out")
        if self.vanishes and self.verb == "node":
            raise ValueError("the node cannot vanish")
        if self.vanishes and self.verb == "make":
            raise ValueError("a group that is about to be made cannot vanish")
        return self

    def is_about(self, verb: Verb, path: str) -> bool:
        return self.verb == verb and self.group in {None, path}


class Faults:
    """Hold the planned faults and the number of uses of each verb. Thread-safe."""

    def __init__(self) -> None:
        self._uses: Counter[Verb] = Counter()
        self._planned: tuple[Fault, ...] = ()
        self._lock = threading.Lock()

    def planned(self) -> tuple[Fault, ...]:
        """Return the faults that have not occurred yet, `use` counted from now."""
        return self._planned

    def uses(self) -> dict[Verb, int]:
        return {verb: self._uses[verb] for verb in VERBS}

    def plan(self, fault: Fault, *, dry_run: bool = False) -> tuple[Fault, ...]:
        """Add a fault and return all that are planned; a dry run adds nothing."""
        with self._lock:
            planned = (*self._planned, fault)
            if len(planned) > MOST_PLANNED:
                raise InvalidRequest(
                    f"{MOST_PLANNED} faults are planned, which is all that there is room for."
                )
            if not dry_run:
                self._planned = planned
        return planned

    def clear(self, *, dry_run: bool = False) -> None:
        """Discard all planned faults."""
        with self._lock:
            self._planned = self._planned if dry_run else ()

    def take_due(self, verb: Verb, path: str) -> list[Fault]:
        """Count a use, and return the faults planned for it, in the order of planning."""
        with self._lock:
            self._uses[verb] += 1
            counted = [fault.is_about(verb, path) for fault in self._planned]
            if not any(counted):
                return []
            left = [
                fault.model_copy(update={"use": fault.use - counts})
                for fault, counts in zip(self._planned, counted, strict=True)
            ]
            self._planned = tuple(kept for fault in left if (kept := _next_use(fault)) is not None)
        return [fault for fault in left if not fault.use]


def _next_use(fault: Fault) -> Fault | None:
    """Return the fault for its next use; None after its last one."""
    if fault.use:
        return fault
    return (
        fault.model_copy(update={"use": 1, "times": fault.times - 1}) if fault.times > 1 else None
    )


def error_of(symbol: Symbol, path: str) -> ShrinkdError:
    """Return the ShrinkdError of an errno, as a real backend would raise it."""
    number: int = getattr(errno, symbol)
    return map_oserror(OSError(number, os.strerror(number)), path)
