"""What a walk cannot read.

Left out and counted where that is for what it is, and a failed walk where it is for what we lack.
"""

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shrinkd.backends import Backend, Group, recent_walk
from shrinkd.backends.cgroup.tree import Tree
from shrinkd.backends.simulator.controls import Fault
from shrinkd.backends.walks import LONGEST_PATH_BYTES, MAX_NAMED
from shrinkd.errors import GroupNotFound, InvalidGroupName, OutOfResources
from shrinkd.settings import Settings
from tests.backends.cgroup.test_tree import directory, most_open_files, tree_of
from tests.backends.hosts import MIB, Host
from tests.support.capabilities import without_overrides
from tests.support.cgroup_host import CgroupHost, dig, remove_below
from tests.support.scripted_simulator import Stage

DEEP = 18
"""Levels of 250 bytes: the last two are beyond what a path can say."""


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    """A directory that is removed by descriptors.

    Pytest's own way to do it would be kept from it by paths that are too long.
    """
    (tmp_path / "top").mkdir()
    yield tmp_path / "top"
    above = os.open(tmp_path, os.O_RDONLY)
    remove_below(above, "top")
    os.close(above)


@pytest.fixture
def tree(top: Path) -> Iterator[Tree]:
    tree = tree_of(top)
    yield tree
    tree.close()


@contextmanager
def files_to_be_had(count: int) -> Iterator[None]:
    """Let this process open so many files, and not one more."""
    free = [os.dup(0) for _ in range(count + 1)]
    for descriptor in free:
        os.close(descriptor)
    with most_open_files(free[count]):
        yield


# What cannot be read for what it is


def test_what_is_deeper_than_a_path_reaches_is_left_out_counted_and_named_and_nothing_else_is(
    tree: Tree, top: Path
) -> None:
    (top / "web").mkdir()
    dig(top, DEEP)
    found = {group.path for group in tree.groups()}
    assert found == {"", "web", *("/".join(["d" * 250] * level) for level in range(1, 17))}
    walk = tree.last_walk()
    assert (walk.unreadable, walk.failure) == ({"ENAMETOOLONG": 1}, None)
    assert walk.named == (("/".join(["d" * 250] * 17), "ENAMETOOLONG"),)


def test_the_longest_path_that_the_kernel_resolves_is_read(tree: Tree, top: Path) -> None:
    dig(top, 16)
    above = os.open("/".join([str(top), *["d" * 250] * 8]), os.O_RDONLY)
    for _ in range(8):
        above, before = os.open("d" * 250, os.O_RDONLY, dir_fd=above), above
        os.close(before)
    room = LONGEST_PATH_BYTES - 16 * 251
    os.mkdir("e" * room, dir_fd=above)
    os.mkdir("f" * (room + 1), dir_fd=above)
    os.close(above)
    assert max(len(group.path) for group in tree.groups()) == LONGEST_PATH_BYTES
    assert tree.last_walk().unreadable == {"ENAMETOOLONG": 1}


def test_of_many_entries_that_cannot_be_read_some_are_named_and_all_are_counted(
    tree: Tree, top: Path
) -> None:
    for number in range(3 * MAX_NAMED):
        (top / os.fsdecode(b"\xff%d" % number)).mkdir()
    tree.groups()
    walk = tree.last_walk()
    assert (walk.unreadable, len(walk.named)) == ({"EILSEQ": 3 * MAX_NAMED}, MAX_NAMED)
    assert all(path.startswith("\\xff") for path, _ in walk.named)


def test_a_directory_that_nobody_may_list_is_left_out_until_it_may_be(
    tree: Tree, top: Path
) -> None:
    (top / "web").mkdir()
    (top / "closed" / "inside").mkdir(parents=True)
    (top / "closed").chmod(0)
    with without_overrides():
        assert {group.path for group in tree.groups()} == {"", "web"}
        assert (tree.last_walk().unreadable, tree.last_walk().named) == (
            {"EACCES": 1},
            (("closed", "EACCES"),),
        )
        (top / "closed").chmod(0o755)
        assert {group.path for group in tree.groups()} == {"", "web", "closed", "closed/inside"}
    assert tree.last_walk().unreadable == {}


