"""Workloads and scenarios.

What JSON may say, how much is wanted when, and that the seed decides all of it.
"""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shrinkd.backends.simulator.machine import scenarios
from shrinkd.backends.simulator.machine.accounting import Cgroup
from shrinkd.backends.simulator.machine.machine import Machine
from shrinkd.backends.simulator.machine.running import set_workload
from shrinkd.backends.simulator.machine.scenarios import Scenario
from shrinkd.backends.simulator.machine.workloads import IDLE, Bursts, Memory, Workload
from shrinkd.errors import SettingsError
from shrinkd.sizes import PAGE_BYTES
from tests.support.simulated_machines import MIB

BYTES = 2**20


def made(*memory: dict[str, Any], **more: Any) -> tuple[Machine, Cgroup]:
    """A v2 machine with swap on zram and one group of this memory.

    `more` are limits of the group and the end of its process.
    """
    group = {"path": "group", "memory": list(memory), **more}
    machine = Scenario.model_validate(
        {"profile": "v2", "swap": {"size_bytes": "4G"}, "groups": [group]}
    ).machine()
    return machine, machine.cgroups["group"]


def live(machine: Machine, seconds: int) -> None:
    for _ in range(seconds):
        machine.advance(1)


def fingerprint(machine: Machine) -> list[tuple[Any, ...]]:
    """All that could differ."""
    return [
        (path, cgroup.usage, cgroup.swap, cgroup.counts, cgroup.some.total_us, dict(cgroup.events))
        for path, cgroup in machine.cgroups.items()
    ]


# How much is wanted


