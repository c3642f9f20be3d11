"""Shrink a group below a target, and set a limit only where usage allows it.

Four routines of mm/memcontrol.c and res_counter.h as KAMEZAWA Hiroyuki posted them on 18 July 2008.

The names and their order are those of the mails. A memcg is a Group of a backend; `current` is the
job that runs the routine, as it was the task that wrote to memory.shrink_in_bytes; -EBUSY and
-EINTR are exceptions of that errno.

Semantics that are kept: the target is strict (usage < val); success is tested first, so a signal
that arrives with the work done changes nothing; then -EINTR; then -EBUSY, after five fruitless
passes that no progress in between forgives; a failed shrink keeps what it reclaimed and moves no
limit. A deadline is a second kind of pending signal.

Slips of the posted code that are not kept:
 1. mem_cgroup_shrink_usage_to() ends in `return 0`: its errors never reach the writer.
 2. mem_cgroup_resize_limit() leaves its loop when res_counter_set_limit() fails, not on success.
 3. res_counter_check_under_val() takes &cnt->flags as its lock; there is no such member, and
    Pavel Emelyanov answered that a lock is superfluous: the answer is stale on return.
 4. With that `break` turned round, the inner loop alone asks for signals, and is not entered while
    usage < val: a set that keeps failing spins for ever. So the outer loop asks too.
 5. The retry budget is fresh in every round and bounds no race with a fast charger: here it is one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from shrinkd.backends import Backend, Group, Intent, LimitName, Limits, unrecorded
from shrinkd.errors import Busy, LimitBelowUsage, ShrinkdError, ShrinkStalled
from shrinkd.memcontrol_errors import limit_below_usage, shrink_stalled

MEM_CGROUP_RECLAIM_RETRIES = 5  # mm/memcontrol.c, 2.6.26-rc8-mm1


class Current(Protocol):
    """The task that runs a routine."""

    def signal_pending(self) -> ShrinkdError | None:
        """Answer the error to stop with: Interrupted once cancelled, TimedOut past the deadline."""

    def allowance(self, excess_bytes: int) -> int:
        """Answer how much of the excess the next pass may free."""

    def cond_resched(self, usage_bytes: int, progress: int, retry_count: int) -> None:
        """Note how far a pass came; wait as the task's rate and the group's pressure demand."""


@dataclass(frozen=True, slots=True)
class Memcg:
    """A memory cgroup: a group and the controller that has it."""

    backend: Backend
    group: Group
    swappiness: int | None = None
    intent: Intent = unrecorded

    def usage(self) -> int:
        return self.backend.usage(self.group)

    def below_usage(self, limit: int, room: int = 1) -> LimitBelowUsage:
        return limit_below_usage(self.group, self.backend.stat(self.group), limit, room)

    def stalled(self, target: int) -> ShrinkStalled:
        return shrink_stalled(
            self.group, self.backend.stat(self.group), target, MEM_CGROUP_RECLAIM_RETRIES
        )


def set_limit(memcg: Memcg, limit: int) -> Limits:
    """Set the maximum to `limit` (whole pages) if usage is below it (patch 1/4).

    Else LimitBelowUsage, and nothing changes. Compare first: a v1 kernel that refuses has thrown
    the page cache away before it says -EBUSY, and a v2 kernel does not refuse. The backend's own
    -EBUSY is the second line, against a charge between our reading and its write.
    """
    return set_limits(memcg, {"max_bytes": limit})


def set_limits(
    memcg: Memcg, changes: Mapping[LimitName, int | None], *, dry_run: bool = False
) -> Limits:
    """Set limits of a group in one step, all or none; return them all as read back."""
    limit = changes.get("max_bytes")
    if limit is not None and not check_under_val(memcg, limit):
        raise memcg.below_usage(limit)
    try:
        return memcg.backend.set_limits(memcg.group, changes, intent=memcg.intent, dry_run=dry_run)
    except Busy as busy:
        if limit is None or (busy.room_bytes == 1 and check_under_val(memcg, limit)):
            raise  # it was another limit of the same step
        raise memcg.below_usage(limit, busy.room_bytes) from busy


def check_under_val(memcg: Memcg, val: int) -> bool:
    """Patch 2/4: usage < val, true for no longer than it takes to say so."""
    return memcg.usage() < val


def shrink_usage_to(
    memcg: Memcg, val: int, current: Current, retry_count: int = MEM_CGROUP_RECLAIM_RETRIES
) -> int:
    """Bring usage below val (patches 3/4 and 4/4) and answer the retries left, or raise.

    No limit moves either way.
    """
    while not check_under_val(memcg, val):
        if signal := current.signal_pending():
            raise signal
        if not retry_count:
            raise memcg.stalled(val)
        usage = memcg.usage()
        goal = current.allowance(max(usage - val + 1, 1))
        progress = memcg.backend.reclaim(memcg.group, goal, memcg.swappiness)
        if not progress:
            retry_count -= 1
        current.cond_resched(memcg.usage(), progress, retry_count)
    return retry_count


def resize_limit(memcg: Memcg, limit: int, current: Current) -> Limits:
    """Shrink below `limit` (whole pages), then make it the maximum.

    Where a charge in between makes the kernel refuse, shrink by the room that it asks for, again.
    """
    retry_count, target = MEM_CGROUP_RECLAIM_RETRIES, limit
    while True:
        retry_count = shrink_usage_to(memcg, target, current, retry_count)
        try:
            return set_limit(memcg, limit)
        except LimitBelowUsage as busy:
            if signal := current.signal_pending():
                raise signal from busy
            if not retry_count:
                raise memcg.stalled(target) from busy
            retry_count, target = retry_count - 1, max(limit - busy.room_bytes + 1, 0)
            current.cond_resched(memcg.usage(), 0, retry_count)
