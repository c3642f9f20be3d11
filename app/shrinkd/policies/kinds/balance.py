"""balance.

Siblings that share a budget. Over it, those pay first that have the most for their weight and use
it the least.

The idle-memory tax and the min-funding revocation of Waldspurger (OSDI 2002): a group of weight w
that uses the part f of its memory is entitled to w / (f + k (1 - f)), k = 1 / (1 - tax), so an idle
page costs k times what a used one does. What is needed is taken from those with the most memory for
their entitlement, down to one level for all, which is below nobody's floor.

How much of its memory a group uses no kernel tells. Its LRU lists are a first guess; then who
stalls uses more, and who pays without stalling less. So each pays a sample first, and twice as much
each time as long as it does not stall for it. Who does stall pays only what nobody else can, and
who had to read back most of what it paid is left alone for a minute. A budget that only memory in
use could meet is therefore not met, and nobody thrashes for it: to enforce one is what limits are
for.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, NamedTuple, Self

from pydantic import Field, model_validator

from shrinkd.backends import MemStat
from shrinkd.groups import matches
from shrinkd.policies.kind import (
    MIN_ASK_BYTES,
    Decision,
    Example,
    Kind,
    Member,
    Observation,
    Outcome,
    Reason,
    Reclaim,
    Verdict,
)
from shrinkd.policies.kinds._overshoot import learned
from shrinkd.policies.kinds._share import Share, bytes_of, percent_of
from shrinkd.policies.kinds._step import Step
from shrinkd.sizes import PAGE_BYTES, page_floor
from shrinkd.strict_model import Limit, Size, Strict

_USED = (0.05, 0.99)
_MORE_USED, _LESS_USED = 0.05, 0.01
_MINUTE = 60.0
_RETURNED = 0.5
_SAMPLE_BYTES = 4 << 20
"""What is taken first, to see whether it comes back; who paid less than this cannot be said to want
it back."""
_CALM_SECONDS = 30.0
_LEAST_GROWTH = 64 << 20
"""Bytes a second: what groups that stand still may begin with before the next look."""


class Portion(Strict):
    """What some of the groups are entitled to."""

    group: str = Field(min_length=1, max_length=4096, examples=["kubepods.slice/*"])
    """Their path as a glob, component by component."""
    weight: int = Field(default=100, ge=1, le=10_000)
    """How much memory this group may keep, in proportion to the others."""
    floor_bytes: Size = 0
    """It never pays below this, nor below the floor of the policy."""
    cap_bytes: Limit = None
    """What it has above this it pays, also within the budget. null: no cap."""


_EQUAL = Portion(group="*")


class Balance(Strict):
    """A budget for all groups of the policy together, which ought to be siblings, and how they
    share it.

    Memory that they use is not taken to meet it, beyond samples: what they had to read back at once
    is left to them.
    """

    budget: Share = "85%"
    """Above this they pay. A percentage is of the limit that is felt by all of them from above, or
    of the host's memory."""
    release: Share = "80%"
    """Until they are down to this."""
    members: Annotated[tuple[Portion, ...], Field(strict=False, max_length=1000)] = ()
    """The first whose glob matches counts; a group without one has the weight 100."""
    idle_tax: float = Field(default=0.75, ge=0, lt=1)
    """The part of an idle page's worth that is taken; 0 is by weight alone."""
    target_some_percent: float = Field(default=0.1, gt=0, le=50)
    """A group that stalls for memory for more than this share of time, in percent, uses what it
    has."""
    interval_seconds: float = Field(default=2, ge=0.5, le=60)
    """How often it looks while they pay; within the budget, up to 30 s."""
    max_step_bytes: Step = Field(default=64 << 20)
    """The most that all of them together pay at once."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.budget, str) and isinstance(self.release, str):
            is_above = percent_of(self.release) > percent_of(self.budget)
        elif isinstance(self.budget, int) and isinstance(self.release, int):
            is_above = self.release > self.budget
        else:
            raise ValueError("give budget and release both in percent or both in bytes")
        if is_above:
            raise ValueError("release is above budget: they would pay for what they may have")
        return self


@dataclass(frozen=True, slots=True)
class Account:
    """What is known of one group."""

    used: float
    """The part of its memory that it is taken to use."""
    stalled_microseconds: int | None = None
    refaults: int = 0
    paid_bytes: float = 0.0
    returned_bytes: float = 0.0
    """What it paid and read back in about the last minute."""
    exempt_until_seconds: float = 0.0
    step_bytes: int = _SAMPLE_BYTES
    """The most that it pays at once: little, until it was seen not to miss it."""
    is_missed: bool = False
    """It has paid more than once, and stalls: others go first."""
    overshoot_bytes: int = 0


_REMEMBERED = tuple(
    each.name for each in fields(Account)
)  # asdict() looks for what to copy: half the time of a decision


@dataclass(frozen=True, slots=True)
class Accounts:
    """Whether they pay, and an Account of each as JSON."""

    seen_seconds: float | None = None
    total_bytes: int = 0
    is_paying: bool = False
    accounts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By id and path: a group that is made again begins anew."""


