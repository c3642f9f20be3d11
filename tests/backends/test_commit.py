"""Lowering a maximum on a kernel that never refuses one: a number that is charged, and what happens between two steps."""

from collections.abc import Callable
from dataclasses import dataclass, field

from app.backends._commit import Maximum


@dataclass
class Kernel:
    """A group whose n-th verb has something happen before it. It stores what it is told, as memory.max does."""

    used: int = 50
    maximum: int = 100
    happens: dict[int, Callable[[], object]] = field(default_factory=dict)
    stored: list[int] = field(default_factory=list)
    _verbs: int = 0

    def commit(self, value: int) -> int | None:
        return Maximum(self._usage, self._read, self._store, slack=5, sleep=lambda _seconds: None).commit(value)

    def grow_to(self, used: int) -> Callable[[], object]:
        return lambda: setattr(self, "used", used)

    def be_set_to(self, maximum: int) -> Callable[[], object]:
        return lambda: setattr(self, "maximum", maximum)

    def _step(self) -> None:
        self._verbs += 1
        self.happens.pop(self._verbs, lambda: None)()

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


BEFORE_THE_WRITE, AFTER_THE_WRITE, BEFORE_PUTTING_BACK = 3, 4, 5
WHILE_LOOKING = 4


def test_a_maximum_above_usage_is_written_once() -> None:
    kernel = Kernel()
    assert kernel.commit(60) is None
    assert kernel.stored == [60]


def test_a_maximum_at_or_below_usage_is_not_written() -> None:
    for value in (0, 49, 50):
        kernel = Kernel()
        assert kernel.commit(value) == 50
        assert kernel.stored == []


def test_a_charge_before_the_write_gets_the_old_maximum_back() -> None:
    kernel = Kernel()
    kernel.happens[BEFORE_THE_WRITE] = kernel.grow_to(70)
    assert kernel.commit(60) == 70
    assert (kernel.maximum, kernel.stored) == (100, [60, 100])


def test_a_group_that_stands_still_may_be_limited_closely() -> None:
    kernel = Kernel()
    assert kernel.commit(51) is None
    assert kernel.maximum == 51


def test_a_group_that_grows_is_not_touched_closely() -> None:
    kernel = Kernel()
    kernel.happens[WHILE_LOOKING] = kernel.grow_to(52)
    assert kernel.commit(54) == 52
    assert kernel.stored == []


def test_raising_a_maximum_does_not_look_whether_the_group_grows() -> None:
    kernel = Kernel(maximum=51)
    kernel.happens[WHILE_LOOKING] = kernel.grow_to(52)
    assert kernel.commit(54) is None
    assert kernel.stored == [54]


def test_usage_that_came_up_to_the_new_maximum_feels_it() -> None:
    kernel = Kernel()
    kernel.happens[AFTER_THE_WRITE] = kernel.grow_to(60)
    assert kernel.commit(60) is None
    assert kernel.maximum == 60


def test_a_maximum_that_another_has_set_meanwhile_is_not_put_back() -> None:
    kernel = Kernel()
    kernel.happens[BEFORE_THE_WRITE] = kernel.grow_to(70)
    kernel.happens[BEFORE_PUTTING_BACK] = kernel.be_set_to(80)
    assert kernel.commit(60) == 70
    assert kernel.maximum == 80


def test_a_maximum_that_is_raised_stays_whatever_is_charged() -> None:
    kernel = Kernel(maximum=40, used=50)
    kernel.happens[AFTER_THE_WRITE] = kernel.grow_to(90)
    assert kernel.commit(80) is None
    assert kernel.maximum == 80
