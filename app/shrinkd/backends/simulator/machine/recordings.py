"""Turn recorded usage (GET …/stats/history) into groups of a simulated machine.

A recording has what was used, not what was needed: its group requests what it had, at the same
times, whatever a limit or a policy did on the host or does here. How soon reclaimed memory is
missed is not recorded, but assumed.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from shrinkd.backends.simulator.machine.scenarios import GroupPath, Place, Scenario
from shrinkd.backends.simulator.machine.workloads import HEATS, LARGEST_BYTES, Heat, Memory
from shrinkd.paths import is_below
from shrinkd.sizes import PAGE_BYTES
from shrinkd.strict_model import Limit, Strict

_MOST_SAMPLES = 4096


def _read_time(text: object) -> object:
    if not isinstance(text, str):
        return text
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError("a time says its zone, as RFC 3339 has it: 2026-11-23T08:00:00Z")
    return time


Time = Annotated[
    datetime, BeforeValidator(_read_time), WithJsonSchema({"type": "string", "format": "date-time"})
]
Value = Annotated[int, Field(ge=0)] | None
SampleBytes = Annotated[int, Field(ge=0, le=LARGEST_BYTES)] | None


class RecordedGroup(Strict):
    """Identify the recorded group, for readers."""

    id: str
    path: str


class Series(Strict):
    """Hold one value per time; null is unknown. Usage, anon and file are simulated."""

    usage_bytes: Annotated[tuple[SampleBytes, ...], Field(strict=False)]
    anon_bytes: Annotated[tuple[SampleBytes, ...], Field(strict=False)] = ()
    file_bytes: Annotated[tuple[SampleBytes, ...], Field(strict=False)] = ()
    swap_bytes: Annotated[tuple[Value, ...], Field(strict=False)] = ()
    working_set_bytes: Annotated[tuple[Value, ...], Field(strict=False)] = ()
    some_total_microseconds: Annotated[tuple[Value, ...], Field(strict=False)] = ()


class RecordedHistory(Strict):
    """Hold a response of GET /v1/groups/{group}/stats/history, unchanged."""

    group: RecordedGroup | None = None
    step_seconds: int = Field(10, ge=1, le=86400)
    """The duration of the last sample."""
    times: Annotated[
        tuple[Time, ...], Field(strict=False, min_length=1, max_length=_MOST_SAMPLES)
    ] = Field(examples=[["2026-11-23T08:00:00Z", "2026-11-23T08:00:10Z"]])
    series: Series = Field(
        examples=[
            {name: [] for name in Series.model_fields}
            | {"usage_bytes": [371195904, 379584512], "anon_bytes": [100663296, None]}
        ]
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for earlier, later in zip(self.times, self.times[1:], strict=False):
            if later <= earlier:
                raise ValueError(
                    f"times go forward, and {later.isoformat()} does not come after "
                    f"{earlier.isoformat()}"
                )
        for name, values in self.series:
            if values and len(values) != len(self.times):
                raise ValueError(
                    f"{name} has {len(values)} values, and there are {len(self.times)} times"
                )
        if all(usage is None for usage in self.series.usage_bytes):
            raise ValueError("usage_bytes has no value that is known")
        return self

    @property
    def ends_at(self) -> float:
        return self.times[-1].timestamp() + self.step_seconds

    def samples(self) -> Iterator[tuple[float, int, int, int]]:
        """Yield each known usage as (seconds since the epoch, anon, file, other bytes).

        Where the kinds are unknown they have the shares of the last sample with known ones, before
        that those of the first; if they are never known, all of it is anonymous, so that a policy's
        savings are not based on a guess.
        """
        unknown: tuple[SampleBytes, ...] = (None,) * len(self.times)
        usages, anon, file = (
            self.series.usage_bytes,
            self.series.anon_bytes or unknown,
            self.series.file_bytes or unknown,
        )
        shares = [_shares(*row) for row in zip(usages, anon, file, strict=True)]
        last = next((share for share in shares if share), (1.0, 0.0))
        for time, usage, share in zip(self.times, usages, shares, strict=True):
            last = share or last
            if usage is not None:
                yield time.timestamp(), *_split(usage, *last)


class Recording(Strict):
    """Describe a group that uses what was recorded, again from the start at the end.

    Record groups without descendants: their usage is included.
    """

    path: GroupPath = Field(examples=["web"])
    history: RecordedHistory
    max_bytes: Limit = None
    """The maximum of the group in the simulation."""
    heat_seconds: Heat = HEATS["warm"]
    """How often a page is used, which is not recorded: reclaimed memory comes back within about
    that time."""

    def place(self, begins: float, ends: float) -> Place:
        """Return the simulated group; `begins` and `ends` are those of all recordings together.

        Its first values hold until its own first sample.
        """
        pieces: dict[str, list[tuple[float, int]]] = {"anon": [], "file": [], "kernel": []}
        for second, *sizes in self.history.samples():
            for steps, size in zip(pieces.values(), sizes, strict=True):
                steps.append((second - begins if steps else 0.0, size))
        memory = [
            {
                "kind": kind,
                "heat_seconds": self.heat_seconds,
                "trace": (*steps, (ends - begins, steps[-1][1])),
            }
            for kind, steps in pieces.items()
            if any(size for _, size in steps)
        ]
        pieces_of_memory = [Memory.model_validate(piece) for piece in memory]
        return Place(path=self.path, max_bytes=self.max_bytes, memory=tuple(pieces_of_memory))


def with_recordings(scenario: Scenario, recordings: Sequence[Recording]) -> Scenario:
    """Return the scenario with one more group for each recording.

    ValueError if they overlap.
    """
    if not recordings:
        return scenario
    _check_paths(
        [recording.path for recording in recordings],
        [place.path for place in scenario.groups if place.memory],
    )
    if there := {place.path for place in scenario.groups} & {
        recording.path for recording in recordings
    }:
        raise ValueError(f"the scenario has a group {min(there)!a} of its own")
    peak = max(
        usage or 0 for recording in recordings for usage in recording.history.series.usage_bytes
    )
    if peak > scenario.memory_bytes:
        raise ValueError(
            f"{peak} bytes were used, and the machine of the scenario has {scenario.memory_bytes}"
        )
    begins = min(recording.history.times[0].timestamp() for recording in recordings)
    ends = max(recording.history.ends_at for recording in recordings)
    places = tuple(recording.place(begins, ends) for recording in recordings)
    return scenario.model_copy(update={"groups": (*scenario.groups, *places)})


def _check_paths(recorded: Sequence[str], others: Iterable[str]) -> None:
    """Raise ValueError for nested recordings, whose memory would be counted twice."""
    if len(set(recorded)) < len(recorded):
        raise ValueError("two recordings are of one path")
    for path in recorded:
        for other in (*recorded, *others):
            if is_below(path, other) or is_below(other, path):
                raise ValueError(
                    f"the recording {path!a} and the group {other!a} are one inside the other"
                )


def _shares(usage: int | None, anon: int | None, file: int | None) -> tuple[float, float] | None:
    """Return the shares of anonymous and file memory; None if they are unknown.

    The counters lag: their sum may exceed usage.
    """
    if not usage or anon is None or file is None:
        return None
    whole = max(usage, anon + file)
    return anon / whole, file / whole


def _split(size: int, anon: float, file: float) -> tuple[int, int, int]:
    """Split a size by these shares into whole pages, and the rest."""
    pages = size // PAGE_BYTES
    of_anon = min(round(pages * anon), pages)
    of_file = min(round(pages * file), pages - of_anon)
    return of_anon * PAGE_BYTES, of_file * PAGE_BYTES, (pages - of_anon - of_file) * PAGE_BYTES
