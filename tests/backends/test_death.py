"""Test kill -9 between any two steps of a limit change, and the next start, on each kernel."""

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from shrinkd.backends import Backend, Group, LimitName, MemStat
from shrinkd.backends.cgroup.tree import Tree
from shrinkd.backends.v1.backend import V1
from shrinkd.backends.v2.backend import V2
from shrinkd.groups.limit_journal import LimitJournal
from shrinkd.memcontrol import Memcg, set_limits
from shrinkd.settings import Settings
from shrinkd.storage import LimitIntentRepository, LimitIntentRow, Store
from tests.backends.hosts import MIB
from tests.support.cgroup_host import CgroupHost

pytestmark = pytest.mark.long


class Fate:
    """Kill -9 at the n-th step."""

    left = 0

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


class KillableDaemon(Tree):
    """A controller whose daemon may die before each read, and before and after each write."""

    fate = Fate()

    def read(self, group: Group, name: str) -> bytes:
        self.fate.step()
        return super().read(group, name)

    @contextmanager
    def opened(self, group: Group, name: str) -> Iterator[int]:
        self.fate.step()
        with super().opened(group, name) as file:
            yield file
        self.fate.step()


class MortalV1(KillableDaemon, V1):
    def stat(self, group: Group, *, raw: bool = False) -> MemStat:
        self.fate.step()
        return super().stat(group, raw=raw)


class MortalV2(KillableDaemon, V2):
    pass


class MortalIntents(LimitIntentRepository):
    def record(self, row: LimitIntentRow) -> None:
        KillableDaemon.fate.step()
        super().record(row)
        KillableDaemon.fate.step()

    def delete(self, boot_id: str, group_id: int) -> None:
        KillableDaemon.fate.step()
        super().delete(boot_id, group_id)
        KillableDaemon.fate.step()


class Daemons:
    """Daemons one after the other, with one database, one group and one kernel.

    Each is killed at a step, or none is named.
    """

    def __init__(self, backend: Backend, group: Group, folder: Path) -> None:
        self.group = group
        self.backend = backend
        self._names = backend.settable_limits
        self._url = f"sqlite:///{folder}/shrinkd.db"
        with closing(Store(self._url)) as store:
            # once: no daemon here has to claim what another one holds, and migrating is most of a
            # start
            store.open()

    def every(self, size: int) -> dict[LimitName, int | None]:
        return dict.fromkeys(self._names, size)

    def limits(self) -> dict[LimitName, int | None]:
        limits = self.backend.stat(self.group).limits
        return {name: getattr(limits, name) for name in self._names}

    def changed(self, changes: dict[LimitName, int | None], step: int = 0) -> bool:
        return self._lives(
            lambda backend, store: set_limits(
                Memcg(backend, self.group, intent=LimitJournal(backend, store.limit_intents)),
                changes,
            ),
            step,
        )

    def settled(self, step: int = 0) -> bool:
        def settle(backend: Backend, store: Store) -> None:
            LimitJournal(backend, store.limit_intents).settle()
            assert store.limit_intents.list(backend.node().boot_id) == []

        return self._lives(settle, step)

    def _lives(self, work: Callable[[Backend, Store], object], step: int) -> bool:
        """Let a daemon do something, and answer whether it came to its end."""
        pid = os.fork()
        if not pid:
            status = 1
            with suppress(BaseException), closing(Store(self._url)) as store:
                store.limit_intents = MortalIntents(store.database)
                KillableDaemon.fate.left = step
                work(self.backend, store)
                status = 0
            os._exit(status)  # the rest of the tests is its parent's
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert status in {0, -signal.SIGKILL}
        return status == 0


@pytest.fixture
def daemons(kernel: CgroupHost[Backend], tmp_path: Path) -> Iterator[Daemons]:
    killable: dict[str, Callable[[Settings], Backend]] = {"v1": MortalV1, "v2": MortalV2}
    with closing(killable[kernel.backend.name](Settings())) as backend:  # its children inherit it
        yield Daemons(backend, kernel.group(), tmp_path)


@pytest.mark.parametrize(("old", "new"), [(64 * MIB, 32 * MIB), (32 * MIB, 64 * MIB)])
def test_a_change_that_is_killed_at_any_step_is_all_or_nothing_after_the_next_start(
    daemons: Daemons, old: int, new: int
) -> None:
    before, after = daemons.every(old), daemons.every(new)
    halves = 0
    for step in itertools.count(1):
        daemons.backend.set_limits(daemons.group, before)
        lived = daemons.changed(after, step)
        halves += daemons.limits() not in (before, after)
        assert daemons.settled()
        assert daemons.limits() in (before, after)
        if lived:
            break
    assert daemons.limits() == after
    assert halves


def test_a_settling_that_is_killed_at_any_step_is_finished_by_a_later_one(daemons: Daemons) -> None:
    before, after = daemons.every(64 * MIB), daemons.every(32 * MIB)
    for step in itertools.count(1):
        daemons.backend.set_limits(daemons.group, before)
        daemons.changed(after, step)
        if sum(size == 32 * MIB for size in daemons.limits().values()) == len(after) - 1:
            break
    for step in itertools.count(1):
        if daemons.settled(step):
            break
    assert daemons.limits() == before
