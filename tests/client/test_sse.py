"""The parser of server-sent events, and what it does otherwise than httpx-sse."""

import httpx
import httpx_sse
import pytest

from shrinkd.client import NotUnderstood
from shrinkd.client._sse import EventParser, ServerEvent

FIRST = ServerEvent("message", "a", "1")


@pytest.mark.parametrize(
    ("stream", "events", "retry_seconds"),
    [
        pytest.param("id: 1\ndata: a\n\n: keep-alive\n\n", [FIRST], None, id="a comment"),
        pytest.param("\ufeffid: 1\ndata: a\n\n", [FIRST], None, id="a byte order mark"),
        pytest.param("id: 1\ndata: a\nretry: -5\n\n", [FIRST], None, id="a negative retry"),
        pytest.param("id: 1\ndata: a\nretry: 1_0\n\n", [FIRST], None, id="a retry not of digits"),
    ],
)
def test_httpx_sse_reads_this_stream_otherwise_than_the_standard(
    stream: str, events: list[ServerEvent], retry_seconds: float | None
) -> None:
    parser = EventParser()
    assert list(parser.parse(stream.encode())) == events
    assert parser.retry_seconds == retry_seconds
    theirs = list(httpx_sse.EventSource(answer(stream)).iter_sse())
    retries = [each.retry for each in theirs if each.retry is not None]
    assert ([(each.event, each.data, each.id) for each in theirs], retries) != (
        [(each.type, each.text, each.id) for each in events],
        [],
    )


def answer(stream: str) -> httpx.Response:
    return httpx.Response(
        200, content=stream.encode(), headers={"Content-Type": "text/event-stream"}
    )


@pytest.mark.parametrize(
    "stream",
    [
        "id: 1\ndata: a\n\n",
        "id: 1\r\ndata: a\r\n\r\n",
        "id: 1\rdata: a\r\rid: 2\r",
        "id: 1\nid: 2\0\ndata: a\n\ndata: cut",
        "id: 1\ndata:a\nretry: 1000\nother: b\n\n",
    ],
    ids=repr,
)
@pytest.mark.parametrize("step", [1, 2, 1000])
def test_elsewhere_both_read_the_same_events(stream: str, step: int) -> None:
    parser, content = EventParser(), stream.encode()
    parts = (content[at : at + step] for at in range(0, len(content), step))
    ours = [event for part in parts for event in parser.parse(part)]
    theirs = httpx_sse.EventSource(answer(stream)).iter_sse()
    assert [(each.text, each.id) for each in ours] == [(each.data, each.id) for each in theirs]
    assert ours == [FIRST]


@pytest.mark.parametrize("filling", ["data: ", "data: a\n"], ids=["one line", "many lines"])
def test_an_event_without_an_end_is_given_up(filling: str) -> None:
    parser, part = EventParser(), filling.encode() + b"data: " + b"a" * (1 << 20)
    with pytest.raises(NotUnderstood, match="more than 16777216 bytes"):
        read_endlessly(parser, part)


def read_endlessly(parser: EventParser, part: bytes) -> None:
    for _ in range(64):
        assert list(parser.parse(part)) == []


def test_large_events_are_read() -> None:
    parser = EventParser()
    parts = [b"data: " + b"a" * (1 << 20) + b"\n\n"] * 20
    assert sum(len(event.text) for part in parts for event in parser.parse(part)) == 20 << 20
