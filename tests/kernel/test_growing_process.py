"""Lower the limit of a process that keeps growing, on a real controller: setting it kills nothing.

What is charged under a limit stays below it. So a group whose peak is not above its new limit was
below it when that was written, and its process may meet it later. A group whose peak was above must
keep the old limit and its process. The exception is memory that CPUs had charged ahead: v1 returns
that before it compares, so usage may have been above the limit by so much.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from shrinkd.backends import Backend
from shrinkd.backends.cgroup.tree import CHARGED_AHEAD_BYTES
from shrinkd.errors import Busy
from shrinkd.memcontrol import Memcg, set_limit
from shrinkd.sizes import page_floor
from tests.backends.hosts import MIB
from tests.support.cgroup_host import CgroupHost

pytestmark = pytest.mark.long

ROUNDS = 100
"""Rounds in each of the two ways to grow."""
OLD_LIMIT, REGION, ENOUGH = 1024 * MIB, 512 * MIB, 384 * MIB
HEADROOMS = tuple(4096 << doubled for doubled in range(12))
"""From one page to 8 MiB: the growth while usage is read, and more."""
BARE_WRITES = 2000
"""At most: of those at 16 KiB nearly all kill, but where the machine is shared the process may not
run in just these moments."""


class Grower:
    """A process in its own group that allocates page after page while it is resumed.

    It is replaced when it has reached its size or died.
    """

    def __init__(self, kernel: CgroupHost[Backend], *, in_spurts: bool) -> None:
        self._kernel = kernel
        self._in_spurts = in_spurts
        self.lives = True
        self._begin()

    def _begin(self) -> None:
        self.group = self._kernel.group()
        self._kernel.write_limit(self.group, OLD_LIMIT)
        self._worker = self._kernel.charge(self.group)
        self._worker.keep_growing(REGION, in_spurts=self._in_spurts)

    @property
    def peak(self) -> int:
        return self._kernel.backend.stat(self.group).peak_bytes or 0

    @contextmanager
    def growing(self) -> Iterator[None]:
        """Let it grow, from its first new page to the end of the block.

        Afterwards it is paused or dead.
        """
        if self.peak > ENOUGH or not self.lives:
            self._worker.stop()
            self._begin()
        self._kernel.write_limit(self.group, OLD_LIMIT)
        before = self._kernel.backend.usage(self.group)
        self._worker.resume()
        while self._kernel.backend.usage(self.group) <= before:
            pass
        yield
        self.lives = self._worker.pause()


@pytest.mark.parametrize("in_spurts", [False, True])
def test_setting_the_limit_of_a_process_that_grows_kills_nobody(
    kernel: CgroupHost[Backend], *, in_spurts: bool
) -> None:
    grower, chance = Grower(kernel, in_spurts=in_spurts), random.Random(20080718)
    for _ in range(ROUNDS):
        with grower.growing():
            limit = page_floor(grower.peak) + chance.choice(HEADROOMS)
            try:
                set_limit(Memcg(kernel.backend, grower.group), limit)
            except Busy:
                limit = OLD_LIMIT
        assert kernel.limit(grower.group) == f"{limit}\n"
        assert grower.lives or grower.peak <= limit + CHARGED_AHEAD_BYTES


@pytest.mark.parametrize("kernel", ["v2"], indirect=True)
def test_a_bare_write_of_such_a_limit_kills(kernel: CgroupHost[Backend]) -> None:
    grower = Grower(kernel, in_spurts=False)
    for _ in range(BARE_WRITES):
        with grower.growing():
            limit = page_floor(grower.peak) + HEADROOMS[2]
            kernel.write_limit(grower.group, limit)
        if not grower.lives and grower.peak > limit:
            return
    pytest.fail("no write has killed")
