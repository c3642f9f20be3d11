"""Read scenarios: a machine and its groups as strict JSON, from gallery/ by name or from a file.

    {"profile": "v2", "seed": "1", "memory_bytes": "16G",
     "swap": {"size_bytes": "4G", "in_microseconds": 10},
     "groups": [{"path": "web", "max_bytes": "1G", "memory": [
       {"kind": "anon", "size_bytes": "96M", "heat_seconds": "hot"},
       {"kind": "file", "size_bytes": "256M", "heat_seconds": "warm",
        "writes_bytes_per_second": "1M"}]}]}

Unknown members are refused with their place.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from shrinkd.backends.protocol import check_group_path
from shrinkd.backends.readings import LIMIT_NAMES, LimitName
from shrinkd.backends.simulator.machine.accounting import Cgroup
from shrinkd.backends.simulator.machine.kernel_profiles import LIMIT_FIELDS, PROFILES, Profile
from shrinkd.backends.simulator.machine.machine import Hardware, Machine
from shrinkd.backends.simulator.machine.running import set_workload
from shrinkd.backends.simulator.machine.swap import Swap
from shrinkd.backends.simulator.machine.workloads import Memory, Workload
from shrinkd.errors import InvalidGroupName, SettingsError
from shrinkd.sizes import PAGE_BYTES
from shrinkd.strict_model import LimitSizes, Size, Strict, pointer, reason

GALLERY = Path(__file__).parent / "gallery"
Microseconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


def _check_path(path: str) -> str:
    try:
        return check_group_path(path)
    except InvalidGroupName as error:
        raise ValueError(error.detail) from None


GroupPath = Annotated[str, AfterValidator(_check_path)]


class SwapSpace(Strict):
    """Describe the swap of the machine, and a compressed pool (zswap); times are per page."""

    size_bytes: Size = 0
    in_microseconds: Microseconds = 10
    """About 10 for zram, 100 and more for a disk."""
    out_microseconds: Microseconds = 2
    pool_bytes: Size = 0
    pool_in_microseconds: Microseconds = 4

    def made(self) -> Swap:
        return Swap(
            self.size_bytes // PAGE_BYTES,
            self.in_microseconds,
            self.out_microseconds,
            self.pool_bytes // PAGE_BYTES,
            self.pool_in_microseconds,
        )


class Place(LimitSizes, Workload):
    """Describe a group: its limits, its settings, and its workload, if any."""

    path: GroupPath
    memory: Annotated[tuple[Memory, ...], Field(strict=False)] = ()
    swappiness: int = Field(default=60, ge=0, le=200)
    oom_group: bool = False

    def limits(self) -> dict[LimitName, int]:
        return {name: size for name in LIMIT_NAMES if (size := getattr(self, name)) is not None}

    def create_in(self, machine: Machine, seed: str) -> None:
        """Make the group and its missing ancestors, and start its process."""
        cgroup = _group_at(machine, self.path)
        for name, size in self.limits().items():
            setattr(cgroup, LIMIT_FIELDS[name], size // PAGE_BYTES)
        cgroup.swappiness, cgroup.oom_group = self.swappiness, int(self.oom_group)
        set_workload(machine, cgroup, self, seed)


class Scenario(Strict):
    """Describe a machine and its groups."""

    profile: Literal["seed2008", "v1", "v2", "v2-6.12"] = "v1"
    """The kernel whose rules it follows."""
    seed: str = "1"
    memory_bytes: Size = 16 << 30
    cpus: int = Field(default=0, ge=0, le=1024)
    """Each CPU keeps up to 64 pages charged ahead; with 0 CPUs the machine counts exactly."""
    file_in_microseconds: Microseconds = 100
    """The time to read a page of a file again."""
    swap: SwapSpace = SwapSpace()
    groups: Annotated[tuple[Place, ...], Field(strict=False)] = ()

    @property
    def rules(self) -> Profile:
        return PROFILES[self.profile]

    @model_validator(mode="after")
    def _check(self) -> Self:
        settable = self.rules.settable_limits - (
            {"swap_max_bytes"} if self.rules.cgroup_version == 1 else set()
        )
        for place in self.groups:
            if alien := sorted(place.limits().keys() - settable):
                raise ValueError(
                    f"the group {place.path!a} of a machine by the rules of {self.profile} has no "
                    f"{alien[0]}"
                )
        return self

    def machine(self, first_id: int = 1) -> Machine:
        """Make the machine with every group and process of the scenario."""
        hardware = Hardware(
            self.memory_bytes // PAGE_BYTES, self.cpus, self.file_in_microseconds, self.swap.made()
        )
        machine = Machine(self.rules, hardware, first_id)
        for place in self.groups:
            place.create_in(machine, self.seed)
        return machine


def scenario_names() -> list[str]:
    """Return the names of the scenarios in the gallery."""
    return sorted(path.stem for path in GALLERY.glob("*.json"))


def load_scenario(name: str) -> Scenario:
    """Read a scenario of the gallery by its name, or a file by its path.

    SettingsError says what is wrong with it.
    """
    path = Path(name) if "/" in name or name.endswith(".json") else GALLERY / f"{name}.json"
    try:
        return Scenario.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise SettingsError(
            f"SHRINKD_SCENARIO: there is no scenario {name!a}; there are "
            f"{', '.join(scenario_names())}, and paths of JSON files."
        ) from None
    except ValidationError as error:
        wrong = "; ".join(f"{pointer(row['loc'])}: {reason(row['msg'])}" for row in error.errors())
        raise SettingsError(f"SHRINKD_SCENARIO: {name!a}: {wrong}.") from error
    except OSError as error:
        raise SettingsError(f"SHRINKD_SCENARIO: {name!a}: {error}.") from error


def _group_at(machine: Machine, path: str) -> Cgroup:
    cgroup = machine.root
    for name in path.split("/"):
        inner = f"{cgroup.path}/{name}".removeprefix("/")
        cgroup = machine.cgroups.get(inner) or machine.make(cgroup, name)
    return cgroup
