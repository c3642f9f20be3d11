"""The v2 host.

A unified hierarchy with the memory controller, where there is one and we are root. The VM of
tests/vm has it.
"""

import os
from contextlib import AbstractContextManager
from pathlib import Path

from shrinkd.backends.v2.ancestors import mounts_with_memory
from shrinkd.backends.v2.backend import V2
from shrinkd.backends.v2.files import MAX
from shrinkd.settings import Settings
from tests.backends.hosts import Offer
from tests.support import cgroup_host

OFFERS: frozenset[Offer] = frozenset(
    {"high_bytes", "low_bytes", "min_bytes", "swap", "stall_watch", "activity"}
)
V2Host = cgroup_host.CgroupHost[V2]


def absent() -> str | None:
    root = next(mounts_with_memory(), None)
    if root is None:
        return "no cgroup v2 memory controller is mounted"
    return (
        None if os.geteuid() == 0 and os.access(root, os.W_OK) else f"{root} is not ours to write"
    )


def open_host() -> AbstractContextManager[V2Host]:
    return cgroup_host.on(V2(Settings()), Path(next(mounts_with_memory())), MAX)
