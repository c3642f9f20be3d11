"""Decide whether concurrent operations on one register have a serial order that explains them.

Every write has a unique value, so each read shows which write it saw. A value with its readers is a
block. One block precedes another if an operation of the first ended before one of the other began.
There is an order if this relation has no cycle (Gibbons and Korach, "Testing Shared Memories",
1997). A conditional write saw its predecessor at the moment of its own write, so nothing fits
between the two, and their blocks are one.
"""

import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise


class Unexplained(AssertionError):
    """No serial order explains the results."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation on the register, between two moments.

    A write has `wrote`; a conditional write has also the value that it `saw`; a read has only that.
    """

    began: float
    ended: float
    wrote: int | None = None
    saw: int | None = None


def serial_order(first: int, history: Iterable[Operation]) -> list[int]:
    """Return the values of the register in an order that explains the history; else Unexplained."""
    seen: dict[int, list[Operation]] = defaultdict(list)
    writes = {first: Operation(-math.inf, -math.inf, first)}
    followed: dict[int, int] = {}
    for done in history:
        if done.saw is not None:
            seen[done.saw].append(done)
        if done.wrote is not None and writes.setdefault(done.wrote, done) is not done:
            raise Unexplained(f"{done.wrote} was written twice")
        if (
            done.wrote is not None
            and done.saw is not None
            and followed.setdefault(done.saw, done.wrote) != done.wrote
        ):
            raise Unexplained(f"two followed {done.saw}: one of them was lost")
    for value, readers in seen.items():
        if value not in writes or any(reader.ended < writes[value].began for reader in readers):
            raise Unexplained(f"{value} was seen before it was written")
    chains = _chains(writes, followed)
    blocks = [
        [done for value in chain for done in (writes[value], *seen[value])] for chain in chains
    ]
    for chain in chains:
        _check_forward([[writes[value], *seen[value]] for value in chain])
    return [value for number in _sorted(blocks) for value in chains[number]]


def _chains(writes: dict[int, Operation], followed: dict[int, int]) -> list[list[int]]:
    """Group the values: in a chain, each was written right after the one before."""
    chains = []
    for value in writes.keys() - followed.values():
        chain = [value]
        while chain[-1] in followed:
            chain.append(followed[chain[-1]])
        chains.append(chain)
    if sum(map(len, chains)) < len(writes):
        raise Unexplained("each of some followed another one of them")
    return chains


def _check_forward(chain: list[list[Operation]]) -> None:
    for number, done in enumerate(chain):
        if any(_is_before(later, done) for later in chain[number + 1 :]):
            raise Unexplained("what followed was over before what it followed")


def _sorted(blocks: list[list[Operation]]) -> list[int]:
    before = {
        n: {m for m, other in enumerate(blocks) if m != n and _is_before(other, block)}
        for n, block in enumerate(blocks)
    }
    try:
        return list(TopologicalSorter(before).static_order())
    except CycleError as circle:
        names = [
            next(done.wrote for done in blocks[number] if done.wrote is not None)
            for number in circle.args[1]
        ]
        raise Unexplained(
            "each before the next: " + ", ".join(f"{one} and {two}" for one, two in pairwise(names))
        ) from None


def _is_before(block: list[Operation], other: list[Operation]) -> bool:
    return min(done.ended for done in block) < max(done.began for done in other)
