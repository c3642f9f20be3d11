"""What is the simulator's own in a watch.

Time passes for who only waits, and a stall is measured in the machine's time.
"""

import threading
from collections.abc import Iterator

import pytest

from shrinkd.backends import EventsMove, Stalled, UsageCrosses
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.settings import Settings
from tests.backends.hosts import MIB
from tests.support.watch_polling import is_readable, told

LEAK = "leaky"  # grows by 48 KiB/s


class Clock:
    """A clock that goes when it is told to."""

    seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def simulator(clock: Clock) -> Iterator[Simulator]:
    simulator = Simulator(Settings(scenario="demo"), clock=clock, sleep=lambda _seconds: None)
    yield simulator
    simulator.close()


def test_a_bell_rings_though_nobody_asks_the_machine(clock: Clock, simulator: Simulator) -> None:
    group = simulator.groups(LEAK, depth=0)[0]
    crosses = UsageCrosses(simulator.usage(group) + MIB)
    with simulator.watch(group, [crosses]) as watched:
        assert not is_readable(watched, looks=5)
        clock.seconds = 60
        assert told(watched) == {crosses}


def test_time_passes_by_one_thread_and_only_while_somebody_watches(simulator: Simulator) -> None:
    before = set(threading.enumerate())
    group = simulator.groups(LEAK, depth=0)[0]
    with simulator.watch(group, [EventsMove()]), simulator.watch(group, [EventsMove()]):
        (ticking,) = set(threading.enumerate()) - before
    ticking.join()
    with simulator.watch(group, [EventsMove()]):
        assert set(threading.enumerate()) - before


@pytest.mark.parametrize(("pause", "fires"), [(0.0, True), (1.5, False)])
def test_a_stall_counts_within_its_window(
    clock: Clock, simulator: Simulator, pause: float, *, fires: bool
) -> None:
    group = simulator.make("group")
    with simulator.watch(
        group, [Stalled("some", stall_microseconds=1500, window_microseconds=1_000_000)]
    ) as watched:
        for _ in range(2):
            with simulator.machine() as machine:
                machine.cgroups[group.path].some.add(1000, machine.now_us)
            clock.seconds += pause
            simulator.usage(group)
        assert bool(told(watched, looks=3)) == fires


def test_a_verb_that_is_refused_lets_the_bells_ring_all_the_same(
    clock: Clock, simulator: Simulator
) -> None:
    group = simulator.groups(LEAK, depth=0)[0]
    with simulator.watch(group, [UsageCrosses(simulator.usage(group) + MIB)]) as watched:
        clock.seconds = 60
        with pytest.raises(LookupError), simulator.machine():
            raise LookupError
        assert watched.read()
