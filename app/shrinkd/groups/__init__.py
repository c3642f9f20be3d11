"""Change a group safely: the use cases that routes and policies call."""

from shrinkd.groups.limit_journal import LimitJournal
from shrinkd.groups.names import aliases_of, covers, matches
from shrinkd.groups.usage_history import FIELDS, SLOT_SECONDS, SLOTS, UsageHistory, UsageSampler

__all__ = [
    "FIELDS",
    "SLOTS",
    "SLOT_SECONDS",
    "UsageHistory",
    "LimitJournal",
    "UsageSampler",
    "aliases_of",
    "covers",
    "matches",
]
