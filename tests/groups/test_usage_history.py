"""What the groups used lately.

A sample of each in a slot, for an hour, of as many groups as there is room for.
"""

import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from shrinkd.backends import MemStat
from shrinkd.backends.simulator.controls import Fault
from shrinkd.groups.usage_history import (
    FIELDS,
    MOST_GROUPS,
    SLOT_SECONDS,
    SLOTS,
    UsageHistory,
    UsageSampler,
)
from shrinkd.settings import Settings
from tests.support.policy_samples import pressed, stat
from tests.support.scripted_simulator import MIB, Stage

EVER = (0.0, 1e10)
NOON = 1_700_000_000 // 3600 * 3600


class Days:
    """A clock that is moved by hand, and a history by it."""

    def __init__(self, most_groups: int = MOST_GROUPS) -> None:
        self.seconds = float(NOON)
        self.history = UsageHistory(lambda: self.seconds, most_groups)

    def note(self, usage: int, *, after: float = SLOT_SECONDS, group: int = 7) -> None:
        self.history.note(group, usage)
        self.seconds += after

    def usages(self, group: int = 7, step: int = SLOT_SECONDS) -> dict[int, int | None]:
        """The usages by their seconds since the clock began."""
        times, series = self.history.read(group, ["usage_bytes"], EVER, step)
        return {
            time - NOON: usage for time, usage in zip(times, series["usage_bytes"], strict=True)
        }


@pytest.fixture
def days() -> Days:
    return Days()


class Sampled:
    """A simulated machine whose groups nobody reads but the sampler."""

    def __init__(self, most_groups: int = MOST_GROUPS) -> None:
        self.stage = Stage()
        self.machine = self.stage.make_backend(Settings(scenario="empty"))
        self.days = Days(most_groups)
        self.sampler = UsageSampler(self.machine, self.days.history)

    def sample(self) -> dict[str, int]:
        """A pass, and what the machine was asked for it."""
        before = self.machine.faults.uses()
        self.sampler.sample()
        self.days.seconds += SLOT_SECONDS
        return {
            verb: uses - before.get(verb, 0)
            for verb, uses in self.machine.faults.uses().items()
            if uses > before.get(verb, 0)
        }


@pytest.fixture
def sampled() -> Sampled:
    return Sampled()


def test_a_group_has_one_sample_in_each_slot_and_that_is_the_first(days: Days) -> None:
    for usage in (4, 8, 12, 16):
        days.note(usage * MIB, after=SLOT_SECONDS / 2)
    assert days.usages() == {0: 4 * MIB, 10: 12 * MIB}


def test_what_was_not_sampled_is_left_out_and_is_no_zero(days: Days) -> None:
    days.note(MIB, after=30)
    days.note(0)
    assert days.usages() == {0: MIB, 30: 0}


def test_an_hour_is_remembered_and_no_more(days: Days) -> None:
    for number in range(SLOTS + 5):
        days.note(number * MIB)
    days.seconds -= SLOT_SECONDS
    assert list(days.usages().items()) == [
        (number * 10, number * MIB) for number in range(5, SLOTS + 5)
    ]


@pytest.mark.parametrize("pause", [SLOTS - 1, SLOTS, SLOTS + 1, 10 * SLOTS])
def test_after_a_pause_nothing_old_stands_for_something_new(days: Days, pause: int) -> None:
    days.note(1 * MIB)
    days.note(2 * MIB, after=pause * SLOT_SECONDS)
    days.note(3 * MIB, after=0)
    told = {10: 2 * MIB} if pause < SLOTS else {}
    assert days.usages() == told | {10 + pause * SLOT_SECONDS: 3 * MIB}


def test_what_nobody_adds_to_is_forgotten_after_an_hour_too(days: Days) -> None:
    days.note(MIB, after=SLOTS * SLOT_SECONDS)
    assert days.usages() == {}


def test_a_longer_step_has_the_last_sample_of_it_that_is_known(days: Days) -> None:
    for usage in range(1, 8):
        days.note(usage * MIB)
    assert days.usages(step=30) == {0: 3 * MIB, 30: 6 * MIB, 60: 7 * MIB}


@pytest.mark.parametrize(
    ("begins", "ends", "told"),
    [
        (0, 30, [0, 10, 20]),
        (1, 21, [10, 20]),
        (10, 10, []),
        (10, 20, [10]),
        (-50, 5, [0]),
        (45, 99, []),
    ],
)
def test_a_span_has_the_slots_that_begin_in_it_without_its_end(
    days: Days, begins: int, ends: int, told: list[int]
) -> None:
    for _ in range(5):
        days.note(MIB)
    times, _ = days.history.read(7, FIELDS, (NOON + begins, NOON + ends))
    assert [time - NOON for time in times] == told


def test_a_whole_reading_tells_of_every_field_and_of_what_a_kernel_does_not_know_nothing(
    days: Days,
) -> None:
    reading = stat(
        8 * MIB,
        anon_bytes=3 * MIB,
        file_bytes=4 * MIB,
        working_set_bytes=5 * MIB,
        pressure=pressed(0),
    )
    days.history.note_all({7: reading})
    _, series = days.history.read(7, FIELDS, EVER)
    assert series == {
        "usage_bytes": [8 * MIB],
        "anon_bytes": [3 * MIB],
        "file_bytes": [4 * MIB],
        "swap_bytes": [None],
        "working_set_bytes": [5 * MIB],
        "some_total_microseconds": [0],
    }


