"""The one event bus of a daemon: parts publish on it and subscribe to it, and know no other part.

It carries the events of the API (`publish`) and three notices between parts. Subscribers are called
on the thread that publishes, one after the other, so they must return at once and must not raise;
what one raises reaches the publisher.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Generic, ParamSpec, Protocol

from shrinkd.backends import Group, MemStat
from shrinkd.events.log import EventType

Args = ParamSpec("Args")
Unsubscribe = Callable[[], None]
"""Ends a subscription. A call that has begun on another thread may still be under way."""


class Publish(Protocol):
    """Publish an event. Thread-safe; waits for no database."""

    def __call__(self, what: EventType, group: Group | None = None, /, **data: object) -> None: ...


def discard(what: EventType, group: Group | None = None, /, **data: object) -> None:
    """Publish to no subscriber: for parts that run without a bus."""


class Topic(Generic[Args]):
    """One kind of message and its subscribers. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subscribers: dict[object, Callable[Args, None]] = {}
        """Replaced as a whole, so publish() reads it without the lock."""

    def subscribe(self, subscriber: Callable[Args, None]) -> Unsubscribe:
        """Call `subscriber` with every later message, until the returned function is called."""
        key = object()
        with self._lock:
            self._subscribers = {**self._subscribers, key: subscriber}

        def unsubscribe() -> None:
            with self._lock:
                self._subscribers = {
                    other: each for other, each in self._subscribers.items() if other is not key
                }

        return unsubscribe

    def publish(self, *args: Args.args, **kwargs: Args.kwargs) -> None:
        """Call every subscriber, in the order in which they subscribed."""
        for subscriber in self._subscribers.values():
            subscriber(*args, **kwargs)


class EventBus:
    """Connects the parts of one daemon. The composition root makes it before all other parts."""

    def __init__(self) -> None:
        self._events: list[Publish] = []
        self.limits: Topic[[Group]] = Topic()
        """The limits of this group may have changed, and its lock is released."""
        self.policies: Topic[[]] = Topic()
        """A policy was made, changed, switched or deleted."""
        self.readings: Topic[[Mapping[int, MemStat]]] = Topic()
        """The statistics that the policies have just read, by group id."""

    def subscribe_events(self, subscriber: Publish) -> None:
        """Call `subscriber` with every later event."""
        self._events.append(subscriber)

    def publish(self, what: EventType, group: Group | None = None, /, **data: object) -> None:
        """Publish an event to all its subscribers. A group of None is the whole node."""
        for subscriber in self._events:
            subscriber(what, group, **data)
