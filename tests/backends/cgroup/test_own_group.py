"""Test finding the daemon's own group, from texts of /proc and by searching groups."""

import errno
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shrinkd.backends.cgroup.own_group import (
    ProcessLocator,
    ProcessSearch,
    RelativePath,
    descends_from_daemon,
    group_in,
    relative_path,
)
from shrinkd.backends.cgroup.syscalls import Descriptor
from shrinkd.backends.protection import OwnGroup

V1 = b"3:cpuset:/\n4:memory:/docker/abc\n9:name=systemd:/init\n0::/elsewhere\n"
V1_JOINED = b"5:cpu,cpuacct:/\n4:hugetlb,memory:/docker/abc\n"
NAMES = st.lists(st.sampled_from("abc"), max_size=4).map(tuple)


def found_in(root: Path, pid: int = 77) -> ProcessSearch:
    return ProcessSearch(Descriptor(os.open(root, os.O_PATH)), pid)


def group(root: Path, path: str, *pids: int) -> Path:
    """Make a directory as the search sees a group."""
    (root / path).mkdir(parents=True, exist_ok=True)
    (root / path / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return root / path


# -- what /proc/PID/cgroup says


@pytest.mark.parametrize("cgroups", [V1, V1_JOINED])
def test_on_v1_the_memory_controller_has_the_word(cgroups: bytes) -> None:
    assert group_in(cgroups, 1) == "/docker/abc"


def test_on_v2_the_one_hierarchy_has_it() -> None:
    assert (group_in(b"0::/system.slice/shrinkd.service\n", 2), group_in(V1, 2)) == (
        "/system.slice/shrinkd.service",
        "/elsewhere",
    )


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"4:memory:/a\n",
        b"0::/a\n0::/web\n",
        b"0::/a\n0::/web\n\n",
        b"0::/web\n0:x:/y\n0::/other\n",
    ],
)
def test_where_none_or_several_lines_could_be_meant_it_says_nothing(text: bytes) -> None:
    assert group_in(text, 2) is None


@pytest.mark.parametrize("name", ["a\u2028b", "a\x85b", "a\x1cb", "a\rb", "a:b", "caf\udce9"])
def test_a_name_is_what_stands_before_the_line_feed(name: str) -> None:
    assert group_in(b"4:memory:/x\n0::/" + os.fsencode(name) + b"\n", 2) == f"/{name}"


# -- the way from the group that a mount shows to another


@pytest.mark.parametrize(
    ("own", "shown", "unknown_levels", "names"),
    [
        ("/system.slice/shrinkd.service", "/", 0, ("system.slice", "shrinkd.service")),
        ("/system.slice/shrinkd.service", "/system.slice", 0, ("shrinkd.service",)),
        ("/", "/", 0, ()),
        ("/inner", "/", 0, ("inner",)),
        # in a cgroup namespace, with a mount of its own, one of all the host, or one of a part of
        # that
        ("/", "/..", 1, ()),
        ("/", "/../..", 2, ()),
        ("/inner", "/../..", 2, ("inner",)),
        ("/../other", "/..", 0, ("other",)),
        ("/../other/inner", "/../other", 0, ("inner",)),
        ("/../other", "/../..", 1, ("other",)),
    ],
)
def test_the_way_to_a_group_has_the_names_that_are_told(
    own: str, shown: str, unknown_levels: int, names: tuple[str, ...]
) -> None:
    assert relative_path(own, shown) == RelativePath(unknown_levels, names)


@pytest.mark.parametrize(
    ("own", "shown"),
    [
        ("/system.slice", "/user.slice"),
        ("/system.slice", "/system"),
        ("/", "/system.slice"),
        ("/../other", "/"),
        ("/..", "/"),
        ("/../other", "/../another"),
        ("/../../far", "/../other"),
        ("/", "/../other"),
        ("/inner", "/../other"),
    ],
)
def test_no_way_leads_to_a_group_that_is_not_inside(own: str, shown: str) -> None:
    assert relative_path(own, shown) is None


@given(NAMES, NAMES, NAMES)
def test_the_way_is_right_from_whatever_namespace_it_is_seen(
    namespace: tuple[str, ...], own: tuple[str, ...], shown: tuple[str, ...]
) -> None:
    """Held against the whole paths, which only the initial namespace knows."""
    trail = relative_path(seen(own, namespace), seen(shown, namespace))
    may_be_charged_to_daemon = own[: len(shown)] == shown
    assert (trail is not None) == may_be_charged_to_daemon
    if trail is not None:
        rest = own[len(shown) :]
        assert (trail.unknown_levels + len(trail.names), trail.names) == (
            len(rest),
            rest[trail.unknown_levels :],
        )


@given(NAMES, NAMES, NAMES, NAMES)
def test_a_managed_root_below_the_mount_shortens_the_way(
    namespace: tuple[str, ...], own: tuple[str, ...], shown: tuple[str, ...], names: tuple[str, ...]
) -> None:
    trail = relative_path(seen(own, namespace), seen(shown, namespace))
    below = trail and trail.below(names)
    rest = own[len(shown) + len(names) :]
    if own[: len(shown) + len(names)] == shown + names:
        assert below is not None
        assert (below.unknown_levels + len(below.names), below.names) == (
            len(rest),
            rest[below.unknown_levels :],
        )
    elif below is not None and trail is not None:
        assert (
            trail.unknown_levels > 0
        )  # a name that is not told may be any, and then the groups are asked


