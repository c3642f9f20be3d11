"""Change a group safely: the use cases that routes, shrinks and policies call."""

from shrinkd.groups.lifecycle import GroupLifecycle, check_in_subtrees
from shrinkd.groups.limit_journal import LimitJournal
from shrinkd.groups.limits import CALLER, Actor, Changes, GroupLimits, Precondition
from shrinkd.groups.locks import GroupLocks, Occupant
from shrinkd.groups.names import aliases_of, covers, matches
from shrinkd.groups.usage_history import FIELDS, SLOT_SECONDS, SLOTS, UsageHistory, UsageSampler

__all__ = [
    "CALLER",
    "FIELDS",
    "SLOTS",
    "SLOT_SECONDS",
    "Actor",
    "Changes",
    "GroupLifecycle",
    "GroupLimits",
    "GroupLocks",
    "LimitJournal",
    "Occupant",
    "Precondition",
    "UsageHistory",
    "UsageSampler",
    "aliases_of",
    "check_in_subtrees",
    "covers",
    "matches",
]
