"""The simulated machine is held against the kernel whose rules it follows: the same things are done in both, and compared at every step.

What has to be equal, is: errors by class and errno, limits, who lives. What cannot be, is within a tolerance below. What a step
leaves to chance (who of several groups gives how much cache) is compared, and then taken over from the kernel, so that
no difference adds to another. Steps that lie on an edge, as a limit within EDGE of what is held, are not tried: there the pages of
the process's own, which the machine does not have, decide.
"""

import itertools
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from app.backends import Backend, Group, LimitName
from app.errors import ShrinkdError
from app.memcontrol import Memcg, shrink_usage_to
from app.memparse import PAGE_BYTES
from tests.backends import simulator_host
from tests.backends.cgroups import CgroupHost
from tests.backends.hosts import MIB
from tests.backends.worlds import Memory, RealHand, RealWorld, SimulatedHand, SimulatedWorld
from tests.currents import Scripted

KIB = 2**10
# The tolerances: README, "How far the simulation may be off", says the same.
USAGE = 1 * MIB
"""What a group uses itself: 64 pages that each CPU charges ahead for it, page tables, pages of its processes' own."""
ROOM = 2 * MIB
"""What a charge that makes room frees too much or too little."""
PASS = 8 * MIB
"""As above, a pass. v1's is cut by a timer, on a busy machine late: at 2 GiB/s the 4 ms of a write are 8 MiB. v2's first is 4 MiB of 12."""
SPLIT = {"v1": 2 * MIB, "v2": 5 * MIB}
"""Who of several groups gives it. Of v2's generations it is the first groups, by whole batches: the machine shares out evenly."""
EDGE = 2 * MIB
"""How close to where a kernel changes its mind no step is tried: USAGE of the group, and of one inside."""
EXAMPLES = {"v1": (60, 500), "v2": (12, 100)}
"""Of a day, and where everything is required."""

SIZES = st.integers(1, 12).map(lambda number: number * MIB)
AMOUNTS = st.tuples(st.sampled_from(["held", "usage", "nothing"]), st.integers(-12, 16))
NUMBERS = st.integers(0, 20)
KINDS: st.SearchStrategy[Memory] = st.sampled_from(["file", "file", "file", "anon", "shmem", "unevictable"])
INNER = ((), ("a",), ("a", "b"), ("a", "a/a", "a/b"), ("a", "a/a", "b"))
Amount = tuple[str, int]
"""Relative to what a group holds that cannot be reclaimed, to its usage, or to nothing: so many MiB."""
VERB_LIMITS: dict[str, tuple[LimitName, ...]] = {
    "v1": ("max_bytes", "swap_max_bytes", "soft_limit_bytes", "max_bytes"),
    "v2": ("max_bytes", "high_bytes", "low_bytes", "min_bytes"),
}
MAXIMUM = {"v1": "memory.limit_in_bytes", "v2": "memory.max"}
STORED = {
    "v1": ("memory.soft_limit_in_bytes", "memory.memsw.limit_in_bytes"),
    "v2": ("memory.low", "memory.min", "memory.swap.max", "memory.high"),
}
NONSENSE = ("", "junk", "1.5M", "5MB", "-2", "+5M", "5 M", "MAX", "max", "-1", "8E", "9223372036854775807")
SPELLINGS: tuple[Callable[[int], str], ...] = (
    str,
    "{:#x}".format,
    "0{:o}".format,
    " {}\n".format,
    lambda size: f"{size // KIB}k",
    lambda size: str(size + 4095),
)


@dataclass(eq=False)
class Hands:
    """The same process in both worlds."""

    real: RealHand
    simulated: SimulatedHand
    pieces: list[tuple[Memory, int]] = field(default_factory=list)

    def size(self, *kinds: Memory) -> int:
        return sum(size for kind, size in self.pieces if not kinds or kind in kinds)


