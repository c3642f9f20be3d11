"""Declare what a simulated machine offers beside Backend: workloads, time and faults."""

from collections.abc import Callable
from typing import Protocol, cast

from shrinkd.backends.protocol import Backend
from shrinkd.backends.readings import Group
from shrinkd.backends.simulator.faults import VERBS, Fault, Faults, Verb
from shrinkd.backends.simulator.machine.recordings import Recording, with_recordings
from shrinkd.backends.simulator.machine.scenarios import Scenario, load_scenario, scenario_names
from shrinkd.backends.simulator.machine.workloads import IDLE, Workload
from shrinkd.backends.simulator.time_control import TimeControl
from shrinkd.errors import NotSimulator

__all__ = [
    "IDLE",
    "VERBS",
    "Fault",
    "Faults",
    "Recording",
    "Scenario",
    "Simulated",
    "TimeControl",
    "Verb",
    "Workload",
    "load_scenario",
    "scenario_names",
    "simulated",
    "with_recordings",
]


class Simulated(Backend, Protocol):
    """Extend Backend by the controls of a simulated machine; `is_simulated` identifies it."""

    scenario: Scenario
    time: TimeControl
    faults: Faults

    def workload(self, group: Group) -> Workload:
        """Return the workload of a group; IDLE is none."""

    def set_workload(
        self,
        group: Group,
        workload: Workload,
        *,
        check: Callable[[Workload], None] = lambda _: None,
        dry_run: bool = False,
    ) -> None:
        """Replace the workload of a group, if `check`, called with the old one, does not raise.

        IDLE only ends the old one. GroupBusy if this kernel permits no processes beside groups.
        """


def simulated(backend: Backend) -> Simulated:
    """Return the backend as a Simulated, or raise NotSimulator."""
    if not backend.is_simulated:
        raise NotSimulator(
            "This daemon controls a real kernel; only the simulator has workloads, time and "
            "faults that a request can change."
        )
    return cast("Simulated", backend)
