"""Run policies in a closed loop with the simulated machine.

Each tick decides, reclaims and lets time pass; the result is what was saved and the pressure it
cost. The clock is virtual and there is no thread: an hour of one group takes a second or less.
Beside the kinds of the daemon it runs anything with their signature, such as the published laws in
laws.py. Some of these hold memory.high, which is the meaning of Resize here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shrinkd.backends import Activity, EventsMove, Group, UsageCrosses
from shrinkd.backends.simulator.machine.machine import Machine
from shrinkd.backends.simulator.readings import available_of, reading_of
from shrinkd.policies import Decision, Host, Kind, Member, Observation, Outcome, Reclaim, Resize
from shrinkd.sizes import PAGE_BYTES
from shrinkd.strict_model import Strict

PASS_BYTES = 2 << 20
PASS_US = 50_000
_WALL = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass(slots=True)
class Course:
    """History of one group: a sample at the end of every tick, and all requests to it."""

    seconds: list[float] = field(default_factory=list)
    usage_bytes: list[int] = field(default_factory=list)
    stalled_us: list[int] = field(default_factory=list)
    decisions: list[tuple[float, Decision]] = field(default_factory=list)
    freed_bytes: int = 0
    least_margin_bytes: int | None = None
    """How near to its floor an ask ever meant to go."""

    @property
    def mean_some_percent(self) -> float:
        return (
            (self.stalled_us[-1] - self.stalled_us[0]) / (self.seconds[-1] - self.seconds[0]) / 1e4
        )

    def worst_some_percent(self, window_seconds: float = 60.0) -> float:
        samples = max(round(window_seconds / (self.seconds[1] - self.seconds[0])), 1)
        spans = zip(self.stalled_us, self.stalled_us[samples:], strict=False)
        return max(later - before for before, later in spans) / window_seconds / 1e4


class Loop:
    """One policy over some groups of a machine."""

    tells_usage = True
    """Whether usage that crosses a value wakes, as on v1: v2 is silent about it."""

    def __init__(
        self,
        machine: Machine,
        kind: Kind,
        spec: Strict,
        paths: Sequence[str],
        *,
        floors: Mapping[str, int] | None = None,
    ) -> None:
        self.machine, self.kind, self.spec = machine, kind, spec
        self.floors = floors or {}
        self.cgroups = {path: machine.cgroups[path] for path in paths}
        self.courses = {path: Course() for path in paths}
        self._teams = (
            [tuple(sorted(paths))] if kind.decides_together else [(path,) for path in paths]
        )
        self._states: dict[tuple[str, ...], Any] = {team: kind.state() for team in self._teams}
        self._due: dict[str, float] = dict.fromkeys(paths, 0.0)
        self._wakes: dict[str, list[int]] = {path: [] for path in paths}
        self._hits_heard: dict[str, int | None] = dict.fromkeys(paths)
        self._outcomes: dict[str, Outcome] = {}

    def run(self, seconds: float, tick_seconds: float = 0.5) -> None:
        for _ in range(round(seconds / tick_seconds)):
            for team in self._teams:
                if any(self._is_due(path) for path in team):
                    self._look(team)
            self.machine.advance(tick_seconds)
            for path, course in self.courses.items():
                cgroup = self.cgroups[path]
                cgroup.some.settle(self.machine.now_us)
                course.seconds.append(self.machine.now_us / 1e6)
                course.usage_bytes.append(cgroup.usage * PAGE_BYTES)
                course.stalled_us.append(cgroup.some.total_us)

    def _is_due(self, path: str) -> bool:
        usage, heard = self.cgroups[path].usage * PAGE_BYTES, self._hits_heard[path]
        if self.tells_usage and any(usage >= wake for wake in self._wakes[path]):
            return True
        return self.machine.now_us / 1e6 >= self._due[path] - 1e-6 or (
            heard is not None and self.cgroups[path].events["max"] > heard
        )

    def _look(self, team: tuple[str, ...]) -> None:
        now = self.machine.now_us / 1e6
        observation = Observation(
            now, _WALL, self._host(), tuple(self._member(path) for path in team)
        )
        self._states[team], decisions = self.kind.decide(self.spec, self._states[team], observation)
        for decision, member in zip(decisions, observation.members, strict=True):
            path, usage = decision.group.path, member.stat.usage_bytes
            goes_on = (
                self.kind.is_urgent and decision.ask is not None
            )  # the policy learns of the end of a pass at once
            self._due[path] = now if goes_on else now + decision.look_seconds
            self._wakes[path] = [
                wake.usage_bytes
                for wake in decision.wake_on
                if isinstance(wake, UsageCrosses) and wake.usage_bytes > usage
            ]
            self._hits_heard[path] = (
                self.cgroups[path].events["max"] if EventsMove() in decision.wake_on else None
            )
            self.courses[path].decisions.append((now, decision))
            if isinstance(decision.ask, Reclaim):
                self._carry_out(path, decision.ask, member)
            elif (
                isinstance(decision.ask, Resize)
                and (high := decision.ask.limits.get("high_bytes")) is not None
            ):
                self.cgroups[path].high = high // PAGE_BYTES
                self._carry_out(path, Reclaim(target_bytes=high), member)

    def _carry_out(self, path: str, ask: Reclaim, member: Member) -> None:
        cgroup, course = self.cgroups[path], self.courses[path]
        before = cgroup.usage * PAGE_BYTES
        goal = before - ask.target_bytes if ask.target_bytes is not None else ask.reclaim_bytes or 0
        margin = before - goal - member.floor_bytes
        course.least_margin_bytes = (
            margin if course.least_margin_bytes is None else min(margin, course.least_margin_bytes)
        )
        while (wanted := goal - (before - cgroup.usage * PAGE_BYTES)) > 0:
            freed, _ = self.machine.reclaim(
                cgroup, -(-min(wanted, PASS_BYTES) // PAGE_BYTES), PASS_US
            )
            if not freed:
                break
        fell = max(before - cgroup.usage * PAGE_BYTES, 0)
        course.freed_bytes += fell
        self._outcomes[path] = Outcome(goal, fell, 0.01)

    def _member(self, path: str) -> Member:
        cgroup = self.cgroups[path]
        stat = reading_of(cgroup, self.machine, raw=False)
        floor = max(
            self.floors.get(path, 64 << 20),
            stat.usage_bytes - (stat.reclaimable_estimate_bytes or 0),
        )
        activity = Activity(0.0) if self.kind.needs_activity else None
        return Member(Group(path, cgroup.id), stat, floor, activity, self._outcomes.pop(path, None))

    def _host(self) -> Host:
        swap = self.machine.swap
        return Host(
            self.machine.hardware.pages * PAGE_BYTES,
            available_of(self.machine),
            swap.pages * PAGE_BYTES,
            swap.free * PAGE_BYTES,
        )
