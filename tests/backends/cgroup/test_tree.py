"""The tree of groups by descriptor, tried on plain directories.

They have inodes, links and names as cgroupfs has.
"""

import os
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from shrinkd.backends import Group
from shrinkd.backends.cgroup.mounts import mount_points
from shrinkd.backends.cgroup.psi import parse_pressure
from shrinkd.backends.cgroup.syscalls import filesystem_of
from shrinkd.backends.cgroup.tree import CGROUP_SUPER_MAGIC, Tree
from shrinkd.errors import (
    BackendUnavailable,
    GroupExists,
    GroupGone,
    GroupNotEmpty,
    GroupNotFound,
    GroupNotManaged,
    InvalidGroupName,
)


def tree_of(root: Path) -> Tree:
    descriptor = os.open(root, os.O_PATH)
    try:
        return Tree(str(root), filesystem_of(descriptor))
    finally:
        os.close(descriptor)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[Tree]:
    tree = tree_of(tmp_path)
    yield tree
    tree.close()


def directory(root: Path, path: str, text: str = "") -> Path:
    made = root / path
    made.mkdir(parents=True)
    (made / "file").write_text(text or path)
    return made


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@contextmanager
def most_open_files(count: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


# What a path may not do


@pytest.mark.parametrize("path", ["link", "link/inside", "outward", "outward/etc"])
def test_a_symbolic_link_is_no_way_to_a_group(tree: Tree, tmp_path: Path, path: str) -> None:
    directory(tmp_path, "real/inside")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "outward").symlink_to("/")
    with pytest.raises(InvalidGroupName):
        tree.find(path)
    with pytest.raises(InvalidGroupName):
        tree.groups(path)
    with pytest.raises(InvalidGroupName):
        tree.make(f"{path}/new")


def test_a_mount_is_not_crossed() -> None:
    tree = tree_of(Path("/"))
    with pytest.raises(InvalidGroupName):
        tree.find("proc")
    tree.close()


@pytest.mark.parametrize(
    "path", ["..", "../etc", "inside/..", "inside/../inside", "/etc", "inside//inside"]
)
def test_a_path_does_not_leave_its_root(tree: Tree, tmp_path: Path, path: str) -> None:
    directory(tmp_path, "inside")
    with pytest.raises(InvalidGroupName):
        tree.find(path)


def test_a_group_that_was_made_up_reaches_nothing_outside(tree: Tree) -> None:
    with pytest.raises(InvalidGroupName):
        tree.read(Group("../..", Path("/").stat().st_ino), "etc/hostname")


def test_what_is_missing_or_no_directory_is_no_group(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("missing", "missing/child", "file", "file/child"):
        with pytest.raises(GroupNotFound):
            tree.find(path)


def test_a_file_system_of_another_kind_is_refused_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BackendUnavailable, match="is not a directory of the cgroup"):
        Tree(str(tmp_path), CGROUP_SUPER_MAGIC)
    with pytest.raises(BackendUnavailable, match="No such file"):
        Tree(str(tmp_path / "missing"), CGROUP_SUPER_MAGIC)


# Which incarnation


def test_a_directory_made_again_is_another_group(tree: Tree, tmp_path: Path) -> None:
    old = directory(tmp_path, "group")
    group = tree.find("group")
    old.rename(tmp_path / "elsewhere")
    directory(tmp_path, "group", "a stranger's")
    with pytest.raises(GroupGone):
        tree.read(group, "file")
    with pytest.raises(GroupGone), tree.opened(group, "file"):
        pass
    with pytest.raises(GroupGone):
        tree.remove(group)
    assert tree.read(tree.find("group"), "file") == b"a stranger's"


def test_a_removed_group_is_gone_for_who_holds_it_and_not_found_for_who_looks_it_up(
    tree: Tree,
) -> None:
    group = tree.make("group")
    tree.remove(group)
    with pytest.raises(GroupGone):
        tree.read(group, "file")
    with pytest.raises(GroupNotFound):
        tree.find("group")


def test_a_group_is_its_path_and_its_inode(tree: Tree, tmp_path: Path) -> None:
    directory(tmp_path, "one")
    directory(tmp_path, "two")
    one = tree.find("one")
    assert tree.read(one, "file") == b"one"
    with pytest.raises(GroupGone):
        tree.read(Group("two", one.id), "file")


# Kept descriptors


def test_reading_again_opens_nothing(tree: Tree, tmp_path: Path) -> None:
    directory(tmp_path, "group")
    group = tree.find("group")
    tree.read(group, "file")
    before = open_files()
    for _ in range(100):
        tree.read(group, "file")
    assert open_files() == before


def test_a_kept_file_is_read_from_its_start_as_it_is_now(tree: Tree, tmp_path: Path) -> None:
    made = directory(tmp_path, "group", "before")
    group = tree.find("group")
    assert tree.read(group, "file") == b"before"
    (made / "file").write_text("after")
    assert tree.read(group, "file") == b"after"


