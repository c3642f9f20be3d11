"""Feeds and the count of streams.

One who tells for all who listen, and nobody's slowness is another's.
"""

import asyncio

import pytest

from shrinkd.errors import NotReady, TooManyStreams
from shrinkd.events.broadcast import Feed, StreamHub


async def hear(
    streams: StreamHub, key: str, tell: "Teller", most: int = 1000
) -> list[tuple[int, int]]:
    heard: list[tuple[int, int]] = []
    async with streams.subscribed(key, tell) as feed:
        async for told in feed.subscribe():
            heard.append(told)
            if len(heard) == most:
                break
    return heard


class Teller:
    """Tells numbers, each when it is let to; counts how often it began, and was ended."""

    def __init__(self) -> None:
        self.begun = self.ended = 0
        self.turns: asyncio.Queue[int | None] = asyncio.Queue()

    async def __call__(self, feed: Feed[int]) -> None:
        self.begun += 1
        try:
            while (told := await self.turns.get()) is not None:
                feed.publish(told)
        finally:
            self.ended += 1


async def all_have_run() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_many_listeners_share_one_teller_and_hear_the_same() -> None:
    async def scene() -> None:
        streams, teller = StreamHub(), Teller()
        listeners = [asyncio.create_task(hear(streams, "web", teller)) for _ in range(200)]
        for number in (1, 2, 3, None):
            teller.turns.put_nowait(number)
            await all_have_run()
        assert await asyncio.gather(*listeners) == [[(1, 0), (2, 0), (3, 0)]] * 200
        assert (teller.begun, teller.ended) == (1, 1)

    asyncio.run(scene())


def test_who_is_slow_hears_the_newest_and_how_many_it_missed() -> None:
    async def scene() -> None:
        feed: Feed[int] = Feed()
        listener = feed.subscribe()
        feed.publish(1)
        assert await anext(listener) == (1, 0)
        for number in range(2, 10_000):
            feed.publish(number)
        assert await anext(listener) == (9_999, 9_997)
        feed.end()
        assert [told async for told in listener] == []

    asyncio.run(scene())


def test_who_comes_later_hears_the_newest_and_has_missed_nothing() -> None:
    async def scene() -> None:
        feed: Feed[int] = Feed()
        feed.publish(1)
        feed.publish(2)
        feed.end()
        assert [told async for told in feed.subscribe()] == [(2, 0)]

    asyncio.run(scene())


def test_an_error_of_the_teller_is_one_of_each_listener_behind_the_last_that_was_told() -> None:
    async def tell(feed: Feed[int]) -> None:
        feed.publish(1)
        raise NotReady("later")

    async def scene() -> None:
        streams = StreamHub()
        async with streams.subscribed("web", tell) as feed:
            listener = feed.subscribe()
            assert await anext(listener) == (1, 0)
            with pytest.raises(NotReady):
                await anext(listener)

    asyncio.run(scene())


def test_the_teller_ends_with_its_last_listener_and_begins_anew_with_the_next() -> None:
    async def scene() -> None:
        streams, teller = StreamHub(), Teller()
        for number in (1, 2):
            teller.turns.put_nowait(number)
            assert await hear(streams, "web", teller, most=1) == [(number, 0)]
            await all_have_run()
            assert (teller.begun, teller.ended) == (number, number)

    asyncio.run(scene())


def test_streams_are_bounded_for_each_caller_and_for_all_and_a_closed_one_makes_room() -> None:
    streams = StreamHub(most=3, most_of_a_caller=2)
    with streams.admitted("a"):
        with (
            streams.admitted("a"),
            pytest.raises(TooManyStreams, match="2 streams are open, 2 of them yours"),
            streams.admitted("a"),
        ):
            pass
        with (
            streams.admitted("b"),
            streams.admitted("c"),
            pytest.raises(TooManyStreams) as refused,
            streams.admitted("d"),
        ):
            pass
        assert refused.value.members == {"open": 3, "yours": 0, "most": 3, "most_of_a_caller": 2}
    with streams.admitted("a"), streams.admitted("a"), streams.admitted("b"):
        pass
