"""Keys.

A request takes effect once, whoever repeats it, whenever the daemon dies, and whatever the database
does.
"""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from shrinkd.errors import KeyInUse, KeyReused, OutcomeUnknown, StoreUnavailable
from shrinkd.storage import Answer, IdempotencyKeys, Key, Store
from tests.support.locked_database import locked
from tests.support.races import together

KEY = Key("token:ci", "create_shrink", "8e03978e")
ANSWER = Answer(
    202, (("location", "/v1/shrinks/1"), ("content-type", "application/json")), b'{"id": 1}'
)


@contextmanager
def opened(folder: Path) -> Iterator[Store]:
    with closing(Store(f"sqlite:///{folder}/keys.db?timeout=0.02")) as store:
        store.open()
        yield store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with opened(tmp_path) as store:
        yield store


@pytest.fixture
def keys(store: Store) -> IdempotencyKeys:
    return IdempotencyKeys(store.idempotency_keys)


def begin(
    keys: IdempotencyKeys, key: Key = KEY, asked: str = "a", *, repeatable: bool = False
) -> Answer | str:
    return keys.begin(key, asked, repeatable=repeatable)


def once(keys: IdempotencyKeys, key: Key, act: Callable[[], object]) -> Answer:
    """What the API does with a request, and a client with a 409."""
    while True:
        with suppress(KeyInUse):
            if isinstance(begun := begin(keys, key), Answer):
                return begun
            act()
            keys.end(key, ANSWER)


def test_a_repetition_gets_the_answer_of_the_first(keys: IdempotencyKeys) -> None:
    assert isinstance(begin(keys), str)
    keys.end(KEY, ANSWER)
    assert [begin(keys), begin(keys)] == [ANSWER, ANSWER]


def test_the_answer_outlives_the_daemon(keys: IdempotencyKeys, store: Store) -> None:
    begin(keys)
    keys.end(KEY, ANSWER)
    assert begin(IdempotencyKeys(store.idempotency_keys)) == ANSWER


def test_while_the_first_one_runs_a_repetition_is_told_to_wait(keys: IdempotencyKeys) -> None:
    begin(keys)
    with pytest.raises(KeyInUse):
        begin(keys)


@pytest.mark.parametrize("is_done", [False, True])
def test_another_request_under_the_key_is_refused(keys: IdempotencyKeys, *, is_done: bool) -> None:
    begin(keys)
    if is_done:
        keys.end(KEY, ANSWER)
    with pytest.raises(KeyReused):
        begin(keys, asked="b")


@pytest.mark.parametrize(
    "other",
    [
        KEY._replace(caller="uid:0"),
        KEY._replace(route="create_group"),
        KEY._replace(key="8E03978E"),
    ],
)
def test_the_same_word_elsewhere_is_another_key(keys: IdempotencyKeys, other: Key) -> None:
    begin(keys)
    assert isinstance(begin(keys, other, "b"), str)


def test_a_key_that_was_freed_is_new(keys: IdempotencyKeys) -> None:
    first = begin(keys)
    keys.end(KEY, None)
    assert begin(keys, asked="b") not in {first, ANSWER}


def test_of_many_at_the_same_instant_one_is_carried_out(keys: IdempotencyKeys) -> None:
    for number in range(20):
        done: list[int] = []
        answers = together(
            *[partial(once, keys, KEY._replace(key=str(number)), partial(done.append, number))] * 8
        )
        assert (len(done), answers) == (1, [ANSWER] * 8)


def test_what_a_daemon_died_in_is_unknown_to_the_next(keys: IdempotencyKeys, store: Store) -> None:
    begin(keys)
    with pytest.raises(OutcomeUnknown):
        begin(IdempotencyKeys(store.idempotency_keys))
    with pytest.raises(KeyReused):
        begin(IdempotencyKeys(store.idempotency_keys), asked="b")


def test_what_can_be_repeated_makes_the_same_as_the_first_time(
    keys: IdempotencyKeys, store: Store
) -> None:
    first = begin(keys)
    assert begin(IdempotencyKeys(store.idempotency_keys), repeatable=True) == first


def test_a_key_that_cannot_be_written_down_is_not_begun(
    keys: IdempotencyKeys, tmp_path: Path
) -> None:
    with locked(tmp_path / "keys.db"), pytest.raises(StoreUnavailable):
        begin(keys)
    assert isinstance(begin(keys), str)


def test_an_answer_that_cannot_be_written_down_is_written_later(
    keys: IdempotencyKeys, store: Store, tmp_path: Path
) -> None:
    begin(keys)
    with locked(tmp_path / "keys.db"):
        keys.end(KEY, ANSWER)
        with pytest.raises(StoreUnavailable):
            begin(keys)
    assert begin(keys) == ANSWER
    assert begin(IdempotencyKeys(store.idempotency_keys)) == ANSWER


@pytest.mark.parametrize("is_kept", [True, False])
def test_what_is_still_to_be_written_is_written_at_the_end(
    keys: IdempotencyKeys, store: Store, tmp_path: Path, *, is_kept: bool
) -> None:
    begin(keys)
    with locked(tmp_path / "keys.db"):
        keys.end(KEY, ANSWER if is_kept else None)
        keys.close()
    keys.close()
    assert (begin(IdempotencyKeys(store.idempotency_keys)) == ANSWER) == is_kept
