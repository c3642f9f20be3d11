"""A round of policies that is cut short.

An error of any call that it makes, once, and every kind acts again behind it.
"""

import logging
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest

from shrinkd.errors import NotReady
from shrinkd.policies import Outcome, Reason, Verdict
from shrinkd.policies.guards import Setback
from shrinkd.shrinks.run import Request
from shrinkd.sizes import PAGE_BYTES
from shrinkd.worker_pool import submit_once
from tests.policies.test_controller import (
    FULL,
    GIB,
    HALF,
    KEEP,
    LOW,
    ROOM,
    Build,
    House,
)
from tests.policies.test_evaluator import House as Bench
from tests.policies.test_evaluator import verdicts
from tests.support.polling import until

COLD = {"max_bytes": "8G", "memory": [{"kind": "file", "size_bytes": "4G", "heat_seconds": "idle"}]}
IDLE = {
    "name": "cold",
    "kind": "idle",
    "selector": {"group": "*"},
    "spec": {"idle_seconds": 10, "interval_seconds": 1},
}
PRESSURE = {"name": "gentle", "kind": "pressure", "selector": {"group": "*"}}
SHARE = {
    "name": "share",
    "kind": "balance",
    "selector": {"group": "*"},
    "spec": {"budget": "4G", "release": "3G"},
}
NIGHTLY = {
    "name": "nightly",
    "kind": "schedule",
    "selector": {"group": "web"},
    "spec": {
        "cron": "* * * * *",
        "switch": {"policy": "room", "enabled": False},
        "misfire": "run_once",
        "grace_seconds": 1,
    },
}


@dataclass
class Case:
    """A policy of one kind, where it acts, and how one sees that it did."""

    policy: Mapping[str, Any]
    group: Mapping[str, Any]
    has_acted: Callable[[House], object]
    verbs: tuple[str, ...]
    """What its rounds do to the machine; beside those of `always`."""
    before: tuple[Mapping[str, Any], ...] = field(default=())
    always: tuple[str, ...] = ("stat", "groups", "node")


def used(house: House, path: str = "web") -> int:
    """What a group uses, as the kernel of the machine has it.

    No verb is used for it that a fault may wait for.
    """
    with house.machine.machine() as machine:
        return machine.cgroups[path].usage * PAGE_BYTES


def _is_limited(house: House) -> bool:
    with house.machine.machine() as machine:
        return machine.cgroups["web"].max * PAGE_BYTES == GIB


def _has_freed(house: House) -> bool:
    return any(row.progress["reclaimed_bytes"] for row in house.shrinks("web", "succeeded"))


CASES = {
    "watermark": Case(ROOM, FULL, lambda house: used(house) < LOW, ("usage", "reclaim", "watch")),
    "limit": Case(KEEP, HALF, _is_limited, ("usage", "reclaim", "set_limits")),
    "balance": Case(SHARE, FULL, _has_freed, ("usage", "reclaim")),
    "idle": Case(IDLE, COLD, _has_freed, ("usage", "reclaim", "activity")),
    "pressure": Case(PRESSURE, COLD, _has_freed, ("usage", "reclaim")),
    "schedule": Case(
        NIGHTLY, HALF, lambda house: not house.policies.get("room").policy.enabled, (), (ROOM,)
    ),
}
EACH = [(kind, verb) for kind, case in CASES.items() for verb in (*case.always, *case.verbs)]


def begin(build: Build, kind: str, **more: Any) -> House:
    """A house with the policy of a kind in it, which is not enabled yet."""
    case = CASES[kind]
    house = build({"web": case.group}, **more)
    house.put(*case.before)
    house.put(case.policy, enabled=False)
    if kind == "schedule":  # due while nobody looked: no test waits for a minute
        house.end()
        done_at = int((datetime.now(UTC) - timedelta(hours=1)).timestamp() * 1e6)
        house.store.policy_states.save(
            house.machine.node().boot_id, {("nightly", house.group("web").id): {"done_at": done_at}}
        )
        house.begin()
    return house


