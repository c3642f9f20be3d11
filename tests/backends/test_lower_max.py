"""Lowering a maximum on a kernel that never refuses one.

A number that is charged, and what happens between two steps.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from shrinkd.backends.lower_max import Maximum, Refusal


@dataclass
class Kernel:
    """A group whose n-th verb has something happen before it.

    It stores what it is told; what it does then is for its kind.
    """

    used: int = 50
    maximum: int = 100
    reclaimable: int = 0
    happens: dict[int, Callable[[], object]] = field(default_factory=dict)
    stored: list[int] = field(default_factory=list)
    kills: int = 0
    verbs: int = 0

    def commit(self, value: int) -> Refusal | None:
        return Maximum(
            self._usage, self._read, self._store, slack=5, sleep=lambda _seconds: None
        ).commit(value)

    def grow_to(self, used: int) -> Callable[[], object]:
        return lambda: setattr(self, "used", used)

    def be_set_to(self, maximum: int) -> Callable[[], object]:
        return lambda: setattr(self, "maximum", maximum)

    def make_true(self) -> None:
        """O_NONBLOCK since Linux 6.16.

        Nothing, memory_max_write() returns once the value is stored.
        """

    def _step(self) -> None:
        self.verbs += 1
        self.happens.pop(self.verbs, lambda: None)()

    def _usage(self) -> int:
        self._step()
        return self.used

    def _read(self) -> int:
        self._step()
        return self.maximum

    def _store(self, value: int) -> None:
        self._step()
        self.maximum = value
        self.stored.append(value)
        self.make_true()


@dataclass
class OldKernel(Kernel):
    """Before Linux 6.16.

    Memory_max_write() reclaims, and kills after 16 fruitless rounds, until it fits or a signal is
    pending.
    """

    signal_after: int = 3
    """Rounds that fit into the time of the timer."""

    def make_true(self) -> None:
        rounds = fruitless = 0
        while self.used > self.maximum and rounds < self.signal_after:
            rounds += 1
            freed = min(self.reclaimable, 1)
            self.used, self.reclaimable = self.used - freed, self.reclaimable - freed
            fruitless += not freed
            if fruitless > 16:  # MAX_RECLAIM_RETRIES, mm/internal.h
                self.kills, self.used = self.kills + 1, 0


@pytest.fixture(params=[Kernel, OldKernel], ids=["6.16 and later", "before 6.16"])
def kernel(request: pytest.FixtureRequest) -> Kernel:
    made: Kernel = request.param()
    return made


BEFORE_THE_WRITE, AFTER_THE_WRITE, BEFORE_PUTTING_BACK = 5, 6, 7
WHILE_LOOKING = 4


def test_a_maximum_above_usage_is_written_once(kernel: Kernel) -> None:
    assert kernel.commit(60) is None
    assert kernel.stored == [60]


@pytest.mark.parametrize("value", [0, 49, 50])
def test_a_maximum_at_or_below_usage_is_not_written(kernel: Kernel, value: int) -> None:
    assert kernel.commit(value) == Refusal(50)
    assert kernel.stored == []


def test_a_charge_before_the_write_gets_the_old_maximum_back(kernel: Kernel) -> None:
    kernel.happens[BEFORE_THE_WRITE] = kernel.grow_to(70)
    assert kernel.commit(60) == Refusal(70)
    assert (kernel.maximum, kernel.stored) == (100, [60, 100])


def test_a_group_that_stands_still_may_be_limited_closely(kernel: Kernel) -> None:
    assert kernel.commit(51) is None
    assert kernel.maximum == 51


def test_a_group_that_grows_is_not_touched_closely(kernel: Kernel) -> None:
    kernel.happens[WHILE_LOOKING] = kernel.grow_to(52)
    assert kernel.commit(54) == Refusal(52, room=5 + 5 * 2)
    assert kernel.stored == []


def test_a_group_that_grows_is_not_touched_where_it_would_be_in_a_moment(kernel: Kernel) -> None:
    kernel.happens[WHILE_LOOKING] = kernel.grow_to(52)
    assert kernel.commit(66) == Refusal(52, room=15)
    kernel.used, kernel.happens[kernel.verbs + WHILE_LOOKING] = 50, kernel.grow_to(52)
    assert kernel.commit(67) is None


def test_a_maximum_that_is_far_away_is_written_without_a_look(kernel: Kernel) -> None:
    kernel.used, kernel.maximum = 50, 1000
    kernel.happens[3] = kernel.grow_to(500)
    assert kernel.commit(690) is None
    assert kernel.stored == [690]


def test_raising_a_maximum_does_not_look_whether_the_group_grows(kernel: Kernel) -> None:
    kernel.maximum = 51
    kernel.happens[WHILE_LOOKING] = kernel.grow_to(52)
    assert kernel.commit(54) is None
    assert kernel.stored == [54]


def test_usage_that_came_up_to_the_new_maximum_feels_it(kernel: Kernel) -> None:
    kernel.happens[AFTER_THE_WRITE] = kernel.grow_to(60)
    assert kernel.commit(60) is None
    assert kernel.maximum == 60


def test_a_maximum_that_another_has_set_meanwhile_is_not_put_back(kernel: Kernel) -> None:
    kernel.happens[BEFORE_THE_WRITE] = kernel.grow_to(70)
    kernel.happens[BEFORE_PUTTING_BACK] = kernel.be_set_to(80)
    assert kernel.commit(60) == Refusal(70)
    assert kernel.maximum == 80


def test_a_maximum_that_is_raised_stays_whatever_is_charged(kernel: Kernel) -> None:
    kernel.maximum = 40
    kernel.happens[AFTER_THE_WRITE] = kernel.grow_to(90)
    assert kernel.commit(80) is None
    assert kernel.maximum == 80


def test_no_charge_in_any_gap_ends_in_a_kill_or_in_a_maximum_below_usage(kernel: Kernel) -> None:
    for gap in range(1, 9):
        for used in (55, 60, 61, 90):
            kernel.used, kernel.maximum, kernel.happens = (
                50,
                100,
                {kernel.verbs + gap: kernel.grow_to(used)},
            )
            refused = kernel.commit(60)
            assert (kernel.kills, kernel.maximum) == (0, 100 if refused else 60)
            assert kernel.used <= kernel.maximum


def test_what_an_old_kernel_can_reclaim_in_that_time_makes_room_for_the_maximum() -> None:
    kernel = OldKernel(reclaimable=2)
    kernel.happens[BEFORE_THE_WRITE] = kernel.grow_to(62)
    assert kernel.commit(60) is None
    assert (kernel.used, kernel.maximum) == (60, 60)


def test_an_old_kernel_that_hears_its_signal_too_late_kills_which_is_why_there_is_a_timer() -> None:
    kernel = OldKernel(signal_after=100)
    kernel.happens[BEFORE_THE_WRITE] = kernel.grow_to(70)
    kernel.commit(60)
    assert kernel.kills == 1


def test_another_writer_between_the_write_and_the_look_keeps_its_maximum(kernel: Kernel) -> None:
    def overtake() -> None:
        kernel.used, kernel.maximum = 70, 65

    kernel.happens[AFTER_THE_WRITE] = overtake
    assert kernel.commit(60) == Refusal(70)
    assert kernel.maximum == 65