class Claim(NamedTuple):
    """What a group has, what it keeps in any case, and its entitlement (of any unit, above 0)."""

    usage_bytes: int
    floor_bytes: int
    entitlement: float

    @property
    def room_bytes(self) -> int:
        return max(self.usage_bytes - self.floor_bytes, 0)


def revoke(claims: Sequence[Claim], need_bytes: int) -> list[int]:
    """What each pays: Σ max(0, usage - max(floor, entitlement · level)) = need, for the one level
    where that is so.

    Where the floors leave less than the need, each pays down to its own. Fractions of a byte are
    not paid.
    """
    if need_bytes <= 0:
        return [0] * len(claims)
    if need_bytes >= sum(claim.room_bytes for claim in claims):
        return [claim.room_bytes for claim in claims]
    payers = [claim for claim in claims if claim.room_bytes]
    # as the level sinks, a claim begins to pay at its usage and ends at its floor
    turns = [(claim.usage_bytes / claim.entitlement, claim.entitlement) for claim in payers]
    turns += [(claim.floor_bytes / claim.entitlement, -claim.entitlement) for claim in payers]
    level, rate, paid = math.inf, 0.0, 0.0
    for turn, change in sorted(turns, reverse=True):
        more = rate * (level - turn) if rate > 0 else 0.0
        if paid + more >= need_bytes:
            break
        level, rate, paid = turn, rate + change, paid + more
    if rate > 0:
        level -= (need_bytes - paid) / rate
    return [
        max(claim.usage_bytes - max(claim.floor_bytes, math.ceil(claim.entitlement * level)), 0)
        for claim in claims
    ]


def worth_asking(claims: Sequence[Claim], grants: Sequence[int]) -> list[int]:
    """The same sum in asks that are not too small.

    Little ones are gathered with those that have to pay the most of them.
    """
    gathered = sum(grant for grant in grants if grant < MIN_ASK_BYTES)
    asks = [page_floor(grant) if grant >= MIN_ASK_BYTES else 0 for grant in grants]
    for index in sorted(range(len(grants)), key=lambda index: grants[index], reverse=True):
        if not asks[index] and gathered >= MIN_ASK_BYTES <= claims[index].room_bytes:
            asks[index] = MIN_ASK_BYTES
            gathered -= MIN_ASK_BYTES
    return asks


class _Party(NamedTuple):
    """A group at the table."""

    member: Member
    account: Account
    claim: Claim
    cap_bytes: int | None
    is_exempt: bool


