"""Wait for a condition."""

import time
from collections.abc import Callable
from typing import Any

_POLLS = 60_000  # ten minutes, so that a busy machine fails no test
_POLL_SECONDS = 0.01


def until(condition: Callable[[], Any]) -> Any:
    """Call `condition` every 10 ms until it returns something true, and return that.

    AssertionError after ten minutes, so that a busy machine fails no test.
    """
    for _ in range(_POLLS):
        if found := condition():
            return found
        time.sleep(_POLL_SECONDS)
    raise AssertionError("the condition has not come true")
