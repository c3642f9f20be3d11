"""Test that a process finds and protects its own group in real namespaces and mounts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from shrinkd.backends import Backend, Group
from tests.support.cgroup_host import CgroupHost
from tests.support.namespaces import Question, Setting, ask

BESIDE = 'mkdir "$tmp/host"; mount --bind "$root" "$tmp/host"'
ON_TOP = f'{BESIDE}; mount --bind "$root/$own" "$root"; mount --bind "$tmp/host" "$root"'
ABOVE = (
    f'{BESIDE}; mount --bind "$root/$own" "$root"; mount -t tmpfs none "${{root%/*}}"; mkdir '
    '"$root"; mount --bind "$tmp/host" "$root"'
)
ALL = (
    'mkdir "$tmp/all"; mount --rbind "${root%/*}" "$tmp/all"; ln -s "$tmp/all/${root##*/}" '
    '"$tmp/there"'
)
STICK = 'mkdir "$unusual"; mount -t tmpfs none "$unusual"'

HERE = Setting("as it is")
ELSEWHERE = Setting("a second mount at another place", BESIDE, "{tmp}/host")
NAMESPACE = Setting("a cgroup namespace", namespaces=("cgroup",))
SETTINGS = [
    HERE,
    ELSEWHERE,
    NAMESPACE,
    Setting("the host's hierarchy on top of the container's", ON_TOP),
    Setting("a mount on the directory above", ABOVE, has_twins=False),
    Setting(
        "a mount on top of the twins",
        'mount -t tmpfs none "${root%/*}/unified" || :',
        has_twins=False,
    ),
    Setting("all mounts at another place, by a link", ALL, "{tmp}/there"),
    Setting(
        "a cgroup namespace, and the hierarchy at another place", BESIDE, "{tmp}/host", ("cgroup",)
    ),
    Setting("a cgroup namespace, and the host's hierarchy on top", ON_TOP, namespaces=("cgroup",)),
    Setting("a container", f"mount -t proc proc /proc; {BESIDE}", "{tmp}/host", ("cgroup", "pid")),
    Setting("a pid namespace that sees the host's processes", namespaces=("pid",)),
    Setting("a mount point of an unusual name", STICK),
    Setting(
        "the hierarchy at a point of an unusual name",
        f'{STICK}; mount --bind "$root" "$unusual"',
        "{unusual}",
    ),
]
REFUSED = dict.fromkeys(("set_limits", "reclaim", "remove", "make"), "ProtectedGroup")
ALLOWED = dict.fromkeys(REFUSED, "done")


@dataclass
class Home:
    """Make a group with two children: `own` for the searching process and another, and `other`."""

    kernel: CgroupHost[Backend]
    top: Group
    own: Group
    other: Group
    folder: Path

    def ask(self, setting: Setting, *, other: str = "", below: str = "") -> dict[str, Any]:
        backend, stranger = self.kernel.backend, self.kernel.charge(self.own)
        other = other or self.other.path
        return ask(
            Question(
                setting,
                backend.name,
                backend.node().root,
                self.own.path,
                other,
                stranger.pid,
                self.folder,
                below,
            )
        )


@pytest.fixture
def own_home(kernel: CgroupHost[Backend], tmp_path: Path) -> Home:
    top = kernel.group()
    own, other = (kernel.backend.make(f"{top.path}/{name}") for name in ("own", "other"))
    return Home(kernel, top, own, other, tmp_path)


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_a_process_finds_its_own_group_and_changes_nothing_there(
    own_home: Home, setting: Setting
) -> None:
    told = own_home.ask(setting)
    assert (told["path"], told["suspects"], told["logged"]) == (own_home.own.path, [], [])
    assert told[own_home.own.path] == REFUSED
    assert told[own_home.top.path] == REFUSED | {"make": "done"}  # beside its own
    assert told["there"] == ALLOWED
    is_v2 = own_home.kernel.backend.name == "v2"  # whose groups tell of pressure themselves
    assert told["has_pressure"] == (
        own_home.kernel.backend.has_pressure and (setting.has_twins or is_v2)
    )
    stranger = "ProcessNotFound" if "pid" in setting.namespaces else "ProtectedGroup"
    assert told["moves"] == {
        "daemon": "ProtectedGroup",
        "thread": "ProcessNotFound",
        "stranger": stranger,
        "nobody": "ProcessNotFound",
    }
    assert (told["moved"], told["held"]) == (own_home.other.path, own_home.other.path)


@pytest.mark.parametrize("setting", [ELSEWHERE, NAMESPACE], ids=lambda setting: setting.name)
def test_below_a_managed_root_a_process_finds_itself_by_the_shorter_path(
    own_home: Home, setting: Setting
) -> None:
    told = own_home.ask(setting, other="other", below=own_home.top.path)
    assert (told["path"], told["own"], told["there"], told["moved"]) == (
        "own",
        REFUSED,
        ALLOWED,
        "other",
    )


@pytest.mark.parametrize("setting", [HERE, NAMESPACE], ids=lambda setting: setting.name)
def test_who_is_outside_of_the_managed_root_is_in_no_group_and_takes_no_process_from_outside(
    own_home: Home, setting: Setting
) -> None:
    own_home.kernel.backend.make(f"{own_home.other.path}/inner")
    told = own_home.ask(setting, other="inner", below=own_home.other.path)
    assert (told["path"], told["suspects"], told["there"], told["moved"]) == (
        None,
        [],
        ALLOWED,
        "inner",
    )
    assert told["moves"] == dict.fromkeys(
        ("daemon", "thread", "stranger", "nobody"), "ProcessNotFound"
    )


def test_where_nobody_may_look_for_it_nothing_is_changed(own_home: Home) -> None:
    """Only cgroup.procs identifies our group in this cgroup namespace, and it is mounted over."""
    told = own_home.ask(
        Setting("covered", 'mount -t tmpfs none "$root/$own"', namespaces=("cgroup",))
    )
    assert told["path"] is None
    assert own_home.own.path in told["suspects"]  # beside what other tests made unreadable
    assert (told["there"], told["beside"]) == (ALLOWED, "done")
    (line,) = told["logged"]
    assert "cannot tell which group it is in" in line
    assert repr(own_home.own.path) in line
