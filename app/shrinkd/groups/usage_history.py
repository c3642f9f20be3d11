"""Usage history of groups: one sample every 10 s, for an hour, in memory.

The samples come from the policies' own readings, and from a sampler that reads the other groups.
They are not stored, so a restart begins with an empty history. A group takes 2 KiB while only its
usage is known, 9 KiB with all sizes, and 12 KiB where the kernel has pressure: at most 48 MiB for
4096 groups.
"""

import logging
import threading
import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, MutableSequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

from shrinkd.backends import Backend, Group, MemStat
from shrinkd.errors import ShrinkdError
from shrinkd.sizes import PAGE_BYTES

SLOT_SECONDS = 10
SLOTS = 360
MOST_GROUPS = 4096
_SIZES = ("usage_bytes", "anon_bytes", "file_bytes", "swap_bytes", "working_set_bytes")
_STALLED = "some_total_microseconds"
FIELDS = (*_SIZES, _STALLED)
"""Sizes in bytes, rounded to pages, and PSI's total time in microseconds in which tasks stalled
for memory since the group was made."""
_UNKNOWN_PAGES, _UNKNOWN_MICROSECONDS = 2**32 - 1, 2**64 - 1
_SLICE = 50
"""Groups that are sampled between two rests: 3 ms when all is read, 0.4 ms when only usage is."""
_REST_SECONDS = 0.01
_WHOLE_SLOTS = 12
"""How often all sizes of a group are read, which costs ten times as much as its usage: every two
minutes."""
_WALK_SLOTS = 3

log = logging.getLogger(__name__)

Samples = tuple[list[int], dict[str, list[int | None]]]
"""Times in seconds since the epoch, and for each field as many values."""


