"""Waiting for what somebody else is about to bring about."""

import time
from collections.abc import Callable
from typing import Any

_POLLS = 6000  # a minute, for the slowest machine; no test is about it
_POLL_SECONDS = 0.01


def until(told: Callable[[], Any]) -> Any:
    """Ask until the answer is anything but nothing, and give that."""
    for _ in range(_POLLS):
        if found := told():
            return found
        time.sleep(_POLL_SECONDS)
    raise AssertionError("it has not come")
