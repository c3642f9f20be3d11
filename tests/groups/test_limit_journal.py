"""Intents.

A row around a change, never one that outlives it unseen, and what a start makes of one that was
left.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from shrinkd import memcontrol
from shrinkd.backends import Group, Intent, LimitName, Limits, Steps, unrecorded
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.backends.simulator.controls import Scenario
from shrinkd.backends.transaction import write_all
from shrinkd.errors import Busy, NotWritable, StoreUnavailable
from shrinkd.groups.limit_journal import LimitJournal
from shrinkd.memcontrol import Memcg
from shrinkd.settings import Settings
from shrinkd.sizes import PAGE_BYTES, UNLIMITED
from shrinkd.storage import LimitIntentRow, Store
from tests.support.live_server import Live
from tests.support.locked_database import locked
from tests.support.scripted_simulator import MIB, Stage

STEPS: Steps = [
    {"max_bytes": 64 * MIB, "soft_limit_bytes": None},
    {"max_bytes": 32 * MIB, "soft_limit_bytes": None},
    {"max_bytes": 32 * MIB, "soft_limit_bytes": 16 * MIB},
]


class Scene:
    """A group of a simulated machine with nothing but 4 MiB in it, a database, and intents."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stage = Stage()
        self.backend = self.stage.make_backend(Settings(scenario="empty"))
        self.group = self.stage.group("group", anon=4 * MIB)
        self.store = Store(f"sqlite:///{path}?timeout=0.05")
        self.store.open()
        self.intents = LimitJournal(self.backend, self.store.limit_intents)

    @property
    def boot_id(self) -> str:
        return self.backend.node().boot_id

    def rows(self) -> list[Steps]:
        return [row.steps for row in self.store.limit_intents.list(self.boot_id)]

    def leave(
        self, steps: Steps = STEPS, *, group: Group | None = None, boot_id: str | None = None
    ) -> None:
        """Leave a row as a daemon that died in a change does."""
        group = group or self.group
        boot_id = boot_id or self.boot_id
        self.store.limit_intents.record(
            LimitIntentRow(boot_id, group.id, group.path, list(steps), 1)
        )

    def limits(self) -> dict[LimitName, int | None]:
        limits = self.backend.stat(self.group).limits
        return {"max_bytes": limits.max_bytes, "soft_limit_bytes": limits.soft_limit_bytes}

    def locked(self) -> AbstractContextManager[None]:
        return locked(self.path)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path / "shrinkd.db")
    yield scene
    scene.store.close()


# Around a change


def test_a_change_is_written_down_before_it_and_forgotten_behind_it(scene: Scene) -> None:
    with scene.intents(scene.group, STEPS) as settle:
        assert scene.rows() == [STEPS]
        settle()
        assert scene.rows() == []
    assert scene.rows() == []


def test_a_change_that_one_write_decides_costs_no_row(scene: Scene) -> None:
    with scene.locked(), scene.intents(scene.group, ()) as settle:
        settle()


def test_a_change_that_was_refused_leaves_no_row(scene: Scene) -> None:
    with pytest.raises(Busy), scene.intents(scene.group, STEPS):
        raise Busy("No.")
    assert scene.rows() == []


def test_a_change_that_cannot_be_written_down_does_not_begin(scene: Scene) -> None:
    with scene.locked(), pytest.raises(StoreUnavailable), scene.intents(scene.group, STEPS):
        pytest.fail("it began")


@contextmanager
def left(scene: Scene) -> Iterator[dict[str, int]]:
    """A change whose row could not be deleted, with the database still locked.

    Yields the limits that it was to write.
    """
    held = {"max_bytes": 64}
    now = dict(held)
    with ExitStack() as lock:

        def commit(name: str, value: int) -> None:
            if value != held[name]:
                lock.enter_context(scene.locked())
            now[name] = value

        with pytest.raises(StoreUnavailable):
            write_all(held, [("max_bytes", 32)], commit, scene.intents(scene.group, STEPS))
        yield now


def test_a_change_whose_row_stays_does_not_stand(scene: Scene) -> None:
    with left(scene) as now:
        assert now == {"max_bytes": 64}
    assert scene.rows() == [STEPS]


def test_a_row_that_stayed_goes_before_the_next_change_or_that_is_refused(scene: Scene) -> None:
    with left(scene), pytest.raises(StoreUnavailable), scene.intents(scene.group, ()):
        pytest.fail("it began")
    with scene.intents(scene.group, ()):
        assert scene.rows() == []


def test_a_row_that_stayed_is_replaced_by_that_of_the_next_change(scene: Scene) -> None:
    with left(scene):
        pass
    with scene.intents(scene.group, STEPS[1:]):
        assert scene.rows() == [STEPS[1:]]


def test_a_limit_that_was_lowered_alone_keeps_the_database_out_of_it(scene: Scene) -> None:
    """What decides is the backend, and this one has a lock around its change."""
    with scene.locked():
        memcontrol.set_limits(
            Memcg(scene.backend, scene.group, intent=scene.intents),
            {"max_bytes": 32 * MIB, "soft_limit_bytes": MIB},
        )
    assert scene.limits() == {"max_bytes": 32 * MIB, "soft_limit_bytes": MIB}


# At the next start


