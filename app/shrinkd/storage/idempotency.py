"""Carry each request with an Idempotency-Key out at most once in 24 h.

A key is recorded before its request begins, and the response before it is sent:

    (no row) ──begin──► running ──end──► answered    a repetition gets the recorded response
                           └──────end──► (no row)    a repetition is carried out

A running row whose request is not running in this daemon is of a daemon that died in it.
"""

import logging
import threading
from collections.abc import Sequence
from contextlib import ExitStack

from shrinkd.errors import KeyInUse, KeyReused, OutcomeUnknown, StoreUnavailable
from shrinkd.storage.clock import new_id, now
from shrinkd.storage.idempotency_keys import (
    Answer,
    IdempotencyKeyRepository,
    IdempotencyRow,
    Key,
)
from shrinkd.storage.write_behind import WriteBehind

_MOST_UNWRITTEN = 100_000
"""Never reached: no request begins while the database is away, so those that run are all."""

log = logging.getLogger(__name__)


class IdempotencyKeys:
    """The keys of one daemon. Thread-safe: of two equal requests at the same instant one begins."""

    def __init__(self, repository: IdempotencyKeyRepository) -> None:
        self._repository = repository
        self._lock = threading.Lock()
        self._running: dict[Key, str] = {}
        """The digests of the requests that run, by key."""
        # Without a thread: end() writes the response before it is sent, and only what the database
        # did not take then is written by the next begin(), end() or close().
        self._unwritten = WriteBehind[Key, tuple[Key, Answer | None]](
            "idempotency answers", self._write, bound=_MOST_UNWRITTEN
        )

    def begin(self, key: Key, request: str, *, repeatable: bool) -> Answer | str:
        """Answer the recorded response, or the id for what the request makes.

        With an id the caller carries the request out and calls end(). `request` is a digest of the
        request. KeyReused when the key stood for another one, KeyInUse while the first one runs.
        Where a daemon died in the first one: the same id again if the request is `repeatable`, or
        else OutcomeUnknown.
        """
        with self._lock:
            if key in self._running:
                _check_same(self._running[key], request)
                raise KeyInUse(
                    "The first request with this Idempotency-Key still runs: send it again, and "
                    "get its answer."
                )
            self._running[key] = request
        with ExitStack() as undo:
            undo.callback(self._leave, key)
            begun = self._begin(key, request, repeatable=repeatable)
            if isinstance(begun, str):
                undo.pop_all()
        return begun

    def end(self, key: Key, answer: Answer | None) -> None:
        """Record the response to a request.

        None frees the key of a request that changed nothing, so that the next one is carried out.
        While the database cannot be written, the response is kept in memory.
        """
        self._unwritten.put(key, (key, answer))
        try:
            self._unwritten.flush()
        except StoreUnavailable as unavailable:
            log.warning(
                "the answer to a request with an Idempotency-Key could not be written down yet: %s",
                unavailable,
            )
        finally:
            self._leave(key)

    def close(self) -> None:
        """Record the responses that are still in memory, if the database takes them now."""
        self._unwritten.close()

    def _begin(self, key: Key, request: str, *, repeatable: bool) -> Answer | str:
        self._unwritten.flush()
        makes = new_id()
        row = self._repository.claim(IdempotencyRow(*key, request, makes, now()))
        if row is None:
            return makes
        _check_same(row.request, request)
        if row.answer is not None:
            return row.answer
        if not repeatable:
            raise OutcomeUnknown(
                "The daemon died in the first request with this Idempotency-Key: it took effect as "
                "a whole, in part, or not at all."
            )
        return row.makes

    def _write(self, unwritten: Sequence[tuple[Key, Answer | None]]) -> None:
        self._repository.settle(dict(unwritten))

    def _leave(self, key: Key) -> None:
        with self._lock:
            del self._running[key]


def _check_same(first: str, request: str) -> None:
    if first != request:
        raise KeyReused(
            "This Idempotency-Key stood for another request within the last 24 h; nothing was done "
            "for this one."
        )
