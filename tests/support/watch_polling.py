"""Wait for a watch in short polls, so that one that never fires is a failure and not a hang."""

import select

from shrinkd.backends import EventsMove, Group, Stalled, Trigger, UsageCrosses, Watch
from tests.backends.hosts import MIB, Host

LOOK_SECONDS = 0.05
STALL = Stalled("some", stall_microseconds=1000, window_microseconds=2_000_000)
"""A short stall, in a window that the kernel accepts without privileges."""
TRIGGERS: tuple[Trigger, ...] = (UsageCrosses(16 * MIB), EventsMove(), STALL)


def watchable(host: Host) -> list[Trigger]:
    """Return one trigger of each kind that the host's backend supports."""
    return [trigger for trigger in TRIGGERS if type(trigger) in host.backend.watchable]


def is_readable(watch: Watch, looks: int = 400) -> bool:
    return any(select.select([watch], [], [], LOOK_SECONDS)[0] for _ in range(looks))


def told(watch: Watch, looks: int = 400) -> frozenset[Trigger]:
    """Return the first triggers that the watch reports, or none when it does not fire."""
    for _ in range(looks):
        if select.select([watch], [], [], LOOK_SECONDS)[0] and (fired := watch.read()):
            return fired
    return frozenset()


def thrash(host: Host, group: Group) -> None:
    """Read four times as much as a limit of 16 MiB holds.

    Charges fail and reclaim stalls the reader; no process is killed.
    """
    host.backend.set_limits(group, {"max_bytes": 16 * MIB})
    host.charge(group, cache=64 * MIB)
