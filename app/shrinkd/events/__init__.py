"""Publish and record what happens: the event log, live streams and the audit."""

from shrinkd.events.audit import Audit, outcome
from shrinkd.events.broadcast import Feed, StreamHub
from shrinkd.events.bus import EventBus, Publish, Unsubscribe, discard
from shrinkd.events.log import RECENT, Event, Events, EventType, Selection

__all__ = [
    "RECENT",
    "Audit",
    "Event",
    "EventBus",
    "EventType",
    "Events",
    "Feed",
    "Publish",
    "Selection",
    "StreamHub",
    "Unsubscribe",
    "discard",
    "outcome",
]
