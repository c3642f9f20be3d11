"""What no policy may do.

Harm a host that suffers, take more than its rate, or try for ever what fails.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from shrinkd.backends import PROTECTIONS, Group, MemStat
from shrinkd.policies.kind import Host, Reason
from shrinkd.policies.policy import Policy

HOST_BYTES_PER_SECOND = 128 << 20
GROUP_BYTES_PER_SECOND = 64 << 20
RECLAIM_SECONDS_PER_SECOND = 0.05
"""Of reclaim's own time, which competes with the workload for its CPUs."""
HOST_FULL_AVG10_PERCENT = 5.0
_DEBT_SECONDS = 10.0
"""How far a rate may be overdrawn: one slow group is not to silence all others for longer."""
SWAP_FREE_PERCENT = 10.0
SWAP_MAX_USED_PERCENT = 80.0
OOM_SECONDS = 300.0
MANUAL_SECONDS = 30.0
"""How long a group's policies wait behind what a person or an orchestrator did to it."""
_HARD_ERRORS = 3
_OPEN_SECONDS = (60.0, 3600.0)
_SOFT = frozenset(("EINTR", "ETIMEDOUT", "EBUSY", "EAGAIN", "ENOMEM", "EMFILE", "ENFILE"))
"""What opens no breaker: a pass that was cut short, freed too little or came at a bad time, and
what this process is short of."""
_SETBACK_SECONDS = (1.0, 60.0)