@pytest.mark.parametrize("reached", range(len(STEPS)))
def test_what_was_half_made_is_put_back_and_what_was_made_stays(
    scene: Scene, reached: int, caplog: pytest.LogCaptureFixture
) -> None:
    scene.backend.set_limits(scene.group, STEPS[reached])
    scene.leave()
    scene.intents.settle()
    assert scene.limits() == (STEPS[2] if reached == 2 else STEPS[0])
    assert scene.rows() == []
    assert [record.getMessage() for record in caplog.records] == [
        "the daemon died in a change of the limits of 'group': "
        + (
            "it had taken effect"
            if reached == 2
            else "they are {'max_bytes': 67108864, 'soft_limit_bytes': None}, as before it"
        )
    ]


def test_a_limit_that_the_group_was_caught_above_is_put_back(scene: Scene) -> None:
    scene.backend.set_limits(scene.group, STEPS[2])
    with scene.backend.machine() as machine:
        machine.cgroups["group"].max = (
            MIB // PAGE_BYTES
        )  # as cgroup v2 stores one, whatever is used
    scene.leave([STEPS[0], {"max_bytes": MIB, "soft_limit_bytes": 16 * MIB}])
    scene.intents.settle()
    assert scene.limits() == STEPS[0]


def test_what_another_has_set_since_is_kept(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    theirs: dict[LimitName, int | None] = {"max_bytes": 48 * MIB, "soft_limit_bytes": None}
    scene.backend.set_limits(scene.group, theirs)
    scene.leave()
    scene.intents.settle()
    assert (scene.limits(), scene.rows()) == (theirs, [])
    assert "by another hand, and stay so" in caplog.text


def test_a_group_that_outgrew_its_old_limit_gets_all_of_the_new_ones(scene: Scene) -> None:
    raised: Steps = [
        {"max_bytes": 2 * MIB, "soft_limit_bytes": None},
        {"max_bytes": 32 * MIB, "soft_limit_bytes": None},
        {"max_bytes": 32 * MIB, "soft_limit_bytes": MIB},
    ]
    scene.backend.set_limits(scene.group, raised[1])
    scene.leave(raised)
    scene.intents.settle()
    assert (scene.limits(), scene.rows()) == (raised[2], [])


def test_the_row_of_a_group_that_is_gone_is_forgotten_and_its_successor_left_alone(
    scene: Scene,
) -> None:
    scene.leave(group=Group("group", scene.group.id + 1000))
    scene.leave(group=Group("elsewhere/group", scene.group.id + 1001))
    scene.backend.set_limits(scene.group, STEPS[1])
    scene.intents.settle()
    assert (scene.limits(), scene.rows()) == (STEPS[1], [])


def test_the_row_of_another_boot_says_nothing(scene: Scene) -> None:
    scene.leave(boot_id="before")
    scene.backend.set_limits(scene.group, STEPS[1])
    scene.intents.settle()
    assert scene.limits() == STEPS[1]


@pytest.mark.parametrize("infinite", [UNLIMITED, None])
def test_an_infinite_protection_is_put_back_whichever_version_wrote_it_down(
    tmp_path: Path, infinite: int | None
) -> None:
    machine = Simulator(
        Settings(), scenario=Scenario.model_validate({"profile": "v2", "groups": [{"path": "web"}]})
    )
    (_, group), store = machine.groups(), Store(f"sqlite:///{tmp_path}/shrinkd.db")
    store.open()
    machine.set_limits(group, {"max_bytes": 32 * MIB, "low_bytes": UNLIMITED})
    steps: Steps = [
        {"max_bytes": size * MIB, "low_bytes": low}
        for size, low in ((64, infinite), (32, infinite), (32, 0))
    ]
    store.limit_intents.record(LimitIntentRow(machine.node().boot_id, group.id, "web", steps, 1))
    LimitJournal(machine, store.limit_intents).settle()
    limits = machine.stat(group).limits
    assert (limits.max_bytes, limits.low_bytes) == (64 * MIB, UNLIMITED)
    store.close()


class Stubborn(Simulator):
    """A controller that becomes read-only after so many writes."""

    writes = 0

    def set_limits(
        self,
        group: Group,
        changes: Mapping[LimitName, int | None],
        *,
        intent: Intent = unrecorded,
        dry_run: bool = False,
    ) -> Limits:
        if not self.writes:
            raise NotWritable("It is mounted read-only.")
        self.writes -= 1
        return super().set_limits(group, changes, intent=intent, dry_run=dry_run)


@pytest.mark.parametrize("writes", [0, 1])
def test_what_cannot_be_settled_now_is_settled_by_the_next_start(
    scene: Scene, writes: int, caplog: pytest.LogCaptureFixture
) -> None:
    stubborn = Stubborn(Settings(scenario="empty"))
    group = stubborn.make("group")
    Simulator.set_limits(stubborn, group, STEPS[1])
    longer: Steps = [{"max_bytes": 64 * MIB, "soft_limit_bytes": MIB}, *STEPS]
    scene.leave(longer, group=group, boot_id=stubborn.node().boot_id)
    stubborn.writes = writes
    LimitJournal(stubborn, scene.store.limit_intents).settle()
    assert "the next start has to settle it: It is mounted read-only." in caplog.text
    stubborn.writes = 2
    LimitJournal(stubborn, scene.store.limit_intents).settle()
    assert stubborn.stat(group).limits.soft_limit_bytes == MIB
    assert scene.store.limit_intents.list(stubborn.node().boot_id) == []


def test_limits_are_settled_before_the_first_answer(scene: Scene) -> None:
    scene.backend.set_limits(scene.group, STEPS[1])
    scene.leave()
    scene.store.close()
    with Live(Settings(database_url=f"sqlite:///{scene.path}"), lambda _: scene.backend) as live:
        assert live.client.get("/v1/groups/group/limits").json()["max_bytes"] == 64 * MIB
