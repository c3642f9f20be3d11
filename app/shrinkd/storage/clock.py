"""Times and ids of rows."""

import secrets
import time


def now() -> int:
    """Answer the wall clock in microseconds since the epoch (UTC)."""
    return time.time_ns() // 1000


def new_id() -> str:
    """Make an id for a row: 32 hexadecimal digits that sort by the time, to the millisecond."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