def test_the_group_that_is_asked_for_itself_is_refused_and_not_left_out(
    tree: Tree, top: Path
) -> None:
    dig(top, DEEP)
    with pytest.raises(InvalidGroupName):
        tree.groups("/".join(["d" * 250] * 17))


# What says nothing of any group


def test_without_open_files_a_walk_fails_and_what_was_left_out_before_still_is(
    tree: Tree, top: Path
) -> None:
    (top / "web").mkdir()
    (top / os.fsdecode(b"\xff")).mkdir()
    tree.groups()
    (top / "db").mkdir()
    with files_to_be_had(0):
        with pytest.raises(OutOfResources, match="EMFILE"):
            tree.groups()
        first = tree.last_walk()
        with pytest.raises(OutOfResources):
            tree.groups()
    assert "EMFILE" in str(tree.last_walk().failure)
    assert (tree.last_walk().failing_since, tree.last_walk().unreadable) == (
        first.ended_at,
        {"EILSEQ": 1},
    )
    assert {group.path for group in tree.groups()} == {"", "web", "db"}
    assert (tree.last_walk().failure, tree.last_walk().failing_since) == (None, None)


def test_without_watches_too_a_walk_that_finds_no_open_file_tells_of_no_group_that_it_is_gone(
    top: Path,
) -> None:
    for number in range(5):
        directory(top, f"group-{number}")
    tree = tree_of(top)
    assert len(tree.groups()) == 6
    # as without inotify, where this user has no more watches
    tree._listings._queue = None  # noqa: SLF001
    tree._listings._listings.clear()  # noqa: SLF001
    for count in range(2):
        with files_to_be_had(count), pytest.raises(OutOfResources):
            tree.groups()
    assert len(tree.groups()) == 6
    tree.close()


def test_a_part_of_the_tree_that_was_asked_for_says_nothing_of_the_whole(
    tree: Tree, top: Path
) -> None:
    (top / "web").mkdir()
    tree.groups("web")
    assert tree.last_walk().ended_at == -math.inf
    assert recent_walk(tree_as_backend(tree)).ended_at > -math.inf


def tree_as_backend(tree: Tree) -> Backend:
    backend: Backend = tree  # type: ignore[assignment]  # as much of one as a walk needs
    return backend


# Making


def test_no_group_is_made_that_could_not_be_read_back(tree: Tree, top: Path) -> None:
    made = made_within(tree, "d" * 250)
    assert 13 <= len(made) <= 16
    assert len(tree.groups()) == len(made) + 1
    assert tree.last_walk().unreadable == {}
    assert (
        len(str(top / made[-1] / ("f" * 98)))
        <= LONGEST_PATH_BYTES
        < len(str(top / made[-1] / ("d" * 250) / ("f" * 98)))
    )


def made_within(backend: Tree | Backend, path: str) -> list[str]:
    """Make groups within each other until that is refused, which a dry run does just as well.

    Answers the paths of those made.
    """
    made: list[str] = []
    while len(made) < DEEP:
        try:
            backend.make(path)
        except InvalidGroupName:
            with pytest.raises(InvalidGroupName, match="is too long"):
                backend.make(path, dry_run=True)
            break
        made.append(path)
        path += "/" + "d" * 250
    return made


def test_below_a_group_that_cannot_be_read_none_is_made(tree: Tree, top: Path) -> None:
    dig(top, DEEP)
    with pytest.raises(InvalidGroupName):
        tree.make("/".join(["d" * 250] * 17 + ["x"]))


@pytest.mark.parametrize("count", [0, 1])
def test_a_group_that_cannot_be_opened_once_it_is_made_does_not_stay(
    tree: Tree, top: Path, count: int
) -> None:
    with files_to_be_had(count), pytest.raises(OutOfResources):
        tree.make("web")
    assert list(top.iterdir()) == []


def test_a_group_that_was_just_made_can_be_taken_back_without_one_more_open_file(
    tree: Tree, top: Path
) -> None:
    with files_to_be_had(2):
        group = tree.make("web")
    with files_to_be_had(0):
        tree.remove(group)
    assert list(top.iterdir()) == []
    with pytest.raises(GroupNotFound):
        tree.find("web")


# On every backend


def test_a_backend_makes_no_group_that_its_kernel_could_not_open(host: Host) -> None:
    inside = host.group()
    made = made_within(host.backend, f"{inside.path}/{'d' * 250}")
    assert 10 < len(made) < 17
    below = host.backend.groups(inside.path)
    assert {group.path for group in below} == {inside.path, *made}
    assert all(host.backend.stat(group).usage_bytes >= 0 for group in below)


