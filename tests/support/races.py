"""Races: several who begin at the same moment, and what each came to."""

import threading
from collections.abc import Callable
from typing import Any

from shrinkd.errors import ShrinkdError


def together(*racers: Callable[[], Any]) -> list[Any]:
    """Let them all begin at once. What each answered, or the error of ours that it raised."""
    gate = threading.Barrier(len(racers))
    results: list[Any] = [None] * len(racers)

    def run(number: int) -> None:
        gate.wait()
        try:
            results[number] = racers[number]()
        except ShrinkdError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(racers))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
