"""Policies tried on a simulated machine.

The same engine as the daemon's, in the machine's own time, beside a run without them.

What comes out of it is decided by the plan and the scenario's seed alone. It is closed-loop: what a
policy takes too early comes back and costs, as the simulator's model has it, and no better than
that. A recording is half of that: it says what was used, not what would have been needed, and its
group asks for the same at the same times whatever happens to it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from shrinkd.backends import (
    Counters,
    Group,
    LimitName,
    MemStat,
    Recording,
    Scenario,
    Simulator,
    load_scenario,
    scenario_names,
    with_recordings,
)
from shrinkd.errors import GroupBusy, ShrinkdError
from shrinkd.memcontrol import MEM_CGROUP_RECLAIM_RETRIES
from shrinkd.policies import (
    GROUP_BYTES_PER_SECOND,
    MIN_ASK_BYTES,
    Action,
    AnyPolicy,
    Evaluator,
    Guards,
    Outcome,
    Reclaim,
    Resize,
    Switch,
)
from shrinkd.settings import Settings
from shrinkd.strict_model import Moment, Strict

_URGENT_BYTES_PER_SECOND = 1 << 30
"""What one CPU reclaims of clean 4 KiB pages, about a third of what was measured of page cache."""
_DAWN = datetime(2026, 1, 1, tzinfo=UTC)
_MOST_STEPS = 2_000_000
_STEPS_A_NEWS = 20
_RESIZE_SECONDS = 60.0


def _in_gallery(name: str) -> str:
    if name not in scenario_names():
        raise ValueError(
            f"there is no scenario {name!r} in the gallery; there are {', '.join(scenario_names())}"
        )
    return name


class Plan(Strict):
    """What to simulate: a machine, policies on it, and for how long."""

    scenario: Annotated[str, AfterValidator(_in_gallery)] | Scenario = Field(
        "empty", examples=["heat"]
    )
    """A name of the gallery, or a scenario as it stands in one of its files; may be left out where
    there are recordings."""
    recordings: Annotated[tuple[Recording, ...], Field(strict=False, max_length=32)] = ()
    """Groups beside those of the scenario that use what groups of a host have used."""
    policies: Annotated[tuple[AnyPolicy, ...], Field(strict=False, max_length=32)] = ()
    duration_seconds: float = Field(3600, gt=0, le=7 * 86400)
    step_seconds: float = Field(0.5, ge=0.1, le=10)
    """How finely time passes there: what is shorter than a step is not seen."""
    starts_at: Moment = _DAWN
    """What the calendar says when it begins, for schedules and active windows."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.recordings or "scenario" in self.model_fields_set):
            raise ValueError("give a scenario, or recordings")
        self.furnished()
        if self.duration_seconds / self.step_seconds > _MOST_STEPS:
            raise ValueError(
                f"that is more than {_MOST_STEPS} steps: shorten it, or let step_seconds be longer"
            )
        scenario_names = [policy.name for policy in self.policies]
        if len(set(scenario_names)) < len(scenario_names):
            raise ValueError("two policies have one name")
        return self

    def furnished(self) -> Scenario:
        """The scenario with the recordings in it."""
        scenario = load_scenario(self.scenario) if isinstance(self.scenario, str) else self.scenario
        return with_recordings(scenario, self.recordings)