def test_a_path_that_is_longer_than_the_kernel_takes_is_an_invalid_name(tmp_path: Path) -> None:
    tree = tree_of(tmp_path)
    with pytest.raises(InvalidGroupName, match="longer than"):
        tree.find("/".join(["group"] * 1000))
    tree.close()


def test_kept_descriptors_stay_within_a_part_of_the_limit(tmp_path: Path) -> None:
    for number in range(200):
        directory(tmp_path, f"group-{number}")
    before = open_files()
    with most_open_files(150):
        tree = tree_of(tmp_path)
        for _ in range(2):
            assert all(
                tree.read(group, "file") == group.path.encode()
                for group in tree.groups()
                if group.path
            )
        assert open_files() - before <= 150 // 2 + 2
    tree.close()


def test_threads_that_push_out_each_others_descriptors_never_read_the_wrong_file(
    tmp_path: Path,
) -> None:
    for number in range(100):
        directory(tmp_path, f"group-{number}")
    with most_open_files(150):
        tree = tree_of(tmp_path)
        groups = [group for group in tree.groups() if group.path]
        with ThreadPoolExecutor(4) as pool:
            texts = list(pool.map(lambda group: tree.read(group, "file"), groups * 20))
    assert texts == [group.path.encode() for group in groups] * 20
    tree.close()


def test_closing_gives_back_every_descriptor(tmp_path: Path) -> None:
    before = open_files()
    tree = tree_of(tmp_path)
    group = tree.make("group")
    (tmp_path / "group" / "file").touch()
    tree.read(group, "file")
    with tree.opened(group, "file"):
        pass
    tree.groups()
    with pytest.raises(GroupNotFound):
        tree.find("missing")
    tree.close()
    assert open_files() == before


# The walk


def test_a_walk_finds_each_group_once_with_its_inode_and_its_parent_first(
    tree: Tree, tmp_path: Path
) -> None:
    paths = {"", "a", "a/b", "a/b/c", "a/d", "e"}
    for path in ("a/b/c", "a/d", "e"):
        (tmp_path / path).mkdir(parents=True)
    found = tree.groups()
    assert {group.path for group in found} == paths
    assert len(found) == len(paths)
    assert all(group.id == (tmp_path / group.path).stat().st_ino for group in found)
    places = {group.path: place for place, group in enumerate(found)}
    assert all(places[path.rpartition("/")[0]] < places[path] for path in paths if path)


def test_a_walk_goes_deeper_than_the_interpreter_recurses(tree: Tree, tmp_path: Path) -> None:
    levels = 1200
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        here, above = os.open("d", os.O_RDONLY, dir_fd=here), here
        os.close(above)
    os.close(here)
    found = tree.groups()
    assert len(found) == levels + 1
    for group in reversed(found[1:]):
        tree.remove(group)


def test_groups_that_come_and_go_during_a_walk_do_not_disturb_it(
    tree: Tree, tmp_path: Path
) -> None:
    for number in range(20):
        (tmp_path / f"staying-{number}").mkdir()
    done = threading.Event()

    def churn() -> None:
        while not done.is_set():
            (tmp_path / "passing" / "inside").mkdir(parents=True)
            (tmp_path / "passing" / "inside").rmdir()
            (tmp_path / "passing").rmdir()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        walks = [
            {group.path for group in tree.groups()} - {"passing", "passing/inside"}
            for _ in range(100)
        ]
    finally:
        done.set()
        thread.join()
    assert all(walk == {"", *(f"staying-{number}" for number in range(20))} for walk in walks)


def test_a_name_that_is_no_unicode_is_left_out(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff")).mkdir()
    (tmp_path / "größe").mkdir()
    assert {group.path for group in tree.groups()} == {"", "größe"}


# Making and removing


def test_a_group_is_made_below_an_existing_one_and_once(tree: Tree) -> None:
    group = tree.make("group")
    assert tree.groups("group") == [group]
    with pytest.raises(GroupExists):
        tree.make("group")
    with pytest.raises(GroupNotFound, match="'missing'"):
        tree.make("missing/child")


def test_the_managed_root_and_what_is_not_empty_stay(tree: Tree) -> None:
    tree.make("outer")
    tree.make("outer/inner")
    with pytest.raises(GroupNotManaged):
        tree.remove(tree.find(""))
    with pytest.raises(GroupNotEmpty):
        tree.remove(tree.find("outer"))


# What the kernel prints


def test_pressure_is_read_as_percent_and_microseconds() -> None:
    pressure = parse_pressure(
        b"some avg10=1.50 avg60=0.25 avg300=0.00 total=123456\nfull avg10=0.50 avg60=0.00 "
        b"avg300=0.00 total=65432\n"
    )
    assert (
        pressure.some.avg10_percent,
        pressure.some.avg60_percent,
        pressure.some.total_microseconds,
    ) == (1.5, 0.25, 123456)
    assert (pressure.full.avg10_percent, pressure.full.total_microseconds) == (0.5, 65432)


def test_mounts_are_found_by_kind_and_option() -> None:
    assert "/proc" in mount_points("proc")
    assert not list(mount_points("proc", "memory"))
