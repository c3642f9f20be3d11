"""The v1 host: this machine's own memory controller, where there is one and we are root."""

import os
from contextlib import AbstractContextManager
from pathlib import Path

from shrinkd.backends.cgroup.mounts import mount_points
from shrinkd.backends.v1.backend import V1
from shrinkd.backends.v1.files import LIMIT
from shrinkd.settings import Settings
from tests.backends.hosts import Offer
from tests.support import cgroup_host

TWINS = next(mount_points("cgroup2"), None)
"""Where pressure is told, if anywhere."""
OFFERS: frozenset[Offer] = frozenset(
    {"usage_watch", "stall_watch", "activity"} if TWINS else {"usage_watch"}
)
V1Host = cgroup_host.CgroupHost[V1]


def absent() -> str | None:
    root = next(mount_points("cgroup", "memory"), None)
    if root is None:
        return "no cgroup v1 memory controller is mounted"
    return (
        None if os.geteuid() == 0 and os.access(root, os.W_OK) else f"{root} is not ours to write"
    )


def open_host() -> AbstractContextManager[V1Host]:
    return cgroup_host.on(
        V1(Settings()),
        Path(next(mount_points("cgroup", "memory"))),
        LIMIT,
        twins=Path(TWINS) if TWINS else None,
    )