# On real kernels


def test_a_kernel_has_groups_that_are_deeper_than_a_path_reaches_and_all_others_are_read(
    kernel: CgroupHost[Backend],
) -> None:
    inside, beside = kernel.group(), kernel.group()
    kernel.charge(beside, anon=4 * MIB)
    deepen(kernel, inside, DEEP)
    found = kernel.backend.groups()
    assert beside in found
    mine = [group for group in found if group.path.startswith(f"{inside.path}/")]
    assert 15 <= len(mine) < DEEP
    assert all(kernel.backend.stat(group).usage_bytes >= 0 for group in mine)
    assert kernel.backend.last_walk().unreadable["ENAMETOOLONG"] >= 1
    assert any(
        path.startswith(inside.path) and symbol == "ENAMETOOLONG"
        for path, symbol in kernel.backend.last_walk().named
    )


def test_a_group_whose_control_files_nobody_may_read_is_left_out(
    kernel: CgroupHost[Backend],
) -> None:
    closed, beside = kernel.group(), kernel.group()
    usage = Path(
        kernel.backend.node().root,
        closed.path,
        {"v1": "memory.usage_in_bytes", "v2": "memory.current"}[kernel.backend.name],
    )
    fresh = type(kernel.backend)(Settings())
    try:
        assert {closed, beside} <= set(fresh.groups())
        usage.chmod(0)  # as whom the group was given to may do
        with without_overrides():
            found = fresh.groups()
        assert (beside in found, closed in found) == (True, False)
        assert fresh.last_walk().unreadable["EACCES"] == 1
    finally:
        fresh.close()


def test_below_a_name_that_no_client_can_give_a_group_is_read(kernel: CgroupHost[Backend]) -> None:
    inside = kernel.group()
    strange = Path(kernel.backend.node().root, inside.path, "a\tb")
    deepen(kernel, inside, 1, name=strange.name)
    if kernel.backend.name == "v2":
        (strange / "cgroup.subtree_control").write_text("+memory")
    (strange / "web").mkdir()
    kernel.write_limit(Group(f"{inside.path}/a\tb", strange.stat().st_ino), 64 * MIB)
    web = next(group for group in kernel.backend.groups(inside.path) if group.path.endswith("/web"))
    limits = kernel.backend.stat(web).limits
    assert (limits.effective_max_bytes, limits.limited_by) == (64 * MIB, f"{inside.path}/a\tb")


def deepen(kernel: CgroupHost[Backend], group: Group, levels: int, name: str = "d" * 250) -> None:
    """Make groups within each other, as a process in the group could.

    On v2 each lets those in it have the controller.
    """
    top = Path(kernel.backend.node().root, group.path)
    control = ("cgroup.subtree_control", "+memory") if kernel.backend.name == "v2" else ("", "")
    dig(top, levels, name, *control)


# On a simulated one


def test_a_simulated_machine_leaves_out_what_its_kernel_would(still_stage: Stage) -> None:
    simulator = still_stage.simulator
    still_stage.group("web")
    with simulator.machine() as machine:
        here = machine.cgroups["web"]
        for _ in range(DEEP):
            here = machine.make(here, "d" * 250)
    found = {group.path for group in simulator.groups()}
    assert max(map(len, found)) <= LONGEST_PATH_BYTES
    assert (len(found), simulator.last_walk().unreadable) == (2 + 16, {"ENAMETOOLONG": 1})


def test_a_fault_that_lasts_is_met_until_it_is_cleared(still_stage: Stage) -> None:
    simulator = still_stage.simulator
    simulator.faults.plan(Fault(verb="groups", error="EMFILE", use=2, times=10**9))
    simulator.groups()
    for _ in range(3):
        with pytest.raises(OutOfResources):
            simulator.groups()
    assert "EMFILE" in str(simulator.last_walk().failure)
    simulator.faults.clear()
    simulator.groups()
    assert simulator.last_walk().failure is None


@pytest.fixture
def still_stage() -> Iterator[Stage]:
    stage = Stage()
    stage.make_backend(Settings(scenario="empty")).groups()
    yield stage
    stage.simulator.close()
