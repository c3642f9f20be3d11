"""Scenarios: a machine and its groups as JSON, read strictly. gallery/ has those that can be named; others are paths of files.

    {"profile": "v2", "seed": 1, "pages": "16G", "swap": {"size": "4G", "in_us": 10}, "groups": [
      {"path": "web", "max": "1G", "memory": [
        {"kind": "anon", "size": "96M", "heat": "hot"},
        {"kind": "file", "size": "256M", "heat": "warm", "writes": "1M"}]}]}

Sizes are bytes or as in "400M", times are seconds. What is not known is refused, and the sentence says where.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.backends import check_group_path
from app.backends._machine.machine import Hardware, Machine
from app.backends._machine.profiles import LIMIT_FIELDS, PROFILES, Profile
from app.backends._machine.swap import Swap
from app.backends._machine.tree import KINDS, Cgroup
from app.backends._machine.workloads import Bursts, Memory, Workload, put_to_work
from app.errors import InvalidGroupName, SettingsError
from app.memparse import PAGE_BYTES, parse_size

GALLERY = Path(__file__).parent / "gallery"
HEATS = {"hot": 1.0, "warm": 30.0, "cold": 600.0, "idle": math.inf}


@dataclass(frozen=True, slots=True)
class Place:
    """A group of a scenario: its limits and settings, by the names and in the units of Cgroup, and what happens in it, if anything."""

    path: str
    fields: Mapping[str, int]
    workload: Workload | None


@dataclass(frozen=True, slots=True)
class Scenario:
    """A machine to be made, and what to put into it."""

    profile: Profile
    seed: str
    hardware: Callable[[], Hardware]
    places: tuple[Place, ...]

    def machine(self, first_id: int = 1) -> Machine:
        """Make the machine, with every group and every process of the scenario in it."""
        machine = Machine(self.profile, self.hardware(), first_id)
        for place in self.places:
            cgroup = _group_at(machine, place.path)
            for name, value in place.fields.items():
                setattr(cgroup, name, value)
            put_to_work(machine, cgroup, place.workload, self.seed)
        return machine


def names() -> list[str]:
    """The scenarios of the gallery."""
    return sorted(path.stem for path in GALLERY.glob("*.json"))


def load(name: str) -> Scenario:
    """Read a scenario of the gallery by its name, or a file by its path; SettingsError says what is wrong with it."""
    path = Path(name) if "/" in name else GALLERY / f"{name}.json"
    try:
        return parse(json.loads(path.read_text()))
    except FileNotFoundError:
        raise SettingsError(
            f"SHRINKD_SCENARIO: there is no scenario {name!a}; there are {', '.join(names())}, and paths of JSON files."
        ) from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"SHRINKD_SCENARIO: {name!a}: {error}.") from error


def parse(document: object) -> Scenario:
    """Read a scenario; ValueError says what is wrong and where."""
    top = _Object(document, "the scenario")
    profile, seed = top.text("profile", "v1"), top.text("seed", "1")
    if profile not in PROFILES:
        raise ValueError(f"there is no profile {profile!a}: there are {', '.join(PROFILES)}")
    pages, cpus, file_in_us = top.size("memory", 16 << 30) // PAGE_BYTES, int(top.number("cpus", 0)), top.number("file_in_us", 100)
    swap = _swap(top.inside("swap"))
    places = tuple(_place(item, PROFILES[profile]) for item in top.items("groups"))
    top.close()
    return Scenario(PROFILES[profile], seed, lambda: Hardware(pages, cpus, file_in_us, Swap(*swap)), places)


def parse_workload(document: object) -> Workload:
    """Read what happens in one group, as in a scenario: `memory`, `exits_after` and `restarts_after`."""
    given = _Object(document, "the workload")
    workload = _workload(given)
    given.close()
    if workload is None:
        raise ValueError("the workload has no memory")
    return workload


def _swap(given: "_Object") -> tuple[int, float, float, int, float]:
    swap = (
        given.size("size", 0) // PAGE_BYTES,
        given.number("in_us", 10),
        given.number("out_us", 2),
        given.size("pool", 0) // PAGE_BYTES,
        given.number("pool_in_us", 4),
    )
    given.close()
    return swap


def _place(given: "_Object", profile: Profile) -> Place:
    path = given.text("path")
    given.where = f"the group {path!a}"
    try:
        check_group_path(path)
    except InvalidGroupName as error:
        raise ValueError(error.detail) from None
    names = {LIMIT_FIELDS[name] for name in profile.settable_limits} - ({"swap_max"} if profile.cgroup_version == 1 else set())
    fields = {name: given.size(name) // PAGE_BYTES for name in names & given.left.keys()}
    fields |= {name: int(given.number(name)) for name in ("swappiness", "oom_group") if name in given.left}
    workload = _workload(given)
    given.close()
    return Place(path, fields, workload)


def _workload(given: "_Object") -> Workload | None:
    memory = tuple(_memory(item) for item in given.items("memory"))
    ends, restarts = given.number("exits_after", math.inf), given.number("restarts_after", 10)
    try:
        return Workload(memory, ends, restarts) if memory else None
    except ValueError as error:
        raise ValueError(f"{given.where}: {error}") from None


def _memory(given: "_Object") -> Memory:
    kind = next((kind for kind in KINDS if kind == given.left.get("kind") and kind != "zswap"), None)
    if kind is None:
        raise ValueError(f"{given.where}: no kind of memory is {given.left.get('kind')!a}")
    del given.left["kind"]
    trace, bursts = given.steps("trace"), given.inside("bursts")
    try:
        memory = Memory(
            kind,
            given.size("size", trace[0][1] if trace else None),
            given.heat(),
            int(given.number("folio", 1)),
            grows=given.size("grows", 0),
            ceiling=given.size("ceiling") if "ceiling" in given.left else None,
            falls=given.left.pop("falls", False) is True,
            bursts=Bursts(bursts.number("every"), bursts.number("seconds"), bursts.size("size")) if bursts.left else None,
            writes=given.size("writes", 0),
            trace=trace,
        )
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith(given.where) else f"{given.where}: {error}") from None
    bursts.close()
    given.close()
    return memory


class _Object:
    """A JSON object that is taken apart: what nobody asked for is left over, and close() names it."""

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, dict):
            raise ValueError(f"{where} is no object")
        self.left: dict[str, Any] = dict(document)
        self.where = where

    def text(self, name: str, otherwise: str | None = None) -> str:
        return str(self._take(name, otherwise))

    def number(self, name: str, otherwise: float | None = None) -> float:
        if otherwise is not None and name not in self.left:
            return otherwise
        value = self._take(name, None)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
            raise ValueError(f"{self.where}: {name} is no number of 0 or more")
        return value

    def size(self, name: str, otherwise: int | None = None) -> int:
        try:
            return parse_size(self._take(name, otherwise))
        except ValueError as error:
            raise ValueError(f"{self.where}: {name}: {error}") from None

    def heat(self) -> float:
        given = self.left.get("heat", "idle")
        if isinstance(given, str) and given in HEATS:
            self.left.pop("heat", None)
            return HEATS[given]
        return self.number("heat")

    def steps(self, name: str) -> tuple[tuple[float, int], ...]:
        """A list of pairs: seconds, and the size from then on."""
        steps = self.left.pop(name, [])
        if not isinstance(steps, list) or not all(isinstance(step, list) and len(step) == 2 for step in steps):
            raise ValueError(f"{self.where}: {name} is no list of [seconds, size]")
        pairs = [_Object({"second": second, "size": size}, f"{self.where}, {name}") for second, size in steps]
        return tuple((pair.number("second"), pair.size("size")) for pair in pairs)

    def items(self, name: str) -> "list[_Object]":
        items = self.left.pop(name, [])
        if not isinstance(items, list):
            raise ValueError(f"{self.where}: {name} is no list")
        return [_Object(item, f"{self.where}, {name} {index}") for index, item in enumerate(items)]

    def inside(self, name: str) -> "_Object":
        return _Object(self.left.pop(name, {}), f"{self.where}, {name}")

    def close(self) -> None:
        if self.left:
            raise ValueError(f"{self.where} knows no {', '.join(sorted(self.left))}")

    def _take(self, name: str, otherwise: object) -> object:
        value = self.left.pop(name, otherwise)
        if value is None:
            raise ValueError(f"{self.where} has no {name}")
        return value


def _group_at(machine: Machine, path: str) -> Cgroup:
    cgroup = machine.root
    for name in path.split("/"):
        inner = f"{cgroup.path}/{name}".removeprefix("/")
        cgroup = machine.cgroups.get(inner) or machine.make(cgroup, name)
    return cgroup
