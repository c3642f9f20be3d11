"""Simulate how processes use memory over time, as declared by plain data.

The memory that a process wants at a time is a pure function of its age and the seed; the machine
decides how much it gets. So the same scenario requests the same memory whatever a policy does.
"""

import bisect
import functools
import math
from random import Random
from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    WithJsonSchema,
    model_validator,
)

from shrinkd.sizes import PAGE_BYTES, format_size
from shrinkd.strict_model import Size, Strict, size_schema


# like assert, which -O would remove
def _require(condition: object, sentence: str) -> None:
    if not condition:
        raise ValueError(sentence)


LARGEST_BYTES = 2**36
"""The maximum of one piece of memory: all of it is charged at the start, while the machine is
locked."""
FASTEST_BYTES = 2**32
"""The maximum growth or writes per second."""
HEATS = {"hot": 1.0, "warm": 30.0, "cold": 600.0, "idle": math.inf}
_WORDS = {seconds: word for word, seconds in HEATS.items()}

Used = Literal["anon", "file", "shmem", "unevictable", "slab_reclaimable", "kernel"]


def _at_most(largest: int) -> AfterValidator:
    def check(size: int) -> int:
        _require(size <= largest, f"that is more than {format_size(largest)}")
        return size

    return AfterValidator(check)


MemorySize = Annotated[
    Size, _at_most(LARGEST_BYTES), WithJsonSchema(size_schema(LARGEST_BYTES), mode="validation")
]
Speed = Annotated[
    Size, _at_most(FASTEST_BYTES), WithJsonSchema(size_schema(FASTEST_BYTES), mode="validation")
]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Step = Annotated[tuple[Seconds, MemorySize], Field(strict=False)]
"""A second, and the size from then on. Strict mode would require a tuple, which JSON lacks."""


def _heat(value: object) -> object:
    if isinstance(value, str) and value not in HEATS:
        raise ValueError(f"a heat is seconds, or one of {', '.join(HEATS)}")
    return HEATS[value] if isinstance(value, str) else value


def _heat_out(seconds: float) -> float | str:
    return _WORDS.get(seconds, seconds)


Heat = Annotated[
    float,
    BeforeValidator(_heat),
    Field(gt=0),
    PlainSerializer(_heat_out),
    WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"enum": list(HEATS)}]}),
]


class Bursts(Strict):
    """Describe extra memory: once in each period, at a moment that the seed decides."""

    every_seconds: float = Field(ge=1, allow_inf_nan=False, examples=[120])
    lasts_seconds: float = Field(gt=0, allow_inf_nan=False, examples=[20])
    size_bytes: MemorySize = Field(examples=[16 << 20])

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.lasts_seconds > self.every_seconds:
            raise ValueError("a burst lasts no longer than from one to the next")
        return self


class Memory(Strict):
    """Describe one piece of the memory of a process."""

    kind: Used = Field(examples=["anon"])
    """`shmem` is anonymous and outlives its process, as does the cache of a `file`; `unevictable`
    is locked."""
    size_bytes: MemorySize = Field(default=0, examples=[48 << 20])
    """The size at the start of the process."""
    heat_seconds: Heat = Field(default=math.inf, examples=["hot", 45])
    """The mean time between two uses of one page, or hot (1), warm (30), cold (600), idle (never
    used again)."""
    folio_pages: Literal[1, 512] = 1
    """Pages of a folio of the page cache: 1, or 512 for files that were read ahead."""
    grows_bytes_per_second: Speed = 0
    """The growth from then on."""
    ceiling_bytes: MemorySize | None = None
    """The size at which growth ends; null is a leak."""
    falls: bool = False
    """At the ceiling it falls back to `size_bytes`, in a sawtooth, instead of staying there."""
    bursts: Bursts | None = None
    """Extra memory for a while."""
    writes_bytes_per_second: Speed = 0
    """The rate at which a file is written, and so made dirty."""
    trace: Annotated[tuple[Step, ...], Field(strict=False)] = Field(
        default=(), examples=[[[0, 128 << 20], [30, 640 << 20], [45, 128 << 20]]]
    )
    """Recorded sizes, each from its second on; they replace `size_bytes`, and repeat from the last
    one."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require(
            bool(self.trace) or "size_bytes" in self.model_fields_set, "give size_bytes, or a trace"
        )
        _require(
            self.folio_pages == 1 or self.kind == "file", "only files have folios of 512 pages"
        )
        _require(
            not self.writes_bytes_per_second or self.kind == "file", "only files are written to"
        )
        _require(
            self.ceiling_bytes is None or self.ceiling_bytes >= self.size_bytes,
            "ceiling_bytes is below size_bytes",
        )
        seconds = [second for second, _ in self.trace]
        _require(
            seconds == sorted(seconds) and seconds[:1] in ([], [0]),
            "a trace begins at 0 and goes forward in time",
        )
        return self

    @functools.cached_property
    def changes(self) -> bool:
        """Whether the wanted size changes over time."""
        return bool(self.grows_bytes_per_second or self.bursts or self.trace)

    def wanted(self, age: float, seed: str) -> int:
        """Return the wanted pages at an age in seconds."""
        return (self._level(age) + self._burst(age, seed)) // PAGE_BYTES

    def _level(self, age: float) -> int:
        if self.trace:
            period = self.trace[-1][0]
            second = age % period if period else age
            return self.trace[max(bisect.bisect_right(self.trace, (second, math.inf)) - 1, 0)][1]
        grown = int(self.grows_bytes_per_second * age)
        if self.ceiling_bytes is None:
            return self.size_bytes + grown
        room = self.ceiling_bytes - self.size_bytes
        return self.size_bytes + (grown % room if self.falls and room else min(grown, room))

    def _burst(self, age: float, seed: str) -> int:
        if self.bursts is None:
            return 0
        bursts = self.bursts
        number, second = divmod(age, bursts.every_seconds)
        begins = _chance(seed, int(number)) * (bursts.every_seconds - bursts.lasts_seconds)
        return bursts.size_bytes if begins <= second < begins + bursts.lasts_seconds else 0


@functools.lru_cache(maxsize=4096)
def _chance(seed: str, number: int) -> float:
    """Return the n-th random number of a seed, independent of earlier calls."""
    return Random(f"{seed}:{number}").random()  # noqa: S311


class Workload(Strict):
    """Describe one process: its memory, its lifetime, and its restart after the end."""

    memory: Annotated[tuple[Memory, ...], Field(strict=False, max_length=64)]
    """At most one piece of each kind and heat; an empty list is no process."""
    exits_after_seconds: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The lifetime; null is unlimited."""
    restarts_after_seconds: Seconds = 10.0
    """The time until it restarts."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        kinds = [(memory.kind, memory.heat_seconds, memory.folio_pages) for memory in self.memory]
        _require(
            len(kinds) == len(set(kinds)),
            "two pieces of memory are of one kind and one heat, which are one piece",
        )
        return self


IDLE = Workload(memory=())
"""The workload without a process."""
