"""Tasks for the routines of memcontrol that run a script between two passes."""

from collections.abc import Callable
from dataclasses import dataclass, field

from shrinkd.errors import Interrupted, ShrinkdError


@dataclass(frozen=True, slots=True)
class Pass:
    """Arguments of one call of cond_resched."""

    usage_bytes: int
    progress: int
    retry_count: int


@dataclass(slots=True)
class ScriptedTask:
    """A task that calls `then[n]` after its n-th pass, and `always` after every one."""

    then: dict[int, Callable[[], object]] = field(default_factory=dict)
    always: Callable[[], object] = lambda: None
    pending: ShrinkdError | None = None
    largest_bytes: int = 2**62
    passes: list[Pass] = field(default_factory=list)

    def interrupt(self) -> None:
        """Send the task a signal."""
        self.pending = Interrupted("Cancelled.")

    def signal_pending(self) -> ShrinkdError | None:
        return self.pending

    def allowance(self, excess_bytes: int) -> int:
        return min(excess_bytes, self.largest_bytes)

    def cond_resched(self, usage_bytes: int, progress: int, retry_count: int) -> None:
        self.passes.append(Pass(usage_bytes, progress, retry_count))
        self.then.get(len(self.passes), lambda: None)()
        self.always()

    def fruitless(self) -> int:
        return sum(not done.progress for done in self.passes)
