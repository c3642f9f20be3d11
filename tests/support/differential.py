"""Run each step on a real kernel and on the simulator, and compare the results.

Errors (class and errno), limits and which processes live must be equal; other figures must be
within a tolerance below. What a step leaves to chance, such as how much cache each of several
groups gives, is compared and then copied from the kernel to the simulator, so that differences do
not add up.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant

from shrinkd.backends import Backend, Group, Limits
from shrinkd.errors import ShrinkdError
from shrinkd.sizes import PAGE_BYTES
from tests.backends.hosts import MIB
from tests.support.paired_worlds import Memory, RealHand, RealWorld, SimulatedHand, SimulatedWorld

# The tolerances: docs/explanation/simulator-accuracy.md says the same.
USAGE = 1 * MIB
"""Tolerance of the usage of a group alone: 64 pages that each CPU charges ahead, its page tables,
and other pages of its processes."""
ROOM = 1 * MIB
"""Tolerance of a charge that makes room, or a write that reclaims: both free in batches."""
PASS = {"v1": 1024 * MIB, "v2": 2 * MIB}
"""What passes free too much. Those of v1 end by a timer, and free all there is if it fires 20 ms
late. v2 knows an amount."""
LITTLE = 2 * MIB
"""What passes free too little."""
MOSTLY = 0.75
"""Share of passes that must be within USAGE for each group."""
SPLIT = {"v1": 2 * MIB, "v2": 5 * MIB}
"""Who of several groups gives it. Of v2's generations it is the first groups, by whole batches: the
machine shares out evenly."""
EDGE = 2 * MIB
"""How close to where a kernel changes its mind no step is tried: USAGE of the group, and of one
inside."""


@dataclass(eq=False)
class Hands:
    """The same process in both worlds."""

    real: RealHand
    simulated: SimulatedHand
    pieces: list[tuple[Memory, int]] = field(default_factory=list)

    def size(self, *kinds: Memory) -> int:
        return sum(size for kind, size in self.pieces if not kinds or kind in kinds)


class Comparison(RuleBasedStateMachine):
    """Nested groups and the processes in them, as they are in both worlds."""

    def __init__(
        self, kernel: RealWorld, simulated: SimulatedWorld, name: str, passes: list[bool]
    ) -> None:
        """`passes` gets an entry for each pass of reclaim: whether each group was within USAGE."""
        super().__init__()
        self.real, self.simulated, self.name, self.passes = kernel, simulated, name, passes
        self.version = kernel.backend.name
        self.groups: dict[str, tuple[Group, Group]] = {}
        self.gone: list[tuple[Group, Group]] = []
        self.hands: list[Hands] = []
        self.log: list[str] = []
        self.within: dict[str, int] = {}
        self.before: dict[str, int] = {}
        self.apart: dict[str, int] = {}
        """What each group used of its own beyond the simulated one behind the last step, at most
        half of USAGE: see adopt_cache()."""
        self.is_pass = False

    def teardown(self) -> None:
        for hands in self.hands:
            hands.real.exit()
            hands.simulated.exit()
        self.real.end([real for real, _ in self.groups.values()])
        for _, simulated in reversed(self.groups.values()):
            self.simulated.backend.remove(simulated)

    # -- running a step in both worlds ---------------------------------------------------------

    def both(
        self, verb: Callable[[Backend, Group], object], path: str
    ) -> tuple[object, object] | None:
        """Call a verb in both worlds and return both results; None if it is refused in both."""
        pair = self.groups.get(path, (Group(path, 0), Group(path, 0)))
        real, simulated = self.outcomes(verb, pair)
        return None if isinstance(real, ShrinkdError) else (real, simulated)

    def outcomes(
        self, verb: Callable[[Backend, Group], object], pair: tuple[Group, Group]
    ) -> tuple[object, object]:
        real, simulated = (
            outcome(lambda: verb(self.real.backend, pair[0])),
            outcome(lambda: verb(self.simulated.backend, pair[1])),
        )
        self.log.append(f"{pair[0].path}: {real!r} / {simulated!r}")
        self.agree("answers", type(real), type(simulated))
        self.agree("errnos", getattr(real, "errno", 0), getattr(simulated, "errno", 0))
        return real, simulated

    def agree(self, what: str, real: Any, simulated: Any, within: int = 0) -> None:
        """Compare one value; a difference fails with the whole history."""
        if abs(real - simulated) > within if within else real != simulated:
            history = "\n  ".join(self.log)
            raise AssertionError(
                f"{what}: {real} in the kernel, {simulated} in the simulator\n  {history}"
            )

    def write(self, path: str, name: str, text: str) -> None:
        self.change(path, lambda: self._is_written(path, name, text))

    def _is_written(self, path: str, name: str, text: str) -> bool:
        real, simulated = self.groups[path]
        errnos = (
            errno_of(lambda: self.real.write(real, name, text)),
            errno_of(lambda: self.simulated.write(simulated, name, text)),
        )
        self.log.append(f"{path}/{name} < {text!r}: {errnos}")
        self.agree("errnos", *errnos)
        return not errnos[0]

    def change(self, path: str, action: Callable[[], bool]) -> None:
        """Call a verb that sets limits.

        If it is refused, no limit has changed. If v1 takes it, usage is not above the maximum then.
        """
        before = self.limits()
        if not action():
            self.agree("limits behind a refusal", self.limits(), before)
        elif self.version == "v1":
            for backend, group in zip(
                (self.real.backend, self.simulated.backend), self.groups[path], strict=True
            ):
                most = backend.stat(group).limits.max_bytes
                assert most is None or backend.usage(group) <= most

    def pid(self, hands: Hands, backend: Backend) -> int:
        return hands.real.pid if backend is self.real.backend else hands.simulated.pid

    # -- predictions ---------------------------------------------------------------------------

    def usage(self, path: str) -> int:
        return self.simulated.backend.usage(self.groups[path][1])

    def held(self, path: str) -> int:
        return self.simulated.held(self.groups[path][1])

    def inside(self, path: str) -> list[str]:
        return [other for other in self.groups if other == path or other.startswith(f"{path}/")]

    def total(self, path: str, of: Callable[[Group], int]) -> int:
        return sum(of(self.groups[inner][1]) for inner in self.inside(path))

    def protected(self, path: str) -> int:
        return sum(
            self.simulated.cgroup(self.groups[inner][1]).min * PAGE_BYTES
            for inner in self.inside(path)[1:]
        )

    def line(self, hands: Hands) -> list[str]:
        """Return the group of a process and its ancestors."""
        path = hands.simulated.path()
        found = [other for other in self.groups if path == other or path.startswith(f"{other}/")]
        return sorted(found, reverse=True)

    def room(self, path: str, name: str = "max") -> int:
        """Compute how much could be charged if there were no cache."""
        line = [other for other in self.groups if path == other or path.startswith(f"{other}/")]
        rooms: list[int] = [
            getattr(self.simulated.cgroup(self.groups[other][1]), name) * PAGE_BYTES
            - self.held(other)
            for other in line
        ]
        return min(rooms)

    def is_clear(self, hands: Hands, kind: Memory, size: int) -> bool:
        """Return whether it is certain beforehand if a charge fails, and which process it kills."""
        line = self.line(hands)
        if not line:
            return False
        if self.room(line[0], "high") < size + EDGE:
            return False
        rooms = sorted(
            (self.simulated.cgroup(self.groups[path][1]).max * PAGE_BYTES - self.held(path), path)
            for path in line
        )
        room, tight = rooms[0]
        if kind == "file":
            return room > EDGE + MIB
        if size + EDGE < room:
            return True
        if size < room + EDGE or (len(rooms) > 1 and rooms[1][0] < room + EDGE):
            return False
        others = [
            other
            for other in self.hands
            if other is not hands and other.simulated.alive() and tight in self.line(other)
        ]
        own = hands.size("anon", "unevictable") + (0 if kind == "shmem" else max(room, 0))
        return kind != "shmem" and all(other.size() + EDGE < own for other in others)

    def is_clear_maximum(self, path: str, size: int) -> bool:
        held = self.held(path)
        if self.version == "v1" or size > held:
            return abs(held - size) > EDGE
        below = [
            hands for hands in self.hands if hands.simulated.alive() and path in self.line(hands)
        ]
        return (
            len(below) == 1
            and min(abs(held - below[0].size("anon", "unevictable") - size), abs(held - size))
            > EDGE
        )

    def reclaims(self, path: str, tolerance: int) -> None:
        """Note that something may be reclaimed in a group from now on.

        That makes its usage, and that of any group inside, uncertain by so much.
        """
        self.before = {path: tolerance}
        for inner in self.inside(path):
            self.within[inner] = (
                tolerance + USAGE + (SPLIT[self.version] if len(self.inside(path)) > 1 else 0)
            )

    def reclaims_by_passes(self, path: str) -> None:
        self.reclaims(path, PASS[self.version])
        self.is_pass = True

    def excess(self, path: str, size: int) -> int:
        """Compute how much too much may be freed when a limit is written.

        V2 asks for all at once, and checks between priorities how much it has freed.
        """
        return ROOM + (max(self.usage(path) - size, 0) if self.version == "v2" else 0)

    # -- comparisons ---------------------------------------------------------------------------

    def limits(self) -> list[list[Limits]]:
        """Return the limits of all groups, in either world."""
        pairs = self.groups.values()
        return [
            [self.real.backend.stat(real).limits for real, _ in pairs],
            [self.simulated.backend.stat(simulated).limits for _, simulated in pairs],
        ]

    @invariant()
    def they_are_alike(self) -> None:
        """Compare everything, once killed processes have ended and freed their memory."""
        self.the_same_live()
        self.limits_are_equal_and_usage_about_so()

    def the_same_live(self) -> None:
        for hands in self.hands:
            self.agree("lives", hands.real.alive(), hands.simulated.alive())

    def limits_are_equal_and_usage_about_so(self) -> None:
        """Compare limits exactly and usage within tolerance, and copy the kernel's usage."""
        stats = {
            path: (self.real.backend.stat(real), self.simulated.backend.stat(simulated))
            for path, (real, simulated) in self.groups.items()
        }
        owns: dict[str, int] = {}
        for path, (real, simulated) in stats.items():
            self.agree(f"limits of {path}", real.limits, simulated.limits)
            children = [stats[other] for other in stats if other.rpartition("/")[0] == path]
            own = real.usage_bytes - sum(child.usage_bytes for child, _ in children)
            expected = simulated.usage_bytes - sum(child.usage_bytes for _, child in children)
            self.agree(
                f"whether {path} is at least the sum of what is inside", own >= 0, expected >= 0
            )
            assert expected >= 0
            # compare only what this step changed: the earlier difference, up to half of USAGE, is
            # subtracted
            self.agree(
                f"own usage of {path}",
                own - self.apart.get(path, 0),
                expected,
                self.within.get(path, USAGE),
            )
            owns[path] = own
        # twice: below a maximum, one group can take only what another has given up
        for path in (*owns, *owns):
            self.simulated.adopt_cache(self.groups[path][1], owns[path], USAGE // 2)
        apart, self.apart = (
            self.apart,
            {path: self._left_apart(path, own) for path, own in owns.items()},
        )
        for path, tolerance in self.before.items():
            real, simulated = stats[path]
            around = USAGE * len(self.inside(path)) + sum(
                apart.get(inner, 0) for inner in self.inside(path)
            )
            if self.is_pass:
                self.agree(
                    f"whether {path} was shrunk",
                    real.usage_bytes <= simulated.usage_bytes + LITTLE + around,
                    simulated=True,
                )
                self.passes.append(abs(real.usage_bytes - simulated.usage_bytes) <= around)
            self.agree(
                f"usage of {path}", real.usage_bytes, simulated.usage_bytes, tolerance + around
            )
        self.within, self.before, self.is_pass = {}, {}, False

    def _left_apart(self, path: str, own: int) -> int:
        """Return how far the usage of a group alone may stay apart from that of the simulator."""
        children = (other for other in self.groups if other.rpartition("/")[0] == path)
        expected = self.usage(path) - sum(map(self.usage, children))
        return min(max(own - expected, 0), USAGE // 2)


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