@dataclass(slots=True)
class Bucket:
    """So much a second, and at most a second's worth at once.

    It may be overdrawn: what was spent is known only behind the pass.
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
        """Note what was spent.

        What is urgent takes what there is, and owes nothing: it asked nobody, and the others have
        their turn.
        """
        level = self.available(now)
        self.level = max(
            level - amount, min(level, 0.0) if is_urgent else -_DEBT_SECONDS * self.per_second
        )


@dataclass(slots=True)
class Breaker:
    """Of one policy for one group.

    Three hard errors in a row open it for a minute, each time twice as long up to an hour.

    Then one attempt is let through, and decides.
    """

    errors: int = 0
    opened: int = 0
    until: float = -math.inf
    opened_at: float = math.inf
    """When it was opened first, since it was closed."""

    def is_open(self, now: float) -> bool:
        return now < self.until

    def tell(self, errname: str | None, now: float) -> None:
        """Note how an attempt ended; None is well."""
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
    """Errors in a row that nobody expects of a policy at one group.

    After each of them it waits twice as long, up to a minute.

    A look that failed is made good by a look, an act by an act: `is_act` says which it was.
    """

    times: int = 0
    errname: str = ""
    detail: str = ""
    is_act: bool = False
    began_at: float = math.inf
    until: float = -math.inf

    def tell(self, errname: str, detail: str, now: float, *, is_act: bool) -> None:
        """Note one more."""
        shortest, longest = _SETBACK_SECONDS
        self.times += 1
        self.began_at = min(self.began_at, now)
        self.until = now + min(shortest * 2 ** min(self.times - 1, 16), longest)
        self.errname, self.detail, self.is_act = errname, detail, is_act

    def is_over(self, *, is_act: bool) -> bool:
        """Note that a look, or an act, went as it should.

        Answers whether that ends a row of errors.
        """
        if not self.times or self.is_act != is_act:
            return False
        self.times, self.began_at, self.until = 0, math.inf, -math.inf
        return True


@dataclass(slots=True)
class _Kills:
    """How many OOM kills a group has seen, and until when its policies rest for the last."""

    seen: int
    until: float = -math.inf


@dataclass(slots=True)
class Guards:
    """The guards of one host. Times are of the engine's clock, sizes in bytes."""

    has_swappiness: bool
    manual_age: Callable[[Group], float] = lambda _: math.inf
    """How many seconds of ours ago a caller's own change of a group ended: 0 while one goes on."""
    _bytes: Bucket = field(default_factory=lambda: Bucket(HOST_BYTES_PER_SECOND))
    _seconds: Bucket = field(default_factory=lambda: Bucket(RECLAIM_SECONDS_PER_SECOND))
    _groups: dict[int, Bucket] = field(default_factory=dict)
    _kills: dict[int, _Kills] = field(default_factory=dict)

    def see(self, group: Group, stat: MemStat, now: float) -> None:
        """Note what a reading says of OOM kills."""
        count = stat.events.oom_kill or 0
        kills = self._kills.setdefault(group.id, _Kills(count))
        if count > kills.seen:
            kills.until = now + OOM_SECONDS
        kills.seen = count

    def rests_until(self, group: Group) -> float:
        """Until when nothing is done to a group, for it has lost a process to an OOM kill."""
        kills = self._kills.get(group.id)
        return kills.until if kills else -math.inf

    def veto(self, kind: str, group: Group, host: Host, now: float) -> Reason | None:
        """Why nothing may be done to a group now, or None."""
        if now < self.rests_until(group):
            return Reason.OOM_KILLED
        if self.manual_age(group) < MANUAL_SECONDS:
            return Reason.MANUAL_CHANGE
        if (
            kind in {"pressure", "idle", "schedule"}
            and host.pressure
            and host.pressure.full.avg10_percent > HOST_FULL_AVG10_PERCENT
        ):
            return Reason.HOST_PRESSED
        return None

    def allowance(self, group: Group, now: float) -> int:
        """How much may be reclaimed from a group now, by those who need not hurry."""
        if self._seconds.available(now) <= 0:
            return 0
        bucket = self._groups.setdefault(group.id, Bucket(GROUP_BYTES_PER_SECOND))
        return max(int(min(self._bytes.available(now), bucket.available(now))), 0)

    def granted(self, group: Group, amount: int, now: float, *, is_urgent: bool = False) -> None:
        """Note what was granted, out of the allowance or in a hurry."""
        for bucket in (
            self._bytes,
            self._groups.setdefault(group.id, Bucket(GROUP_BYTES_PER_SECOND)),
        ):
            bucket.take(amount, now, is_urgent=is_urgent)

    def took(self, seconds: float, now: float, *, is_urgent: bool = False) -> None:
        """Note how long a pass was in reclaim."""
        self._seconds.take(seconds, now, is_urgent=is_urgent)

    def swappiness(self, policy: Policy, stat: MemStat, host: Host) -> "int | Reason | None":
        """The swappiness of a pass.

        None for the group's own, or the reason why there can be no such pass.
        """
        anon_allowed = policy.swap != "file_only" and not _swap_is_scarce(stat, host)
        if policy.swap == "anon_only":
            if not anon_allowed or host.swap_total_bytes == 0:
                return Reason.SWAP_SCARCE
            return 200 if self.has_swappiness else None
        if anon_allowed or host.swap_total_bytes == 0:  # without swap nothing anonymous goes
            return None
        return 0 if self.has_swappiness else Reason.SWAP_SCARCE

    def forget(self, live: frozenset[int]) -> None:
        """Drop what is known of groups that are no more."""
        for known in (self._groups, self._kills):
            for gone in known.keys() - live:
                del known[gone]


def _swap_is_scarce(stat: MemStat, host: Host) -> bool:
    most, used = stat.limits.swap_max_bytes, stat.swap_bytes or 0
    is_full = host.swap_free_bytes * 100 < host.swap_total_bytes * SWAP_FREE_PERCENT
    return is_full or (most is not None and used * 100 > most * SWAP_MAX_USED_PERCENT)


def floor_of(policy: Policy, stat: MemStat) -> int:
    """What usage must not be brought below, in bytes.

    The policy's own floor beside what cannot be reclaimed, or what protects the group.

    The greater of the two: a protection covers all usage, so nothing is added to it. One that is
    infinite leaves nothing to take.
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
