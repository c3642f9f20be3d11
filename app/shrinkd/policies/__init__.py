"""Decide what the memory of groups should be, and act on it."""

from shrinkd.policies.catalog import Kept, Policies
from shrinkd.policies.conditions import Condition, Status
from shrinkd.policies.controller import Clock, Daemon, Scope
from shrinkd.policies.evaluator import Engine
from shrinkd.policies.guards import GROUP_BYTES_PER_SECOND, Guards
from shrinkd.policies.kind import (
    MIN_ASK_BYTES,
    NAME,
    Ask,
    Decision,
    Host,
    Kind,
    Member,
    Observation,
    Outcome,
    Reason,
    Reclaim,
    Resize,
    Swap,
    Switch,
    Verdict,
    kinds,
)
from shrinkd.policies.policy import (
    Active,
    Draft,
    Envelope,
    Floor,
    Policy,
    PolicyDraft,
    Selector,
    parse,
)
from shrinkd.policies.records import Grant, Record

__all__ = [
    "GROUP_BYTES_PER_SECOND",
    "MIN_ASK_BYTES",
    "NAME",
    "Active",
    "Ask",
    "Clock",
    "Condition",
    "Daemon",
    "Decision",
    "Draft",
    "Engine",
    "Envelope",
    "Floor",
    "Grant",
    "Guards",
    "Host",
    "Kept",
    "Kind",
    "Member",
    "Observation",
    "Outcome",
    "Policies",
    "Policy",
    "PolicyDraft",
    "Reason",
    "Reclaim",
    "Record",
    "Resize",
    "Scope",
    "Selector",
    "Status",
    "Swap",
    "Switch",
    "Verdict",
    "kinds",
    "parse",
]
