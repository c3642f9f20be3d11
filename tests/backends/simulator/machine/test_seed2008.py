"""The four mails of 18 July 2008, step by step, on a machine that follows them.

As they were meant, not as they were posted.
"""

import errno

import pytest

from shrinkd.backends.simulator.machine.accounting import UNLIMITED, Area, Cgroup
from shrinkd.backends.simulator.machine.control_files import (
    MEM_CGROUP_RECLAIM_RETRIES,
    Writer,
    write,
)
from shrinkd.backends.simulator.machine.machine import Machine
from shrinkd.sizes import PAGE_BYTES
from tests.support.simulated_machines import MIB, machine_of

LIMIT, SHRINK = "memory.limit_in_bytes", "memory.shrink_in_bytes"


class Shell:
    """Someone who types at a group, with a process beside them that uses memory."""

    def __init__(self) -> None:
        self.machine: Machine = machine_of("seed2008")
        self.cgroup: Cgroup = self.machine.make(self.machine.root, "group")
        self.process = self.machine.start(self.cgroup)
        self.signal = False
        self.asked = 0
        self.at: dict[int, str] = {}

    def uses(self, *, anon: int = 0, cache: int = 0) -> Area:
        self.machine.charge(self.process, "anon", anon * MIB)
        self.machine.charge(self.process, "file", cache * MIB)
        return self.process.area("file")

    def echo(self, text: str, name: str) -> str:
        """Answer as strace would."""
        self.asked = 0
        try:
            write(self.machine, self.cgroup, name, text, Writer(self._pending))
        except OSError as error:
            return f"-{errno.errorcode[error.errno or 0]}"
        return "0"

    def _pending(self, _spent_us: float) -> bool:
        """Once a turn of the loop, where the kernel asks whether a signal is pending."""
        self.asked += 1
        if kind := self.at.get(self.asked):
            self.machine.charge(self.process, "file" if kind == "cache" else "anon", MIB)
        return self.signal


@pytest.fixture
def shell() -> Shell:
    return Shell()


# [PATCH 1/4] res_counter_set_limit: "if usage < limit, set it, or -EBUSY", under the counter's lock


def test_1_a_limit_above_usage_is_set_without_reclaim(shell: Shell) -> None:
    shell.uses(anon=10, cache=90)
    assert shell.echo("200M", LIMIT) == "0"
    assert (shell.cgroup.max, shell.cgroup.usage) == (200 * MIB, 100 * MIB)


def test_1_a_limit_that_equals_usage_is_not_above_it(shell: Shell) -> None:
    shell.uses(anon=100)
    assert shell.echo("100M", LIMIT) == "-EBUSY"


def test_1_an_empty_group_takes_no_limit_of_nothing(shell: Shell) -> None:
    assert shell.echo("0", LIMIT) == "-EBUSY"


def test_1_a_limit_is_rounded_up_to_a_page(shell: Shell) -> None:
    assert shell.echo("1", LIMIT) == "0"
    assert shell.cgroup.max == 1


# [PATCH 3/4] memcg: limit change shrink usage. "Shrink routine works cooperatively with users"


def test_3_a_lower_limit_shrinks_the_group_and_is_then_set(shell: Shell) -> None:
    shell.uses(anon=10, cache=500)
    assert shell.echo("100M", LIMIT) == "0"
    assert shell.cgroup.max == 100 * MIB
    assert 99 * MIB < shell.cgroup.usage < 100 * MIB


def test_3_it_gives_up_after_five_fruitless_calls_and_keeps_the_old_limit(shell: Shell) -> None:
    shell.uses(anon=100)
    assert shell.echo("50M", LIMIT) == "-EBUSY"
    assert shell.asked == MEM_CGROUP_RECLAIM_RETRIES + 1  # the sixth turn finds no retry left
    assert shell.cgroup.max == UNLIMITED


def test_3_a_failure_keeps_what_was_reclaimed(shell: Shell) -> None:
    shell.uses(anon=100, cache=100)
    assert shell.echo("50M", LIMIT) == "-EBUSY"
    assert shell.cgroup.usage == 100 * MIB


def test_3_a_signal_is_heard_before_it_gives_up(shell: Shell) -> None:
    shell.uses(anon=100)
    shell.signal = True
    assert shell.echo("50M", LIMIT) == "-EINTR"


def test_3_a_signal_is_not_asked_for_where_there_is_nothing_to_do(shell: Shell) -> None:
    shell.uses(anon=10)
    shell.signal = True
    assert shell.echo("50M", SHRINK) == "0"
    assert shell.asked == 0


def test_3_progress_in_between_forgives_no_fruitless_call(shell: Shell) -> None:
    shell.uses(anon=100)
    shell.at = {4: "cache"}  # 1 MiB, which takes eight calls of 32 pages
    assert shell.echo("50M", SHRINK) == "-EBUSY"
    assert shell.asked == MEM_CGROUP_RECLAIM_RETRIES + 1 + 8


def test_3_what_the_lists_give_is_progress_even_when_usage_does_not_fall(shell: Shell) -> None:
    """The bug of 2.6.29 (81d39c20f5ee).

    Charged as fast as it is reclaimed, only a signal ends it.
    """
    shell.uses(anon=100, cache=1)
    shell.at = dict.fromkeys(range(8, 800, 8), "cache")
    shell.machine.stall(shell.process, 0)
    assert shell.echo("50M", SHRINK) == "-EBUSY"
    assert shell.asked > 700


# [PATCH 4/4] memory.shrink_in_bytes: "echo 400M > memory.shrink_in_bytes" gets usage under 400M,
# and no limit is touched


def test_4_a_target_is_not_an_amount(shell: Shell) -> None:
    shell.uses(anon=100, cache=900)
    assert shell.echo("400M", SHRINK) == "0"
    assert 399 * MIB < shell.cgroup.usage < 400 * MIB
    assert shell.cgroup.max == UNLIMITED


def test_4_a_target_of_nothing_is_never_reached(shell: Shell) -> None:
    shell.uses(cache=10)
    assert shell.echo("0", SHRINK) == "-EBUSY"
    assert shell.cgroup.usage == 0


def test_4_what_is_no_number_is_refused(shell: Shell) -> None:
    assert shell.echo("400MB", SHRINK) == "-EINVAL"


def test_4_one_call_frees_no_less_than_32_pages(shell: Shell) -> None:
    shell.uses(cache=1)
    assert shell.echo(str((MIB - 1) * PAGE_BYTES), SHRINK) == "0"
    assert shell.cgroup.usage == MIB - 32
