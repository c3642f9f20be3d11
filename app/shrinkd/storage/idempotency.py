"""Requests that take effect once, however often they are sent: by a key of the client's, for 24 h.

A key is written down before its request begins, and the answer before anybody hears it:

    (no row) ──begin──► running ──end──► answered    a repetition is answered from the row
                           └──────end──► (no row)    a repetition is a first request again

A row that is running and nobody's is of a daemon that died in it.
"""

import logging
import threading
import time
import zlib
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import NamedTuple

from shrinkd.errors import KeyInUse, KeyReused, OutcomeUnknown, StoreUnavailable
from shrinkd.storage.store import Row, Store, new_id, now

_SWEEP_SECONDS = 3600.0
_SWEEP_KEYS = 1000

log = logging.getLogger(__name__)


class Key(NamedTuple):
    """What a client called a request.

    The same word of another caller, or for another operation, is another key.
    """

    caller: str
    route: str
    key: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request came to, as it was said."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class IdempotencyKeys:
    """The keys of one daemon. Thread-safe; of two who begin at the same instant one does."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._running: dict[Key, str] = {}
        """The requests that go on, by what they ask for."""
        self._unsettled: dict[Key, Answer | None] = {}
        """What requests came to that the database has not got yet; None is a key that is free
        again."""
        self._settling = threading.Lock()
        self._sweep_at, self._begun = time.monotonic(), 0

    def begin(self, key: Key, request: str, *, repeatable: bool) -> Answer | str:
        """Answer what the request came to, or the id for what it makes.

        Then it is the caller's to carry out, and to end().

        `request` is a digest of what it asks for. KeyReused when the key stood for another one,
        KeyInUse while the first one runs. The id is the one of the first time where a daemon died
        in that and the request is `repeatable`; OutcomeUnknown where it is not.
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
        """Remember what a request came to.

        None frees the key of one that changed nothing, so that the next is carried out.

        A database that cannot be written has it later: until then, memory has.
        """
        with self._lock:
            self._unsettled[key] = answer
        try:
            self._settle()
            self._sweep()
        except StoreUnavailable as unavailable:
            log.warning(
                "what a request with an Idempotency-Key came to could not be written down yet: %s",
                unavailable,
            )
        finally:
            self._leave(key)

    def close(self) -> None:
        """Write down what the database has not got yet, if it takes it now."""
        with suppress(StoreUnavailable):
            self._settle()

    def _begin(self, key: Key, request: str, *, repeatable: bool) -> Answer | str:
        self._settle()
        makes = new_id()
        claim = key._asdict() | {"request": request, "makes": makes, "created_at": now()}
        row = self._store.claim_key(claim)
        if row is None:
            return makes
        _check_same(row["request"], request)
        if row["status"] is not None:
            return Answer(
                row["status"],
                tuple((name, value) for name, value in row["headers"]),
                zlib.decompress(row["body"]),
            )
        if not repeatable:
            raise OutcomeUnknown(
                "The daemon died in the first request with this Idempotency-Key: it took effect as "
                "a whole, in part, or not at all."
            )
        return str(row["makes"])

    def _settle(self) -> None:
        """Write down all that is to be, also for who waits here meanwhile and then finds it done."""
        with self._settling:  # or else one who is late would free a key that has begun again
            with self._lock:
                unsettled, self._unsettled = self._unsettled, {}
            try:
                self._write(unsettled)
            except StoreUnavailable:
                with self._lock:
                    self._unsettled = unsettled | self._unsettled
                raise

    def _write(self, unsettled: dict[Key, Answer | None]) -> None:
        if unsettled:
            answered = [
                _row(key, answer) for key, answer in unsettled.items() if answer is not None
            ]
            self._store.settle_keys(
                answered, [key._asdict() for key, answer in unsettled.items() if answer is None]
            )

    def _leave(self, key: Key) -> None:
        with self._lock:
            del self._running[key]

    def _sweep(self) -> None:
        self._begun += 1
        if time.monotonic() >= self._sweep_at or self._begun >= _SWEEP_KEYS:
            self._sweep_at, self._begun = time.monotonic() + _SWEEP_SECONDS, 0
            self._store.forget_keys(now())


def _check_same(first: str, request: str) -> None:
    if first != request:
        raise KeyReused(
            "This Idempotency-Key stood for another request within the last 24 h; nothing was done "
            "for this one."
        )


def _row(key: Key, answer: Answer) -> Row:
    body = zlib.compress(answer.body)  # that of a full batch is 100 KiB, and a tenth of that
    return key._asdict() | {"status": answer.status, "headers": answer.headers, "body": body}