@dataclass(frozen=True, slots=True)
class GroupReport:
    """What became of one group; means are over the whole run."""

    path: str
    mean_usage_bytes: float
    end_usage_bytes: int
    mean_swap_bytes: float
    some_percent: float | None
    """Share of the time in which a task stalled for memory; null where this kernel has no PSI."""
    worst_minute_some_percent: float | None
    refaults: int
    reclaimed_bytes: int
    """By policies; what the kernel reclaimed at a limit is not in it."""
    limit_hits: int
    oom_kills: int
    saved_bytes: float = 0.0
    """Mean usage without the policies less that with them; what went to swap has left usage."""
    seconds_to_50_percent: float | None = None
    """Until half of the largest saving was reached; null where nothing was saved."""
    seconds_to_90_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a simulation."""

    seconds: float
    saved_bytes: float
    """Over all groups that the policies saw."""
    groups: tuple[GroupReport, ...]
    baseline: tuple[GroupReport, ...]
    """The same machine without policies."""
    decisions: Mapping[str, Mapping[str, int]]
    """How often each policy came to each verdict."""


@dataclass(slots=True)
class _Course:
    """What is measured of one group, step by step."""

    group: Group
    first: MemStat
    last: MemStat
    usages: list[int] = field(default_factory=list)
    swap_sum: int = 0
    stalls: list[int] = field(default_factory=list)
    reclaimed: int = 0

    def note(self, stat: MemStat) -> None:
        self.last = stat
        self.usages.append(stat.usage_bytes)
        self.swap_sum += stat.swap_bytes or 0
        if stat.pressure:
            self.stalls.append(stat.pressure.some.total_microseconds)


@dataclass(slots=True)
class _Running:
    """A grant that is carried out, a step at a time."""

    grant: Action
    until: float
    target: int | None
    left: int = 0
    limits: Mapping[LimitName, int | None] = field(default_factory=dict)
    """To be set when it is done."""
    freed: int = 0
    retries: int = MEM_CGROUP_RECLAIM_RETRIES


class _Run:
    """One machine living through the plan, with the policies or without."""

    def __init__(self, plan: Plan, policies: Sequence[AnyPolicy]) -> None:
        self.plan = plan
        self.machine = Simulator(
            Settings(), clock=lambda: 0.0, sleep=lambda _: None, scenario=plan.furnished()
        )
        self.policies = [(policy, 1) for policy in policies]
        self.engine = Evaluator(self.machine, Guards(self.machine.has_swappiness))
        self.now = 0.0
        self.running: dict[int, _Running] = {}
        self.courses: dict[int, _Course] = {}
        self.verdicts: dict[str, dict[str, int]] = {}

    def step(self) -> None:
        """Let a step of time pass, then look, as the daemon would."""
        seconds = self.plan.step_seconds
        self.machine.time.advance(seconds)
        self.now += seconds
        groups = self.machine.groups()
        for group in groups[1:]:
            stat = self.machine.stat(group)
            course = self.courses.setdefault(group.id, _Course(group, stat, stat))
            course.note(stat)
        if not self.policies:
            return
        self.engine.assign(self.policies, groups, self.now)
        for running in list(self.running.values()):
            self._go_on(running, seconds)
        wall = self.plan.starts_at + timedelta(seconds=self.now)
        looked = self.engine.look(
            self.now, wall, [running.grant.group.path for running in self.running.values()]
        )
        for record in looked.records:
            of_policy = self.verdicts.setdefault(record.policy, {})
            of_policy[record.verdict] = of_policy.get(record.verdict, 0) + 1
        for grant in looked.grants:
            self._begin(grant)

    def _begin(self, grant: Action) -> None:
        ask = grant.ask
        if isinstance(ask, Reclaim):
            running = _Running(
                grant, self.now + ask.timeout_seconds, grant.target_bytes, grant.amount_bytes
            )
        elif isinstance(ask, Resize):
            running = _Running(
                grant, self.now + _RESIZE_SECONDS, ask.limits.get("max_bytes"), limits=ask.limits
            )
        else:
            self._switch(ask)
            self.engine.finish(grant.key, grant.group, Outcome(0, 0, 0.0), self.now)
            return
        self.running[grant.group.id] = running
        self._go_on(running, self.plan.step_seconds)

    def _switch(self, ask: Switch) -> None:
        self.policies = [
            (
                policy.model_copy(update={"enabled": ask.enabled})
                if policy.name == ask.policy
                else policy,
                generation,
            )
            for policy, generation in self.policies
        ]

    def _go_on(self, running: _Running, seconds: float) -> None:
        """Reclaim as much as its rate allows in a step; what is left goes on in the next."""
        grant, errname = running.grant, None
        rate = _URGENT_BYTES_PER_SECOND if grant.is_urgent else GROUP_BYTES_PER_SECOND
        try:
            is_done = self._reclaim(running, int(seconds * rate))
            if is_done and running.limits:
                self.machine.set_limits(grant.group, running.limits)
        except ShrinkdError as error:
            is_done, errname = True, error.errname
        if not is_done and self.now >= running.until:
            is_done, errname = True, "ETIMEDOUT"
        if is_done:
            del self.running[grant.group.id]
            self.courses[grant.group.id].reclaimed += running.freed
            outcome = Outcome(
                grant.amount_bytes, running.freed, running.freed / _URGENT_BYTES_PER_SECOND, errname
            )
            self.engine.finish(grant.key, grant.group, outcome, self.now)

    def _reclaim(self, running: _Running, allowance: int) -> bool:
        """Make passes for so much, as memcontrol does, and answer whether that was all there is to
        do.
        """
        grant = running.grant
        while allowance > 0:
            if running.target is not None:
                running.left = self.machine.usage(grant.group) - running.target + 1
            if running.left <= 0:
                return True
            if not running.retries:
                raise GroupBusy("Five passes freed nothing.")
            freed = self.machine.reclaim(
                grant.group, min(running.left, allowance), grant.swappiness
            )
            running.retries -= not freed
            running.freed, running.left = running.freed + freed, running.left - freed
            allowance -= max(freed, MIN_ASK_BYTES)
        return False

    def reports(self) -> tuple[GroupReport, ...]:
        return tuple(
            self._report(course)
            for course in sorted(self.courses.values(), key=lambda course: course.group.path)
        )

    def _report(self, course: _Course) -> GroupReport:
        steps, counters, events = len(course.usages), course.last.counters, course.last.events
        before, began = course.first.counters, course.first.events
        a_minute = max(round(60 / self.plan.step_seconds), 1)
        stalls = course.stalls
        worst = max(
            (
                stalls[min(at + a_minute, len(stalls) - 1)] - stalls[at]
                for at in range(0, len(stalls), a_minute)
            ),
            default=0,
        )
        return GroupReport(
            path=course.group.path,
            mean_usage_bytes=sum(course.usages) / steps,
            end_usage_bytes=course.usages[-1],
            mean_swap_bytes=course.swap_sum / steps,
            some_percent=(stalls[-1] - stalls[0]) / 1e4 / self.now if stalls else None,
            worst_minute_some_percent=worst / 1e4 / min(60, self.now) if stalls else None,
            refaults=sum(
                (after or 0) - (earlier or 0) for after, earlier in _refaults(counters, before)
            ),
            reclaimed_bytes=course.reclaimed,
            limit_hits=(events.max or events.limit_failures or 0)
            - (began.max or began.limit_failures or 0),
            oom_kills=(events.oom_kill or 0) - (began.oom_kill or 0),
        )


def _refaults(after: Counters, before: Counters) -> tuple[tuple[int | None, int | None], ...]:
    return (after.refaults_file, before.refaults_file), (after.refaults_anon, before.refaults_anon)


def simulate(plan: Plan) -> Iterator[float | Report]:
    """Live through a plan, yielding how much of it is done (0 to 1) now and then, and at last the
    report.
    """
    bare, run = _Run(plan, ()), _Run(plan, plan.policies)
    steps = math.ceil(plan.duration_seconds / plan.step_seconds)
    for step in range(steps):
        bare.step()
        run.step()
        if step % _STEPS_A_NEWS == 0:
            yield step / steps
    seen = {
        group.path
        for policy in plan.policies
        for group in policy.selector.select(run.machine.groups())
    }
    groups = tuple(_with_savings(report, run, bare) for report in run.reports())
    yield Report(
        run.now,
        sum(report.saved_bytes for report in groups if report.path in seen),
        groups,
        bare.reports(),
        run.verdicts,
    )


def _with_savings(report: GroupReport, run: _Run, bare: _Run) -> GroupReport:
    """What a group used less than without the policies, and when half and nine tenths of the most
    of that were reached.
    """
    of_path = {course.group.path: course for course in bare.courses.values()}
    with_it = next(course for course in run.courses.values() if course.group.path == report.path)
    saved = [
        without - used
        for without, used in zip(of_path[report.path].usages, with_it.usages, strict=False)
    ]
    most = max(saved)

    def seconds_to(share: float) -> float | None:
        return (
            next(
                (at + 1) * run.plan.step_seconds
                for at, size in enumerate(saved)
                if size >= share * most
            )
            if most > 0
            else None
        )

    return replace(
        report,
        saved_bytes=sum(saved) / len(saved),
        seconds_to_50_percent=seconds_to(0.5),
        seconds_to_90_percent=seconds_to(0.9),
    )
