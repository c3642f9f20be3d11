"""The status of a policy: its matched groups, last decision, and conditions that last."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from shrinkd.policies.bindings import PolicyBinding
from shrinkd.policies.records import Record
from shrinkd.storage import now


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition of a policy since `since_at` (microseconds since the epoch)."""

    type: Literal["tripped", "failing", "out_of_hours"]
    since_at: int | None
    """None where the time is not known."""
    detail: str


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a policy in this daemon."""

    observed_generation: int
    """The generation that is carried out; 0 while none is."""
    matched_groups: int
    last_decision: Record | None = None
    conditions: tuple[Condition, ...] = field(default=())


def conditions_of(
    bindings: Sequence[PolicyBinding], moment: float, wall: datetime
) -> tuple[Condition, ...]:
    """Return the conditions of a policy from its bindings; `moment` is of the policies' clock."""
    conditions = []
    if tripped := [binding for binding in bindings if binding.breaker.is_open(moment)]:
        since = _since(min(binding.breaker.opened_at for binding in tripped), moment)
        conditions.append(
            Condition(
                "tripped",
                since,
                f"It is paused after three errors in a row, at {_places(tripped)}.",
            )
        )
    if failing := [binding for binding in bindings if binding.setback.times]:
        since = _since(min(binding.setback.began_at for binding in failing), moment)
        latest = max(failing, key=lambda binding: binding.setback.until)
        detail = (
            f"It failed, and tries again within a minute, at {_places(failing)}: "
            f"{latest.setback.detail}"
        )
        conditions.append(Condition("failing", since, detail))
    if bindings and (hours := bindings[0].policy.active) and not hours.covers(wall):
        conditions.append(
            Condition(
                "out_of_hours",
                None,
                "It is outside its active windows, so it decides and does nothing.",
            )
        )
    return tuple(conditions)


def _places(bindings: Sequence[PolicyBinding]) -> str:
    return ", ".join(group.path for binding in bindings[:10] for group in binding.groups[:1])


def _since(began_at: float, moment: float) -> int | None:
    """Convert a time of the policies' clock to microseconds since the epoch.

    None where the condition ended while it was read.
    """
    return None if began_at == math.inf else now() - int((moment - began_at) * 1e6)
