"""Publish and record what happens: the event log, live streams and the audit."""

from shrinkd.events.audit import Audit, outcome
from shrinkd.events.broadcast import Feed, StreamHub
from shrinkd.events.log import RECENT, Event, Events, EventType, Publish, Selection, nobody

__all__ = [
    "RECENT",
    "Audit",
    "Event",
    "EventType",
    "Events",
    "Feed",
    "Publish",
    "Selection",
    "StreamHub",
    "nobody",
    "outcome",
]
