"""Rows of a benchmark: the figure, its goal, and whether that is met."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one run.

    `goal` is a bound in the figure's own unit; None is a figure that only informs.
    """

    name: str
    value: float
    unit: str
    sense: Literal["<=", ">=", ""] = ""
    goal: float | None = None

    @property
    def met(self) -> bool | None:
        if self.goal is None:
            return None
        return self.value <= self.goal if self.sense == "<=" else self.value >= self.goal

    def __str__(self) -> str:
        goal = "" if self.goal is None else f"{self.sense} {self.goal:g}"
        verdict = {None: "", True: "met", False: "MISSED"}[self.met]
        return f"| {self.name} | {self.value:.3g} {self.unit} | {goal} | {verdict} |"


@dataclass(frozen=True, slots=True)
class Extent:
    """Number of rounds and sizes to measure."""

    rounds: int = 15
    share: float = 1.0
    """Of the groups, the connections and the seconds of a whole benchmark; below 1 the figures say
    nothing, but that it runs."""

    @property
    def is_whole(self) -> bool:
        return self.share >= 1

    def count(self, whole: int) -> int:
        """Scale a number of the whole benchmark, to at least one."""
        return max(round(whole * self.share), 1)

    def seconds(self, whole: float, least: float = 0.0) -> float:
        return max(whole * self.share, least)


SMALLEST = Extent(rounds=1, share=0.01)
Tables = dict[str, list[Row]]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """A function that fills tables in a folder, and a reason why it cannot run here, or None."""

    measure: Callable[[Path, Extent], Tables]
    absent: Callable[[], str | None] = lambda: None


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def show(title: str, rows: Sequence[Row]) -> None:
    """Print a table at once."""
    head = f"\n## {title}\n\n| what | measured | goal | |\n|---|---|---|---|"
    print(head, *rows, sep="\n", flush=True)
