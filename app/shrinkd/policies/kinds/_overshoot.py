"""What the kernel takes beyond an ask, learned from outcomes.

An amount is no bound, and near a floor that matters.
"""

from shrinkd.policies.kind import Outcome

_KEPT = 0.98
_WILD_BYTES = 64 << 20
"""What usage fell by beyond this the group gave up itself: learned, it would keep a policy away for
good."""


def learned(known_bytes: int, outcome: Outcome | None) -> int:
    """The bytes to keep clear above a floor, after another outcome.

    What was seen once is forgotten slowly.
    """
    if outcome is None:
        return known_bytes
    beyond = min(max(outcome.freed_bytes - outcome.asked_bytes, 0), _WILD_BYTES)
    return max(beyond, int(known_bytes * _KEPT))
