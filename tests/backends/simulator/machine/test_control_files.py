"""Control files of the simulated machine.

What each kernel makes of a number, and what it does when one is written.
"""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkd.backends.cgroup.mounts import mount_points
from shrinkd.backends.simulator.machine.accounting import UNLIMITED, Cgroup
from shrinkd.backends.simulator.machine.control_files import Writer, pages_of, write
from shrinkd.backends.simulator.machine.kernel_profiles import V1
from shrinkd.backends.simulator.machine.machine import Machine
from shrinkd.sizes import PAGE_BYTES
from tests.backends.v1_host import absent, open_host
from tests.support.simulated_machines import MIB, grown, machine_of, only_process

LIMIT, MEMSW = "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"


def refusal(
    machine: Machine, cgroup: Cgroup, name: str, text: str, writer: Writer | None = None
) -> int | None:
    """The errno of a write, or None."""
    try:
        write(machine, cgroup, name, text, writer)
    except OSError as error:
        return error.errno
    return None


def after(calls: int) -> Callable[[float], bool]:
    """A signal that comes when it was asked for so many times."""
    asked = iter(range(10**9))
    return lambda _spent_us: next(asked) >= calls


# Numbers, as measured (kernels of 6.18)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("\n", 0),
        ("4095", 0),
        ("8191", 4096),
        ("5k", 4096),
        (" 5M\n", 5 << 20),
        ("0x10M", 16 << 20),
        ("010M", 8 << 20),
        ("K", 0),
        ("16E", 0),
        ("18446744073709551616", 0),
        ("9223372036854771711", 9223372036854767616),
        ("9" * 23, 200376420520685568),
    ],
)
def test_a_number_is_what_the_kernel_makes_of_it(text: str, size: int) -> None:
    assert pages_of(text, V1) * PAGE_BYTES == size


@pytest.mark.parametrize("text", ["8E", "18446744073709551615", "-1\n"])
def test_what_is_too_much_is_no_limit(text: str) -> None:
    assert pages_of(text, V1, "-1") == UNLIMITED


@pytest.mark.parametrize(
    "text", ["-2", "+5M", "1.5G", "5MB", "5MiB", "5M5", "5 M", "abc", "max", "MAX"]
)
def test_what_is_no_number_is_einval(text: str) -> None:
    machine = machine_of()
    assert refusal(machine, grown(machine, "group"), LIMIT, text) == errno.EINVAL


@pytest.fixture(scope="module")
def real_limit() -> Iterator[Path]:
    """The limit file of a group of this machine's own kernel."""
    if reason := absent():
        pytest.skip(f"no kernel to compare with: {reason}")
    with open_host() as host:
        yield Path(next(mount_points("cgroup", "memory")), host.group().path, LIMIT)


def said_to(file: Path, text: str) -> int | None:
    """The pages that a limit file reads back after a write, or None for EINVAL."""
    descriptor = os.open(file, os.O_WRONLY)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        return None if error.errno == errno.EINVAL else error.errno
    finally:
        os.close(descriptor)
    return int(file.read_text()) // PAGE_BYTES


@settings(max_examples=300)
@given(
    text=st.from_regex(r"[ \n]?[-+]?(0x)?[0-9a-fA-F]{0,24}[KMGTPEkmgtpe]?B?[ \n]", fullmatch=True)
)
def test_a_number_is_what_this_very_kernel_makes_of_it(real_limit: Path, text: str) -> None:
    profile = replace(V1, saturates=said_to(real_limit, "16E") != 0)
    try:
        pages: int | None = pages_of(text, profile, "-1")
    except OSError:
        pages = None
    assert pages == said_to(real_limit, text)


def test_nothing_written_changes_nothing() -> None:
    machine = machine_of()
    assert refusal(machine, grown(machine, "group", anon=10), LIMIT, "") is None


def test_a_file_of_another_kernel_does_not_exist() -> None:
    machine = machine_of("v2")
    assert refusal(machine, grown(machine, "group"), LIMIT, "1M") == errno.ENOENT


