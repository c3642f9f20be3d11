"""Rows of a benchmark: what was measured, against what, and whether that is where we want to be."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of one run. `goal` is a bound in the figure's own unit; None is a figure that only informs."""

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


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def show(title: str, rows: Sequence[Row]) -> None:
    print(f"\n## {title}\n\n| what | measured | goal | |\n|---|---|---|---|")
    for row in rows:
        print(row)
