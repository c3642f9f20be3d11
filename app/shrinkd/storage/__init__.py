"""Read and write the database: one repository a table, which answers typed rows."""

from shrinkd.storage.audit import AuditOutcome, AuditRepository, AuditRow
from shrinkd.storage.clock import new_id, now
from shrinkd.storage.decisions import DecisionRepository, DecisionRow
from shrinkd.storage.events import EventRepository, EventRow
from shrinkd.storage.group_filter import GroupFilter, group_matches
from shrinkd.storage.idempotency import IdempotencyKeys
from shrinkd.storage.idempotency_keys import Answer, Key
from shrinkd.storage.limit_intents import LimitIntentRepository, LimitIntentRow
from shrinkd.storage.made_groups import MadeGroupRepository
from shrinkd.storage.policies import PolicyRepository, PolicyRow
from shrinkd.storage.policy_states import PolicyStateRepository
from shrinkd.storage.retention import ExpiryTask, Retention
from shrinkd.storage.shrinks import (
    ACTIVE_STATES,
    ShrinkRepository,
    ShrinkRow,
    serialize_error,
    shrink_not_found,
)
from shrinkd.storage.store import Store
from shrinkd.storage.write_behind import WriteBehind

__all__ = [
    "ACTIVE_STATES",
    "Answer",
    "AuditOutcome",
    "AuditRepository",
    "AuditRow",
    "DecisionRepository",
    "DecisionRow",
    "EventRepository",
    "EventRow",
    "ExpiryTask",
    "GroupFilter",
    "IdempotencyKeys",
    "Key",
    "LimitIntentRepository",
    "LimitIntentRow",
    "MadeGroupRepository",
    "PolicyRepository",
    "PolicyRow",
    "PolicyStateRepository",
    "Retention",
    "ShrinkRepository",
    "ShrinkRow",
    "Store",
    "WriteBehind",
    "group_matches",
    "new_id",
    "now",
    "serialize_error",
    "shrink_not_found",
]
