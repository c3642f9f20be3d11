"""SQL and nothing else: the database, its tables and one repository a table."""

from shrinkd.storage.idempotency import Answer, Key, Keys
from shrinkd.storage.store import (
    ACTIVE_STATES,
    Row,
    Store,
    Whose,
    describe,
    is_of,
    new_id,
    no_shrink,
    now,
)

__all__ = [
    "ACTIVE_STATES",
    "Answer",
    "Key",
    "Keys",
    "Row",
    "Store",
    "Whose",
    "describe",
    "is_of",
    "new_id",
    "no_shrink",
    "now",
]
