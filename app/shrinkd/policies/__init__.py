"""Decide how much memory each group should have, and bring it there; controller.py drives all."""

from shrinkd.policies.catalog import PolicyCatalog, StoredPolicy
from shrinkd.policies.conditions import Condition, Status
from shrinkd.policies.controller import Clock, PolicyController, Scope
from shrinkd.policies.decision_log import decision_row
from shrinkd.policies.evaluator import Evaluator
from shrinkd.policies.guards import GROUP_BYTES_PER_SECOND, Guards
from shrinkd.policies.kind import (
    MIN_ASK_BYTES,
    NAME,
    Ask,
    Decision,
    Example,
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
    AnyPolicy,
    Draft,
    Floor,
    Policy,
    PolicyDraft,
    Selector,
    parse,
)
from shrinkd.policies.records import Action, Record

__all__ = [
    "GROUP_BYTES_PER_SECOND",
    "MIN_ASK_BYTES",
    "NAME",
    "Action",
    "Active",
    "AnyPolicy",
    "Ask",
    "Clock",
    "Condition",
    "Decision",
    "Draft",
    "Evaluator",
    "Example",
    "Floor",
    "Guards",
    "Host",
    "Kind",
    "Member",
    "Observation",
    "Outcome",
    "Policy",
    "PolicyCatalog",
    "PolicyController",
    "PolicyDraft",
    "Reason",
    "Reclaim",
    "Record",
    "Resize",
    "Scope",
    "Selector",
    "Status",
    "StoredPolicy",
    "Swap",
    "Switch",
    "Verdict",
    "decision_row",
    "kinds",
    "parse",
]
