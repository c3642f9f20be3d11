"""Which group we are in ourselves, from the two files that tell it."""

import os
from pathlib import Path

import pytest

from app.backends._own import find_own, own_path, path_of
from app.errors import GroupNotFound

V1 = "3:cpuset:/\n4:memory:/docker/abc\n9:name=systemd:/init\n0::/elsewhere\n"
V1_JOINED = "5:cpu,cpuacct:/\n4:hugetlb,memory:/docker/abc\n"
V1_MOUNTS = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:7 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
"""
V2 = "0::/system.slice/shrinkd.service\n"


def v2_mount(root: str = "/", point: str = "/sys/fs/cgroup") -> str:
    return f"24 1 8:1 / / rw - ext4 /dev/root rw\n30 23 0:26 {root} {point} rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize("cgroups", [V1, V1_JOINED])
def test_on_v1_the_memory_controller_has_the_word(cgroups: str) -> None:
    assert find_own("/sys/fs/cgroup/memory", 1, cgroups, V1_MOUNTS) == "docker/abc"


def test_on_v2_the_one_hierarchy_has_it() -> None:
    assert find_own("/sys/fs/cgroup", 2, V2, v2_mount()) == "system.slice/shrinkd.service"
    assert find_own("/sys/fs/cgroup/unified", 2, V1, V1_MOUNTS) == "elsewhere"


@pytest.mark.parametrize(
    ("root", "own"),
    [
        ("/sys/fs/cgroup/", "system.slice/shrinkd.service"),
        ("/sys/fs/cgroup/system.slice", "shrinkd.service"),
        ("/sys/fs/cgroup/system.slice/shrinkd.service", ""),
        ("/sys/fs/cgroup/user.slice", None),
        ("/sys/fs/cgroup/system.slice/shrinkd.service/inner", None),
        ("/sys/fs/cgroup/system", None),
    ],
)
def test_the_path_is_below_the_managed_root(root: str, own: str | None) -> None:
    assert find_own(root, 2, V2, v2_mount()) == own


def test_a_process_in_the_root_is_in_the_root() -> None:
    assert find_own("/sys/fs/cgroup", 2, "0::/\n", v2_mount()) == ""


@pytest.mark.parametrize(
    ("below", "own"),
    [
        ("/system.slice", "shrinkd.service"),
        ("/system.slice/shrinkd.service", ""),
        ("/user.slice", None),
        ("/system", None),
    ],
)
def test_a_mount_may_show_a_part_of_the_hierarchy(below: str, own: str | None) -> None:
    assert find_own("/mnt", 2, V2, v2_mount(below, "/mnt")) == own


def test_of_several_mounts_the_one_that_has_the_root_counts() -> None:
    both = v2_mount("/user.slice", "/mnt/users") + v2_mount("/", "/host/cgroup")
    assert find_own("/host/cgroup/system.slice", 2, V2, both) == "shrinkd.service"


@pytest.mark.parametrize(
    ("own", "below", "inside"),
    [
        ("/", "/", ""),
        ("/inner", "/", "inner"),
        ("/../other", "/", None),
        ("/..", "/", None),
        ("/../other/inner", "/../other", "inner"),
        ("/../other", "/../another", None),
        ("/../../far", "/../other", None),
    ],
)
def test_in_a_namespace_of_its_own_what_is_outside_of_the_mount_is_none_of_its_groups(own: str, below: str, inside: str | None) -> None:
    assert find_own("/sys/fs/cgroup", 2, f"0::{own}\n", v2_mount(below)) == inside


@pytest.mark.parametrize(
    ("cgroups", "mounts"), [("", v2_mount()), (V2, ""), ("4:memory:/a\n", v2_mount()), (V2, V1_MOUNTS.replace("cgroup2", "x"))]
)
def test_where_nothing_is_told_it_is_in_none(cgroups: str, mounts: str) -> None:
    assert find_own("/sys/fs/cgroup", 2, cgroups, mounts) is None


@pytest.mark.parametrize("named", ["/a\n0::/web", "/a\n0::/web\n", "/web\n0:x:/y\n0::/other"])
def test_a_name_with_a_line_of_its_own_in_it_names_no_other_group(named: str) -> None:
    assert find_own("/sys/fs/cgroup", 2, f"0::{named}\n", v2_mount()) is None


def test_a_name_with_half_a_line_in_it_is_no_group_that_is_listed() -> None:
    assert find_own("/sys/fs/cgroup", 2, "0::/a\nweb\n", v2_mount()) == "a"


def test_a_process_that_is_not_there_is_in_no_group() -> None:
    with pytest.raises(GroupNotFound, match="4194305"):
        path_of("/sys/fs/cgroup", 2, 4194305)  # beyond PID_MAX_LIMIT


def test_this_process_finds_itself_where_the_kernel_says_it_is() -> None:
    mounts = [line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line]
    if not mounts:
        pytest.skip("no cgroup v2 is mounted")
    own = own_path(mounts[0], 2)
    assert own is not None
    assert str(os.getpid()) in Path(mounts[0], own, "cgroup.procs").read_text().split()
