"""Guards: limits on what all policies together may do to a host and to a group.

They hold reclaim rates, pause after OOM kills, manual changes and errors, and protect swap.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from shrinkd.backends import PROTECTIONS, Group, MemStat
from shrinkd.policies.kind import Host, Kind, Reason
from shrinkd.policies.policy import Policy

HOST_BYTES_PER_SECOND = 128 << 20
GROUP_BYTES_PER_SECOND = 64 << 20
RECLAIM_SECONDS_PER_SECOND = 0.05
"""Of time spent in reclaim, which competes with the workload for CPUs."""
HOST_FULL_AVG10_PERCENT = 5.0
_DEBT_SECONDS = 10.0
"""How far a rate may be overdrawn: one slow group must not stop all others for longer."""
SWAP_FREE_PERCENT = 10.0
SWAP_MAX_USED_PERCENT = 80.0
OOM_SECONDS = 300.0
MANUAL_SECONDS = 30.0
"""How long a group's policies pause after a caller changed the group."""
_HARD_ERRORS = 3
_OPEN_SECONDS = (60.0, 3600.0)
_SOFT = frozenset(("EINTR", "ETIMEDOUT", "EBUSY", "EAGAIN", "ENOMEM", "EMFILE", "ENFILE"))
"""Errors that open no breaker: the pass was cut short, freed too little or met a busy group, or
this process is short of a resource."""
_SETBACK_SECONDS = (1.0, 60.0)


@dataclass(slots=True)
class Bucket:
    """A token bucket that holds one second's worth.

    It may be overdrawn, since the cost of a pass is known only after it.
    """

    per_second: float
    level: float = math.nan
    filled_at: float = 0.0

    def available(self, now: float) -> float:
        if math.isnan(self.level):
            self.level = self.per_second
        else:
            self.level = min(
                self.level + max(now - self.filled_at, 0.0) * self.per_second, self.per_second
            )
        self.filled_at = now
        return self.level

    def take(self, amount: float, now: float, *, is_urgent: bool = False) -> None:
        """Subtract what was spent.

        An urgent pass empties the bucket and leaves no debt: it runs without asking for an
        allowance, and must not stop the others.
        """
        level = self.available(now)
        self.level = max(
            level - amount, min(level, 0.0) if is_urgent else -_DEBT_SECONDS * self.per_second
        )


@dataclass(slots=True)
class Breaker:
    """A circuit breaker of one policy for one group.

    Three hard errors in a row open it for a minute, doubling up to an hour. After that one attempt
    is allowed: its success closes the breaker, its failure opens it again.
    """

    errors: int = 0
    opened: int = 0
    until: float = -math.inf
    opened_at: float = math.inf
    """The time of its first opening since it was last closed."""

    def is_open(self, now: float) -> bool:
        return now < self.until

    def note(self, errname: str | None, now: float) -> None:
        """Take the errno's symbol of an attempt; None is success."""
        if errname is None:
            self.errors = self.opened = 0
            self.opened_at = math.inf
        elif errname not in _SOFT:
            self.errors += 1
            if self.errors >= _HARD_ERRORS:
                shortest, longest = _OPEN_SECONDS
                self.until = now + min(shortest * 2**self.opened, longest)
                self.opened += 1
                self.opened_at = min(self.opened_at, now)
                self.errors = _HARD_ERRORS - 1  # half open: the next error opens it again


@dataclass(slots=True)
class Setback:
    """Unexpected errors in a row of one policy at one group, with a delay that doubles to a minute.

    `is_action` says whether an evaluation or an action failed; only success of the same ends it.
    """

    times: int = 0
    errname: str = ""
    detail: str = ""
    is_action: bool = False
    began_at: float = math.inf
    until: float = -math.inf

    def note(self, errname: str, detail: str, now: float, *, is_action: bool) -> None:
        """Count one more error, and set the time of the next attempt."""
        shortest, longest = _SETBACK_SECONDS
        self.times += 1
        self.began_at = min(self.began_at, now)
        self.until = now + min(shortest * 2 ** min(self.times - 1, 16), longest)
        self.errname, self.detail, self.is_action = errname, detail, is_action

    def end(self, *, is_action: bool) -> bool:
        """Take the success of an evaluation or an action; return whether it ended a setback."""
        if not self.times or self.is_action != is_action:
            return False
        self.times, self.began_at, self.until = 0, math.inf, -math.inf
        return True


@dataclass(slots=True)
class _Kills:
    """OOM kills of a group since it was made, and the end of the pause after the last one."""

    seen: int
    until: float = -math.inf


