"""Run policies on a simulated machine, beside the same machine without policies.

It is the daemon's evaluator in the machine's own time. The plan and the scenario's seed alone
decide the report. A run is closed-loop: memory that a policy takes too early comes back and costs,
as far as the simulator's model has it. A recording is only half of that: it says what was used, not
what would have been needed, and its group asks for the same at the same times whatever happens.
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
"""The rate of one CPU on clean 4 KiB pages: about a third of what was measured on page cache."""
_DEFAULT_START = datetime(2026, 1, 1, tzinfo=UTC)
_MAX_STEPS = 2_000_000
_STEPS_PER_PROGRESS = 20
_RESIZE_SECONDS = 60.0


def _check_in_gallery(name: str) -> str:
    if name not in scenario_names():
        raise ValueError(
            f"there is no scenario {name!r} in the gallery; there are {', '.join(scenario_names())}"
        )
    return name


class Plan(Strict):
    """A simulation to run: a machine, policies on it, and a duration."""

    scenario: Annotated[str, AfterValidator(_check_in_gallery)] | Scenario = Field(
        "empty", examples=["heat"]
    )
    """A name of the gallery, or a scenario as in one of its files; it may be left out where there
    are recordings."""
    recordings: Annotated[tuple[Recording, ...], Field(strict=False, max_length=32)] = ()
    """Groups added to the scenario's, which use the memory that groups of a host were recorded to
    use."""
    policies: Annotated[tuple[AnyPolicy, ...], Field(strict=False, max_length=32)] = ()
    duration_seconds: float = Field(3600, gt=0, le=7 * 86400)
    step_seconds: float = Field(0.5, ge=0.1, le=10)
    """The length of one step of simulated time; nothing shorter is resolved."""
    starts_at: Moment = _DEFAULT_START
    """The calendar time at its start, for schedules and active windows."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not (self.recordings or "scenario" in self.model_fields_set):
            raise ValueError("give a scenario, or recordings")
        self.full_scenario()
        if self.duration_seconds / self.step_seconds > _MAX_STEPS:
            raise ValueError(
                f"that is more than {_MAX_STEPS} steps: shorten it, or let step_seconds be longer"
            )
        names = [policy.name for policy in self.policies]
        if len(set(names)) < len(names):
            raise ValueError("two policies have the same name: give each its own")
        return self

    def full_scenario(self) -> Scenario:
        """Return the scenario with the groups of the recordings added."""
        scenario = load_scenario(self.scenario) if isinstance(self.scenario, str) else self.scenario
        return with_recordings(scenario, self.recordings)


