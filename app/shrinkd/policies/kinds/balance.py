"""The kind balance: hold groups to a common budget by reclaiming from the least entitled first.

It is the idle-memory tax and the min-funding revocation of Waldspurger (OSDI 2002): a group of
weight w that uses the part f of its memory is entitled to w / (f + k (1 - f)), k = 1 / (1 - tax),
so an idle page costs k times what a used one does. The needed amount is taken from the groups with
the most memory for their entitlement, down to one level for all, and never below a group's floor.

No kernel reports how much of its memory a group uses. Its LRU lists are a first guess; after that
the estimate rises when the group stalls, and falls when it gives memory up without stalling. So a
group first gives up a sample, and twice as much each time as long as it does not stall for it. A
group that stalls gives up only what no other group can, and one that had to read back most of what
it gave up is exempt for a minute. A budget that could only be met with memory in use is therefore
not met, and no group thrashes for it: limits are what enforces a budget.
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
from shrinkd.policies.kinds._revocation import Claim, revoke, worth_asking
from shrinkd.policies.kinds._share import Share, bytes_of, percent_of
from shrinkd.policies.kinds._step import Step
from shrinkd.sizes import PAGE_BYTES
from shrinkd.strict_model import Limit, Size, Strict

_USED_RANGE = (0.05, 0.99)
_MORE_USED, _LESS_USED = 0.05, 0.01
_MINUTE = 60.0
_RETURNED = 0.5
_SAMPLE_BYTES = 4 << 20
"""The first amount taken from a group. After less than this, refaults say nothing about need."""
_CALM_SECONDS = 30.0
_LEAST_GROWTH = 64 << 20
"""Bytes a second: the growth that is assumed of groups that did not grow."""


class Portion(Strict):
    """The entitlement of the groups whose path matches a glob."""

    group: str = Field(min_length=1, max_length=4096, examples=["kubepods.slice/*"])
    """Their path as a glob, component by component."""
    weight: int = Field(default=100, ge=1, le=10_000)
    """How much memory this group may keep, in proportion to the others."""
    floor_bytes: Size = 0
    """Nothing is reclaimed below this, nor below the floor of the policy."""
    cap_bytes: Limit = None
    """Usage above this is reclaimed, also within the budget. null: no cap."""


_EQUAL = Portion(group="*")


class Balance(Strict):
    """A budget for all groups of the policy together, which should be siblings.

    Memory in use is not reclaimed to meet it, beyond samples: what a group had to read back at once
    is left to it.
    """

    budget: Share = "85%"
    """Total usage above this starts reclaim. A percentage is of the limit above all of the groups,
    or of the host's memory."""
    release: Share = "80%"
    """Total usage at which reclaim ends."""
    members: Annotated[tuple[Portion, ...], Field(strict=False, max_length=1000)] = ()
    """The first entry whose glob matches applies; a group without one has the weight 100."""
    idle_tax: float = Field(default=0.75, ge=0, lt=1)
    """The tax on idle memory, as a fraction; with 0 the weight alone decides."""
    target_some_percent: float = Field(default=0.1, gt=0, le=50)
    """A group that stalls for memory for more than this share of time, in percent, is taken to use
    what it has."""
    interval_seconds: float = Field(default=2, ge=0.5, le=60)
    """Time between two evaluations over the budget; within it, up to 30 s."""
    max_step_bytes: Step = Field(default=64 << 20)
    """The most that is reclaimed from all of them at once."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if isinstance(self.budget, str) and isinstance(self.release, str):
            is_above = percent_of(self.release) > percent_of(self.budget)
        elif isinstance(self.budget, int) and isinstance(self.release, int):
            is_above = self.release > self.budget
        else:
            raise ValueError("give budget and release both in percent or both in bytes")
        if is_above:
            raise ValueError("release is above budget: give a release that is not above it")
        return self


@dataclass(frozen=True, slots=True)
class Account:
    """The estimates of one group."""

    used: float
    """The estimated part of its memory that it uses."""
    stalled_microseconds: int | None = None
    refaults: int = 0
    paid_bytes: float = 0.0
    returned_bytes: float = 0.0
    """Bytes that were reclaimed and read back, in about the last minute."""
    exempt_until_seconds: float = 0.0
    step_bytes: int = _SAMPLE_BYTES
    """The most that is reclaimed at once: it grows while the group does not stall for it."""
    is_missed: bool = False
    """It gave up more than a sample and stalls now: other groups go first."""
    overshoot_bytes: int = 0


_REMEMBERED = tuple(
    each.name for each in fields(Account)
)  # asdict() copies deeply, which takes half the time of a decision


@dataclass(frozen=True, slots=True)
class Accounts:
    """The state: whether reclaim goes on, and the Account of each group as JSON."""

    seen_seconds: float | None = None
    total_bytes: int = 0
    is_paying: bool = False
    accounts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By id and path, so that a group that is made again starts with a new account."""