@dataclass(slots=True)
class Guards:
    """The guards of one host. Times are seconds of the evaluator's clock, sizes in bytes."""

    has_swappiness: bool
    manual_age: Callable[[Group], float] = lambda _: math.inf
    """Seconds since a caller's change of a group ended; 0 while one runs, infinity for none."""
    _bytes: Bucket = field(default_factory=lambda: Bucket(HOST_BYTES_PER_SECOND))
    _seconds: Bucket = field(default_factory=lambda: Bucket(RECLAIM_SECONDS_PER_SECOND))
    _groups: dict[int, Bucket] = field(default_factory=dict)
    _kills: dict[int, _Kills] = field(default_factory=dict)

    def note_oom_kills(self, group: Group, stat: MemStat, now: float) -> None:
        """Compare the OOM kills of a reading with the last one; a new kill starts a pause."""
        count = stat.events.oom_kill or 0
        kills = self._kills.setdefault(group.id, _Kills(count))
        if count > kills.seen:
            kills.until = now + OOM_SECONDS
        kills.seen = count

    def paused_until(self, group: Group) -> float:
        """Return the end of a group's pause after an OOM kill; minus infinity without one."""
        kills = self._kills.get(group.id)
        return kills.until if kills else -math.inf

    def veto(self, kind: Kind, group: Group, host: Host, now: float) -> Reason | None:
        """Return the reason why a kind may do nothing to a group now, or None."""
        if now < self.paused_until(group):
            return Reason.OOM_KILLED
        if self.manual_age(group) < MANUAL_SECONDS:
            return Reason.MANUAL_CHANGE
        if (
            kind.pauses_under_host_pressure
            and host.pressure
            and host.pressure.full.avg10_percent > HOST_FULL_AVG10_PERCENT
        ):
            return Reason.HOST_PRESSED
        return None

    def allowance(self, group: Group, now: float) -> int:
        """Return the bytes that kinds which are not urgent may reclaim from a group now."""
        if self._seconds.available(now) <= 0:
            return 0
        bucket = self._groups.setdefault(group.id, Bucket(GROUP_BYTES_PER_SECOND))
        return max(int(min(self._bytes.available(now), bucket.available(now))), 0)

    def add_grant(self, group: Group, amount: int, now: float, *, is_urgent: bool = False) -> None:
        """Charge granted bytes to the rates of the host and of the group."""
        for bucket in (
            self._bytes,
            self._groups.setdefault(group.id, Bucket(GROUP_BYTES_PER_SECOND)),
        ):
            bucket.take(amount, now, is_urgent=is_urgent)

    def add_reclaim_seconds(self, seconds: float, now: float, *, is_urgent: bool = False) -> None:
        """Charge the time that a pass spent in reclaim to the rate of the host."""
        self._seconds.take(seconds, now, is_urgent=is_urgent)

    def swappiness(self, policy: Policy, stat: MemStat, host: Host) -> int | Reason | None:
        """Return the swappiness of a pass, None for the group's own, or the reason against it."""
        anon_allowed = policy.swap != "file_only" and not _swap_is_scarce(stat, host)
        if policy.swap == "anon_only":
            if not anon_allowed or host.swap_total_bytes == 0:
                return Reason.SWAP_SCARCE
            return 200 if self.has_swappiness else None
        if anon_allowed or host.swap_total_bytes == 0:  # without swap no anonymous page can go
            return None
        return 0 if self.has_swappiness else Reason.SWAP_SCARCE

    def forget(self, live: frozenset[int]) -> None:
        """Drop what is stored about groups that were removed; `live` are the ids of the others."""
        for known in (self._groups, self._kills):
            for gone in known.keys() - live:
                del known[gone]


def _swap_is_scarce(stat: MemStat, host: Host) -> bool:
    most, used = stat.limits.swap_max_bytes, stat.swap_bytes or 0
    is_full = host.swap_free_bytes * 100 < host.swap_total_bytes * SWAP_FREE_PERCENT
    return is_full or (most is not None and used * 100 > most * SWAP_MAX_USED_PERCENT)


def floor_of(policy: Policy, stat: MemStat) -> int:
    """Return the usage that a policy must not bring a group below, in bytes.

    It is the greater of two sums: the policy's own floor plus what cannot be reclaimed, and
    memory.min or memory.low, which cover all usage, so nothing is added to them. An infinite
    protection leaves nothing to take.
    """
    limits = stat.limits
    own = max(
        policy.floor.bytes,
        int((limits.effective_max_bytes or 0) * policy.floor.percent_of_limit / 100),
    )
    held = max(stat.usage_bytes - _reclaimable(policy, stat), 0)
    return max(
        own + held, *(getattr(limits, name) or 0 for name in PROTECTIONS)
    )  # None: this kernel has no such protection


def _reclaimable(policy: Policy, stat: MemStat) -> int:
    file_lru = (stat.active_file_bytes or 0) + (stat.inactive_file_bytes or 0)
    at_best = (
        stat.reclaimable_estimate_bytes if stat.reclaimable_estimate_bytes is not None else file_lru
    )
    if policy.swap == "file_only":
        return file_lru
    return max(at_best - file_lru, 0) if policy.swap == "anon_only" else at_best
