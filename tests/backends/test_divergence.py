"""Compare the simulated machine with the kernel whose rules it follows, by random histories.

The same random steps are executed in both. Steps on an edge, such as a limit within EDGE of what is
held, are skipped: there the pages of the process's own, which the machine does not have, decide.
"""

import itertools
import os
import platform
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from random import Random
from typing import cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from shrinkd.backends import Backend, Group, LimitName
from shrinkd.memcontrol import Memcg, shrink_usage_to
from tests.backends import simulator_host
from tests.backends.hosts import MIB, opened
from tests.support.cgroup_host import CgroupHost
from tests.support.differential import EDGE, MOSTLY, ROOM, Comparison, Hands
from tests.support.paired_worlds import Memory, RealWorld, SimulatedWorld
from tests.support.scripted_task import ScriptedTask

pytestmark = pytest.mark.long

KIB = 2**10
FRUITLESS = 20
EXAMPLES = {"v1": (60, 500), "v2": (12, 100)}
"""Of a day, and where everything is required."""
STEPS_OF = {"v1": 12, "v2": 8}
"""At most, in one history. In the VM a step takes a quarter of a second."""

KINDS: tuple[Memory, ...] = ("file", "file", "file", "anon", "shmem", "unevictable")
INNER = ((), ("a",), ("a", "b"), ("a", "a/a", "a/b"), ("a", "a/a", "b"))
VERB_LIMITS: dict[str, tuple[LimitName, ...]] = {
    "v1": ("max_bytes", "swap_max_bytes", "soft_limit_bytes", "max_bytes"),
    "v2": ("max_bytes", "high_bytes", "low_bytes", "min_bytes"),
}
MAXIMUM = {"v1": "memory.limit_in_bytes", "v2": "memory.max"}
STORED = {
    "v1": ("memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes"),
    "v2": ("memory.low", "memory.min", "memory.swap.max", "memory.high"),
}
NONSENSE = (
    "",
    "junk",
    "1.5M",
    "5MB",
    "-2",
    "+5M",
    "5 M",
    "MAX",
    "max",
    "-1",
    "8E",
    "9223372036854775807",
)
SPELLINGS: tuple[Callable[[int], str], ...] = (
    str,
    "{:#x}".format,
    "0{:o}".format,
    " {}\n".format,
    lambda size: f"{size // KIB}k",
    lambda size: str(size + 4095),
)