def seen(path: tuple[str, ...], namespace: tuple[str, ...]) -> str:
    """A path as the kernel prints it in a namespace, after kernfs_path_from_node()."""
    common = next(
        (
            number
            for number, (left, right) in enumerate(zip(path, namespace, strict=False))
            if left != right
        ),
        None,
    )
    common = min(len(path), len(namespace)) if common is None else common
    return "/" + "/".join((*([".."] * (len(namespace) - common)), *path[common:]))


# -- asking the groups


def test_of_the_groups_at_the_end_of_a_way_the_one_that_has_the_process_is_found(
    tmp_path: Path,
) -> None:
    group(tmp_path, "docker/a/inner", 1, 7)
    group(tmp_path, "docker/b/inner", 177, 77)
    group(tmp_path, "docker/b", 5)
    assert found_in(tmp_path).find_along(RelativePath(2, ("inner",))) == "docker/b/inner"
    assert (
        found_in(tmp_path).find_along(RelativePath(0, ("docker", "b", "inner"))) == "docker/b/inner"
    )
    assert found_in(tmp_path).find_along(RelativePath(1, ("b",))) is None
    assert found_in(tmp_path).find_anywhere() == "docker/b/inner"


def test_the_managed_root_may_be_the_group(tmp_path: Path) -> None:
    group(tmp_path, "", 77)
    assert (
        found_in(tmp_path).find_along(RelativePath(0, ())),
        found_in(tmp_path).find_anywhere(),
    ) == (
        "",
        "",
    )


def test_a_process_that_is_nowhere_leaves_no_suspect_where_all_could_be_asked(
    tmp_path: Path,
) -> None:
    group(tmp_path, "a/b", 7)
    search = found_in(tmp_path)
    assert (search.find_anywhere(), search.suspects) == (None, [])


def test_a_group_that_cannot_be_asked_is_a_suspect(tmp_path: Path) -> None:
    group(tmp_path, "a", 7)
    (group(tmp_path, "a/b") / "cgroup.procs").unlink()
    (tmp_path / "a/b/cgroup.procs").symlink_to("/")  # ELOOP, also for root
    search = found_in(tmp_path)
    assert (search.find_anywhere(), search.suspects) == (None, ["a/b"])


def test_where_we_lack_descriptors_nobody_is_taken_for_a_suspect(tmp_path: Path) -> None:
    class Lacking(ProcessSearch):
        def _children(self, path: str) -> list[str]:
            self._record_unreadable(path, OSError(errno.EMFILE, os.strerror(errno.EMFILE)))
            return []

    with pytest.raises(OSError, match="Too many"):
        Lacking(Descriptor(os.open(tmp_path, os.O_PATH)), 77).find_anywhere()


# -- what follows


def test_the_group_of_the_daemon_and_those_around_it_are_its_own_affair() -> None:
    own = OwnGroup("a/b")
    assert [own.may_contain_daemon(path) for path in ("", "a", "a/b", "a/b/c", "a/c", "ab")] == [
        True,
        True,
        True,
        False,
        False,
        False,
    ]
    assert [own.may_be_charged_to_daemon(path) for path in ("", "a", "a/b", "a/b/c", "a/bc")] == [
        False,
        False,
        True,
        True,
        False,
    ]


def test_all_is_inside_the_managed_root_and_so_nothing_is_refused_for_that() -> None:
    own = OwnGroup("")
    assert (
        [own.may_contain_daemon(path) for path in ("", "a")],
        [own.may_be_charged_to_daemon(path) for path in ("", "a")],
    ) == ([True, False], [False, False])


def test_who_is_in_none_of_them_is_near_none() -> None:
    assert not any(
        OwnGroup().may_contain_daemon(path) or OwnGroup().may_be_charged_to_daemon(path)
        for path in ("", "a")
    )
    assert OwnGroup().uncertainty is None


def test_around_suspects_and_below_them_all_is_near() -> None:
    own = OwnGroup(None, ("a/b", "x"))
    near = {
        path: (own.may_contain_daemon(path), own.may_be_charged_to_daemon(path))
        for path in ("", "a", "a/b", "a/b/c", "x/y", "a/c", "z")
    }
    assert {path for path, told in near.items() if told == (True, True)} == {"a/b", "a/b/c", "x/y"}
    assert {path for path, told in near.items() if told == (True, False)} == {
        "",
        "a",
    }  # what is made there is beside the suspects
    assert {path for path, told in near.items() if told == (False, False)} == {"a/c", "z"}
    assert "'a/b', 'x'" in str(own.uncertainty)


def test_a_suspect_that_is_no_utf_8_is_named_in_ascii() -> None:
    assert str(OwnGroup(None, ("caf\udce9",)).uncertainty).isascii()


# -- this very process


def test_below_a_directory_that_is_no_hierarchy_we_are_in_no_group(tmp_path: Path) -> None:
    locator = ProcessLocator(Descriptor(os.open(tmp_path, os.O_PATH)), 2)
    assert (locator.own_group(), locator.path_of(os.getpid()), locator.path_of(4194305)) == (
        OwnGroup(),
        None,
        None,
    )


def test_this_process_is_its_own_and_the_one_that_began_it_is_not() -> None:
    assert (
        descends_from_daemon(os.getpid()),
        descends_from_daemon(os.getppid()),
        descends_from_daemon(4194305),
    ) == (True, False, False)