class _Claimant(NamedTuple):
    """A group with its account and its claim."""

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
    claimants = [_claimant_of(spec, state, member, now, elapsed) for member in members]
    grants = _grants(spec, claimants, total - release if is_paying else 0)
    asks = worth_asking([claimant.claim for claimant in claimants], grants)
    delay = spec.interval_seconds
    if not is_paying and not any(grants):
        growth = max((total - state.total_bytes) / elapsed if elapsed else 0.0, 0.0)
        delay = min(
            max((budget - total) / max(2 * growth, _LEAST_GROWTH), delay), max(_CALM_SECONDS, delay)
        )
    signals = {"total_bytes": total, "budget_bytes": budget, "release_bytes": release}
    decisions = [
        replace(_decision(*each, delay), signals=signals | _signals(*each[:2]))
        for each in zip(claimants, grants, asks, strict=True)
    ]
    accounts = {
        _key(claimant.member): {name: getattr(claimant.account, name) for name in _REMEMBERED}
        for claimant in claimants
    }
    return Accounts(now, total, is_paying, accounts), decisions


def _decision(claimant: _Claimant, grant: int, ask: int, delay: float) -> Decision:
    group = claimant.member.group
    if ask:
        return Decision(
            group, Verdict.ACT, Reason.OVER_BUDGET, delay, ask=Reclaim(reclaim_bytes=ask)
        )
    reason = Reason.WITHIN_BUDGET
    if claimant.is_exempt:
        reason = Reason.EXEMPT
    elif grant:
        reason = Reason.ASK_TOO_SMALL
    elif claimant.claim.room_bytes < MIN_ASK_BYTES:
        reason = Reason.AT_FLOOR
    return Decision(group, Verdict.HOLD, reason, delay)


def _signals(claimant: _Claimant, grant: int) -> dict[str, float | int | str | None]:
    account = claimant.account
    return {
        "usage_bytes": claimant.claim.usage_bytes,
        "floor_bytes": claimant.claim.floor_bytes,
        "grant_bytes": grant,
        "used_fraction": round(account.used, 3),
        "entitlement": round(claimant.claim.entitlement, 3),
        "paid_bytes": round(account.paid_bytes),
        "returned_bytes": round(account.returned_bytes),
    }


def _whole(observation: Observation) -> int:
    """Return the bytes that a percentage is of.

    The lowest limit of a group above all of them, or else the host's memory.
    """
    paths = {member.group.path for member in observation.members}
    ends = (
        [f"{path}/" for path in (min(paths), max(paths))] if paths else []
    )  # a prefix of both is one of all between them
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


def _claimant_of(
    spec: Balance, state: Accounts, member: Member, now: float, elapsed: float
) -> _Claimant:
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
    return _Claimant(member, account, claim, portion.cap_bytes, is_exempt)


def _grants(spec: Balance, claimants: Sequence[_Claimant], need_bytes: int) -> list[int]:
    """Return the bytes to reclaim from each group now, of what the budget needs in the end.

    That is at most the group's step, and nothing from a group that stalls for what it gave up,
    unless no other group is left. Where the sum exceeds the step for all, those with the most
    memory for their entitlement go first.
    """
    claims = [claimant.claim for claimant in claimants]
    above = [_above_cap(claimant) for claimant in claimants]
    capped = [
        claim._replace(usage_bytes=claim.usage_bytes - size)
        for claim, size in zip(claims, above, strict=True)
    ]
    dues = [sum(pair) for pair in zip(above, revoke(capped, need_bytes - sum(above)), strict=True)]
    now = [
        min(due, claimant.account.step_bytes) for due, claimant in zip(dues, claimants, strict=True)
    ]
    unmissed = [
        0 if claimant.account.is_missed else size
        for size, claimant in zip(now, claimants, strict=True)
    ]
    now = unmissed if sum(unmissed) >= MIN_ASK_BYTES else now
    stepped = [
        claim._replace(floor_bytes=claim.usage_bytes - due)
        for claim, due in zip(claims, now, strict=True)
    ]
    return revoke(stepped, min(sum(now), spec.max_step_bytes))


def _above_cap(claimant: _Claimant) -> int:
    if claimant.cap_bytes is None:
        return 0
    return max(min(claimant.claim.usage_bytes - claimant.cap_bytes, claimant.claim.room_bytes), 0)


def _account(spec: Balance, state: Accounts, member: Member, now: float, elapsed: float) -> Account:
    """Update the account of a group with its reading and the outcome of its last reclaim."""
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
                _USED_RANGE[0],
            ),
            _USED_RANGE[1],
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
    """Return the part of memory that is on active lists; half where the kernel reports none."""
    active = (stat.active_anon_bytes or 0) + (stat.active_file_bytes or 0)
    listed = active + (stat.inactive_anon_bytes or 0) + (stat.inactive_file_bytes or 0)
    return min(max(active / listed if listed else 0.5, _USED_RANGE[0]), _USED_RANGE[1])


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
