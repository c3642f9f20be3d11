"""Lines of mountinfo as kernels print them, and the mounts that paths lead to."""

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkd.backends.cgroup.mounts import Mount, parse_mounts

HOST = b"""\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
34 31 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:15 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:16 master:3 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,nosuid - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
"""
CONTAINER = b"""\
612 611 0:32 /docker/2c4dee605d22 /sys/fs/cgroup/memory ro,relatime - cgroup cgroup rw,memory
640 612 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
650 611 0:38 /../.. /host/sys/fs/cgroup rw,relatime - cgroup2  rw
"""


def test_each_line_tells_of_one_mount() -> None:
    found = {mount.id: mount for mount in parse_mounts(HOST)}
    assert list(found) == [22, 27, 31, 34, 35, 40, 41]
    assert found[35] == Mount(
        35, "/", "/sys/fs/cgroup/memory", "cgroup", frozenset({"rw", "memory"})
    )
    assert found[34].options >= {"cpu", "cpuacct"}


def test_two_mounts_at_one_point_are_two_mounts_and_a_source_may_be_empty() -> None:
    assert [(mount.root, mount.point) for mount in parse_mounts(CONTAINER)] == [
        ("/docker/2c4dee605d22", "/sys/fs/cgroup/memory"),
        ("/", "/sys/fs/cgroup/memory"),
        ("/../..", "/host/sys/fs/cgroup"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "usb\u2028stick",
        "a\x85b",
        "a\x1cb\x1db\x1eb",
        "a\x0bb\x0cb\rb",
        "two  words",
        "tab\tline\nfeed",
        "back\\slash\\040",
        "a - b",
    ],
)
def test_a_mount_point_of_any_name_is_one_line_and_hides_no_other(name: str) -> None:
    assert [mount.point for mount in parse_mounts(line_of(os.fsencode(f"/mnt/{name}")) + HOST)][
        :2
    ] == [f"/mnt/{name}", "/proc"]


def test_a_mount_point_that_is_no_utf_8_is_the_name_that_opens_it() -> None:
    (mount,) = parse_mounts(line_of(b"/mnt/caf\xe9"))
    assert os.fsencode(mount.point) == b"/mnt/caf\xe9"


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\n\n",
        b"35 31 0:32 / /mnt rw\n",
        b"x 31 0:32 / /mnt rw - cgroup cgroup rw\n",
        b" - \n",
        b"\xff - \xff",
    ],
)
def test_what_is_no_line_of_a_mount_is_left_out(text: bytes) -> None:
    assert [mount.id for mount in parse_mounts(text + b"\n" + HOST)] == [22, 27, 31, 34, 35, 40, 41]


@given(points=st.lists(st.binary(min_size=1).filter(lambda name: b"\0" not in name), max_size=5))
def test_whatever_points_are_called_each_is_found_as_it_is(points: list[bytes]) -> None:
    text = b"".join(line_of(b"/" + point) for point in points)
    assert [os.fsencode(mount.point) for mount in parse_mounts(text)] == [
        b"/" + point for point in points
    ]


@given(st.binary())
def test_no_text_breaks_the_reading(text: bytes) -> None:
    list(parse_mounts(text))


def line_of(point: bytes) -> bytes:
    """A line as the kernel prints it, which escapes four bytes: seq_path() in fs/seq_file.c."""
    escaped = re.sub(rb"[ \t\n\\]", lambda byte: b"\\%03o" % byte[0][0], point)
    return b"70 27 0:60 / %b rw,relatime - tmpfs tmpfs rw\n" % escaped
