"""The v1 host: this machine's own memory controller, where there is one and we are root."""

import os
from contextlib import AbstractContextManager
from pathlib import Path

from app.backends._mounts import mount_points
from app.backends._v1_order import LIMIT
from app.backends.v1 import V1
from app.settings import Settings
from tests.backends import cgroups
from tests.backends.hosts import Offer

TWINS = next(mount_points("cgroup2"), None)
"""Where pressure is told, if anywhere."""
OFFERS: frozenset[Offer] = frozenset({"usage_watch", "stall_watch", "activity"} if TWINS else {"usage_watch"})
V1Host = cgroups.CgroupHost[V1]


def absent() -> str | None:
    root = next(mount_points("cgroup", "memory"), None)
    if root is None:
        return "no cgroup v1 memory controller is mounted"
    return None if os.geteuid() == 0 and os.access(root, os.W_OK) else f"{root} is not ours to write"


def open_host() -> AbstractContextManager[V1Host]:
    return cgroups.on(V1(Settings()), Path(next(mount_points("cgroup", "memory"))), LIMIT, twins=Path(TWINS) if TWINS else None)
