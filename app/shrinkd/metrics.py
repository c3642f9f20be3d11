"""What this daemon and its groups do, as numbers for Prometheus.

Counted cheaply while it happens, gathered when somebody asks.

Labels are operations, states and subtrees: their number is bounded. A subtree is named by its path,
where people and Prometheus can tell that from every other.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import accumulate

from prometheus_client import GC_COLLECTOR, PLATFORM_COLLECTOR, CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from shrinkd.backends import Backend, Group, recent_walk
from shrinkd.errors import ShrinkdError, ignoring_unreadable
from shrinkd.policies import PolicyController
from shrinkd.shrinks import ShrinkQueue
from shrinkd.terminal import is_displayed_unchanged

BUCKETS_SECONDS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
MOST_SUBTREES = 50
_OTHERS, _ID = "(others)", "id:"


class RequestMetrics:
    """Requests by operation and status, and how long they took. For the event loop alone."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, int], list[int]] = {}
        """A count for each bucket, and one for what took longer."""
        self.totals: Counter[tuple[str, int]] = Counter()
        """Nanoseconds."""

    def note(self, operation: str, status: int, seconds: float) -> None:
        key = (operation, status)
        counts = self.seconds.get(key)
        if counts is None:
            counts = self.seconds[key] = [0] * (len(BUCKETS_SECONDS) + 1)
        counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.totals[key] += int(seconds * 1e9)


class MetricsCollector(Collector):
    """Everything but the process itself, read at the moment of the scrape."""

    def __init__(
        self,
        requests: RequestMetrics,
        backend: Backend,
        jobs: ShrinkQueue,
        daemon: PolicyController,
    ) -> None:
        self._requests, self._backend, self._jobs, self._daemon = requests, backend, jobs, daemon

    def collect(self) -> Iterator[Metric]:
        yield self._latencies()
        yield from self._shrinks()
        yield from self._policies()
        yield from self._walk()
        with suppress(
            ShrinkdError
            # the tree cannot be looked at now, as the walk tells: no number is better than a wrong one
        ):
            yield from self._groups()

    def _latencies(self) -> Metric:
        family = HistogramMetricFamily(
            "shrinkd_request_seconds", "How long requests took.", labels=["operation", "status"]
        )
        bounds = [*map(str, BUCKETS_SECONDS), "+Inf"]
        for (operation, status), counts in [*self._requests.seconds.items()]:
            buckets = list(zip(bounds, map(float, accumulate(counts)), strict=True))
            family.add_metric(
                [operation, str(status)], buckets, self._requests.totals[operation, status] / 1e9
            )
        return family

    def _shrinks(self) -> Iterator[Metric]:
        active = GaugeMetricFamily(
            "shrinkd_shrinks_active", "Shrinks by state that are not done.", labels=["state"]
        )
        for state, count in self._jobs.active_counts().items():
            active.add_metric([state], count)
        yield active
        ended = CounterMetricFamily(
            "shrinkd_shrinks_ended",
            "Shrinks that are done, by state and by who asked.",
            labels=["state", "by"],
        )
        for (state, by), count in self._jobs.ended.copy().items():
            ended.add_metric([state, by], count)
        yield ended
        yield CounterMetricFamily(
            "shrinkd_reclaimed_bytes",
            "What shrinks have reclaimed.",
            value=self._jobs.reclaimed_bytes,
        )

    def _policies(self) -> Iterator[Metric]:
        verdicts = CounterMetricFamily(
            "shrinkd_decisions", "Decisions of policies by verdict.", labels=["verdict"]
        )
        for verdict, count in self._daemon.decisions.verdicts.copy().items():
            verdicts.add_metric([verdict], count)
        yield verdicts
        errors = CounterMetricFamily(
            "shrinkd_policy_errors",
            "What broke for a policy at a group, which is tried again, by policy and errno.",
            labels=["policy", "errno"],
        )
        for (policy, errname), count in self._daemon.errors().items():
            errors.add_metric([policy, errname], count)
        yield errors
        rounds = CounterMetricFamily(
            "shrinkd_policy_rounds_cut_short",
            "Rounds of all policies that were, by errno.",
            labels=["errno"],
        )
        for errname, count in self._daemon.round_errors.copy().items():
            rounds.add_metric([errname], count)
        yield rounds
        yield GaugeMetricFamily(
            "shrinkd_policies_alive",
            "1 while policies are carried out.",
            value=int(self._daemon.is_alive),
        )

    def _walk(self) -> Iterator[Metric]:
        """How the last walk of the whole tree ended."""
        walk = recent_walk(self._backend)
        told = "Groups that are left out since they cannot be read, by errno: /v1/node names some."
        unreadable = GaugeMetricFamily("shrinkd_unreadable_groups", told, labels=["errno"])
        for symbol, count in walk.unreadable.items():
            unreadable.add_metric([symbol], count)
        yield unreadable
        yield GaugeMetricFamily(
            "shrinkd_walk_failing",
            "1 while the tree cannot be walked.",
            value=int(walk.failure is not None),
        )

    def _groups(self) -> list[Metric]:
        """Usage and limit of the groups directly below the root.

        Where there are many, the smallest are one.
        """
        usage = GaugeMetricFamily(
            "shrinkd_subtree_usage_bytes",
            "Usage of a top group, what is inside included.",
            labels=["subtree"],
        )
        limit = GaugeMetricFamily(
            "shrinkd_subtree_max_bytes", "Limit of a top group that has one.", labels=["subtree"]
        )
        stalled = CounterMetricFamily(
            "shrinkd_subtree_stalled_seconds",
            "Time in which some task stalled for memory.",
            labels=["subtree"],
        )
        largest, others = self._largest()
        for group in largest:
            stat = None
            with ignoring_unreadable():
                stat = self._backend.stat(group)
            if stat is None:
                continue
            label = [_label(group)]
            usage.add_metric(label, stat.usage_bytes)
            if stat.limits.max_bytes is not None:
                limit.add_metric(label, stat.limits.max_bytes)
            if stat.pressure is not None:
                stalled.add_metric(label, stat.pressure.some.total_microseconds / 1e6)
        if others is not None:
            usage.add_metric([_OTHERS], others)
        return [usage, limit, stalled]

    def _largest(self) -> tuple[list[Group], int | None]:
        """The groups to tell apart, and the usage of all the others together.

        None where there are none.
        """
        sizes: dict[Group, int] = {}
        for group in self._backend.groups(depth=1)[1:]:
            with ignoring_unreadable():
                sizes[group] = self._backend.usage(group)
        ordered = sorted(sizes, key=sizes.__getitem__, reverse=True)
        others = ordered[MOST_SUBTREES:]
        return sorted(ordered[:MOST_SUBTREES], key=lambda group: group.path), sum(
            map(sizes.__getitem__, others)
        ) if others else None


def _label(group: Group) -> str:
    """A group's path, or id:… where that path has in it what no terminal shows, or is what another
    group is called here.

    Two series of one name would make Prometheus refuse all the others, too.
    """
    is_its_own = (
        is_displayed_unchanged(group.path)
        and group.path != _OTHERS
        and not group.path.startswith(_ID)
    )
    return group.path if is_its_own else f"{_ID}{group.id}"


def registry_of(collector: Collector) -> CollectorRegistry:
    """A registry of its own for one daemon, with what prometheus-client knows of the process and of
    Python.
    """
    registry = CollectorRegistry(auto_describe=False)
    collect: Callable[[Collector], None] = registry.register
    for each in (collector, GC_COLLECTOR, PLATFORM_COLLECTOR):
        collect(each)
    ProcessCollector(registry=registry)
    return registry
