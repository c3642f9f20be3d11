"""Shrinks as jobs: each gets one final state in every race, and answers agree with the database."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from shrinkd.backends import Backend, Group
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.errors import (
    NotReady,
    ShrinkFinished,
    ShrinkInProgress,
    StoreUnavailable,
    TooManyShrinks,
)
from shrinkd.events.bus import Publish, discard
from shrinkd.events.log import EventType
from shrinkd.groups.limit_journal import LimitJournal
from shrinkd.groups.limits import Actor, GroupLimits
from shrinkd.groups.locks import GroupLocks
from shrinkd.settings import Settings
from shrinkd.shrinks.job import Job, State
from shrinkd.shrinks.queue import MAX_WAITING_SHRINKS, ShrinkQueue
from shrinkd.shrinks.run import Request
from shrinkd.storage import ShrinkRow, Store
from tests.storage.test_store import row as stored_row
from tests.support.event_recorder import EventRecorder
from tests.support.locked_database import locked
from tests.support.races import together
from tests.support.scripted_simulator import MIB, Stage

QUICK = Request(timeout_seconds=60, target_bytes=300 * MIB)
ENDLESS = Request(timeout_seconds=600, target_bytes=200 * MIB, max_bytes_per_second=MIB)
_POLL_SECONDS = 0.001
TO_THE_LIMIT = Request(timeout_seconds=60, target_bytes=200 * MIB, set_max_bytes=200 * MIB)


def queue(backend: Backend, store: Store, publish: Publish) -> tuple[ShrinkQueue, GroupLimits]:
    """A queue for two shrinks at a time, and the use case that shares its locks."""
    limits = GroupLimits(backend, LimitJournal(backend, store.limit_intents), GroupLocks(), publish)
    return ShrinkQueue(store.shrinks, limits, publish, max_running=2), limits


class House:
    """A simulator, a store and the queue between them."""

    def __init__(
        self, path: Path, make_backend: Callable[[Settings], Backend] | None = None
    ) -> None:
        self.stage = Stage()
        self.path = path
        backend = (make_backend or self.stage.make_backend)(Settings(scenario="demo"))
        self.stage.simulator = backend if isinstance(backend, Simulator) else self.stage.simulator
        self.store = Store(f"sqlite:///{path}?timeout=0.05")
        self.store.open()
        self.heard = EventRecorder()
        self.jobs, self.limits = queue(backend, self.store, self.heard)

    @property
    def web(self) -> Group:
        return self.stage.simulator.groups("web")[0]

    def done(self, job: Job) -> ShrinkRow:
        """Wait for the end of a job, and return its row, which queue and store agree on."""
        job.finished.result()
        row = self.jobs.shrink(job.id)
        assert row == self.store.shrinks.get(job.id) == job.row()
        return row

    def running(self, group: Group, request: Request = ENDLESS) -> Job:
        job = self.jobs.submit(group, request)
        while job.state is State.QUEUED or not job.progress.passes:
            assert not job.state.done
            time.sleep(_POLL_SECONDS)
        return job

    def locked(self) -> AbstractContextManager[None]:
        return locked(self.path)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    house = House(tmp_path / "shrinkd.db")
    yield house
    house.jobs.close()
    house.store.close()


def test_nobody_has_more_than_half_of_the_queue_and_all_together_no_more_than_all(
    house: House,
) -> None:
    most = 2 + MAX_WAITING_SHRINKS
    groups = [
        house.stage.group(f"g{number}", cache=(number < 2) * 300 * MIB)
        for number in range(most + 2)
    ]
    for number in range(most // 2):
        house.jobs.submit(groups[number], ENDLESS, owner="uid:1")
    with pytest.raises(TooManyShrinks, match="of uid:1"):
        house.jobs.submit(groups[-1], ENDLESS, owner="uid:1")
    for number in range(most // 2, most):
        house.jobs.submit(groups[number], ENDLESS, owner="uid:2" if number % 2 else "uid:3")
    with pytest.raises(TooManyShrinks) as refused:
        house.jobs.submit(groups[-1], ENDLESS, owner="uid:4")
    assert refused.value.members == {"active": most}
    assert house.jobs.submit(groups[-1], ENDLESS, policy="room").policy == "room"


def test_a_shrink_is_a_row_before_it_is_work(house: House) -> None:
    job = house.jobs.submit(house.web, ENDLESS)
    assert house.store.shrinks.get(job.id).state in {"queued", "running"}


def test_the_row_of_a_shrink_that_is_done_is_the_last_that_the_job_said(house: House) -> None:
    row = house.done(house.jobs.submit(house.web, QUICK))
    assert (row.state, row.progress["usage_bytes"] < 300 * MIB) == ("succeeded", True)


def test_of_a_cancel_and_the_end_of_a_shrink_exactly_one_wins(house: House) -> None:
    ends = set()
    for number in range(200):
        house.stage.group(f"group-{number}", cache=8 * MIB)
        group = house.stage.simulator.groups(f"group-{number}")[0]
        job = house.jobs.submit(
            group, Request(timeout_seconds=60, target_bytes=4 * MIB, set_max_bytes=4 * MIB)
        )
        answer = together(partial(house.jobs.cancel, job.id), job.finished.result)[0]
        row = house.done(job)
        ends.add(row.state)
        if isinstance(answer, ShrinkFinished):
            assert row.state == "succeeded"
        elif answer.state == "cancelled":
            assert (row.state, row.error) == ("cancelled", None)
        else:
            assert (answer.state, row.state in {"cancelled", "succeeded"}) == (
                "cancelling",
                True,
            )
        limit = house.stage.simulator.stat(group).limits.max_bytes
        assert (limit == 4 * MIB) == (row.state == "succeeded")
        with house.stage.simulator.machine():
            house.stage.vanish(group.path)
    assert ends <= {"succeeded", "cancelled"}


def test_of_many_who_cancel_at_once_all_hear_the_same(house: House) -> None:
    for _ in range(20):
        job = house.running(house.web)
        answers = together(*[partial(house.jobs.cancel, job.id)] * 4)
        assert {answer.state for answer in answers} <= {"cancelling", "cancelled"}
        assert house.done(job).state == "cancelled"


def test_of_many_who_shrink_a_group_at_once_one_does(house: House) -> None:
    for _ in range(20):
        answers = together(*[partial(house.jobs.submit, house.web, ENDLESS)] * 4)
        won = [answer for answer in answers if isinstance(answer, Job)]
        assert len(won) == 1
        assert {type(answer) for answer in answers if answer not in won} == {ShrinkInProgress}
        assert {answer.members["shrink_id"] for answer in answers if answer not in won} == {
            won[0].id
        }
        house.jobs.cancel(won[0].id)
        house.done(won[0])


def test_of_a_change_of_limits_and_a_shrink_one_waits_or_is_refused(house: House) -> None:
    inside: list[str] = []

    def change() -> None:
        with house.limits.locks.hold(house.web):
            inside.append("in")
            assert not house.jobs.shrinks(
                limit=10,
                before=None,
                states=("queued", "running", "cancelling"),
                group="web",
                since=None,
            )
            inside.append("out")

    for _ in range(30):
        together(
            change,
            change,
            lambda: house.done(
                house.jobs.submit(house.web, Request(timeout_seconds=60, target_bytes=8 << 30))
            ),
        )
    assert inside == ["in", "out"] * (len(inside) // 2)


def test_a_shrink_waits_for_the_change_that_has_its_group(house: House) -> None:
    with house.limits.locks.hold(house.web):
        waiting = threading.Thread(target=lambda: house.done(house.jobs.submit(house.web, QUICK)))
        waiting.start()
        assert house.jobs.shrinks(limit=1, before=None, states=(), group=None, since=None) == []
    waiting.join()
    assert (
        len(
            house.jobs.shrinks(
                limit=10, before=None, states=("succeeded",), group="web", since=None
            )
        )
        == 1
    )


def test_a_change_that_fails_gives_the_group_back(house: House) -> None:
    with pytest.raises(ZeroDivisionError), house.limits.locks.hold(house.web):
        raise ZeroDivisionError
    with house.limits.locks.hold(house.web):
        pass


class Faulty(Simulator):
    """A backend with a bug in it."""

    def reclaim(self, group: Group, goal_bytes: int, swappiness: int | None = None) -> int:
        raise ZeroDivisionError(group.path, goal_bytes, swappiness)


def test_a_fault_ends_one_shrink_and_neither_its_worker_nor_the_others(tmp_path: Path) -> None:
    house = House(tmp_path / "shrinkd.db", Faulty)
    rows = [house.done(house.jobs.submit(house.web, QUICK)) for _ in range(5)]
    assert {(row.state, (row.error or {})["kind"]) for row in rows} == {("failed", "InternalError")}
    assert "ZeroDivision" not in str(rows)
    assert (
        house.done(
            house.jobs.submit(house.web, Request(timeout_seconds=60, target_bytes=8 << 30))
        ).state
        == "succeeded"
    )
    house.jobs.close()
    house.store.close()


# -- the database goes away and comes back


def test_a_shrink_that_cannot_be_written_down_is_not_begun_and_its_group_is_free(
    house: House,
) -> None:
    before = house.stage.everything()
    with house.locked(), pytest.raises(StoreUnavailable):
        house.jobs.submit(house.web, TO_THE_LIMIT)
    assert house.stage.everything() == before
    assert house.done(house.jobs.submit(house.web, QUICK)).state == "succeeded"


def test_a_cancel_that_cannot_be_written_down_stops_the_shrink_all_the_same(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    job = house.running(house.web)
    with house.locked():
        with pytest.raises(StoreUnavailable):
            house.jobs.cancel(job.id)
        while "is cancelled, which could not be written down" not in caplog.text:
            time.sleep(_POLL_SECONDS)
    assert house.done(job).state == "cancelled"


def test_a_shrink_has_finished_once_that_is_written_which_waits_for_the_database(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    job = house.running(house.web)
    with house.locked():
        with house.stage.simulator.machine():
            house.stage.vanish("web")
        while "could not be written down" not in caplog.text:
            time.sleep(_POLL_SECONDS)
        row = house.jobs.shrink(job.id)
        assert (row.state, row.error, row.finished_at) == ("running", None, None)
    row = house.done(job)
    assert (row.state, (row.error or {})["kind"]) == ("failed", "GroupGone")
    assert (row.finished_at or 0) >= (row.started_at or 0) > 0


def test_who_meets_a_shrink_before_it_is_written_down_and_cancels_it_waits_for_that(
    tmp_path: Path,
) -> None:
    house = House(tmp_path / "shrinkd.db")
    slow = Store(
        f"sqlite:///{house.path}"
    )  # waits for a locked database, where the other one gives up
    jobs, _ = queue(house.stage.simulator, slow, discard)
    submitted: list[Job] = []
    cancelled: list[Any] = []
    with house.locked():
        writer = threading.Thread(target=lambda: submitted.append(jobs.submit(house.web, ENDLESS)))
        writer.start()
        shrink_id = ""
        while not shrink_id:
            try:
                jobs.submit(house.web, ENDLESS, dry_run=True)
                time.sleep(_POLL_SECONDS)
            except ShrinkInProgress as met:
                shrink_id = str(met.members["shrink_id"])
        canceller = threading.Thread(target=lambda: cancelled.append(jobs.cancel(shrink_id)))
        canceller.start()
    writer.join()
    canceller.join()
    submitted[0].finished.result()
    assert cancelled[0].state in {"cancelled", "cancelling"}
    assert slow.shrinks.get(shrink_id).state == "cancelled"
    jobs.close()
    slow.close()
    house.jobs.close()
    house.store.close()


def test_of_many_who_write_down_what_policies_finished_each_row_is_written_once(
    house: House,
) -> None:
    groups = [house.stage.group(f"group-{number}") for number in range(8)]
    for _ in range(20):
        jobs = [
            house.jobs.submit(group, Request(timeout_seconds=60, target_bytes=MIB), policy="room")
            for group in groups
        ]
        for job in jobs:
            job.finished.result()
        assert together(*[house.jobs.write_finished] * 4) == [None] * 4
        assert all(house.done(job).policy == "room" for job in jobs)


# -- stopping


def stopped(path: Path, job: Job) -> ShrinkRow:
    """Return the row of a job as the next start finds it."""
    with closing(Store(f"sqlite:///{path}")) as store:
        store.open()
        return store.shrinks.get(job.id)


def test_a_stop_interrupts_what_runs_and_what_waits_and_moves_no_limit(tmp_path: Path) -> None:
    house = House(tmp_path / "shrinkd.db")
    groups = [house.stage.group(f"group-{number}", cache=MIB) for number in range(50)]
    running = [
        house.running(group, Request(timeout_seconds=60, target_bytes=4096, max_bytes_per_second=1))
        for group in groups[:2]
    ]
    # The target of these is met already: begun, they would set their limit.
    waiting = [
        house.jobs.submit(
            group, Request(timeout_seconds=60, target_bytes=2 * MIB, set_max_bytes=2 * MIB)
        )
        for group in groups[2:]
    ]
    before = house.stage.limits()
    house.jobs.close()
    house.store.close()
    rows = [stopped(house.path, job) for job in (*running, *waiting)]
    assert {(row.state, (row.error or {})["kind"]) for row in rows} == {
        ("interrupted", "DaemonStopped")
    }
    assert all(row.finished_at for row in rows)
    assert house.stage.limits() == before


def test_a_daemon_that_stops_begins_nothing(tmp_path: Path) -> None:
    house = House(tmp_path / "shrinkd.db")
    house.jobs.close()
    with pytest.raises(NotReady):
        house.jobs.submit(house.web, QUICK)
    house.store.close()


def test_a_stop_does_not_wait_for_a_database_that_is_locked(tmp_path: Path) -> None:
    house = House(tmp_path / "shrinkd.db")
    job = house.running(house.web)
    with house.locked():
        house.jobs.close()
    house.store.close()
    assert stopped(house.path, job).state == "running"


def test_what_a_dead_daemon_left_is_interrupted_by_the_next(house: House) -> None:
    for number, state in enumerate(["queued", "running", "cancelling", "succeeded"]):
        house.store.shrinks.record(stored_row(number, state=state))
    assert house.jobs.recover() == 3
    assert house.jobs.recover() == 0
    assert [house.store.shrinks.get(f"{number:032x}").state for number in range(4)] == [
        "interrupted"
    ] * 3 + ["succeeded"]


def test_a_group_whose_shrink_was_interrupted_can_be_shrunk_again(house: House) -> None:
    house.store.shrinks.record(stored_row(1, group_id=house.web.id, state="running"))
    house.jobs.recover()
    assert house.done(house.jobs.submit(house.web, QUICK)).state == "succeeded"


def test_the_clock_of_a_simulator_that_jumps_disturbs_no_shrink(house: House) -> None:
    for number, jump in enumerate((3600.0, -7200.0, 1e9, -1e9)):
        group = house.stage.group(f"group-{number}", cache=64 * MIB)
        job = house.running(
            group, Request(timeout_seconds=60, target_bytes=4 * MIB, max_bytes_per_second=256 * MIB)
        )
        house.stage.seconds += jump
        row = house.done(job)
        assert row.state == "succeeded"
        assert 0 <= row.progress["elapsed_seconds"] < 60


# -- events


def test_every_state_of_a_shrink_is_told_once_and_in_order(house: House) -> None:
    heard = house.heard
    done = house.done(house.jobs.submit(house.web, QUICK))
    assert heard.of(EventType.SHRINK_STATE, "shrink_id", "state") == [
        (done.id, state) for state in ("queued", "running", "succeeded")
    ]
    assert {path for _, path, _ in heard.all} == {"web"}
    assert (
        heard.of(EventType.SHRINK_STATE, "reclaimed_bytes")[-1] == done.progress["reclaimed_bytes"]
    )


def test_a_cancel_is_told_with_what_it_came_to(house: House) -> None:
    heard = house.heard
    job = house.running(house.web)
    house.jobs.cancel(job.id)
    house.done(job)
    assert heard.of(EventType.SHRINK_STATE, "state") == [
        "queued",
        "running",
        "cancelling",
        "cancelled",
    ]


def test_a_limit_that_a_shrink_sets_is_told_before_its_end(house: House) -> None:
    heard = house.heard
    job = house.jobs.submit(house.web, TO_THE_LIMIT)
    house.done(job)
    assert heard.of(EventType.LIMITS_CHANGED, "max_bytes", "shrink_id") == [(200 * MIB, job.id)]
    assert [what for what, _, _ in heard.all][-2:] == ["limits.changed", "shrink.state"]


def test_of_a_policys_shrink_only_the_end_is_told(house: House) -> None:
    heard = house.heard
    job = house.jobs.submit(house.web, QUICK, policy="room")
    job.finished.result()
    assert heard.of(EventType.SHRINK_STATE, "state", "policy") == [("succeeded", "room")]


def test_limits_that_a_policy_sets_are_told_as_read_back(house: House) -> None:
    heard = house.heard
    house.limits.change_limits(house.web, {"max_bytes": 2**30}, Actor("night"))
    assert heard.all == [("limits.changed", "web", {"max_bytes": 2**30, "policy": "night"})]


def test_what_the_database_did_not_take_is_not_told(house: House) -> None:
    heard = house.heard
    with house.locked(), pytest.raises(StoreUnavailable):
        house.jobs.submit(house.web, QUICK)
    assert heard.all == []