class Histories(RuleBasedStateMachine):
    """What may happen to a few groups inside each other and the processes in them."""

    def __init__(self, kernel: RealWorld, simulated: SimulatedWorld, name: str) -> None:
        super().__init__()
        self.real, self.simulated, self.name = kernel, simulated, name
        self.version = kernel.backend.name
        self.groups: dict[str, tuple[Group, Group]] = {}
        self.gone: list[tuple[Group, Group]] = []
        self.hands: list[Hands] = []
        self.log: list[str] = []
        self.within: dict[str, int] = {}
        self.before: dict[str, int] = {}

    def teardown(self) -> None:
        for hands in self.hands:
            hands.real.exit()
            hands.simulated.exit()
        self.real.end([real for real, _ in self.groups.values()])
        for _, simulated in reversed(self.groups.values()):
            self.simulated.backend.remove(simulated)

    # -- what is done -------------------------------------------------------------------------------------------

    @initialize(inner=st.sampled_from(INNER), fills=st.lists(st.tuples(NUMBERS, KINDS, SIZES), max_size=5))
    def begin(self, inner: tuple[str, ...], fills: list[tuple[int, Memory, int]]) -> None:
        """Some groups, and processes in the innermost ones that use some memory."""
        for path in (self.name, *(f"{self.name}/{path}" for path in inner)):
            self.groups[path] = (self.real.backend.make(path), self.simulated.backend.make(path))
        leaves = [number for number, path in enumerate(self.groups) if len(self.inside(path)) == 1]
        for leaf in leaves:
            self.start(leaf)
        for who, kind, size in fills:
            self.charge(who, kind, size)

    @rule(number=NUMBERS, name=st.sampled_from(["a", "b"]))
    def make(self, number: int, name: str) -> None:
        path = f"{self.at(number)}/{name}"
        if path.count("/") < 4:
            made = self.both(lambda backend, _: backend.make(path), path)
            if made:
                self.groups[path] = cast("tuple[Group, Group]", made)

    @rule(number=NUMBERS)
    def remove(self, number: int) -> None:
        path = self.at(number)
        if path != self.name and self.both(lambda backend, group: backend.remove(group), path):
            self.gone.append(self.groups.pop(path))
            self.within[path.rpartition("/")[0]] = USAGE

    @rule(number=NUMBERS)
    def start(self, number: int) -> None:
        if len([hands for hands in self.hands if hands.simulated.alive()]) < 3:
            self.hands.append(Hands(self.real.start(), self.simulated.start()))
            self.attach(number, len(self.hands) - 1)

    @rule(number=NUMBERS, who=NUMBERS)
    def attach(self, number: int, who: int) -> None:
        path = self.at(number)
        if self.hands and self.room(path) > EDGE:
            hands = self.hands[who % len(self.hands)]
            self.both(lambda backend, group: backend.attach(group, self.pid(hands, backend)), path)

    @rule(who=NUMBERS, kind=KINDS, size=SIZES)
    def charge(self, who: int, kind: Memory, size: int) -> None:
        if not self.hands:
            return
        hands = self.hands[who % len(self.hands)]
        if not hands.simulated.alive() or not self.is_clear(hands, kind, size):
            return
        self.reclaims(self.line(hands)[-1], ROOM)
        alive = hands.real.charge(kind, size), hands.simulated.charge(kind, size)
        self.log.append(f"charged {size // MIB} {kind} in {self.line(hands)[0]}: {alive}")
        self.agree("alive", *alive)
        if kind != "file":
            hands.pieces.append((kind, size))

    @rule(who=NUMBERS)
    def outgrow(self, who: int) -> None:
        """Grow out of a limit, which kills."""
        if self.hands:
            line = self.line(self.hands[who % len(self.hands)])
            room = self.room(line[0]) if line else 0
            if EDGE < room < 24 * MIB:
                self.charge(who, "anon", room + EDGE + MIB)

    @rule(who=NUMBERS)
    def drop(self, who: int) -> None:
        if self.hands:
            hands = self.hands[who % len(self.hands)]
            if hands.simulated.alive() and hands.pieces and hands.pieces[-1][0] != "shmem":
                piece = hands.pieces.pop()
                hands.real.drop(*piece)
                hands.simulated.drop(*piece)

    @rule(who=NUMBERS)
    def exit(self, who: int) -> None:
        if self.hands:
            hands = self.hands.pop(who % len(self.hands))
            hands.real.exit()
            hands.simulated.exit()

    @rule(number=NUMBERS, first=NUMBERS, one=st.none() | AMOUNTS, second=NUMBERS, other=st.none() | AMOUNTS)
    def set_limits(self, number: int, first: int, one: Amount | None, second: int, other: Amount | None) -> None:
        path = self.at(number)
        names = VERB_LIMITS[self.version]
        chosen = ((names[second % 4], other), (names[first % 4], one))
        changes = {name: amount and self.amount(path, amount) for name, amount in chosen}
        held = self.simulated.backend.stat(self.groups[path][1]).limits.max_bytes
        most = changes.get("max_bytes", held) or 0
        values = {most, most + (changes.get("swap_max_bytes") or 0), changes.get("high_bytes") or 0}
        if all(abs(value - self.usage(path)) > EDGE for value in values):
            self.both(lambda backend, group: backend.set_limits(group, changes), path)

    @rule(number=NUMBERS, amount=AMOUNTS, spelling=st.sampled_from(SPELLINGS))
    def write_maximum(self, number: int, amount: Amount, spelling: Callable[[int], str]) -> None:
        """Below usage, v1 reclaims and refuses, and v2 reclaims and kills."""
        path = self.at(number)
        size = self.amount(path, amount)
        if self.is_clear_maximum(path, size):
            self.reclaims(path, USAGE)
            self.write(path, MAXIMUM[self.version], spelling(size))

    @rule(number=NUMBERS, file=NUMBERS, amount=AMOUNTS, spelling=st.sampled_from(SPELLINGS))
    def write_another(self, number: int, file: int, amount: Amount, spelling: Callable[[int], str]) -> None:
        path, names = self.at(number), STORED[self.version]
        name, size = names[file % len(names)], self.amount(path, amount)
        if name not in {"memory.high", "memory.memsw.limit_in_bytes"} or (
            abs(size - self.usage(path)) > EDGE and size > self.held(path) + EDGE
        ):
            self.reclaims(path, USAGE)
            self.write(path, name, spelling(size))

    @rule(number=NUMBERS, file=NUMBERS, text=st.sampled_from(NONSENSE))
    def write_nonsense(self, number: int, file: int, text: str) -> None:
        names = (MAXIMUM[self.version], *STORED[self.version])
        self.write(self.at(number), names[file % len(names)], text)

    @rule(number=NUMBERS, size=SIZES)
    def write_reclaim(self, number: int, size: int) -> None:
        """v1 frees all it can, which is no error; v2 an amount, or -EAGAIN."""
        path = self.at(number)
        cache = self.total(path, self.simulated.cache)
        if self.version == "v1":
            self.reclaims(path, USAGE)
            self.write(path, "memory.force_empty", "0")
        elif not cache - self.protected(path) - EDGE < size < cache + EDGE:
            self.reclaims(path, USAGE)
            self.write(path, "memory.reclaim", str(size))

    @rule(number=NUMBERS, size=SIZES)
    def reclaim(self, number: int, size: int) -> None:
        path = self.at(number)
        self.reclaims(path, PASS)
        freed = self.both(lambda backend, group: backend.reclaim(group, size), path)
        self.log.append(f"freed {freed}")

    @rule(number=NUMBERS, amount=AMOUNTS, passes=st.sampled_from([0, 0, 1, 2]))
    def shrink(self, number: int, amount: Amount, passes: int) -> None:
        """To a target, or until it is cancelled behind a pass; the limits stay as they are."""
        path = self.at(number)
        held, usage, size = self.held(path), self.usage(path), self.amount(path, amount)
        if held - EDGE < size < held + self.protected(path) + EDGE or abs(usage - size) < EDGE:
            return
        if passes and (usage - size < passes * (PASS + MIB) + EDGE or size < held):
            return
        limits = self.limits()
        self.reclaims(path, (passes or 1) * PASS)

        def run(backend: Backend, group: Group) -> int:
            current = Scripted(largest_bytes=MIB if passes else 2**40)
            current.then[passes] = current.interrupt
            return shrink_usage_to(Memcg(backend, group), size, current)

        if self.both(run, path):
            assert self.real.backend.usage(self.groups[path][0]) < size
        assert self.limits() == limits

    @rule(number=NUMBERS, who=NUMBERS)
    def use_a_removed_group(self, number: int, who: int) -> None:
        if self.gone:
            verbs: list[Callable[[Backend, Group], object]] = [
                lambda backend, group: backend.usage(group),
                lambda backend, group: backend.stat(group),
                lambda backend, group: backend.reclaim(group, MIB),
                lambda backend, group: backend.remove(group),
                lambda backend, group: backend.set_limits(group, {"max_bytes": 8 * MIB}),
            ]
            pair = self.gone[number % len(self.gone)]
            assert self.outcomes(verbs[who % len(verbs)], pair)

    # -- how it is done in both -------------------------------------------------------------------------------

    def both(self, verb: Callable[[Backend, Group], object], path: str) -> tuple[object, object] | None:
        """What a verb answers in the two worlds; None when it is refused in both."""
        pair = self.groups.get(path, (Group(path, 0), Group(path, 0)))
        real, simulated = self.outcomes(verb, pair)
        return None if isinstance(real, ShrinkdError) else (real, simulated)

    def outcomes(self, verb: Callable[[Backend, Group], object], pair: tuple[Group, Group]) -> tuple[object, object]:
        real, simulated = outcome(lambda: verb(self.real.backend, pair[0])), outcome(lambda: verb(self.simulated.backend, pair[1]))
        self.log.append(f"{pair[0].path}: {real!r} / {simulated!r}")
        self.agree("answers", type(real), type(simulated))
        self.agree("errnos", getattr(real, "errno", 0), getattr(simulated, "errno", 0))
        return real, simulated

    def agree(self, what: str, real: Any, simulated: Any, within: int = 0) -> None:
        """Hold one thing against the other; a history that ends here is told whole."""
        if abs(real - simulated) > within if within else real != simulated:
            told = "\n  ".join(self.log)
            raise AssertionError(f"{what}: {real} in the kernel, {simulated} in the machine\n  {told}")

    def write(self, path: str, name: str, text: str) -> None:
        real, simulated = self.groups[path]
        errnos = (
            errno_of(lambda: self.real.write(real, name, text)),
            errno_of(lambda: self.simulated.write(simulated, name, text)),
        )
        self.log.append(f"{path}/{name} < {text!r}: {errnos}")
        self.agree("errnos", *errnos)

    def pid(self, hands: Hands, backend: Backend) -> int:
        return hands.real.pid if backend is self.real.backend else hands.simulated.pid

    # -- what is known beforehand -------------------------------------------------------------------------------

    def at(self, number: int) -> str:
        return list(self.groups)[number % len(self.groups)]

    def usage(self, path: str) -> int:
        return self.simulated.backend.usage(self.groups[path][1])

    def held(self, path: str) -> int:
        return self.simulated.held(self.groups[path][1])

    def amount(self, path: str, amount: Amount) -> int:
        base = {"held": self.held(path), "usage": self.usage(path), "nothing": 0}[amount[0]]
        return max(base // MIB + amount[1], 1) * MIB

    def inside(self, path: str) -> list[str]:
        return [other for other in self.groups if other == path or other.startswith(f"{path}/")]

    def total(self, path: str, of: Callable[[Group], int]) -> int:
        return sum(of(self.groups[inner][1]) for inner in self.inside(path))

    def protected(self, path: str) -> int:
        return sum(self.simulated.cgroup(self.groups[inner][1]).min * PAGE_BYTES for inner in self.inside(path)[1:])

    def line(self, hands: Hands) -> list[str]:
        """The groups around a process."""
        path = hands.simulated.path()
        found = [other for other in self.groups if path == other or path.startswith(f"{other}/")]
        return sorted(found, reverse=True)

    def room(self, path: str, name: str = "max") -> int:
        """How much could be charged if there were no cache."""
        line = [other for other in self.groups if path == other or path.startswith(f"{other}/")]
        rooms: list[int] = [getattr(self.simulated.cgroup(self.groups[other][1]), name) * PAGE_BYTES - self.held(other) for other in line]
        return min(rooms)

    def is_clear(self, hands: Hands, kind: Memory, size: int) -> bool:
        """Whether it can be told beforehand if a charge is one too much, and whom it kills."""
        line = self.line(hands)
        if not line:
            return False
        if self.room(line[0], "high") < size + EDGE:
            return False
        rooms = sorted((self.simulated.cgroup(self.groups[path][1]).max * PAGE_BYTES - self.held(path), path) for path in line)
        room, tight = rooms[0]
        if kind == "file":
            return room > EDGE + MIB
        if size + EDGE < room:
            return True
        if size < room + EDGE or (len(rooms) > 1 and rooms[1][0] < room + EDGE):
            return False
        others = [other for other in self.hands if other is not hands and other.simulated.alive() and tight in self.line(other)]
        own = hands.size("anon", "unevictable") + (0 if kind == "shmem" else max(room, 0))
        return kind != "shmem" and all(other.size() + EDGE < own for other in others)

    def is_clear_maximum(self, path: str, size: int) -> bool:
        held = self.held(path)
        if self.version == "v1" or size > held:
            return abs(held - size) > EDGE
        below = [hands for hands in self.hands if hands.simulated.alive() and path in self.line(hands)]
        return len(below) == 1 and min(abs(held - below[0].size("anon", "unevictable") - size), abs(held - size)) > EDGE

    def reclaims(self, path: str, tolerance: int) -> None:
        """From here on something may be reclaimed in a group: so much more or less, and from whichever group inside."""
        self.before = {path: tolerance}
        for inner in self.inside(path):
            self.within[inner] = tolerance + USAGE + (SPLIT[self.version] if len(self.inside(path)) > 1 else 0)

    # -- what is compared ---------------------------------------------------------------------------------------

    def limits(self) -> list[object]:
        return [self.real.backend.stat(real).limits for real, _ in self.groups.values()]

    @invariant()
    def the_same_live(self) -> None:
        for hands in self.hands:
            self.agree("lives", hands.real.alive(), hands.simulated.alive())

    @invariant()
    def limits_are_equal(self) -> None:
        self.agree("limits", self.limits(), [self.simulated.backend.stat(simulated).limits for _, simulated in self.groups.values()])

    @invariant()
    def usage_is_about_equal_and_what_is_left_to_chance_is_taken_over(self) -> None:
        stats = {
            path: (self.real.backend.stat(real), self.simulated.backend.stat(simulated)) for path, (real, simulated) in self.groups.items()
        }
        for path, (real, simulated) in stats.items():
            children = [stats[other] for other in stats if other.rpartition("/")[0] == path]
            own = real.usage_bytes - sum(child.usage_bytes for child, _ in children)
            expected = simulated.usage_bytes - sum(child.usage_bytes for _, child in children)
            assert own >= 0
            self.agree(f"own usage of {path}", own, expected, self.within.get(path, USAGE))
            self.simulated.adopt_cache(self.groups[path][1], own, USAGE)
        for path, tolerance in self.before.items():
            real, simulated = stats[path]
            self.agree(f"usage of {path}", real.usage_bytes, simulated.usage_bytes, tolerance + USAGE * len(self.inside(path)))
        self.within, self.before = {}, {}


def outcome(action: Callable[[], object]) -> object:
    try:
        return action()
    except ShrinkdError as error:
        return error


def errno_of(action: Callable[[], None]) -> int:
    try:
        action()
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.fixture
def simulated(kernel: CgroupHost[Backend]) -> Iterator[SimulatedWorld]:
    profile = "v1" if kernel.backend.name == "v1" else "v2" if release() >= (6, 16) else "v2-6.12"
    with simulator_host.on(profile, os.cpu_count() or 1) as host:
        yield SimulatedWorld(host)


def release() -> tuple[int, ...]:
    return tuple(int(number) for number in platform.release().split("-")[0].split(".")[:2])


def how_many(version: str) -> settings:
    """The same histories every time; SHRINKD_TEST_EXAMPLES is a number of random ones, of which v2 gets a fifth."""
    everyday, all_of_them = EXAMPLES[version]
    chosen = int(os.environ.get("SHRINKD_TEST_EXAMPLES", "0"))
    required = os.environ.get("SHRINKD_TEST_REQUIRE_ALL")
    return settings(
        max_examples=chosen * all_of_them // EXAMPLES["v1"][1] or (all_of_them if required == "1" else everyday),
        stateful_step_count=12,
        derandomize=not chosen,
        database=None,
        deadline=None,
        phases=[Phase.generate],  # a history is short, and told whole; a kernel is not the same for a second one
        suppress_health_check=list(HealthCheck),
    )


@pytest.mark.timeout(600)
@pytest.mark.parametrize("kernel", ["v1"], indirect=True)  # of v2 not enough histories were seen through yet
def test_the_machine_does_as_the_kernel_does(kernel: CgroupHost[Backend], simulated: SimulatedWorld) -> None:
    real, numbers = RealWorld(kernel), itertools.count()

    def history() -> Histories:
        return Histories(real, simulated, f"shrinkd-test-{os.getpid()}-history-{next(numbers)}")

    run_state_machine_as_test(cast("type[RuleBasedStateMachine]", history), settings=how_many(kernel.backend.name))
