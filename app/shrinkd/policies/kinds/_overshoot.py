"""Learn from outcomes how much the kernel frees beyond an ask, which matters near a floor."""

from shrinkd.policies.kind import Outcome

_DECAY = 0.98
_MAX_BYTES = 64 << 20
"""The largest overshoot that is learned: a group that frees more gave memory up itself, and the
policy would keep away for good."""


def learned(known_bytes: int, outcome: Outcome | None) -> int:
    """Return the bytes to keep clear above a floor, after another outcome.

    An old overshoot decays slowly.
    """
    if outcome is None:
        return known_bytes
    beyond = min(max(outcome.freed_bytes - outcome.asked_bytes, 0), _MAX_BYTES)
    return max(beyond, int(known_bytes * _DECAY))