class Histories(Comparison):
    """What may happen there, as one seed of hypothesis decides.

    If it drew each step, most would be the same: it turns most rules off, and tries what it has
    tried with a step twice.
    """

    random: Random

    @initialize(seed=st.integers(0, 2**64 - 1))
    def begin(self, seed: int) -> None:
        """Some groups, and processes in the innermost ones that use some memory."""
        self.random = Random(seed)
        self.log.append(f"seed {seed}")
        for path in (self.name, *(f"{self.name}/{path}" for path in self.random.choice(INNER))):
            self.groups[path] = (self.real.backend.make(path), self.simulated.backend.make(path))
        for path in self.groups:
            if len(self.inside(path)) == 1:
                self.start_in(path)
        for _ in range(self.random.randrange(6)):
            self.charge()

    @rule()
    def step(self) -> None:
        """One that is about something: those that find nothing to do, or an edge, leave no line."""
        lines = len(self.log)
        while len(self.log) == lines:
            self.random.choice(STEPS)(self)

    # -- what is chosen

    def path(self) -> str:
        return self.random.choice(list(self.groups))

    def size(self) -> int:
        return self.random.randint(1, 12) * MIB

    def amount(self, path: str) -> int:
        """Near what a group holds that cannot be reclaimed, near its usage, or small."""
        near = self.random.choice((self.held(path), self.usage(path), 0))
        return max(near // MIB + self.random.randint(-12, 16), 1) * MIB

    def somebody(self) -> Hands | None:
        living = [hands for hands in self.hands if hands.simulated.alive()]
        return self.random.choice(living) if living else None

    # -- what is done

    def make(self) -> None:
        parent = self.path()
        path = f"{parent}/{self.random.choice('ab')}"
        if path.count("/") < 4 and self.room(parent) > EDGE:
            made = self.both(lambda backend, _: backend.make(path), path)
            if made:
                self.groups[path] = cast("tuple[Group, Group]", made)

    def remove(self) -> None:
        path = self.path()
        if path != self.name and self.both(lambda backend, group: backend.remove(group), path):
            self.gone.append(self.groups.pop(path))
            parent = path.rpartition("/")[0]  # which has what was charged to it from now on
            self.apart[parent] = self.apart.get(parent, 0) + self.apart.pop(path, 0)

    def start(self) -> None:
        if len([hands for hands in self.hands if hands.simulated.alive()]) < 3:
            self.start_in(self.path())

    def start_in(self, path: str) -> None:
        self.hands.append(Hands(self.real.start(), self.simulated.start()))
        self.attach_to(path, self.hands[-1])

    def attach(self) -> None:
        if hands := self.somebody():
            self.attach_to(self.path(), hands)

    def attach_to(self, path: str, hands: Hands) -> None:
        if self.room(path) > EDGE:
            self.both(lambda backend, group: backend.attach(group, self.pid(hands, backend)), path)

    def charge(self) -> None:
        if hands := self.somebody():
            self.charge_to(hands, self.random.choice(KINDS), self.size())

    def outgrow(self) -> None:
        """Grow out of a limit, which kills."""
        if hands := self.somebody():
            line = self.line(hands)
            room = self.room(line[0]) if line else 0
            if EDGE < room < 24 * MIB:
                self.charge_to(hands, "anon", room + EDGE + MIB)

    def charge_to(self, hands: Hands, kind: Memory, size: int) -> None:
        if not self.is_clear(hands, kind, size):
            return
        self.reclaims(self.line(hands)[-1], ROOM)
        alive = hands.real.charge(kind, size), hands.simulated.charge(kind, size)
        self.log.append(f"charged {size // MIB} {kind} in {self.line(hands)[0]}: {alive}")
        self.agree("alive", *alive)
        if kind != "file":
            hands.pieces.append((kind, size))

    def drop(self) -> None:
        hands = self.somebody()
        if hands and hands.pieces and hands.pieces[-1][0] != "shmem":
            piece = hands.pieces.pop()
            hands.real.drop(*piece)
            hands.simulated.drop(*piece)
            self.log.append(f"dropped {piece}")

    def exit(self) -> None:
        if hands := self.somebody():
            self.hands.remove(hands)
            self.log.append(f"one of {hands.simulated.path()} ended")
            hands.real.exit()
            hands.simulated.exit()

    def set_limits(self) -> None:
        path, names = self.path(), VERB_LIMITS[self.version]
        changes = {
            name: self.random.choice((None, self.amount(path), self.amount(path)))
            for name in self.random.choices(names, k=2)
        }
        held = self.simulated.backend.stat(self.groups[path][1]).limits.max_bytes
        most = changes.get("max_bytes", held)
        values = {
            most,
            (most or 0) + (changes.get("swap_max_bytes") or 0),
            changes.get("high_bytes"),
        } - {None, 0}
        if all(abs(value - self.usage(path)) > EDGE for value in values if value):
            self.set(path, changes)

    def set(self, path: str, changes: Mapping[LimitName, int | None]) -> None:
        self.change(
            path,
            lambda: (
                self.both(lambda backend, group: backend.set_limits(group, changes), path)
                is not None
            ),
        )

    def part_memory_from_memory_and_swap(self) -> None:
        """v1 keeps memory <= memory and swap.

        Each of the two limits is refused what would end that, whoever sets it.
        """
        if self.version != "v1":
            return
        path, swap, beyond = self.path(), self.size(), self.size()
        most = (self.usage(path) + EDGE) // MIB * MIB + self.size()
        self.set(path, {"max_bytes": most, "swap_max_bytes": swap})
        self.write(path, "memory.limit_in_bytes", str(most + swap + beyond))
        self.write(path, "memory.memsw.limit_in_bytes", str(most - beyond))
        self.set(path, {"max_bytes": most + swap + beyond})

    def write_maximum(self) -> None:
        """Below usage, v1 reclaims and refuses, and v2 reclaims and kills."""
        path = self.path()
        size = self.amount(path)
        if self.is_clear_maximum(path, size):
            self.reclaims(path, self.excess(path, size))
            self.write(path, MAXIMUM[self.version], self.random.choice(SPELLINGS)(size))

    def write_another(self) -> None:
        path = self.path()
        name, size = self.random.choice(STORED[self.version]), self.amount(path)
        if name not in {"memory.high", "memory.memsw.limit_in_bytes"} or (
            abs(size - self.usage(path)) > EDGE and size > self.held(path) + EDGE
        ):
            self.reclaims(path, self.excess(path, size) if name == "memory.high" else ROOM)
            self.write(path, name, self.random.choice(SPELLINGS)(size))

    def write_nonsense(self) -> None:
        name = self.random.choice((MAXIMUM[self.version], *STORED[self.version]))
        self.write(self.path(), name, self.random.choice(NONSENSE))

    def write_reclaim(self) -> None:
        """v1 frees all it can, which is no error; v2 an amount, or -EAGAIN."""
        path, size = self.path(), self.size()
        cache = self.total(path, self.simulated.cache)
        if self.version == "v1":
            self.reclaims(path, ROOM)
            self.write(path, "memory.force_empty", "0")
        elif not cache - self.protected(path) - EDGE < size < cache + EDGE:
            self.reclaims(path, ROOM)
            self.write(path, "memory.reclaim", str(size))

    def reclaim(self) -> None:
        """Reclaim in passes until the goal is met or several freed nothing.

        A pass is cut by its time, and on a busy CPU before it has begun.
        """
        path, size = self.path(), self.size()
        self.reclaims_by_passes(path)

        def run(backend: Backend, group: Group) -> int:
            freed = fruitless = 0
            while freed < size and fruitless < FRUITLESS:
                more = backend.reclaim(group, size - freed)
                freed, fruitless = freed + more, fruitless + (not more)
            return freed

        self.log.append(f"freed {self.both(run, path)}")

    def shrink(self) -> None:
        """To a target, or until it is cancelled on the way to one that nothing reaches.

        The limits stay as they are.
        """
        path, passes = self.path(), self.random.choice((0, 0, 1, 2))
        held, size = self.held(path), self.amount(path)
        if passes:
            size = min(size, held // MIB * MIB - EDGE)
        if (
            size <= 0
            or held - EDGE < size < held + self.protected(path) + EDGE
            or abs(self.usage(path) - size) < EDGE
        ):
            return
        limits = self.limits()
        self.reclaims_by_passes(path)

        def run(backend: Backend, group: Group) -> int:
            current = ScriptedTask(largest_bytes=MIB if passes else 2**40)
            current.then[passes] = current.interrupt
            return shrink_usage_to(Memcg(backend, group), size, current)

        if self.both(run, path):
            assert max(self.real.backend.usage(self.groups[path][0]), self.usage(path)) < size
        self.agree("limits behind a shrink", self.limits(), limits)

    def use_a_removed_group(self) -> None:
        if self.gone:
            verbs: list[Callable[[Backend, Group], object]] = [
                lambda backend, group: backend.usage(group),
                lambda backend, group: backend.stat(group),
                lambda backend, group: backend.reclaim(group, MIB),
                lambda backend, group: backend.remove(group),
                lambda backend, group: backend.set_limits(group, {"max_bytes": 8 * MIB}),
            ]
            assert self.outcomes(self.random.choice(verbs), self.random.choice(self.gone))


STEPS = (
    *(
        Histories.make,
        Histories.remove,
        Histories.start,
        Histories.attach,
        Histories.drop,
        Histories.exit,
        Histories.outgrow,
    ),
    *(
        Histories.charge,
        Histories.charge,
        Histories.charge,
        Histories.set_limits,
        Histories.set_limits,
        Histories.write_maximum,
    ),
    *(
        Histories.write_maximum,
        Histories.part_memory_from_memory_and_swap,
        Histories.write_another,
        Histories.write_nonsense,
    ),
    *(
        Histories.write_reclaim,
        Histories.reclaim,
        Histories.shrink,
        Histories.shrink,
        Histories.use_a_removed_group,
    ),
)


@pytest.fixture
def simulated(kernel: CgroupHost[Backend]) -> Iterator[SimulatedWorld]:
    profile = "v1" if kernel.backend.name == "v1" else "v2" if release() >= (6, 16) else "v2-6.12"
    with simulator_host.on(profile, os.cpu_count() or 1) as host:
        yield SimulatedWorld(host)


def release() -> tuple[int, ...]:
    return tuple(int(number) for number in platform.release().split("-")[0].split(".")[:2])


def how_many(version: str) -> settings:
    """The same histories every time.

    SHRINKD_TEST_EXAMPLES is a number of random ones, of which v2 gets a fifth.
    """
    everyday, all_of_them = EXAMPLES[version]
    chosen = int(os.environ.get("SHRINKD_TEST_EXAMPLES", "0"))
    is_thorough = (
        os.environ.get("SHRINKD_TEST_THOROUGH", os.environ.get("SHRINKD_TEST_REQUIRE_ALL")) == "1"
    )
    return settings(
        max_examples=chosen * all_of_them // EXAMPLES["v1"][1]
        or (all_of_them if is_thorough else everyday),
        stateful_step_count=STEPS_OF[version],
        derandomize=not chosen,
        database=None,
        deadline=None,
        phases=[
            Phase.generate
        ],  # a history is short, and told whole; a kernel is not the same for a second one
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.timeout(1800)
def test_the_machine_does_as_the_kernel_does(
    kernel: CgroupHost[Backend], simulated: SimulatedWorld
) -> None:
    real, numbers, passes = RealWorld(kernel), itertools.count(), list[bool]()

    def history() -> Histories:
        return Histories(
            real, simulated, f"shrinkd-test-{os.getpid()}-history-{next(numbers)}", passes
        )

    run_state_machine_as_test(
        cast("type[RuleBasedStateMachine]", history), settings=how_many(kernel.backend.name)
    )
    assert sum(passes) >= MOSTLY * len(passes)


@pytest.mark.parametrize(
    ("before", "more", "agrees"), [(448, 704, True), (0, 1216, False), (448, 1216, False)]
)
def test_what_a_group_was_off_by_before_a_step_is_not_held_against_the_step(
    before: int, more: int, *, agrees: bool
) -> None:
    """Both in KiB.

    What was left apart, and pages that are charged ahead, once made 1,236,992 bytes of 0 where 1
    MiB is let pass.
    """
    with opened("v1") as kernel, simulator_host.on("v1", os.cpu_count() or 1) as machine:
        real = RealWorld(kernel)
        history = Histories(real, SimulatedWorld(machine), f"shrinkd-test-{os.getpid()}-apart", [])
        try:
            history.groups[history.name] = (
                real.backend.make(history.name),
                history.simulated.backend.make(history.name),
            )
            history.hands.append(Hands(real.start(), history.simulated.start()))
            history.attach_to(history.name, history.hands[0])
            history.they_are_alike()
            for size in (before, more):
                assert history.hands[0].real.charge("anon", size * KIB)
                with (
                    nullcontext()
                    if agrees or size != more
                    else pytest.raises(AssertionError, match="own usage")
                ):
                    history.they_are_alike()
        finally:
            history.teardown()
