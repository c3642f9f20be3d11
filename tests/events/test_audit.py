"""The audit's writer.

Durable before, complete after, bounded, and never in the way of its own end.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shrinkd.events.audit import Audit, outcome
from shrinkd.storage import AuditRow, Store, new_id, now
from shrinkd.storage.audit import KEEP_SECONDS as KEEP_AUDIT_SECONDS
from tests.support.locked_database import locked
from tests.support.polling import until


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(f"sqlite:///{tmp_path}/audit.db?timeout=0.05")
    store.open()
    yield store
    store.close()


@pytest.fixture
def audit(store: Store) -> Iterator[Audit]:
    audit = Audit(store.audit)
    yield audit
    audit.close()


def row(**given: Any) -> AuditRow:
    known: dict[str, Any] = {
        "id": new_id(),
        "at": now(),
        "caller": "token:ci",
        "operation": "patch_limits",
        "method": "PATCH",
        "path": "/v1/groups/web/limits",
    }
    known |= {"request_id": "r-1", "dry_run": False, "body": {"max_bytes": "64M"}, "times": 1}
    return AuditRow(**known | given)


def test_what_was_begun_is_written_before_it_is_done_and_has_no_outcome_yet(
    audit: Audit, store: Store
) -> None:
    audit.begin(attempt := row()).result()
    (found,) = store.audit.list(limit=10)
    assert found == attempt


def test_what_came_of_it_is_written_at_the_end_at_the_latest(audit: Audit, store: Store) -> None:
    audit.begin(attempt := row()).result()
    audit.finish(attempt.id, outcome(409, "limit-below-usage", {"id": 7, "path": "web"}))
    audit.close()
    (found,) = store.audit.list(limit=10)
    assert (found.status, found.problem, found.group_id, found.group_path) == (
        409,
        "limit-below-usage",
        7,
        "web",
    )
    assert (found.finished_at or 0) >= found.at


def test_what_cannot_be_written_now_is_written_later_and_the_log_has_it(
    audit: Audit, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    audit.begin(first := row()).result()
    with locked(tmp_path / "audit.db"):
        audit.begin(second := row()).result()
        audit.begin(third := row()).result()
        audit.finish(first.id, outcome(200, None, None))
        audit.finish(third.id, outcome(409, "shrink-in-progress", None))
    logged = [
        record.fields["attempt"]["id"] for record in caplog.records if hasattr(record, "fields")
    ]
    assert logged == [second.id, third.id]
    audit.close()
    found = {attempt.id: attempt.status for attempt in store.audit.list(limit=10)}
    assert found == {first.id: 200, second.id: None, third.id: 409}


def test_refusals_that_are_alike_are_one_row_and_too_many_kinds_are_not_told_apart(
    audit: Audit, store: Store
) -> None:
    for number in range(1000):
        audit.note(
            row(
                status=401,
                problem="unauthenticated",
                caller="nobody",
                path=f"/v1/groups/{number}/limits",
            )
        )
    for number in range(1000):
        audit.note(row(status=403, problem="forbidden", caller=f"token:{number}"))
    audit.close()
    rows = store.audit.list(limit=1000)
    assert sum(found.times for found in rows) == 2000
    assert len(rows) <= 2 * 101


def test_refusals_that_come_while_a_write_fails_are_counted_on(
    audit: Audit, store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def note_until_it_failed() -> bool:
        audit.note(row(status=401, caller="nobody"))
        noted.append(1)
        return len(caplog.records) >= 2

    noted: list[int] = []
    with locked(tmp_path / "audit.db"):
        until(note_until_it_failed)
    audit.close()
    assert sum(found.times for found in store.audit.list(limit=10)) == len(noted)


def test_callers_who_come_at_once_share_a_write_and_none_is_lost(
    audit: Audit, store: Store
) -> None:
    attempts = [row(caller=f"token:{number}") for number in range(50)]
    for written in [audit.begin(attempt) for attempt in attempts]:
        written.result()
    assert {found.id for found in store.audit.list(limit=100)} == {
        attempt.id for attempt in attempts
    }


def test_one_that_was_never_used_ends_at_once(store: Store) -> None:
    Audit(store.audit).close()


def test_what_is_older_than_a_month_or_beyond_the_most_is_forgotten(store: Store) -> None:
    old, kept = row(at=now() - (KEEP_AUDIT_SECONDS + 1) * 1_000_000), [row() for _ in range(4)]
    store.audit.record([old, *kept], {})
    assert store.audit.expire(now()) == 1
    assert store.audit.expire(now(), most=2) == 2
    assert len(store.audit.list(limit=10)) == 2


def test_attempts_are_found_by_who_what_where_and_how_they_ended(store: Store) -> None:
    one = row(status=200, group_path="web")
    other = row(caller="uid:0", operation="create_shrink", status=409, group_path="db")
    store.audit.record([one, other], {})
    for found, wanted in (
        (store.audit.list(limit=10, caller="uid:0"), other),
        (store.audit.list(limit=10, operation="patch_limits"), one),
        (store.audit.list(limit=10, group_path="db"), other),
        (store.audit.list(limit=10, least_status=400), other),
        (
            store.audit.list(limit=10, before=(max(one.id, other.id),)),
            min((one, other), key=lambda each: each.id),
        ),
    ):
        assert [each.id for each in found] == [wanted.id]
    assert store.audit.list(limit=10, since=now() + 1_000_000) == []


def test_attempts_that_are_there_already_stay_as_they_are_and_get_their_outcomes(
    store: Store,
) -> None:
    one, other = row(), row()
    store.audit.record([one])
    store.audit.record([one, other], {one.id: outcome(200, None, None)})
    found = {each.id: each.status for each in store.audit.list(limit=10)}
    assert found == {one.id: 200, other.id: None}
