"""Change a group safely: the use cases that routes and policies call."""

from shrinkd.groups.limit_journal import Intents
from shrinkd.groups.names import aliases_of, covers, matches
from shrinkd.groups.usage_history import FIELDS, SLOT_SECONDS, SLOTS, History, Sampler

__all__ = [
    "FIELDS",
    "SLOTS",
    "SLOT_SECONDS",
    "History",
    "Intents",
    "Sampler",
    "aliases_of",
    "covers",
    "matches",
]
