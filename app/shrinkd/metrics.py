"""Metrics for Prometheus: requests, shrinks, policies, and the largest groups.

Requests are counted as they are answered; everything else is read when Prometheus scrapes. The
number of series is bounded, because labels are operations, states and at most 50 subtrees.
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
MAX_SUBTREES = 50
"""Groups with series of their own; the rest is summed up as "(others)"."""
_OTHERS, _ID = "(others)", "id:"


class RequestMetrics:
    """Counts requests and their durations by operation and status, on the event loop."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, int], list[int]] = {}
        """Requests in each bucket by operation and status; the last is for longer ones."""
        self.totals: Counter[tuple[str, int]] = Counter()
        """Sum of durations by operation and status, in nanoseconds."""

    def note(self, operation: str, status: int, seconds: float) -> None:
        """Count one request."""
        key = (operation, status)
        counts = self.seconds.get(key)
        if counts is None:
            counts = self.seconds[key] = [0] * (len(BUCKETS_SECONDS) + 1)
        counts[bisect_left(BUCKETS_SECONDS, seconds)] += 1
        self.totals[key] += int(seconds * 1e9)


class MetricsCollector(Collector):
    """Collects all metrics but those of the process, at the time of the scrape."""

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
        # if the tree cannot be read now, which shrinkd_walk_failing reports, omit these metrics
        with suppress(ShrinkdError):
            yield from self._groups()

    def _latencies(self) -> Metric:
        family = HistogramMetricFamily(
            "shrinkd_request_seconds", "Duration of requests.", labels=["operation", "status"]
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
            "shrinkd_shrinks_active", "Shrinks that are not done, by state.", labels=["state"]
        )
        for state, count in self._jobs.active_counts().items():
            active.add_metric([state], count)
        yield active
        ended = CounterMetricFamily(
            "shrinkd_shrinks_ended",
            "Shrinks that are done, by state and by requester.",
            labels=["state", "by"],
        )
        for (state, by), count in self._jobs.ended.copy().items():
            ended.add_metric([state, by], count)
        yield ended
        yield CounterMetricFamily(
            "shrinkd_reclaimed_bytes",
            "Bytes that shrinks have reclaimed.",
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
            "Errors of a policy at a group, which is tried again, by policy and errno.",
            labels=["policy", "errno"],
        )
        for (policy, errname), count in self._daemon.errors().items():
            errors.add_metric([policy, errname], count)
        yield errors
        rounds = CounterMetricFamily(
            "shrinkd_policy_rounds_cut_short",
            "Evaluations of all policies that an error ended early, by errno.",
            labels=["errno"],
        )
        for errname, count in self._daemon.round_errors.copy().items():
            rounds.add_metric([errname], count)
        yield rounds
        yield GaugeMetricFamily(
            "shrinkd_policies_alive",
            "1 while policies are evaluated.",
            value=int(self._daemon.is_alive),
        )

    def _walk(self) -> Iterator[Metric]:
        """Report the result of the last walk of the whole tree."""
        walk = recent_walk(self._backend)
        meaning = "Groups that are left out because they cannot be read, by errno; see /v1/node."
        unreadable = GaugeMetricFamily("shrinkd_unreadable_groups", meaning, labels=["errno"])
        for symbol, count in walk.unreadable.items():
            unreadable.add_metric([symbol], count)
        yield unreadable
        yield GaugeMetricFamily(
            "shrinkd_walk_failing",
            "1 while the tree cannot be walked.",
            value=int(walk.failure is not None),
        )

    def _groups(self) -> list[Metric]:
        """Report usage, limit and stalls of the groups directly below the root.

        Of more than 50 groups, the smallest ones are summed up as "(others)".
        """
        usage = GaugeMetricFamily(
            "shrinkd_subtree_usage_bytes",
            "Usage of a top group, including the groups inside.",
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
        """Return the largest groups in path order, and the usage of all the others, if any."""
        sizes: dict[Group, int] = {}
        for group in self._backend.groups(depth=1)[1:]:
            with ignoring_unreadable():
                sizes[group] = self._backend.usage(group)
        ordered = sorted(sizes, key=sizes.__getitem__, reverse=True)
        others = ordered[MAX_SUBTREES:]
        rest_bytes = sum(map(sizes.__getitem__, others)) if others else None
        return sorted(ordered[:MAX_SUBTREES], key=lambda group: group.path), rest_bytes


def _label(group: Group) -> str:
    """Return the label of a group: its path, or id:… if the path is unprintable or ambiguous.

    Two series with the same labels would make Prometheus refuse the whole scrape.
    """
    is_unique = (
        is_displayed_unchanged(group.path)
        and group.path != _OTHERS
        and not group.path.startswith(_ID)
    )
    return group.path if is_unique else f"{_ID}{group.id}"


def registry_of(collector: Collector) -> CollectorRegistry:
    """Build the registry of one daemon, with prometheus-client's metrics of the process."""
    registry = CollectorRegistry(auto_describe=False)
    collect: Callable[[Collector], None] = registry.register
    for each in (collector, GC_COLLECTOR, PLATFORM_COLLECTOR):
        collect(each)
    ProcessCollector(registry=registry)
    return registry
