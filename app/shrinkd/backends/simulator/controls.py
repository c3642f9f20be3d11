"""What can be done to a simulated machine beside the verbs.

Its workloads, its time, and faults at its verbs.
"""

from collections.abc import Callable
from typing import Protocol, cast

from shrinkd.backends.protocol import Backend, Group
from shrinkd.backends.simulator.faults import VERBS, Fault, Faults, Verb
from shrinkd.backends.simulator.machine.recordings import Recording, with_recordings
from shrinkd.backends.simulator.machine.scenarios import Scenario, load_scenario, scenario_names
from shrinkd.backends.simulator.machine.workloads import IDLE, Workload
from shrinkd.backends.simulator.time_control import Time
from shrinkd.errors import NotSimulator

__all__ = [
    "IDLE",
    "VERBS",
    "Fault",
    "Faults",
    "Recording",
    "Scenario",
    "Simulated",
    "Time",
    "Verb",
    "Workload",
    "load_scenario",
    "scenario_names",
    "simulated",
    "with_recordings",
]


class Simulated(Backend, Protocol):
    """What a backend is, and no other but one whose `is_simulated` says so."""

    scenario: Scenario
    time: Time
    faults: Faults

    def workload(self, group: Group) -> Workload:
        """Answer what was put into a group; IDLE is nothing."""

    def put_to_work(
        self,
        group: Group,
        workload: Workload,
        *,
        check: Callable[[Workload], None] = lambda _: None,
        dry_run: bool = False,
    ) -> None:
        """Give a group a workload in place of the one that it has, if `check`, which sees that one,
        does not raise.

        IDLE only ends it. GroupBusy where this kernel has no processes beside groups.
        """


def simulated(backend: Backend) -> Simulated:
    """The backend as one that has these, or NotSimulator."""
    if not backend.is_simulated:
        raise NotSimulator(
            "This daemon is on a real kernel, whose workloads, time and faults are nobody's to "
            "choose."
        )
    return cast("Simulated", backend)
