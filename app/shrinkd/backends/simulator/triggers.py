"""Fire the triggers of a simulated machine when it changes, and advance its time for them."""

import math
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from shrinkd.backends.readings import Group
from shrinkd.backends.simulator.machine.accounting import Cgroup
from shrinkd.backends.simulator.machine.machine import Machine
from shrinkd.backends.trigger_types import EventsMove, Stalled, Trigger, UsageCrosses
from shrinkd.backends.watch import EventfdSource
from shrinkd.sizes import PAGE_BYTES


class TriggerNotifier:
    """Hold the armed sources of one machine, and check them after each use of it.

    The machine only advances while a verb uses it, and a reader that waits on a watch uses none: so
    a thread advances it for as long as sources are armed.
    """

    def __init__(
        self, machine: Callable[[], AbstractContextManager[Machine]], tick_seconds: float
    ) -> None:
        self._machine, self._tick_seconds = machine, tick_seconds
        self._armed: set[SimulatedSource] = set()
        self._is_ticking = False

    def check_all(self, machine: Machine) -> None:
        """Check all armed sources against the machine."""
        for bell in self._armed:
            bell.check(machine)

    def arm_source(self, bell: "SimulatedSource") -> None:
        with self._machine() as machine:
            bell.check(machine)
            bell.has_fired()  # a condition that holds already does not fire
            self._armed.add(bell)
            if not self._is_ticking:
                self._is_ticking = True
                threading.Thread(target=self._tick, name="simulated time", daemon=True).start()

    def disarm(self, bell: "SimulatedSource") -> None:
        with self._machine():
            self._armed.discard(bell)

    def _tick(self) -> None:
        going = True
        while going:
            time.sleep(self._tick_seconds)
            with self._machine():
                going = self._is_ticking = bool(self._armed)


class SimulatedSource(EventfdSource):
    """Implement Source for one trigger of a simulated group."""

    def __init__(self, bells: TriggerNotifier, group: Group, trigger: Trigger) -> None:
        super().__init__()
        self._notifier, self._group, self._trigger = bells, group, trigger
        self._seen: object = None
        self._stalled_us, self._since_us = 0, -math.inf

    def arm(self) -> None:
        self._notifier.arm_source(self)

    def close(self) -> None:
        self._notifier.disarm(self)
        super().close()

    def check(self, machine: Machine) -> None:
        """Fire if the trigger's condition has occurred since the last check.

        It also fires, for good, when the group was removed.
        """
        cgroup = machine.cgroups.get(self._group.path)
        if cgroup is None or cgroup.id != self._group.id or self._fires_now(cgroup, machine.now_us):
            os.eventfd_write(self.fileno(), 1)

    def _fires_now(self, cgroup: Cgroup, now_us: int) -> bool:
        match self._trigger:
            case UsageCrosses(usage_bytes=value):
                return self._has_changed(cgroup.usage * PAGE_BYTES >= value)
            case EventsMove():
                return self._has_changed((cgroup.failcnt, *cgroup.events.values()))
            case Stalled() as stalled:
                return self._has_stalled(stalled, cgroup, now_us)

    def _has_changed(self, state: object) -> bool:
        before, self._seen = self._seen, state
        return before != state

    def _has_stalled(self, stalled: Stalled, cgroup: Cgroup, now_us: int) -> bool:
        total_us = (cgroup.some if stalled.line == "some" else cgroup.full).total_us
        has_struck = total_us - self._stalled_us >= stalled.stall_microseconds
        if has_struck or now_us - self._since_us >= stalled.window_microseconds:
            self._stalled_us, self._since_us = total_us, now_us
        return has_struck
