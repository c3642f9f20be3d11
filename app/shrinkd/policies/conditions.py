"""How a policy fares, beside what it decides: what is so about it for longer than one look."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from shrinkd.policies.arbiter import PolicyBinding
from shrinkd.policies.records import Record
from shrinkd.storage import now


@dataclass(frozen=True, slots=True)
class Condition:
    """Something about a policy that is so since `since_at` (microseconds since the epoch)."""

    type: Literal["tripped", "failing", "out_of_hours"]
    since_at: int | None
    """None where nobody has noted it."""
    detail: str


@dataclass(frozen=True, slots=True)
class Status:
    """What the daemon makes of a policy."""

    observed_generation: int
    """The generation that it carries out; 0 while it has not looked."""
    matched_groups: int
    last_decision: Record | None = None
    conditions: tuple[Condition, ...] = field(default=())


def conditions_of(
    bindings: Sequence[PolicyBinding], moment: float, wall: datetime
) -> tuple[Condition, ...]:
    """The conditions of one policy, by all of its posts; `moment` is of the policies' clock."""
    conditions = []
    if tripped := [binding for binding in bindings if binding.breaker.is_open(moment)]:
        since = _since(min(binding.breaker.opened_at for binding in tripped), moment)
        conditions.append(
            Condition(
                "tripped", since, f"It rests after three errors in a row, at {_places(tripped)}."
            )
        )
    if failing := [binding for binding in bindings if binding.setback.times]:
        since = _since(min(binding.setback.began_at for binding in failing), moment)
        latest = max(failing, key=lambda binding: binding.setback.until)
        detail = (
            f"It was cut short, and tries again within a minute, at {_places(failing)}: "
            f"{latest.setback.detail}"
        )
        conditions.append(Condition("failing", since, detail))
    if bindings and (hours := bindings[0].policy.active) and not hours.covers(wall):
        conditions.append(
            Condition("out_of_hours", None, "It looks, and does nothing outside its windows.")
        )
    return tuple(conditions)


def _places(bindings: Sequence[PolicyBinding]) -> str:
    return ", ".join(group.path for binding in bindings[:10] for group in binding.groups[:1])


def _since(began_at: float, moment: float) -> int | None:
    """Microseconds since the epoch of a moment of the policies' clock.

    None where it was over in this instant.
    """
    return None if began_at == math.inf else now() - int((moment - began_at) * 1e6)