def enable(house: House, kind: str) -> None:
    house.policies.switch(str(CASES[kind].policy["name"]), enabled=True)


def passes(house: House, told: Callable[[], Any]) -> Any:
    """Ask as until() does, with a second of the machine's time before each."""

    def ask() -> Any:
        house.machine.time.advance(1)
        return told()

    return until(ask)


@pytest.mark.long
@pytest.mark.parametrize(("kind", "verb"), EACH)
def test_a_policy_acts_though_a_call_of_its_round_failed(
    build: Build, kind: str, verb: str
) -> None:
    house = begin(build, kind)
    for use, error in ((1, "ENOMEM"), (3, "EMFILE"), (6, "EIO")):
        house.fault(verb, "", use=use, error=error)
    enable(house, kind)
    passes(house, partial(CASES[kind].has_acted, house))
    assert house.daemon.is_alive


@pytest.mark.parametrize("verb", CASES["watermark"].verbs)
def test_a_watermark_that_met_an_error_acts_the_next_time_and_the_time_after(
    build: Build, verb: str
) -> None:
    house = begin(build, "watermark")
    for use in (1, 2, 4, 7):
        house.fault(verb, "web", use=use, error="ENOMEM")
    enable(house, "watermark")
    for _ in range(3):
        passes(house, lambda: used(house) < LOW and not house.locks.busy())
        house.fill("web", 8000 * 2**20 - used(house))


