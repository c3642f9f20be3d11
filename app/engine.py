"""One look at the policies that are due: readings, decisions, guards, and at most one grant in a chain of groups."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from app.backends import Group
from app.policies import Reason, Verdict


@dataclass(frozen=True, slots=True)
class Record:
    """A decision as it is remembered and shown. `at` in microseconds since the epoch; sizes in bytes."""

    at: int
    policy: str
    generation: int
    group: Group
    mode: Literal["enforce", "observe"]
    verdict: Verdict
    reason: Reason
    signals: Mapping[str, float | int | str | None]
    look_seconds: float
    """When it looks again, at the latest."""
    asked_bytes: int | None = None
    """What the kind wanted to reclaim; None where it wanted nothing of the sort."""
    granted_bytes: int | None = None
    freed_bytes: int | None = None
    """By how much usage fell; None until the shrink has ended."""
    shrink_id: str | None = None
    errno: str | None = None
    """What the kernel or a guard of the daemon answered, as a symbol."""
    times: int = 1
    """How many equal decisions, one after another, are folded into this one; `at` is that of the last."""


@dataclass(frozen=True, slots=True)
class Condition:
    """Something about a policy that is so since `since_at` (microseconds since the epoch)."""

    type: Literal["matching", "tripped", "out_of_hours", "failing"]
    since_at: int
    detail: str


@dataclass(frozen=True, slots=True)
class Status:
    """What the daemon makes of a policy."""

    observed_generation: int
    """The generation that it carries out; 0 while it has not looked."""
    matched_groups: int
    last_decision: Record | None = None
    conditions: tuple[Condition, ...] = field(default=())