def test_a_whole_reading_takes_the_place_of_a_usage_and_no_usage_that_of_a_reading(
    days: Days,
) -> None:
    days.note(MIB, after=0)
    days.history.note_all({7: stat(2 * MIB, anon_bytes=MIB)})
    days.note(3 * MIB, after=0)
    days.history.note_all({7: stat(4 * MIB, anon_bytes=MIB)})
    assert days.usages() == {0: 2 * MIB}


def test_a_size_beyond_all_memory_is_kept_as_the_largest_that_there_is_room_for(days: Days) -> None:
    days.note(2**60)
    days.note(2**40)
    first, second = days.usages().values()
    assert (first, second) == ((2**32 - 2) * 4096, 2**40)


def test_a_clock_that_is_set_back_begins_the_group_anew(days: Days) -> None:
    days.note(MIB, after=-600)
    assert days.usages() == {}
    days.note(2 * MIB, after=0)
    assert days.usages() == {-600: 2 * MIB}


def test_who_was_neither_seen_nor_asked_for_longest_makes_room() -> None:
    days = Days(most_groups=3)
    for group in (1, 2, 3):
        days.note(MIB, group=group, after=0)
    assert days.usages(1) != {}
    days.note(MIB, group=4)
    assert [group for group in (1, 2, 3, 4) if days.usages(group)] == [1, 3, 4]


def test_a_group_takes_no_more_room_than_it_says(days: Days) -> None:
    def bytes_of(note: Callable[[int], object]) -> float:
        tracemalloc.start()
        for group in range(100):
            note(group)
        size, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return size / 100

    def all_of_it(**given: object) -> Callable[[int], object]:
        reading = stat(MIB, anon_bytes=0, file_bytes=0, swap_bytes=0, working_set_bytes=0, **given)
        return lambda group: days.history.note_all({group: reading})

    assert bytes_of(lambda group: days.history.note(group, MIB)) < 2.2 * 1024
    days.history = UsageHistory()
    assert bytes_of(all_of_it()) < 9 * 1024
    days.history = UsageHistory()
    assert bytes_of(all_of_it(pressure=pressed(0))) * MOST_GROUPS < 48 * MIB


def test_a_pass_reads_a_group_whole_when_it_is_new_and_every_two_minutes_else_its_usage(
    sampled: Sampled,
) -> None:
    for path in ("web", "db"):
        sampled.stage.group(path, anon=MIB, cache=2 * MIB)
    asked = [sampled.sample() for _ in range(14)]
    whole, light, walk = {"stat": 2}, {"usage": 2}, {"groups": 1}
    assert asked == [
        whole | walk,
        light,
        light,
        *[light | walk, light, light] * 3,
        whole | walk,
        light,
    ]
    web = sampled.machine.groups("web")[0]
    times, series = sampled.days.history.read(web.id, ["usage_bytes", "anon_bytes"], EVER)
    assert len(times) == 14
    assert series == {"usage_bytes": [3 * MIB] * 14, "anon_bytes": [MIB, *[None] * 11, MIB, None]}


def test_a_group_that_a_policy_has_read_is_not_read_again(sampled: Sampled) -> None:
    web = sampled.stage.group("web", anon=MIB)
    sampled.days.history.note_all({web.id: MemStat(MIB, sampled.machine.stat(web).limits)})
    assert "stat" not in sampled.sample()


def test_a_group_that_goes_or_cannot_be_read_costs_no_other_its_sample(sampled: Sampled) -> None:
    groups = [sampled.stage.group(path, anon=MIB) for path in ("one", "two", "three")]
    sampled.sample()
    sampled.stage.vanish("one")
    sampled.machine.faults.plan(Fault(verb="usage", group="two", error="EIO"))
    sampled.sample()
    assert [len(sampled.days.usages(group.id)) for group in groups] == [1, 1, 2]


def test_a_walk_that_fails_leaves_those_of_the_last_one(sampled: Sampled) -> None:
    web = sampled.stage.group("web", anon=MIB)
    for _ in range(3):
        sampled.sample()
    sampled.machine.faults.plan(Fault(verb="groups", error="EIO"))
    sampled.sample()
    assert len(sampled.days.usages(web.id)) == 4


def test_a_group_that_is_gone_is_forgotten_and_one_that_comes_again_is_another(
    sampled: Sampled,
) -> None:
    first = sampled.stage.group("web", anon=MIB)
    sampled.sample()
    sampled.stage.vanish("web")
    second = sampled.stage.group("web", anon=2 * MIB)
    for _ in range(3):
        sampled.sample()
    assert (sampled.days.usages(first.id), sampled.days.usages(second.id)) == ({}, {30: 2 * MIB})


def test_a_group_that_was_read_while_the_tree_was_walked_is_not_forgotten_for_being_too_new(
    days: Days,
) -> None:
    days.note(MIB, after=0)
    days.history.forget(set())
    assert days.usages() == {0: MIB}
    days.seconds += SLOT_SECONDS
    days.history.forget(set())
    assert days.usages() == {}


def test_of_too_many_groups_those_that_are_known_are_sampled() -> None:
    sampled = Sampled(most_groups=2)
    groups = [sampled.stage.group(path, anon=MIB) for path in ("one", "two", "three", "four")]
    sampled.days.note(MIB, group=groups[3].id)
    sampled.sample()
    assert len(sampled.days.usages(groups[3].id)) == 2


@contextmanager
def started(sampler: UsageSampler) -> Iterator[UsageSampler]:
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.stop()


def test_a_young_sampler_reads_nothing_and_ends_when_it_is_told_to(sampled: Sampled) -> None:
    sampled.stage.group("web", anon=MIB)
    before = sampled.machine.faults.uses()
    with started(sampled.sampler):
        pass
    assert sampled.machine.faults.uses() == before
