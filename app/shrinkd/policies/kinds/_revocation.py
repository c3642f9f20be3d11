"""Min-funding revocation: split an amount among groups so that all end at one level."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from shrinkd.policies.kind import MIN_ASK_BYTES
from shrinkd.sizes import page_floor


class Claim(NamedTuple):
    """Usage and floor of a group, and its entitlement (of any unit, above 0)."""

    usage_bytes: int
    floor_bytes: int
    entitlement: float

    @property
    def room_bytes(self) -> int:
        return max(self.usage_bytes - self.floor_bytes, 0)


def revoke(claims: Sequence[Claim], need_bytes: int) -> list[int]:
    """Return the bytes to take from each claim: max(0, usage - max(floor, entitlement · level)).

    The level is the one at which their sum is the need. Where the floors leave less than that, each
    gives down to its floor. Fractions of a byte are rounded down.
    """
    if need_bytes <= 0:
        return [0] * len(claims)
    if need_bytes >= sum(claim.room_bytes for claim in claims):
        return [claim.room_bytes for claim in claims]
    payers = [claim for claim in claims if claim.room_bytes]
    # as the level sinks, a claim begins to give at its usage and ends at its floor
    turns = [(claim.usage_bytes / claim.entitlement, claim.entitlement) for claim in payers]
    turns += [(claim.floor_bytes / claim.entitlement, -claim.entitlement) for claim in payers]
    level, rate, paid = math.inf, 0.0, 0.0
    for turn, change in sorted(turns, reverse=True):
        more = rate * (level - turn) if rate > 0 else 0.0
        if paid + more >= need_bytes:
            break
        level, rate, paid = turn, rate + change, paid + more
    if rate > 0:
        level -= (need_bytes - paid) / rate
    return [
        max(claim.usage_bytes - max(claim.floor_bytes, math.ceil(claim.entitlement * level)), 0)
        for claim in claims
    ]


def worth_asking(claims: Sequence[Claim], grants: Sequence[int]) -> list[int]:
    """Return amounts that are large enough to ask for, with about the same sum.

    Amounts that are too small are added up, and asked of the claims with the largest of them.
    """
    gathered = sum(grant for grant in grants if grant < MIN_ASK_BYTES)
    asks = [page_floor(grant) if grant >= MIN_ASK_BYTES else 0 for grant in grants]
    for index in sorted(range(len(grants)), key=lambda index: grants[index], reverse=True):
        if not asks[index] and gathered >= MIN_ASK_BYTES <= claims[index].room_bytes:
            asks[index] = MIN_ASK_BYTES
            gathered -= MIN_ASK_BYTES
    return asks