def decide(
    spec: Balance, state: Accounts, observation: Observation
) -> tuple[Accounts, list[Decision]]:
    now, members = observation.now_seconds, observation.members
    total, whole = sum(member.stat.usage_bytes for member in members), _whole(observation)
    budget, release = bytes_of(spec.budget, whole), bytes_of(spec.release, whole)
    is_paying = total > budget or (state.is_paying and total - release >= MIN_ASK_BYTES)
    elapsed = 0.0 if state.seen_seconds is None else max(now - state.seen_seconds, 0.0)
    parties = [_party(spec, state, member, now, elapsed) for member in members]
    grants = _grants(spec, parties, total - release if is_paying else 0)
    asks = worth_asking([party.claim for party in parties], grants)
    look = spec.interval_seconds
    if not is_paying and not any(grants):
        growth = max((total - state.total_bytes) / elapsed if elapsed else 0.0, 0.0)
        look = min(
            max((budget - total) / max(2 * growth, _LEAST_GROWTH), look), max(_CALM_SECONDS, look)
        )
    signals = {"total_bytes": total, "budget_bytes": budget, "release_bytes": release}
    decisions = [
        replace(_decision(*each, look), signals=signals | _seen(*each[:2]))
        for each in zip(parties, grants, asks, strict=True)
    ]
    kept = {
        _key(party.member): {name: getattr(party.account, name) for name in _REMEMBERED}
        for party in parties
    }
    return Accounts(now, total, is_paying, kept), decisions


def _decision(party: _Party, grant: int, ask: int, look: float) -> Decision:
    group = party.member.group
    if ask:
        return Decision(
            group, Verdict.ACT, Reason.OVER_BUDGET, look, ask=Reclaim(reclaim_bytes=ask)
        )
    reason = Reason.WITHIN_BUDGET
    if party.is_exempt:
        reason = Reason.EXEMPT
    elif grant:
        reason = Reason.ASK_TOO_SMALL
    elif party.claim.room_bytes < MIN_ASK_BYTES:
        reason = Reason.AT_FLOOR
    return Decision(group, Verdict.HOLD, reason, look)


def _seen(party: _Party, grant: int) -> dict[str, float | int | str | None]:
    account = party.account
    return {
        "usage_bytes": party.claim.usage_bytes,
        "floor_bytes": party.claim.floor_bytes,
        "grant_bytes": grant,
        "used_fraction": round(account.used, 3),
        "entitlement": round(party.claim.entitlement, 3),
        "paid_bytes": round(account.paid_bytes),
        "returned_bytes": round(account.returned_bytes),
    }


def _whole(observation: Observation) -> int:
    """What a percentage is of.

    The least limit that one of them feels from above all of them, or else the host's memory.
    """
    paths = {member.group.path for member in observation.members}
    ends = (
        [f"{path}/" for path in (min(paths), max(paths))] if paths else []
    )  # what both begin with, all between them do
    whole = observation.host.total_bytes
    for member in observation.members:
        limits = member.stat.limits
        above = "" if limits.limited_by in (None, "/") else f"{limits.limited_by}/"
        if (
            limits.effective_max_bytes is not None
            and limits.limited_by not in paths
            and all(end.startswith(above) for end in ends)
        ):
            whole = min(whole, limits.effective_max_bytes)
    return whole


def _party(spec: Balance, state: Accounts, member: Member, now: float, elapsed: float) -> _Party:
    path, usage = member.group.path, member.stat.usage_bytes
    portion = next(
        (portion for portion in spec.members if matches(portion.group.strip("/"), path)), _EQUAL
    )
    account = _account(spec, state, member, now, elapsed)
    is_exempt = now < account.exempt_until_seconds
    floor = max(member.floor_bytes, portion.floor_bytes) + account.overshoot_bytes
    k = 1 / (1 - spec.idle_tax)
    claim = Claim(
        usage,
        max(floor, usage if is_exempt else 0),
        portion.weight / (account.used + k * (1 - account.used)),
    )
    return _Party(member, account, claim, portion.cap_bytes, is_exempt)