# The limits of v1, and what they do before they are set


def test_v1_reclaims_first_and_sets_then() -> None:
    machine = machine_of()
    cgroup = grown(machine, "group", anon=10 * MIB, file=100 * MIB)
    assert refusal(machine, cgroup, LIMIT, "50M") is None
    assert cgroup.max == 50 * MIB
    assert 49 * MIB < cgroup.usage <= 50 * MIB


def test_v1_takes_a_limit_that_equals_usage() -> None:
    machine = machine_of()
    cgroup = grown(machine, "group", anon=10 * MIB)
    assert refusal(machine, cgroup, LIMIT, "10M") is None


def test_v1_refuses_and_has_thrown_the_cache_away() -> None:
    machine = machine_of()
    cgroup = grown(machine, "group", anon=300 * MIB, file=500 * MIB)
    assert refusal(machine, cgroup, LIMIT, "200M") == errno.EBUSY
    assert (cgroup.max, cgroup.usage, cgroup.failcnt) == (UNLIMITED, 300 * MIB, 0)


def test_v1_drains_what_the_cpus_hold_before_it_says_busy() -> None:
    machine = machine_of(cpus=2)
    cgroup = grown(machine, "group", anon=2)
    assert refusal(machine, cgroup, LIMIT, str(2 * PAGE_BYTES)) is None
    assert cgroup.usage == 2


def test_v1_ends_with_a_signal_and_keeps_what_it_reclaimed() -> None:
    machine = machine_of()
    cgroup = grown(machine, "group", file=100 * MIB)
    assert refusal(machine, cgroup, LIMIT, "0", Writer(after(5))) == errno.EINTR
    assert cgroup.max == UNLIMITED
    assert cgroup.usage == 100 * MIB - 4 * 32


def test_v1_keeps_memory_below_memory_and_swap() -> None:  # measured, in this order
    machine = machine_of()
    cgroup = grown(machine, "group")
    answers = [
        refusal(machine, cgroup, name, text)
        for name, text in [
            (LIMIT, "100M"),
            (MEMSW, "50M"),
            (MEMSW, "200M"),
            (LIMIT, "300M"),
            (LIMIT, "-1"),
            (MEMSW, "-1"),
            (LIMIT, "-1"),
        ]
    ]
    assert answers == [None, errno.EINVAL, None, errno.EINVAL, errno.EINVAL, None, None]


def test_v1_counts_swap_to_the_second_limit_and_does_not_swap_for_it() -> None:
    machine = machine_of(swap=1000)
    cgroup = grown(machine, "group", anon=100)
    machine.reclaim(cgroup, 64)
    assert refusal(machine, cgroup, LIMIT, str(50 * PAGE_BYTES)) is None
    assert refusal(machine, cgroup, MEMSW, str(99 * PAGE_BYTES)) == errno.EBUSY
    assert refusal(machine, cgroup, MEMSW, str(100 * PAGE_BYTES)) is None


def test_v1_takes_no_limit_on_its_root() -> None:
    machine = machine_of()
    assert refusal(machine, machine.root, LIMIT, "100G") == errno.EINVAL


def test_force_empty_succeeds_whatever_is_left() -> None:
    machine = machine_of()
    cgroup = grown(machine, "group", anon=100, file=10 * MIB)
    assert refusal(machine, cgroup, "memory.force_empty", "0") is None
    assert cgroup.usage == 100


# v2


def test_v2_stores_the_maximum_first_and_kills_until_it_is_true() -> None:
    machine = machine_of("v2")
    cgroup = grown(machine, "group", anon=100 * MIB)
    assert refusal(machine, cgroup, "memory.max", "50M") is None
    assert (cgroup.max, cgroup.usage, cgroup.events["oom_kill"]) == (50 * MIB, 0, 1)


def test_v2_reclaims_before_it_kills() -> None:
    machine = machine_of("v2")
    cgroup = grown(machine, "group", anon=10 * MIB, file=100 * MIB)
    assert refusal(machine, cgroup, "memory.max", "50M") is None
    assert cgroup.usage <= 50 * MIB
    assert cgroup.events["oom_kill"] == 0


