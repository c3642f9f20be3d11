"""Bodies of the simulator: models of requests and responses, with examples."""

import math
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from shrinkd.api.http.dependencies import Body, GroupRef, ref
from shrinkd.api.openapi.responses import bodies
from shrinkd.backends import Fault, Group, Simulated, Verb, Workload
from shrinkd.strict_model import Strict

_LONGEST_SECONDS = 86400.0
_FASTEST = 1000.0


def _check_speed(speed: float) -> float:
    if _FASTEST < speed < math.inf:
        raise ValueError(f'a speed is 0 to {_FASTEST:.0f}, or "max"')
    return speed


Speed = Annotated[
    float,
    BeforeValidator(lambda value: math.inf if value == "max" else value),
    Field(ge=0),
    AfterValidator(_check_speed),
    PlainSerializer(lambda speed: "max" if speed == math.inf else speed),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": 0, "maximum": _FASTEST}, {"const": "max"}]}
    ),
]


class SimulatorLinks(Body):
    """Addresses of the parts of the simulator."""

    clock: str = "/v1/simulator/clock"
    faults: str = "/v1/simulator/faults"


class SimulatorBody(Body):
    """The simulated machine."""

    scenario: str
    """The scenario that it started with: a name of the gallery, or the path of a file."""
    profile: Literal["seed2008", "v1", "v2", "v2-6.12"]
    """The kernel whose rules it follows."""
    seed: str
    """Seed of its random numbers."""
    gallery: list[str]
    """The names that SHRINKD_SCENARIO takes."""
    links: SimulatorLinks = SimulatorLinks()


class WorkloadBody(Body, Workload):
    """The workload of a group; without memory there is none."""

    group: GroupRef
    dry_run: bool = False


class ClockChange(Strict):
    """Exactly one of advance_seconds and speed."""

    advance_seconds: float | None = Field(default=None, gt=0, le=_LONGEST_SECONDS, examples=[3600])
    """Advance by this time at once, in steps of a second, and answer when that is done: an hour
    with ten groups takes about a second."""
    speed: Speed | None = Field(default=None, examples=[0, 60, "max"])
    """Simulated seconds in a real one. 0 stops the clock; "max" is as fast as possible, and takes a
    core of this machine."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.advance_seconds is None) == (self.speed is None):
            raise ValueError("give exactly one of advance_seconds and speed")
        return self


class ClockBody(Body):
    """The time of the simulated machine."""

    now_seconds: float
    """Simulated time since the start, in steps of 0.1 s."""
    speed: Speed
    """Simulated seconds in a real one: 0 is a stopped clock, "max" is as fast as possible."""
    dry_run: bool = False


class FaultsBody(Body):
    """The planned faults, and how often each verb was used."""

    planned: list[Fault]
    """In the order in which they were planned; `use` counts from now. A fault that has happened is
    removed."""
    uses: dict[Verb, int]
    """Uses of each verb since the start."""
    dry_run: bool = False


AWorkload = Annotated[
    Workload,
    bodies(
        leak=(
            "A leak",
            {
                "memory": [
                    {
                        "kind": "anon",
                        "size_bytes": "64M",
                        "heat_seconds": "warm",
                        "grows_bytes_per_second": "1M",
                    }
                ]
            },
        ),
        server=(
            "A server with a cache, and bursts",
            {
                "memory": [
                    {
                        "kind": "anon",
                        "size_bytes": "96M",
                        "heat_seconds": "hot",
                        "bursts": {"every_seconds": 120, "lasts_seconds": 20, "size_bytes": "32M"},
                    },
                    {
                        "kind": "file",
                        "size_bytes": "256M",
                        "heat_seconds": 45,
                        "writes_bytes_per_second": "1M",
                    },
                ]
            },
        ),
        recorded=(
            "A recording, repeated",
            {
                "memory": [
                    {
                        "kind": "anon",
                        "heat_seconds": "warm",
                        "trace": [[0, "128M"], [30, "640M"], [45, "192M"], [120, "128M"]],
                    }
                ]
            },
        ),
        job=(
            "A job that ends and restarts",
            {"memory": [{"kind": "anon", "size_bytes": "96M"}], "exits_after_seconds": 20},
        ),
    ),
]
AClockChange = Annotated[
    ClockChange,
    bodies(
        hour=("Advance by an hour", {"advance_seconds": 3600}),
        freeze=("Stop the clock", {"speed": 0}),
        hurry=("A minute in a second", {"speed": 60}),
        fastest=("As fast as possible", {"speed": "max"}),
    ),
]
AFault = Annotated[
    Fault,
    bodies(
        error=(
            "The third pass of a shrink fails",
            {"verb": "reclaim", "use": 3, "error": "EBUSY"},
        ),
        delay=(
            "The next change of limits takes two seconds",
            {"verb": "set_limits", "delay_seconds": 2},
        ),
        vanishes=(
            "The group web vanishes at its next pass",
            {"verb": "reclaim", "group": "web", "vanishes": True},
        ),
    ),
]


def faults_body(machine: Simulated) -> FaultsBody:
    return FaultsBody(planned=list(machine.faults.planned()), uses=machine.faults.uses())


def workload_body(group: Group, workload: Workload, *, dry_run: bool = False) -> WorkloadBody:
    given = {name: getattr(workload, name) for name in Workload.model_fields}
    return WorkloadBody(**given, group=ref(group), dry_run=dry_run)


def clock_body(
    machine: Simulated, change: ClockChange | None = None, *, dry_run: bool = False
) -> ClockBody:
    """Build the body of the clock; with a change, as it would be afterwards."""
    now, speed = machine.time.now(), machine.time.speed
    if change is not None:
        now, speed = (
            now + (change.advance_seconds or 0),
            speed if change.speed is None else change.speed,
        )
    return ClockBody(now_seconds=now, speed=speed, dry_run=dry_run)