def _grants(spec: Balance, parties: Sequence[_Party], need_bytes: int) -> list[int]:
    """What each pays now, of what it is to pay in the end.

    No more than its step, and nothing while it misses what it paid.

    When nobody else is left the budget goes before that. Of more than a step for all of them, the
    richest pay first.
    """
    claims = [party.claim for party in parties]
    above = [_above_cap(party) for party in parties]
    capped = [
        claim._replace(usage_bytes=claim.usage_bytes - size)
        for claim, size in zip(claims, above, strict=True)
    ]
    dues = [sum(pair) for pair in zip(above, revoke(capped, need_bytes - sum(above)), strict=True)]
    now = [min(due, party.account.step_bytes) for due, party in zip(dues, parties, strict=True)]
    unmissed = [
        0 if party.account.is_missed else size for size, party in zip(now, parties, strict=True)
    ]
    now = unmissed if sum(unmissed) >= MIN_ASK_BYTES else now
    stepped = [
        claim._replace(floor_bytes=claim.usage_bytes - due)
        for claim, due in zip(claims, now, strict=True)
    ]
    return revoke(stepped, min(sum(now), spec.max_step_bytes))


def _above_cap(party: _Party) -> int:
    if party.cap_bytes is None:
        return 0
    return max(min(party.claim.usage_bytes - party.cap_bytes, party.claim.room_bytes), 0)


def _account(spec: Balance, state: Accounts, member: Member, now: float, elapsed: float) -> Account:
    """Bring up to date what is known of a group; what it paid is what the last grant freed."""
    stat = member.stat
    stalled = stat.pressure.some.total_microseconds if stat.pressure else None
    refaults = (stat.counters.refaults_file or 0) + (stat.counters.refaults_anon or 0)
    known = state.accounts.get(_key(member))
    if known is None:
        return Account(_guess(stat), stalled, refaults)
    before = Account(**known)
    fade = math.exp(-elapsed / _MINUTE)
    paid = before.paid_bytes * fade + (max(member.outcome.freed_bytes, 0) if member.outcome else 0)
    returned = before.returned_bytes * fade + max(refaults - before.refaults, 0) * PAGE_BYTES
    is_pressed = _is_pressed(spec, before, stalled, elapsed)
    account = replace(
        before,
        used=min(
            max(
                before.used + (_MORE_USED if is_pressed else -_LESS_USED if member.outcome else 0),
                _USED[0],
            ),
            _USED[1],
        ),
        stalled_microseconds=stalled,
        refaults=refaults,
        paid_bytes=paid,
        returned_bytes=returned,
        step_bytes=_next_step(spec, before.step_bytes, member.outcome, is_pressed=is_pressed),
        is_missed=is_pressed and before.paid_bytes >= _SAMPLE_BYTES,
        overshoot_bytes=learned(before.overshoot_bytes, member.outcome),
    )
    if paid >= _SAMPLE_BYTES and returned > _RETURNED * paid and now >= before.exempt_until_seconds:
        return replace(
            account,
            exempt_until_seconds=now + _MINUTE,
            paid_bytes=0.0,
            returned_bytes=0.0,
            step_bytes=_SAMPLE_BYTES,
        )
    return account


def _next_step(spec: Balance, step: int, outcome: Outcome | None, *, is_pressed: bool) -> int:
    if is_pressed:
        return _SAMPLE_BYTES
    is_worth_it = outcome is not None and 2 * outcome.freed_bytes >= outcome.asked_bytes
    return min(2 * step, max(spec.max_step_bytes, _SAMPLE_BYTES)) if is_worth_it else step


def _guess(stat: MemStat) -> float:
    """The part of its memory that is on the active lists; half where the kernel does not tell."""
    active = (stat.active_anon_bytes or 0) + (stat.active_file_bytes or 0)
    listed = active + (stat.inactive_anon_bytes or 0) + (stat.inactive_file_bytes or 0)
    return min(max(active / listed if listed else 0.5, _USED[0]), _USED[1])


def _is_pressed(spec: Balance, before: Account, stalled: int | None, elapsed: float) -> bool:
    if stalled is None or before.stalled_microseconds is None or not elapsed:
        return False
    return (stalled - before.stalled_microseconds) / elapsed / 1e4 > spec.target_some_percent


def _key(member: Member) -> str:
    return f"{member.group.id}:{member.group.path}"


kind = Kind(
    spec=Balance,
    state=Accounts,
    decide=decide,
    decides_together=True,
    rank=20,
    example=Example(
        "Groups that share a budget", {"name": "share", "selector": {"parent": "kubepods"}}
    ),
)
