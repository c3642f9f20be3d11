"""The event bus: messages reach those who have subscribed, until their subscription ends."""

from shrinkd.backends import Group
from shrinkd.events.bus import EventBus
from shrinkd.events.log import EventType
from tests.support.event_recorder import EventRecorder

WEB = Group("web", 1)


def test_an_event_reaches_every_subscriber() -> None:
    bus, first, second = EventBus(), EventRecorder(), EventRecorder()
    bus.publish(EventType.GROUP_MADE, WEB)
    bus.subscribe_events(first)
    bus.subscribe_events(second)
    bus.publish(EventType.GROUP_REMOVED, WEB)
    assert first.all == second.all == [("group.removed", "web", {})]


def test_a_notice_reaches_its_own_subscribers_until_they_unsubscribe() -> None:
    bus = EventBus()
    limits: list[Group] = []
    policies: list[str] = []
    unsubscribe = bus.limits.subscribe(limits.append)
    bus.policies.subscribe(lambda: policies.append("changed"))
    bus.limits.publish(WEB)
    unsubscribe()
    unsubscribe()
    bus.limits.publish(Group("db", 2))
    bus.policies.publish()
    assert (limits, policies) == ([WEB], ["changed"])


def test_two_subscriptions_of_one_function_end_one_by_one() -> None:
    bus, calls = EventBus(), [0]

    def count() -> None:
        calls[0] += 1

    first = bus.policies.subscribe(count)
    bus.policies.subscribe(count)
    first()
    bus.policies.publish()
    assert calls == [1]
