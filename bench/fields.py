"""Compare our policies with published laws on the same simulated groups.

The figures are the share that was saved of what could be, its cost, and the time it took.

A cell is one group for an hour: those of the gallery, on which pressure was tuned, and groups drawn
from seeds, on which nothing was tuned. The optimum knows the heat of every page and keeps out of
memory the pages that cost the least stall for what they free, as many as the target of `pressure`
pays for if each came back whenever it is used. All laws have one floor.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, product
from pathlib import Path
from random import Random
from typing import Any

from bench.laws import PUBLISHED, alike, by_size, largest_first, polled, splitting
from bench.loop import Loop
from bench.table import Extent, Row, Tables, median
from shrinkd.backends.simulator.machine import scenarios
from shrinkd.backends.simulator.machine.accounting import SWAPPABLE
from shrinkd.policies import Kind
from shrinkd.policies.kinds import balance as balancing
from shrinkd.policies.kinds import pressure as ours
from shrinkd.policies.kinds import watermark as marking
from shrinkd.policies.kinds.balance import Balance
from shrinkd.simulation.run import Plan, Report, simulate
from shrinkd.sizes import PAGE_BYTES

_SECONDS = 3600.0
_TAIL = 600
"""The final saving is the mean of so many last seconds."""
_FLOOR_BYTES = 64 << 20
_MIB = 1 << 20
_TARGET_PERCENT = ours.KeepPressure().target_some_percent
_SEEDS = range(4)
PRESSURE = {"shrinkd": ours.kind, **PUBLISHED}
BALANCE = {
    "shrinkd": balancing.kind,
    "proportional": splitting(by_size),
    "uniform": splitting(alike),
    "largest first": splitting(largest_first),
}


@dataclass(frozen=True)
class Cell:
    """One group on its own machine."""

    name: str
    scenario: scenarios.Scenario
    seconds: float = _SECONDS
    """How long it is looked at."""

    @property
    def place(self) -> scenarios.Place:
        (place,) = self.scenario.groups
        return place

    @cached_property
    def alone(self) -> list[int]:
        """Return its usage in bytes at each second without any reclaim."""
        machine, usage = self.scenario.machine(), []
        for _ in range(round(self.seconds)):
            machine.advance(1.0)
            usage.append(machine.cgroups[self.place.path].usage * PAGE_BYTES)
        return usage

    @cached_property
    def optimum_bytes(self) -> float:
        """Return the bytes that could be out all the time at the target, bursts left out."""
        page_us = {
            True: self.scenario.swap.in_microseconds,
            False: self.scenario.file_in_microseconds,
        }
        costs = sorted(
            (page_us[piece.kind in SWAPPABLE] / piece.heat_seconds, piece.size_bytes)
            for piece in self.place.memory
        )
        allowed, out = 1e4 * _TARGET_PERCENT, 0.0
        for page_cost, size in costs:
            part = min(size, allowed / page_cost * PAGE_BYTES if page_cost else math.inf)
            out, allowed = out + part, allowed - part / PAGE_BYTES * page_cost
        return min(out, sum(size for _, size in costs) - _FLOOR_BYTES)


@dataclass(frozen=True, slots=True)
class Result:
    """Outcome of one cell under one law."""

    saved: Sequence[int]
    """Bytes less than without any law, at each second."""
    optimum_bytes: float
    mean_some_percent: float
    worst_some_percent: float
    refaulted: float
    """Pages that came back, for one reclaimed."""

    @property
    def is_within(self) -> bool:
        return self.mean_some_percent <= _TARGET_PERCENT

    @property
    def end_bytes(self) -> float:
        tail = self.saved[-_TAIL:]
        return sum(tail) / len(tail)

    @property
    def saved_percent(self) -> float:
        return self.end_bytes / self.optimum_bytes * 100

    def seconds_to(self, size_bytes: float) -> float:
        """Return the seconds until so much was saved; infinite for never."""
        return next(
            (at + 1.0 for at, size in enumerate(self.saved) if size >= size_bytes), math.inf
        )


def gallery() -> Iterator[Cell]:
    """Return the groups that pressure was tuned on.

    The scanner is left out: it stalls at its limit under any policy.
    """
    for name in ("heat", "heat-on-disk"):
        scenario = scenarios.load_scenario(name)
        for place in scenario.groups:
            if place.path != "scanner":
                yield Cell(
                    f"{name}, {place.path}", scenario.model_copy(update={"groups": (place,)})
                )


def drawn() -> Iterator[Cell]:
    """Draw groups from seeds, on zram and on disk swap, with files on a fast and on a slow disk.

    Every second one has bursts.
    """
    for seed, swap_us, file_us in product(_SEEDS, (10, 150), (100, 400)):
        scenario = {
            "profile": "v2",
            "swap": {"size_bytes": "8G", "in_microseconds": swap_us},
            "file_in_microseconds": file_us,
            "groups": [
                {
                    "path": "drawn",
                    "memory": _pieces(Random(f"drawn {seed}"), has_bursts=seed % 2 == 1),
                }
            ],
        }
        yield Cell(
            f"seed {seed}, swap {swap_us} us, files {file_us} us",
            scenarios.Scenario.model_validate(scenario),
        )


def _pieces(random: Random, *, has_bursts: bool) -> list[dict[str, Any]]:
    def size(least: int, most: int) -> str:
        return f"{random.randint(least, most)}M"

    hot: dict[str, Any] = {"kind": "anon", "size_bytes": size(128, 512), "heat_seconds": "hot"}
    if has_bursts:
        hot["bursts"] = {"every_seconds": 300, "lasts_seconds": 30, "size_bytes": size(64, 256)}
    pieces = [hot]
    for kind, (coolest, hottest) in product(("anon", "file"), ((1.0, 2.0), (2.0, 3.0), (3.0, 4.0))):
        heat = 10 ** random.uniform(coolest, hottest)
        pieces.append({"kind": kind, "size_bytes": size(16, 256), "heat_seconds": heat})
    return [
        *pieces,
        *(
            {"kind": kind, "size_bytes": size(0, 384), "heat_seconds": "idle"}
            for kind in ("anon", "file")
        ),
    ]


def tried(law: Kind, cell: Cell) -> Result:
    """Simulate an hour of a cell under a law."""
    path = cell.place.path
    loop = Loop(cell.scenario.machine(), law, law.spec(), [path])
    loop.run(cell.seconds, tick_seconds=1.0)
    course, counts = loop.courses[path], loop.cgroups[path].counts
    return Result(
        [without - used for without, used in zip(cell.alone, course.usage_bytes, strict=True)],
        cell.optimum_bytes,
        course.mean_some_percent,
        course.worst_some_percent(),
        (counts.refaults_file + counts.refaults_anon) / max(counts.reclaimed, 1),
    )


def measure_gallery(_folder: Path, extent: Extent) -> Tables:
    """Measure pressure on the cells that it was tuned on."""
    return _pressure(gallery(), "the gallery", extent)


def measure_drawn(_folder: Path, extent: Extent) -> Tables:
    """Measure pressure on cells that nothing was tuned on."""
    return _pressure(drawn(), "drawn from seeds", extent)


def measure_balance(_folder: Path, extent: Extent) -> Tables:
    return {"Freeing 640 MiB from three groups": [*_balance_rows(extent.seconds(300, least=5))]}


def measure_watermark(_folder: Path, extent: Extent) -> Tables:
    return {"Writers and bursts below a limit": [*_watermark_rows(extent)]}


def _pressure(cells: Iterator[Cell], title: str, extent: Extent) -> Tables:
    tried_on = (
        [*cells] if extent.is_whole else [replace(cell, seconds=120.0) for cell in islice(cells, 1)]
    )
    results = {name: [tried(law, cell) for cell in tried_on] for name, law in PRESSURE.items()}
    return {
        f"An hour of pressure, {len(tried_on)} groups, {title}": [
            *_pressure_rows(results),
            *_engine_rows(tried_on),
        ]
    }


def _pressure_rows(results: Mapping[str, Sequence[Result]]) -> Iterator[Row]:
    """Make the rows of pressure.

    Times are to a part of the most that a law within the target saved in that group in the end.
    """
    mine = results["shrinkd"]
    best = [
        max((cell.end_bytes for cell in of_cell if cell.is_within), default=math.inf)
        for of_cell in zip(*results.values(), strict=True)
    ]
    for name, cells in results.items():
        over, goal = sum(not cell.is_within for cell in cells), 0 if name == "shrinkd" else None
        half, most = (
            [cell.seconds_to(share * size) for cell, size in zip(cells, best, strict=True)]
            for share in (0.5, 0.9)
        )
        yield Row(
            f"{name}: saved of the optimum, median",
            median([cell.saved_percent for cell in cells]),
            "%",
        )
        yield Row(
            f"{name}: mean some over the target of {_TARGET_PERCENT} %",
            over,
            "groups",
            "" if goal is None else "<=",
            goal,
        )
        yield Row(f"{name}: mean some, highest", max(cell.mean_some_percent for cell in cells), "%")
        yield Row(
            f"{name}: worst minute some, median",
            median([cell.worst_some_percent for cell in cells]),
            "%",
        )
        yield Row(
            f"{name}: worst minute some, highest",
            max(cell.worst_some_percent for cell in cells),
            "%",
        )
        yield Row(f"{name}: to 50 % of the best within the target, median", median(half), "s")
        yield Row(f"{name}: to 90 % of it, median", median(most), "s")
        yield Row(
            f"{name}: came back of what was reclaimed, median",
            median([cell.refaulted for cell in cells]) * 100,
            "%",
        )
        if name != "shrinkd":
            pairs = [*zip(cells, mine, best, strict=True)]
            ahead = sum(
                cell.is_within and cell.saved_percent > own.saved_percent + 1
                for cell, own, _ in pairs
            )
            sooner = sum(
                cell.is_within and cell.seconds_to(size / 2) < own.seconds_to(size / 2)
                for cell, own, size in pairs
            )
            yield Row(
                f"{name}: within the target, and saves 1 % of the optimum more than shrinkd",
                ahead,
                "groups",
            )
            yield Row(
                f"{name}: within the target, and sooner than shrinkd at 50 %", sooner, "groups"
            )


def _engine_rows(cells: Sequence[Cell]) -> Iterator[Row]:
    """Measure the same with the whole evaluator, as /v1/simulations does.

    It decides when a policy is evaluated and how fast an action is carried out.
    """
    policy = {"name": "squeeze", "kind": "pressure", "selector": {"group": "*"}, "spec": {}}
    saved, means = [], []
    for cell in cells:
        *_, report = simulate(
            Plan.model_validate(
                {"scenario": cell.scenario, "policies": [policy], "duration_seconds": cell.seconds}
            )
        )
        if isinstance(report, Report):
            (group,) = report.groups
            saved.append((cell.alone[-1] - group.end_usage_bytes) / cell.optimum_bytes * 100)
            means.append(group.some_percent or 0.0)
    yield Row(
        "shrinkd, the whole engine: saved of the optimum at the end, median", median(saved), "%"
    )
    over = sum(mean > _TARGET_PERCENT for mean in means)
    yield Row(
        f"shrinkd, the whole engine: mean some over the target of {_TARGET_PERCENT} %",
        over,
        "groups",
        "<=",
        0,
    )
    yield Row("shrinkd, the whole engine: mean some, highest", max(means), "%")


HOUSE: dict[str, list[tuple[str, str, float | str]]] = {
    "busy": [("anon", "640M", "hot"), ("file", "256M", "warm")],
    "mixed": [("anon", "256M", "hot"), ("anon", "384M", "idle"), ("file", "128M", "warm")],
    "asleep": [("anon", "512M", "idle"), ("file", "256M", "idle")],
}
"""What balance was tuned on."""


def house(
    pieces: Mapping[str, Sequence[tuple[str, str, float | str]]], swap_in_microseconds: int
) -> scenarios.Scenario:
    """Make a machine of groups from their pieces: kind, size and heat."""
    groups = [
        {
            "path": path,
            "memory": [
                {"kind": kind, "size_bytes": size, "heat_seconds": heat}
                for kind, size, heat in of_group
            ],
        }
        for path, of_group in pieces.items()
    ]
    swap = {"size_bytes": "8G", "in_microseconds": swap_in_microseconds}
    return scenarios.Scenario.model_validate({"profile": "v2", "swap": swap, "groups": groups})


def _drawn_house(seed: int, swap_us: int) -> scenarios.Scenario:
    random = Random(f"house {seed}")
    pieces = {name: _pieces(random, has_bursts=False) for name in ("a", "b", "c")}
    return house(
        {
            name: [
                (each["kind"], each["size_bytes"], each["heat_seconds"]) for each in pieces[name]
            ]
            for name in pieces
        },
        swap_us,
    )


def freed_from(
    scenario: scenarios.Scenario, law: Kind, paths: Sequence[str], seconds: float, **spec: object
) -> tuple[Loop, float]:
    """Free 640 MiB from some groups, and return the cost in percent of time, over all of them."""
    machine = scenario.machine()
    release = sum(machine.cgroups[path].usage for path in paths) * PAGE_BYTES - 640 * _MIB
    loop = Loop(
        machine, law, Balance.model_validate({"budget": release, "release": release, **spec}), paths
    )
    loop.run(seconds, tick_seconds=1.0)
    return loop, sum(course.mean_some_percent for course in loop.courses.values())


def _balance_rows(seconds: float) -> Iterator[Row]:
    for swap_us in (10, 150):
        yield from _stalls(f"swap {swap_us} us", [house(HOUSE, swap_us)], seconds, goal=0.1)
        yield from _stalls(
            f"swap {swap_us} us, {len(_SEEDS)} seeds",
            [_drawn_house(seed, swap_us) for seed in _SEEDS],
            seconds,
            goal=None,
        )


def _stalls(
    name: str, houses: Sequence[scenarios.Scenario], seconds: float, *, goal: float | None
) -> Iterator[Row]:
    stalls: dict[str, list[float]] = {law: [] for law in BALANCE}
    for law, scenario in product(BALANCE, houses):
        stalls[law].append(
            freed_from(scenario, BALANCE[law], [place.path for place in scenario.groups], seconds)[
                1
            ]
        )
    for law, figures in stalls.items():
        yield Row(f"{name}, {law}: some of all groups together, median", median(figures), "%")
    ratio = max(
        own / other for own, other in zip(stalls["shrinkd"], stalls["proportional"], strict=True)
    )
    yield Row(
        f"{name}: that of proportional = 1, highest", ratio, "", "" if goal is None else "<=", goal
    )


def _writer(speed: str) -> scenarios.Scenario:
    memory = [
        {"kind": "file", "size_bytes": 0, "heat_seconds": "idle", "grows_bytes_per_second": speed}
    ]
    return scenarios.Scenario.model_validate(
        {"profile": "v2", "groups": [{"path": speed, "max_bytes": "256M", "memory": memory}]}
    )


def _watermark_rows(extent: Extent) -> Iterator[Row]:
    """Measure a watermark with wake-ups by usage, as on v1, and without, as on v2.

    The groups of the gallery run for 10 minutes, writers of cache for 15 s.
    """
    spikes = scenarios.load_scenario("spikes")
    tried_on = [(spikes, path, 600) for path in ("bursty", "writer", "recorded", "leak")]
    tried_on += [(_writer(speed), speed, 15) for speed in ("64M", "256M")]
    for scenario, path, seconds in tried_on:
        for name, law, tells_usage in (
            ("a poll", polled, False),
            ("shrinkd on v2", marking.kind, False),
            ("shrinkd on v1", marking.kind, True),
        ):
            loop = Loop(scenario.machine(), law, law.spec(), [path])
            loop.tells_usage = tells_usage
            before = loop.cgroups[path].failcnt
            loop.run(extent.seconds(seconds, least=1), tick_seconds=0.1)
            yield Row(
                f"{path}, {name}: batches of 64 pages charged at the limit",
                loop.cgroups[path].failcnt - before,
                "",
            )
