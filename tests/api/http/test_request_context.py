"""Request context: one typed object per request, without a caller until authentication."""

from typing import Any

from shrinkd.api.http.request_context import request_context, start
from shrinkd.auth import ANYONE, NOBODY


def test_a_request_that_was_never_started_has_no_caller_and_no_id() -> None:
    context = request_context({})
    assert (context.caller, context.request_id) == (NOBODY, "")


def test_every_layer_of_a_request_shares_one_context() -> None:
    scope: dict[str, Any] = {}
    started = start(scope, "mine")
    copied_for_head = {**scope, "method": "GET"}
    request_context(copied_for_head).caller = ANYONE
    assert request_context(scope) is started
    assert (started.caller, started.request_id) == (ANYONE, "mine")


def test_the_peer_of_the_connection_comes_from_the_server() -> None:
    assert start({"state": {"peer": ANYONE}}, "mine").peer is ANYONE


def test_the_next_request_of_a_connection_starts_without_the_state_of_the_last_one() -> None:
    scope: dict[str, Any] = {"state": {"peer": None}}
    start(scope, "first").caller = ANYONE
    assert start(scope, "second").caller is NOBODY
