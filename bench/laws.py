"""Published laws for the decisions of pressure and balance, each as a pure function of its formula.

They are written from documentation, papers and constants alone, with no code taken: senpai and oomd
are GPL. Each has the defaults that its project documents, except the floor, which is the same for
all: usage is never reclaimed below what the policy and the kernel keep. A law that uses I/O
pressure as well uses that of memory alone here: waiting for a file that was reclaimed is part of
it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from shrinkd.policies import (
    MIN_ASK_BYTES,
    Ask,
    Decision,
    Kind,
    Member,
    Observation,
    Reason,
    Reclaim,
    Resize,
    Verdict,
)
from shrinkd.policies.kinds.balance import Balance
from shrinkd.policies.kinds.watermark import Watermark, marks
from shrinkd.sizes import PAGE_BYTES
from shrinkd.strict_model import Strict


@dataclass(frozen=True, slots=True)
class Nothing:
    """State of a law that remembers nothing."""


Split = Callable[[Sequence[int], int], Sequence[int]]
"""Share of a need that each group pays, from what it has above its floor; all in bytes."""


def by_size(rooms: Sequence[int], need: int) -> Sequence[int]:
    """Shrink all groups by the same percentage."""
    total = sum(rooms)
    return [min(need, total) * room // max(total, 1) for room in rooms]


def alike(rooms: Sequence[int], need: int) -> Sequence[int]:
    """Take the same from each group, as far as it has that."""
    paid = [0] * len(rooms)
    for turn, index in enumerate(sorted(range(len(rooms)), key=rooms.__getitem__)):
        paid[index] = min(rooms[index], (need - sum(paid)) // (len(rooms) - turn))
    return paid


def largest_first(rooms: Sequence[int], need: int) -> Sequence[int]:
    """Take all from the largest group, as an OOM killer does."""
    largest = max(range(len(rooms)), key=rooms.__getitem__)
    return [min(room, need) if index == largest else 0 for index, room in enumerate(rooms)]


def splitting(split: Split) -> Kind:
    """Make a kind with the spec of balance from a law without state.

    Above the budget it reclaims to `release`, in the same steps.
    """

    def decide(
        spec: Balance, state: Nothing, observation: Observation
    ) -> tuple[Nothing, list[Decision]]:
        members = observation.members
        total = sum(member.stat.usage_bytes for member in members)
        need = min(total - int(spec.release), spec.max_step_bytes)
        if need < MIN_ASK_BYTES:
            return state, [
                Decision(member.group, Verdict.HOLD, Reason.WITHIN_BUDGET, spec.interval_seconds)
                for member in members
            ]
        grants = split(
            [max(member.stat.usage_bytes - member.floor_bytes, 0) for member in members], need
        )
        return state, [
            Decision(
                member.group,
                Verdict.ACT,
                Reason.OVER_BUDGET,
                spec.interval_seconds,
                ask=Reclaim(reclaim_bytes=grant),
            )
            for member, grant in zip(members, grants, strict=True)
        ]

    return Kind(spec=Balance, state=Nothing, decide=decide, decides_together=True)


def _verdict(member: Member, look_seconds: float, ask: Ask | None = None) -> list[Decision]:
    verdict, reason = (
        (Verdict.ACT, Reason.BELOW_TARGET) if ask else (Verdict.HOLD, Reason.ABOVE_TARGET)
    )
    return [Decision(member.group, verdict, reason, look_seconds, ask=ask)]


def _take(member: Member, size: float, look_seconds: float) -> list[Decision]:
    """Ask for so much, in whole pages and not below the floor."""
    room = max(member.stat.usage_bytes - member.floor_bytes, 0)
    pages = int(min(size, room)) // PAGE_BYTES
    return _verdict(
        member, look_seconds, Reclaim(reclaim_bytes=pages * PAGE_BYTES) if pages else None
    )


def _averages(member: Member) -> tuple[float, float]:
    """Return avg10 and avg60 of the some line, in percent, as memory.pressure prints them."""
    pressure = member.stat.pressure
    return (pressure.some.avg10_percent, pressure.some.avg60_percent) if pressure else (0.0, 0.0)


class Senpai(Strict):
    """Options of senpai.py, with its names and defaults (github.com/facebookincubator/senpai)."""

    interval: int = 6
    pressure: int = 10_000
    max_probe: float = 0.01
    max_backoff: float = 1.0
    coeff_probe: float = 10
    coeff_backoff: float = 20


@dataclass(frozen=True, slots=True)
class Held:
    """State of senpai.

    The memory.high that it holds, the stall since that last moved, and the seconds for which it
    does not tighten.
    """

    limit_bytes: int = 0
    """0: it has not begun."""
    total_microseconds: int = 0
    integral: int = 0
    grace: int = 0


def _senpai(spec: Senpai, state: Held, observation: Observation) -> tuple[Held, list[Decision]]:
    """Adjust memory.high each second.

    I = stall since memory.high last moved, in microseconds, against P = 10,000 of them. I > P: high
    · (1 + min((I/P / 20)², 1)). Else, 6 s after the last move: high · (1 - min((P/I / 10)² · 1 %, 1
    %)). It begins at usage and is held: a group that grows against it stalls. (senpai.py of
    facebookincubator/senpai)
    """
    (member,) = observation.members
    total = member.stat.pressure.some.total_microseconds if member.stat.pressure else 0
    if not state.limit_bytes:
        return _held(member, member.stat.usage_bytes, total, spec.interval)
    integral = state.integral + total - state.total_microseconds
    if integral > spec.pressure:
        factor = min((integral / spec.pressure / spec.coeff_backoff) ** 2, 1.0) * spec.max_backoff
        return _held(member, state.limit_bytes * (1 + factor), total, spec.interval - 1)
    if state.grace:
        return replace(
            state, total_microseconds=total, integral=integral, grace=state.grace - 1
        ), _verdict(member, 1.0)
    factor = min((spec.pressure / max(integral, 1) / spec.coeff_probe) ** 2, 1.0) * spec.max_probe
    return _held(member, state.limit_bytes * (1 - factor), total, spec.interval - 1)


def _held(member: Member, high: float, total: int, grace: int) -> tuple[Held, list[Decision]]:
    limit = max(int(high), member.floor_bytes) // PAGE_BYTES * PAGE_BYTES
    return Held(limit, total, 0, grace), _verdict(member, 1.0, Resize({"high_bytes": limit}))


class Oomd(Strict):
    """The senpai plugin of oomd with immediate_backoff.

    It is src/oomd/plugins/Senpai of github.com/facebookincubator/oomd.
    """

    interval: int = 6
    """Rounds that it leaves out after a reclaim."""
    mem_pressure_pct: float = 0.1
    max_probe: float = 0.01
    round_seconds: float = 1.0
    """oomd's own -i. Its default is 5; its demonstration runs at 1, with which this law is five
    times as fast."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Number of rounds that are left out.

    None: it has not begun, and leaves out an interval.
    """

    ticks: int | None = None


def _oomd(spec: Oomd, state: Counted, observation: Observation) -> tuple[Counted, list[Decision]]:
    """At max(avg10, avg60) < 0.1 %: take 1 % of what is above the floor, then rest for 6 rounds.

    Else look again in the next round.
    """
    (member,) = observation.members
    ticks = spec.interval if state.ticks is None else state.ticks
    if ticks:
        return Counted(ticks - 1), _verdict(member, spec.round_seconds)
    if max(_averages(member)) >= spec.mem_pressure_pct:
        return Counted(0), _verdict(member, spec.round_seconds)
    above = member.stat.usage_bytes - member.floor_bytes
    return Counted(spec.interval if above > 0 else 0), _take(
        member, above * spec.max_probe, spec.round_seconds
    )


class Tmo(Strict):
    """The settings that the authors of the paper ran everywhere."""

    reclaim_ratio: float = 0.0005
    psi_threshold_percent: float = 0.1
    interval_seconds: float = 6


def _tmo(spec: Tmo, state: Nothing, observation: Observation) -> tuple[Nothing, list[Decision]]:
    """Take usage · 0.0005 · max(0, 1 - PSI_some / 0.1 %) every 6 s.

    No more than 1 % at once, which that never reaches. Weiner et al., TMO: Transparent Memory
    Offloading in Datacenters, ASPLOS 2022. The paper does not say over what time PSI_some is taken:
    avg10 here, the shortest that the kernel prints.
    """
    (member,) = observation.members
    share = spec.reclaim_ratio * max(0.0, 1 - _averages(member)[0] / spec.psi_threshold_percent)
    return state, _take(member, member.stat.usage_bytes * share, spec.interval_seconds)


class Katalyst(Strict):
    """Defaults of katalyst's TMO with the policy PSI.

    They are in kubewharf/katalyst-core, pkg/config/agent/dynamic/tmo/tmo_base.go.
    """

    max_probe: float = 0.005
    psi_avg60_threshold: float = 0.1
    interval_seconds: float = 30


def _katalyst(
    spec: Katalyst, state: Nothing, observation: Observation
) -> tuple[Nothing, list[Decision]]:
    """Take max(0, 1 - avg60 / 0.1) · 0.5 % of usage every 30 s, at most the page cache.

    kubewharf/katalyst-core, memory_offloading.go of sysadvisor. It is off by default, and so is its
    swap; here both are on.
    """
    (member,) = observation.members
    share = spec.max_probe * max(0.0, 1 - _averages(member)[1] / spec.psi_avg60_threshold)
    cache = (member.stat.file_bytes or 0) - (member.stat.mapped_bytes or 0)
    return state, _take(
        member, max(min(member.stat.usage_bytes * share, cache), 0), spec.interval_seconds
    )


class Etmem(Strict):
    """Options of etmem's PSI engine, with its names and documented defaults.

    The interval is that of its example.
    """

    interval: float = 6
    pressure: float = 0.1
    reclaim_rate: float = 0.05
    reclaim_rate_max: float = 0.5
    reclaim_rate_min: float = 0.01
    reclaim_max_bytes: int = 1 << 30


_UPGRADE, _DOWNGRADE, _STRIDE = 5, -2, 0.01


@dataclass(frozen=True, slots=True)
class Gathered:
    """State of etmem.

    The current rate (0: as the spec says), and how many rounds in a row were good (> 0) or bad (<
    0).
    """

    reclaim_rate: float = 0.0
    gather: int = 0


def _etmem(
    spec: Etmem, state: Gathered, observation: Observation
) -> tuple[Gathered, list[Decision]]:
    """At max(avg10, avg60) < 0.1 %: take the rate of what is above the floor every 6 s.

    The rate is 5 % at first, and at most 1 GiB is taken. It rises by 0.01 after five such rounds in
    a row and falls by as much after two of the others, within 0.01 and 0.5; a round of the other
    sort resets the count. openEuler etmem, README, section on PSI; the counts are constants of
    etmemd_psi.c.
    """
    (member,) = observation.members
    rate, is_low = state.reclaim_rate or spec.reclaim_rate, max(_averages(member)) < spec.pressure
    above = max(member.stat.usage_bytes - member.floor_bytes, 0)
    asked = _take(member, min(above * rate, spec.reclaim_max_bytes) if is_low else 0, spec.interval)
    if is_low and asked[0].ask is None:
        return state, asked
    gather = max(0, state.gather + 1) if is_low else min(0, state.gather - 1)
    if gather >= _UPGRADE:
        return Gathered(min(rate + _STRIDE, spec.reclaim_rate_max)), asked
    if gather <= _DOWNGRADE:
        return Gathered(max(rate - _STRIDE, spec.reclaim_rate_min)), asked
    return Gathered(rate, gather), asked


def _polled(
    spec: Watermark, state: Nothing, observation: Observation
) -> tuple[Nothing, list[Decision]]:
    """Reclaim to low when usage is at or above high, once a second, as a shell loop does."""
    (member,) = observation.members
    found = marks(spec, member.stat, observation.host.total_bytes)
    if found is None or member.stat.usage_bytes < found.high_bytes:
        return state, [Decision(member.group, Verdict.HOLD, Reason.BELOW_HIGH, 1.0)]
    ask = Reclaim(target_bytes=max(found.low_bytes, member.floor_bytes))
    return state, [Decision(member.group, Verdict.ACT, Reason.ABOVE_HIGH, 1.0, ask=ask)]


PUBLISHED = {
    "senpai": Kind(spec=Senpai, state=Held, decide=_senpai),
    "oomd, immediate back-off": Kind(spec=Oomd, state=Counted, decide=_oomd),
    "TMO": Kind(spec=Tmo, state=Nothing, decide=_tmo),
    "katalyst": Kind(spec=Katalyst, state=Nothing, decide=_katalyst),
    "etmem": Kind(spec=Etmem, state=Gathered, decide=_etmem),
}
"""What goes by pressure, as `pressure` does."""
polled = Kind(spec=Watermark, state=Nothing, decide=_polled)
