"""Run several functions at the same moment."""

import threading
from collections.abc import Callable
from typing import Any

from shrinkd.errors import ShrinkdError


def together(*racers: Callable[[], Any]) -> list[Any]:
    """Start all functions at once; return the result of each, or the ShrinkdError it raised."""
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