@dataclass(slots=True)
class _Ring:
    """The samples of one group: a column for each field that was read, indexed by slot % SLOTS."""

    slot: int
    """The slot of the newest sample. Slots are counted from the epoch."""
    whole: int = -1
    """The newest slot in which all fields were read."""
    columns: dict[str, MutableSequence[int]] = field(default_factory=dict)

    def advance(self, slot: int) -> None:
        """Make `slot` the newest one, and mark the slots between as unknown."""
        for passed in range(max(self.slot, slot - SLOTS) + 1, slot + 1):
            for name, column in self.columns.items():
                column[passed % SLOTS] = _unknown(name)
        self.slot = slot

    def put(self, name: str, value: int) -> None:
        column = self.columns.get(name)
        if column is None:
            column = self.columns[name] = (
                array("Q" if name == _STALLED else "I", [_unknown(name)]) * SLOTS
            )
        column[self.slot % SLOTS] = (
            value if name == _STALLED else min(value // PAGE_BYTES, _UNKNOWN_PAGES - 1)
        )

    def get(self, name: str, slot: int) -> int | None:
        column = self.columns.get(name)
        if column is None or column[slot % SLOTS] == _unknown(name):
            return None
        return column[slot % SLOTS] if name == _STALLED else column[slot % SLOTS] * PAGE_BYTES


def _unknown(name: str) -> int:
    return _UNKNOWN_MICROSECONDS if name == _STALLED else _UNKNOWN_PAGES


class UsageHistory:
    """The samples of all groups, by the group's id. Thread-safe.

    With more than `most_groups`, the group is dropped that was neither noted nor read for longest.
    `clock` returns seconds since the epoch; when it is set back, a group's samples are of the
    future, and its history begins anew.
    """

    def __init__(
        self, clock: Callable[[], float] = time.time, most_groups: int = MOST_GROUPS
    ) -> None:
        self._clock, self._most_groups = clock, most_groups
        self._rings: OrderedDict[int, _Ring] = OrderedDict()
        self._lock = threading.Lock()

    def now(self) -> float:
        return self._clock()

    def note(self, group_id: int, usage_bytes: int) -> None:
        """Record the present usage of a group, unless this slot has a sample."""
        with self._lock:
            slot, ring = self._slot(), self._rings.get(group_id)
            if ring is None or ring.slot != slot:
                self._at(group_id, slot).put("usage_bytes", usage_bytes)

    def note_all(self, readings: Mapping[int, MemStat]) -> None:
        """Record readings by group id, unless this slot has a whole reading."""
        with self._lock:
            slot = self._slot()
            for group_id, stat in readings.items():
                ring = self._rings.get(group_id)
                if ring is None or ring.whole != slot:
                    self._keep(self._at(group_id, slot), stat)

    def lacks(self, group_id: int) -> Literal["nothing", "usage", "all"]:
        """Return what has to be read of a group now.

        "all" once in two minutes, "nothing" if this slot has a sample.
        """
        with self._lock:
            slot, ring = self._slot(), self._rings.get(group_id)
            if ring is None or slot - ring.whole >= _WHOLE_SLOTS:
                return "all"
            return "nothing" if ring.slot == slot else "usage"

    def forget(self, live: Collection[int]) -> None:
        """Drop all groups but the live ones and those noted in this slot, which may be newer."""
        with self._lock:
            slot = self._slot()
            for group_id in [
                group_id
                for group_id, ring in self._rings.items()
                if group_id not in live and ring.slot != slot
            ]:
                del self._rings[group_id]

    def choose(self, groups: list[Group]) -> list[Group]:
        """Return the groups to sample: all, or `most_groups` of them, known ones first."""
        if len(groups) <= self._most_groups:
            return groups
        with self._lock:
            return sorted(groups, key=lambda group: group.id not in self._rings)[
                : self._most_groups
            ]

    def read(
        self,
        group_id: int,
        fields: Collection[str],
        span: tuple[float, float],
        step_seconds: int = SLOT_SECONDS,
    ) -> Samples:
        """Return the samples whose slots begin within the span, its end excluded.

        Of each step the last known sample. Times are multiples of the step, and only those with a
        sample. None stands for a field that was not read then.
        """
        begins, ends = span
        with self._lock:
            ring = self._rings.get(group_id)
            if ring is None or ring.slot > self._slot():
                return [], {name: [] for name in fields}
            self._rings.move_to_end(group_id)
            oldest = self._slot() - SLOTS + 1
            slots = range(
                max(-int(-begins // SLOT_SECONDS), oldest),
                min(-int(-ends // SLOT_SECONDS), ring.slot + 1),
            )
            rows = {
                name: [
                    (slot, value) for slot in slots if (value := ring.get(name, slot)) is not None
                ]
                for name in fields
            }
        columns = {
            name: {slot * SLOT_SECONDS // step_seconds * step_seconds: value for slot, value in row}
            for name, row in rows.items()
        }
        times = sorted({at for column in columns.values() for at in column})
        return times, {name: [column.get(at) for at in times] for name, column in columns.items()}

    def _slot(self) -> int:
        return int(self._clock() // SLOT_SECONDS)

    def _at(self, group_id: int, slot: int) -> _Ring:
        """Return the ring of a group, advanced to this slot."""
        ring = self._rings.get(group_id)
        if ring is None or ring.slot > slot:
            ring = self._rings[group_id] = _Ring(slot)
        ring.advance(slot)
        self._rings.move_to_end(group_id)
        if len(self._rings) > self._most_groups:
            self._rings.popitem(last=False)
        return ring

    def _keep(self, ring: _Ring, stat: MemStat) -> None:
        ring.whole = ring.slot
        for name in _SIZES:
            if (value := getattr(stat, name)) is not None:
                ring.put(name, value)
        if stat.pressure is not None:
            ring.put(_STALLED, stat.pressure.some.total_microseconds)


class UsageSampler:
    """Samples the groups that have no sample yet in a slot, on a thread of its own.

    The first time is 10 s after start().
    """

    def __init__(self, backend: Backend, history: UsageHistory) -> None:
        self._backend, self._history = backend, history
        self._groups: list[Group] = []
        self._passes = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history")

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling between two slices, and wait for that."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def sample(self) -> None:
        """Sample all groups once, with a rest after each slice."""
        number, self._passes = self._passes, self._passes + 1
        with suppress(ShrinkdError):  # then the groups of the last walk
            if number % _WALK_SLOTS == 0:
                groups = self._backend.groups()[1:]
                self._history.forget({group.id for group in groups})
                self._groups = self._history.choose(groups)
        for start in range(0, len(self._groups), _SLICE):
            for group in self._groups[start : start + _SLICE]:
                with suppress(
                    ShrinkdError
                ):  # it is gone or cannot be read: its sample stays unknown
                    self._read(group)
            if self._stopping.wait(_REST_SECONDS):
                return

    def _run(self) -> None:
        while not self._stopping.wait(
            SLOT_SECONDS - self._history.now() % SLOT_SECONDS if self._passes else SLOT_SECONDS
        ):
            try:
                self.sample()
            except Exception:  # a bug costs this pass; the thread goes on
                log.exception(
                    "the groups could not be sampled for the history, and will be in %d s",
                    SLOT_SECONDS,
                )

    def _read(self, group: Group) -> None:
        lacks = self._history.lacks(group.id)
        if lacks == "all":
            self._history.note_all({group.id: self._backend.stat(group)})
        elif lacks == "usage":
            self._history.note(group.id, self._backend.usage(group))
