"""SQL and nothing else: the database, its tables and one repository a table."""

from shrinkd.storage.idempotency import Answer, IdempotencyKeys, Key
from shrinkd.storage.store import (
    ACTIVE_STATES,
    GroupFilter,
    Row,
    Store,
    describe,
    is_of,
    new_id,
    no_shrink,
    now,
)

__all__ = [
    "ACTIVE_STATES",
    "Answer",
    "GroupFilter",
    "IdempotencyKeys",
    "Key",
    "Row",
    "Store",
    "describe",
    "is_of",
    "new_id",
    "no_shrink",
    "now",
]