@pytest.mark.parametrize("mode", ["enforce", "observe"])
def test_what_breaks_is_a_condition_a_line_in_the_log_and_a_count_until_it_is_over(
    build: Build,
    mode: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    house = begin(build, "watermark")
    house.put(ROOM, enabled=False, mode=mode)
    house.fault("stat", "web", error="ENOMEM", times=4)
    enable(house, "watermark")
    (condition,) = until(lambda: house.daemon.status("room").conditions)
    assert condition.type == "failing"
    assert "at web: This daemon or this kernel is short of something (ENOMEM)" in condition.detail
    assert condition.since_at is not None
    assert house.last() == (Verdict.HOLD, Reason.UNREADABLE)
    passes(house, lambda: not house.daemon.status("room").conditions)
    assert house.daemon.errors() == {("room", "ENOMEM"): 4}
    assert "the policy room failed at 'web' with ENOMEM (4 in a row)" in caplog.text
    assert "the policy room evaluates 'web' again" in caplog.text
    verdict = Verdict.ACT if mode == "enforce" else Verdict.WOULD_ACT
    until(
        lambda: [row for row in house.rows(policy="room", verdict=str(verdict)) if row.mode == mode]
    )


def test_evaluate_tells_which_group_could_not_be_read_and_why(build: Build) -> None:
    house = build({"web": FULL, "db": HALF})
    house.put(ROOM, enabled=False)
    house.fault("stat", "web", error="EMFILE")
    told = {
        row.group.path: (row.verdict, row.reason, row.errno)
        for row in house.daemon.evaluate(house.policies.get("room"))
    }
    assert told == {
        "web": (Verdict.HOLD, Reason.UNREADABLE, "EMFILE"),
        "db": (Verdict.HOLD, Reason.BELOW_HIGH, None),
    }
    again = {
        row.group.path: row.reason for row in house.daemon.evaluate(house.policies.get("room"))
    }
    assert again == {"web": Reason.ABOVE_HIGH, "db": Reason.BELOW_HIGH}
    assert house.daemon.errors() == {}


def test_who_is_shown_the_readings_and_fails_takes_no_grant_along(
    build: Build, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("nobody expects this")

    house = begin(build, "watermark", record_readings=fail)
    enable(house, "watermark")
    passes(house, lambda: used(house) < LOW)
    assert house.daemon.is_alive
    until(lambda: house.daemon.round_errors["EIO"])
    assert "nobody expects this" in caplog.text


def test_what_a_look_had_taken_is_due_again_when_the_look_fails() -> None:
    bench = Bench({"web": FULL, "db": HALF}, ROOM)
    gone = bench.group("db")
    bench.tick()
    with bench.machine.machine() as machine:
        machine.remove_tree(machine.cgroups["db"])
    bench.assign()
    bench.evaluator.finish(
        ("room", bench.group("web").id), bench.group("web"), Outcome(0, 0, 0.0), bench.now
    )
    (binding,) = bench.evaluator.bindings.of_policy("room")
    object.__setattr__(binding.policy, "mode", None)  # a record of it cannot be made
    binding.policy.__dict__.pop("mode")
    with pytest.raises(AttributeError):
        bench.tick()
    binding.policy.__dict__["mode"] = "enforce"
    tick = bench.tick(60)
    assert set(verdicts(tick)) == {"web", gone.path}


@pytest.mark.parametrize(("times", "seconds"), [(1, 1), (2, 2), (5, 16), (7, 60), (100, 60)])
def test_who_fails_waits_twice_as_long_each_time_and_a_minute_at_most(
    times: int, seconds: float
) -> None:
    setback = Setback()
    for _ in range(times):
        setback.note("ENOMEM", "", 100.0, is_action=False)
    assert setback.until == 100 + seconds
    assert not setback.end(is_action=True)
    assert setback.end(is_action=False)
    setback.note("ENOMEM", "", 100.0, is_action=False)
    assert setback.until == 101


# Threads that cannot be started


class Crowded(ThreadPoolExecutor):
    """A pool on a host that has no room for another thread, until it is given one."""

    is_full = True

    def _adjust_thread_count(
        self,
    ) -> (
        None
    ):  # where CPython starts them: behind the queue, as threads that cannot start would fail
        if self.is_full:
            raise RuntimeError("can't start new thread")
        super()._adjust_thread_count()


def test_work_that_was_refused_is_not_done_later() -> None:
    done: list[str] = []
    with Crowded(1) as pool:
        with pytest.raises(NotReady, match="can't start new thread"):
            submit_once(pool, done.append, "refused")
        pool.is_full = False
        submit_once(pool, done.append, "taken").result(60)
    assert done == ["taken"]


def test_a_pool_that_is_closed_refuses() -> None:
    with ThreadPoolExecutor(1) as pool:
        pass
    with pytest.raises(NotReady):
        submit_once(pool, lambda: None)


def test_a_shrink_that_no_thread_takes_leaves_nothing_busy_and_no_row_waiting(build: Build) -> None:
    house = build({"web": FULL})
    house.jobs._workers.callers = crowded = Crowded(1)  # noqa: SLF001  # the host's doing
    with pytest.raises(NotReady):
        house.jobs.submit(house.group("web"), Request(60, target_bytes=GIB))
    assert (house.locks.busy(), house.shrinks("web", "queued", "running")) == (set(), [])
    (row,) = house.shrinks("web")
    assert (row.state, "could not begin" in (row.error or {})["detail"]) == ("interrupted", True)
    crowded.is_full = False
    job = house.jobs.submit(house.group("web"), Request(60, target_bytes=GIB))
    job.finished.result(60)
    assert used(house) < GIB


@pytest.mark.parametrize("pool", ["shrinks", "changes"])
def test_a_policy_for_which_no_thread_could_be_started_acts_when_one_can(
    build: Build, pool: str
) -> None:
    kind = "limit" if pool == "changes" else "watermark"
    house = begin(build, kind)
    crowded = Crowded(1)  # the host's doing
    if pool == "changes":
        house.daemon._executor._workers = crowded  # noqa: SLF001
    else:
        house.jobs._workers.policies = crowded  # noqa: SLF001
    enable(house, kind)
    (condition,) = passes(
        house, lambda: house.daemon.status(str(CASES[kind].policy["name"])).conditions
    )
    assert (condition.type, "can't start new thread" in condition.detail) == ("failing", True)
    crowded.is_full = False
    passes(house, partial(CASES[kind].has_acted, house))