def test_v2_leaves_with_a_signal_and_calls_that_success() -> None:
    machine = machine_of("v2")
    cgroup = grown(machine, "group", anon=100 * MIB)
    assert refusal(machine, cgroup, "memory.max", "50M", Writer(after(3))) is None
    assert (cgroup.max, cgroup.usage) == (50 * MIB, 100 * MIB)


@pytest.mark.parametrize(("profile", "alive"), [("v2", True), ("v2-6.12", False)])
def test_o_nonblock_stores_and_returns_since_6_16_and_kills_before(
    profile: str, *, alive: bool
) -> None:
    machine = machine_of(profile)
    cgroup = grown(machine, "group", anon=100 * MIB)
    assert refusal(machine, cgroup, "memory.max", "50M", Writer(nonblock=True)) is None
    assert cgroup.max == 50 * MIB
    assert bool(cgroup.processes) == alive


def test_a_high_below_usage_reclaims_what_it_can_and_kills_nobody() -> None:
    machine = machine_of("v2")
    cgroup = grown(machine, "group", anon=100 * MIB, file=50 * MIB)
    assert refusal(machine, cgroup, "memory.high", "50M") is None
    assert (cgroup.usage, len(cgroup.processes)) == (100 * MIB, 1)


def test_memory_reclaim_frees_the_amount_within_a_batch() -> None:
    machine = machine_of("v2")
    cgroup = grown(machine, "group", file=100 * MIB)
    assert refusal(machine, cgroup, "memory.reclaim", "16M") is None
    assert 0 <= 84 * MIB - cgroup.usage <= 64


def test_memory_reclaim_says_eagain_after_all_that_it_could() -> None:
    machine = machine_of("v2")
    cgroup = grown(machine, "group", anon=10 * MIB, file=185 * MIB)
    assert refusal(machine, cgroup, "memory.reclaim", "1G") == errno.EAGAIN
    assert cgroup.usage == 10 * MIB


def test_memory_reclaim_ends_with_a_signal() -> None:
    machine = machine_of("v2")
    cgroup = grown(machine, "group", file=100 * MIB)
    assert refusal(machine, cgroup, "memory.reclaim", "80M", Writer(after(2))) == errno.EINTR
    assert 20 * MIB < cgroup.usage < 80 * MIB


@pytest.mark.parametrize("text", ["0", "4095"])
def test_less_than_a_page_is_reclaimed_at_once(text: str) -> None:
    machine = machine_of("v2")
    assert refusal(machine, grown(machine, "group"), "memory.reclaim", text) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1M swappiness=60", None),
        ("1Mswappiness=60", None),
        ("1M swappiness=201", errno.EINVAL),
        ("1M swappiness=-1", errno.EINVAL),
        ("1M swappiness", errno.EINVAL),
        ("1M nodes=0", errno.EINVAL),
    ],
)
def test_memory_reclaim_takes_one_key(text: str, number: int | None) -> None:
    machine = machine_of("v2")
    assert (
        refusal(machine, grown(machine, "group", file=10 * MIB), "memory.reclaim", text) == number
    )


def test_swappiness_max_is_an_order_to_swap() -> None:
    machine = machine_of("v2", swap=100 * MIB)
    cgroup = grown(machine, "group", file=50 * MIB, anon=50 * MIB)
    assert refusal(machine, cgroup, "memory.reclaim", "40M swappiness=max") is None
    assert cgroup.swap == pytest.approx(40 * MIB, abs=64)


def test_a_limit_on_swap_below_what_is_swapped_frees_nothing() -> None:
    machine = machine_of("v2", swap=100 * MIB)
    cgroup = grown(machine, "group", anon=50 * MIB)
    machine.reclaim(cgroup, 40 * MIB)
    assert refusal(machine, cgroup, "memory.swap.max", "1M") is None
    assert cgroup.swap == 40 * MIB
    assert machine.charge(only_process(cgroup), "anon", 10)