def test_growth_ends_at_its_ceiling() -> None:
    memory = Memory(
        kind="anon", size_bytes=10 * BYTES, grows_bytes_per_second=BYTES, ceiling_bytes=20 * BYTES
    )
    assert [memory.wanted(age, "") // MIB for age in (0, 5, 10, 1000)] == [10, 15, 20, 20]


def test_a_saw_falls_back_at_its_ceiling() -> None:
    memory = Memory(
        kind="anon",
        size_bytes=10 * BYTES,
        grows_bytes_per_second=BYTES,
        ceiling_bytes=20 * BYTES,
        falls=True,
    )
    assert [memory.wanted(age, "") // MIB for age in (0, 9, 10, 15, 20)] == [10, 19, 10, 15, 10]


def test_a_leak_has_no_end() -> None:
    assert (
        Memory(kind="anon", size_bytes=0, grows_bytes_per_second=BYTES).wanted(100_000, "")
        == 100_000 * MIB
    )


def test_a_trace_is_replayed_and_begins_anew() -> None:
    memory = Memory(kind="anon", trace=((0, 10 * BYTES), (5, 30 * BYTES), (10, 0)))
    assert [memory.wanted(age, "") // MIB for age in (0, 4.9, 5, 9, 10, 16)] == [
        10,
        10,
        30,
        30,
        10,
        30,
    ]


def test_bursts_come_once_in_their_time_and_when_the_seed_says() -> None:
    memory = Memory(
        kind="anon",
        size_bytes=0,
        bursts=Bursts(every_seconds=60, lasts_seconds=5, size_bytes=PAGE_BYTES),
    )
    seconds = [
        [age for age in range(60 * turn, 60 * turn + 60) if memory.wanted(age, "seed")]
        for turn in range(20)
    ]
    assert all(4 <= len(burst) <= 6 for burst in seconds)
    assert len({burst[0] % 60 for burst in seconds}) > 5
    assert [age for age in range(1200) if memory.wanted(age, "seed")] != [
        age for age in range(1200) if memory.wanted(age, "other")
    ]


# What comes of it


def test_memory_that_is_used_comes_back_as_fast_as_it_is_hot() -> None:
    machine, cgroup = made(
        *({"kind": "anon", "size_bytes": "64M", "heat_seconds": heat} for heat in (5, 100))
    )
    machine.reclaim(cgroup, 128 * MIB)
    hot, cold = cgroup.areas
    gone_hot, gone_cold = hot.out, cold.out
    live(machine, 20)
    assert hot.out == pytest.approx(gone_hot * math.exp(-20 / 5), rel=0.15)
    assert cold.out == pytest.approx(gone_cold * math.exp(-20 / 100), rel=0.15)
    assert cgroup.counts.refaults_anon == gone_hot + gone_cold - hot.out - cold.out


def test_a_working_set_that_does_not_fit_is_pressure_for_as_long() -> None:
    machine, cgroup = made(
        {"kind": "anon", "size_bytes": "128M", "heat_seconds": 2}, max_bytes="96M"
    )
    live(machine, 60)
    assert cgroup.usage == pytest.approx(96 * MIB, rel=0.02)
    before = cgroup.some.total_us
    live(machine, 60)
    assert cgroup.some.total_us - before > 1_000_000
    assert cgroup.some.total_us == cgroup.full.total_us
    assert cgroup.events["oom_kill"] == 0


def test_slower_swap_is_more_pressure() -> None:
    totals = []
    for in_us in (10, 150):
        scenario = {
            "profile": "v2",
            "swap": {"size_bytes": "1G", "in_microseconds": in_us},
            "groups": [
                {
                    "path": "group",
                    "max_bytes": "96M",
                    "memory": [{"kind": "anon", "size_bytes": "112M", "heat_seconds": 20}],
                }
            ],
        }
        machine = Scenario.model_validate(scenario).machine()
        live(machine, 120)
        totals.append(machine.cgroups["group"].some.total_us)
    assert totals[1] > 3 * totals[0]


def test_nobody_waits_for_more_than_all_of_its_time() -> None:
    machine, cgroup = made(
        {"kind": "anon", "size_bytes": "256M", "heat_seconds": 0.1}, max_bytes="32M"
    )
    live(machine, 30)
    assert cgroup.some.total_us <= machine.now_us


def test_reclaim_a_little_at_a_time_is_cheap_until_it_meets_what_is_used() -> None:
    machine = scenarios.load_scenario("heat").machine()
    saved, waited = {}, {}
    for path in ("mostly-cold", "mostly-hot"):
        cgroup = machine.cgroups[path]
        full = cgroup.usage
        for _ in range(60):
            machine.advance(2)
            machine.reclaim(cgroup, full // 100)
        saved[path], waited[path] = 1 - cgroup.usage / full, cgroup.some.total_us
    assert saved["mostly-cold"] > 0.4
    assert saved["mostly-hot"] < 0.1
    assert waited["mostly-hot"] > 5 * waited["mostly-cold"]


def test_a_leak_ends_with_a_kill_and_begins_again() -> None:
    machine, cgroup = made(
        {"kind": "unevictable", "size_bytes": "1M", "grows_bytes_per_second": "4M"}, max_bytes="64M"
    )
    live(machine, 60)
    assert cgroup.events["oom_kill"] == 2
    assert 0 < cgroup.usage <= 64 * MIB


def test_who_is_killed_in_the_middle_of_a_tick_does_no_more_in_it() -> None:
    leak, swapped = (
        {"kind": "unevictable", "size_bytes": "1M", "grows_bytes_per_second": "8M"},
        {"kind": "anon", "size_bytes": "48M", "heat_seconds": 5},
    )
    machine, cgroup = made(leak, swapped, max_bytes="64M")
    live(machine, 120)
    assert cgroup.events["oom_kill"] > 3
    assert cgroup.swap == machine.swap.used == sum(area.out for area in cgroup.areas)


def test_a_process_that_exits_comes_back_and_finds_its_cache() -> None:
    machine, cgroup = made(
        {"kind": "anon", "size_bytes": "8M"},
        {"kind": "file", "size_bytes": "8M", "heat_seconds": "cold"},
        exits_after_seconds=5,
        restarts_after_seconds=3,
    )
    live(machine, 6)
    assert (len(cgroup.processes), cgroup.usage) == (0, 8 * MIB)
    live(machine, 3)
    assert (len(cgroup.processes), cgroup.usage) == (1, 16 * MIB)


def test_a_process_above_high_grows_slowly_and_lives() -> None:
    machine, cgroup = made(
        {"kind": "unevictable", "size_bytes": "48M", "grows_bytes_per_second": "10M"},
        high_bytes="50M",
    )
    live(machine, 20)
    assert 50 * MIB < cgroup.usage < 70 * MIB
    assert cgroup.some.total_us > 10_000_000
    assert cgroup.events["oom_kill"] == 0


def test_a_moved_process_charges_its_new_group_and_wants_no_more_than_before() -> None:
    machine, cgroup = made({"kind": "anon", "size_bytes": "8M", "grows_bytes_per_second": "1M"})
    live(machine, 4)
    other = machine.make(machine.root, "other")
    (process,) = cgroup.processes.values()
    process.move(other)
    live(machine, 4)
    assert (cgroup.usage, other.usage) == (12 * MIB, 4 * MIB)


def test_a_workload_replaces_the_one_before() -> None:
    machine, cgroup = made({"kind": "anon", "size_bytes": "8M"})
    set_workload(
        machine, cgroup, Workload(memory=(Memory(kind="anon", size_bytes=2 * BYTES),)), "1"
    )
    assert cgroup.usage == 2 * MIB
    set_workload(machine, cgroup, IDLE, "1")
    live(machine, 30)
    assert cgroup.usage == 0


def test_a_workload_that_stands_still_notices_what_was_taken_from_it() -> None:
    machine, cgroup = made({"kind": "file", "size_bytes": "8M", "heat_seconds": 1})
    live(machine, 3)
    machine.reclaim(cgroup, MIB)
    live(machine, 60)
    assert cgroup.usage == 8 * MIB


@pytest.mark.parametrize("kind", ["file", "slab_reclaimable"])
def test_what_nobody_uses_stays_away_once_it_was_reclaimed(kind: str) -> None:
    machine, cgroup = made({"kind": kind, "size_bytes": "8M", "heat_seconds": "idle"})
    machine.reclaim(cgroup, 4 * MIB)
    live(machine, 10)
    assert cgroup.usage == 4 * MIB


def test_a_workload_goes_with_its_group() -> None:
    machine, cgroup = made({"kind": "anon", "size_bytes": "8M"})
    machine.exit(next(iter(cgroup.processes.values())))
    machine.remove(cgroup)
    live(machine, 30)
    assert machine.root.usage == 0


# Determinism


@pytest.mark.parametrize("name", scenarios.scenario_names())
def test_the_same_seed_leads_to_the_same_memory(name: str) -> None:
    machines = [scenarios.load_scenario(name).machine(), scenarios.load_scenario(name).machine()]
    for machine in machines:
        live(machine, 120)
        for cgroup in list(machine.cgroups.values()):
            machine.reclaim(cgroup, MIB)
        live(machine, 60)
    assert fingerprint(machines[0]) == fingerprint(machines[1])


def test_how_finely_time_is_cut_changes_little() -> None:
    usages = []
    for ticks in (1, 10):
        machine, cgroup = made(
            {
                "kind": "anon",
                "size_bytes": "64M",
                "heat_seconds": 10,
                "grows_bytes_per_second": "1M",
            },
            {"kind": "file", "size_bytes": "64M", "heat_seconds": "warm"},
            max_bytes="160M",
        )
        for _ in range(120 * ticks):
            machine.advance(1 / ticks)
        usages.append((cgroup.usage, cgroup.swap))
    assert usages[0] == pytest.approx(usages[1], rel=0.1)


# JSON


@pytest.mark.parametrize("name", scenarios.scenario_names())
def test_every_scenario_of_the_gallery_lives_for_ten_minutes_within_its_limits(name: str) -> None:
    machine = scenarios.load_scenario(name).machine()
    live(machine, 600)
    for cgroup in machine.cgroups.values():
        assert 0 <= cgroup.usage <= cgroup.max
        assert cgroup.full.total_us <= cgroup.some.total_us <= machine.now_us


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ([], "#: Input should be an object"),
        ({"profil": "v1"}, "#/profil: Extra inputs are not permitted"),
        ({"profile": "v3"}, "#/profile: Input should be 'seed2008', 'v1', 'v2' or 'v2-6.12'"),
        ({"groups": {}}, "#/groups: Input should be a valid"),
        ({"groups": [{"memory": []}]}, "#/groups/0/path: Field required"),
        ({"groups": [{"path": "a", "maximum": 1}]}, "#/groups/0/maximum: Extra inputs"),
        (
            {"groups": [{"path": "a", "max_bytes": "1 GB"}]},
            "#/groups/0/max_bytes: a size is decimal digits",
        ),
        (
            {"groups": [{"path": "a", "memory": [{"kind": "zswap", "size_bytes": 1}]}]},
            "#/groups/0/memory/0/kind: Input should be 'anon', ",
        ),
        (
            {"groups": [{"path": "a", "memory": [{"kind": "anon"}]}]},
            "#/groups/0/memory/0: give size_bytes, or a trace",
        ),
        (
            {
                "groups": [
                    {
                        "path": "a",
                        "memory": [{"kind": "anon", "size_bytes": 1, "heat_seconds": "tepid"}],
                    }
                ]
            },
            "#/groups/0/memory/0/heat_seconds: a heat is seconds, or one of hot, warm, cold, idle",
        ),
        (
            {
                "groups": [
                    {"path": "a", "memory": [{"kind": "anon", "size_bytes": 1, "heat_seconds": 0}]}
                ]
            },
            "heat_seconds: Input should be greater",
        ),
        (
            {"groups": [{"path": "a", "memory": [{"kind": "anon", "size_bytes": "1P"}]}]},
            "#/groups/0/memory/0/size_bytes: that is more than 64 GiB",
        ),
        (
            {
                "groups": [
                    {
                        "path": "a",
                        "memory": [
                            {
                                "kind": "anon",
                                "size_bytes": 1,
                                "bursts": {"every_seconds": 1, "size_bytes": 1},
                            }
                        ],
                    }
                ]
            },
            "#/groups/0/memory/0/bursts/lasts_seconds: Field required",
        ),
        (
            {"groups": [{"path": "a", "memory": [{"kind": "anon", "trace": [[1, 2]]}]}]},
            "#/groups/0/memory/0: a trace begins at 0",
        ),
        (
            {"groups": [{"path": "a", "memory": [{"kind": "anon", "trace": [1]}]}]},
            "#/groups/0/memory/0/trace/0: Input should be a valid",
        ),
        (
            {
                "groups": [
                    {
                        "path": "a",
                        "memory": [{"kind": "anon", "size_bytes": 1, "writes_bytes_per_second": 1}],
                    }
                ]
            },
            "only files are written to",
        ),
        (
            {
                "groups": [
                    {
                        "path": "a",
                        "memory": [
                            {"kind": "anon", "size_bytes": 1},
                            {"kind": "anon", "size_bytes": 2},
                        ],
                    }
                ]
            },
            "#/groups/0: two pieces",
        ),
        (
            {"profile": "v1", "groups": [{"path": "a", "high_bytes": "1G"}]},
            "the group 'a' of a machine by the rules of v1 has no high_bytes",
        ),
        ({"groups": [{"path": "a//b"}]}, "#/groups/0/path: 'a//b' names no group"),
        ({"swap": {"size_bytes": "1G", "speed": 1}}, "#/swap/speed: Extra inputs"),
    ],
)
def test_what_is_wrong_with_a_scenario_is_said(
    tmp_path: Path, document: object, complaint: str
) -> None:
    file = tmp_path / "wrong.json"
    file.write_text(json.dumps(document))
    with pytest.raises(SettingsError) as caught:
        scenarios.load_scenario(str(file))
    assert complaint in caught.value.detail


def test_a_file_in_the_working_directory_needs_no_slash_to_be_a_scenario(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "heat.json").write_text('{"seed": "mine"}')
    monkeypatch.chdir(tmp_path)
    assert (scenarios.load_scenario("heat.json").seed, scenarios.load_scenario("heat").seed) == (
        "mine",
        "1",
    )


def test_what_is_no_json_is_said(tmp_path: Path) -> None:
    file = tmp_path / "wrong.json"
    file.write_text("{")
    with pytest.raises(SettingsError, match=r"wrong\.json"):
        scenarios.load_scenario(str(file))


@settings(max_examples=50)
@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_no_document_is_anything_but_a_scenario_or_a_value_error(document: object) -> None:
    for wrapped in (
        document,
        {"groups": [document]},
        {"groups": [{"path": "a", "memory": [document]}]},
        {"swap": document},
    ):
        try:
            Scenario.model_validate(wrapped)
        except ValueError as error:
            assert str(error)  # noqa: PT017
