"""A simulator whose clock the test moves, with changes scheduled between its verbs."""

from collections.abc import Callable
from typing import Literal

from shrinkd.backends import Group, MemStat
from shrinkd.backends.simulator.backend import Simulator
from shrinkd.backends.simulator.machine.accounting import UNLIMITED, Kind
from shrinkd.settings import Settings
from shrinkd.sizes import PAGE_BYTES

MIB = 2**20


class Stage:
    """Makes the simulator: pass `make_backend` to create_app().

    at() schedules a change by the number of a verb. No pass of reclaim takes time.
    """

    simulator: Simulator

    def __init__(self) -> None:
        self.seconds = 0.0
        self._verbs = 0
        self._happens: dict[int, Callable[[], object]] = {}

    def make_backend(self, settings: Settings) -> Simulator:
        self.simulator = Simulator(settings, clock=self._tick, sleep=lambda _seconds: None)
        return self.simulator

    def at(self, verb: int, happens: Callable[[], object]) -> None:
        """Call `happens` inside the n-th verb from now, before that does anything.

        It must not call verbs itself.
        """
        self._happens = {self._verbs + verb: happens}

    def did_happen(self) -> bool:
        """Return whether the verb of at() has come; if not, cancel the change."""
        came, self._happens = not self._happens, {}
        return came

    def _tick(self) -> float:
        self._verbs += 1
        self._happens.pop(self._verbs, lambda: None)()
        return self.seconds

    def group(self, path: str, *, anon: int = 0, cache: int = 0) -> Group:
        """Make a group with a process of so many bytes of anonymous memory and clean page cache."""
        group = self.simulator.make(path)
        self.charge(path, "anon", anon)
        self.charge(path, "file", cache)
        return group

    def charge(self, path: str, kind: Kind, size: int) -> None:
        with self.simulator.machine() as machine:
            machine.charge(machine.start(machine.cgroups[path]), kind, size // PAGE_BYTES)

    def vanish(self, path: str) -> None:
        """Remove a group with all that is in it, as another program would.

        Callable within a verb.
        """
        # the verb in which this is called holds the lock that machine() would acquire
        machine = self.simulator._machine  # noqa: SLF001
        # otherwise the root would inherit its cache, and the machine would fill up
        machine.reclaim(machine.cgroups[path], UNLIMITED)
        machine.remove_tree(machine.cgroups[path])

    def everything(self) -> dict[str, tuple[int, MemStat]]:
        """Return all groups with their ids and statistics, to compare before and after."""
        return {
            group.path: (group.id, self.simulator.stat(group))
            for group in self.simulator.groups()[1:]
        }

    def limits(self) -> dict[str, int | None]:
        return {
            group.path: self.simulator.stat(group).limits.max_bytes
            for group in self.simulator.groups()[1:]
        }


Method = Literal["GET", "HEAD", "POST", "PATCH", "DELETE", "PUT"]