@dataclass(frozen=True, slots=True)
class GroupReport:
    """The result for one group; means are over the whole run."""

    path: str
    mean_usage_bytes: float
    end_usage_bytes: int
    mean_swap_bytes: float
    some_percent: float | None
    """Share of the time in which a task stalled for memory; null where the kernel has no PSI."""
    worst_minute_some_percent: float | None
    refaults: int
    reclaimed_bytes: int
    """Reclaimed by policies; what the kernel reclaimed at a limit is not counted."""
    limit_hits: int
    oom_kills: int
    saved_bytes: float = 0.0
    """Mean usage without the policies less that with them; swapped memory is not usage."""
    seconds_to_50_percent: float | None = None
    """Time until half of the largest saving was reached; null where nothing was saved."""
    seconds_to_90_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a simulation."""

    seconds: float
    saved_bytes: float
    """Summed over all groups that the policies select."""
    groups: tuple[GroupReport, ...]
    baseline: tuple[GroupReport, ...]
    """The results of the same machine without policies."""
    decisions: Mapping[str, Mapping[str, int]]
    """How often each policy came to each verdict."""


@dataclass(slots=True)
class _Samples:
    """Measurements of one group, one each step."""

    group: Group
    first: MemStat
    last: MemStat
    usages: list[int] = field(default_factory=list)
    swap_sum: int = 0
    stalls: list[int] = field(default_factory=list)
    reclaimed: int = 0

    def add(self, stat: MemStat) -> None:
        self.last = stat
        self.usages.append(stat.usage_bytes)
        self.swap_sum += stat.swap_bytes or 0
        if stat.pressure:
            self.stalls.append(stat.pressure.some.total_microseconds)


@dataclass(slots=True)
class _Running:
    """An action that is being executed, a part of it each step."""

    action: Action
    until: float
    target: int | None
    left: int = 0
    limits: Mapping[LimitName, int | None] = field(default_factory=dict)
    """Set when the reclaim is done."""
    freed: int = 0
    retries: int = MEM_CGROUP_RECLAIM_RETRIES


class _Run:
    """One simulated machine over the time of a plan, with policies or without."""

    def __init__(self, plan: Plan, policies: Sequence[AnyPolicy]) -> None:
        self.plan = plan
        self.machine = Simulator(
            Settings(database_url="sqlite://"),
            clock=lambda: 0.0,
            sleep=lambda _: None,
            scenario=plan.full_scenario(),
        )
        self.policies = [(policy, 1) for policy in policies]
        self.evaluator = Evaluator(self.machine, Guards(self.machine.has_swappiness))
        self.now = 0.0
        self.running: dict[int, _Running] = {}
        self.samples: dict[int, _Samples] = {}
        self.verdicts: dict[str, dict[str, int]] = {}

    def step(self) -> None:
        """Advance time by one step, then run a tick as the daemon would."""
        seconds = self.plan.step_seconds
        self.machine.time.advance(seconds)
        self.now += seconds
        groups = self.machine.groups()
        for group in groups[1:]:
            stat = self.machine.stat(group)
            sample = self.samples.setdefault(group.id, _Samples(group, stat, stat))
            sample.add(stat)
        if not self.policies:
            return
        self.evaluator.assign(self.policies, groups, self.now)
        for running in list(self.running.values()):
            self._continue(running, seconds)
        wall = self.plan.starts_at + timedelta(seconds=self.now)
        tick = self.evaluator.tick(
            self.now, wall, [running.action.group.path for running in self.running.values()]
        )
        for record in tick.records:
            of_policy = self.verdicts.setdefault(record.policy, {})
            of_policy[record.verdict] = of_policy.get(record.verdict, 0) + 1
        for action in tick.actions:
            self._begin(action)

    def _begin(self, action: Action) -> None:
        ask = action.ask
        if isinstance(ask, Reclaim):
            running = _Running(
                action, self.now + ask.timeout_seconds, action.target_bytes, action.amount_bytes
            )
        elif isinstance(ask, Resize):
            running = _Running(
                action, self.now + _RESIZE_SECONDS, ask.limits.get("max_bytes"), limits=ask.limits
            )
        else:
            self._switch(ask)
            self.evaluator.finish(action.key, action.group, Outcome(0, 0, 0.0), self.now)
            return
        self.running[action.group.id] = running
        self._continue(running, self.plan.step_seconds)

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

    def _continue(self, running: _Running, seconds: float) -> None:
        """Reclaim what its rate allows in a step; the next step continues."""
        action, errname = running.action, None
        rate = _URGENT_BYTES_PER_SECOND if action.is_urgent else GROUP_BYTES_PER_SECOND
        try:
            is_done = self._reclaim(running, int(seconds * rate))
            if is_done and running.limits:
                self.machine.set_limits(action.group, running.limits)
        except ShrinkdError as error:
            is_done, errname = True, error.errname
        if not is_done and self.now >= running.until:
            is_done, errname = True, "ETIMEDOUT"
        if is_done:
            del self.running[action.group.id]
            self.samples[action.group.id].reclaimed += running.freed
            outcome = Outcome(
                action.amount_bytes,
                running.freed,
                running.freed / _URGENT_BYTES_PER_SECOND,
                errname,
            )
            self.evaluator.finish(action.key, action.group, outcome, self.now)

    def _reclaim(self, running: _Running, allowance: int) -> bool:
        """Make passes as memcontrol does, up to `allowance` bytes; return whether all is done."""
        action = running.action
        while allowance > 0:
            if running.target is not None:
                running.left = self.machine.usage(action.group) - running.target + 1
            if running.left <= 0:
                return True
            if not running.retries:
                raise GroupBusy("Five passes freed nothing: usage stays above the target.")
            freed = self.machine.reclaim(
                action.group, min(running.left, allowance), action.swappiness
            )
            running.retries -= not freed
            running.freed, running.left = running.freed + freed, running.left - freed
            allowance -= max(freed, MIN_ASK_BYTES)
        return False

    def reports(self) -> tuple[GroupReport, ...]:
        return tuple(
            self._report(samples)
            for samples in sorted(self.samples.values(), key=lambda samples: samples.group.path)
        )

    def _report(self, samples: _Samples) -> GroupReport:
        steps, counters, events = len(samples.usages), samples.last.counters, samples.last.events
        before, began = samples.first.counters, samples.first.events
        a_minute = max(round(60 / self.plan.step_seconds), 1)
        stalls = samples.stalls
        worst = max(
            (
                stalls[min(at + a_minute, len(stalls) - 1)] - stalls[at]
                for at in range(0, len(stalls), a_minute)
            ),
            default=0,
        )
        return GroupReport(
            path=samples.group.path,
            mean_usage_bytes=sum(samples.usages) / steps,
            end_usage_bytes=samples.usages[-1],
            mean_swap_bytes=samples.swap_sum / steps,
            some_percent=(stalls[-1] - stalls[0]) / 1e4 / self.now if stalls else None,
            worst_minute_some_percent=worst / 1e4 / min(60, self.now) if stalls else None,
            refaults=sum(
                (after or 0) - (earlier or 0) for after, earlier in _refaults(counters, before)
            ),
            reclaimed_bytes=samples.reclaimed,
            limit_hits=(events.max or events.limit_failures or 0)
            - (began.max or began.limit_failures or 0),
            oom_kills=(events.oom_kill or 0) - (began.oom_kill or 0),
        )


def _refaults(after: Counters, before: Counters) -> tuple[tuple[int | None, int | None], ...]:
    return (after.refaults_file, before.refaults_file), (after.refaults_anon, before.refaults_anon)


def simulate(plan: Plan) -> Iterator[float | Report]:
    """Run a plan; yield the part that is done (0 to 1) every few steps, at last the report."""
    baseline, run = _Run(plan, ()), _Run(plan, plan.policies)
    steps = math.ceil(plan.duration_seconds / plan.step_seconds)
    for step in range(steps):
        baseline.step()
        run.step()
        if step % _STEPS_PER_PROGRESS == 0:
            yield step / steps
    seen = {
        group.path
        for policy in plan.policies
        for group in policy.selector.select(run.machine.groups())
    }
    groups = tuple(_with_savings(report, run, baseline) for report in run.reports())
    yield Report(
        run.now,
        sum(report.saved_bytes for report in groups if report.path in seen),
        groups,
        baseline.reports(),
        run.verdicts,
    )


def _with_savings(report: GroupReport, run: _Run, baseline: _Run) -> GroupReport:
    """Add the savings: the mean, and the times until half and nine tenths of the largest one."""
    of_path = {samples.group.path: samples for samples in baseline.samples.values()}
    with_it = next(samples for samples in run.samples.values() if samples.group.path == report.path)
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
