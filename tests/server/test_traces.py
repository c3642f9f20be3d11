"""Check traces by FastAPI's OpenTelemetry, sent to the collector of its variables."""

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.support.live_server import Daemon

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


class Collector(HTTPServer):
    """An HTTP server that records what is posted to it."""

    def __init__(self) -> None:
        self.posted: list[tuple[str, bytes]] = []
        super().__init__(("127.0.0.1", 0), _Keep)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Keep(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.posted.append((self.path, body))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield collector
        collector.shutdown()
        thread.join()


def test_a_request_is_a_span_of_the_trace_that_its_client_is_in(
    daemon: Callable[..., Daemon], collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    it = daemon()
    it.client.get(
        "/v1/groups/web/limits", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    ).raise_for_status()
    assert it.stop() == 0
    paths, bodies = zip(*collector.posted, strict=True)
    assert set(paths) == {"/v1/traces"}
    assert bytes.fromhex(TRACE) in b"".join(bodies)


def test_a_collector_that_is_away_is_in_nobodys_way(
    daemon: Callable[..., Daemon], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    it = daemon()
    assert it.client.get("/v1/groups/web/limits").status_code == 200
