"""Scopes: what is written, and what it allows where."""

import pytest

from shrinkd.auth.scopes import ANYONE, NOBODY, Caller, Grant, Level
from shrinkd.errors import Forbidden


def test_a_grant_is_written_as_it_is_read() -> None:
    assert [str(Grant.parse(text)) for text in ("read", "write@web", "admin", "READ@/a/b/")] == [
        "read",
        "write@web",
        "admin",
        "read@a/b",
    ]


@pytest.mark.parametrize("text", ["", "root", "write@", "@web", "read write"])
def test_what_is_no_scope_is_refused_by_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no scope: write read, write or admin"):
        Grant.parse(text)


def test_a_level_allows_what_is_below_it_and_a_subtree_ends_at_a_slash() -> None:
    caller = Caller("token:ci", (Grant(Level.READ), Grant(Level.WRITE, "web")))
    assert caller.may(Level.READ, "db")
    assert caller.may(Level.READ)
    assert caller.may(Level.WRITE, "web")
    assert caller.may(Level.WRITE, "web/worker")
    assert not caller.may(Level.WRITE, "webmail")
    assert not caller.may(Level.WRITE, "")
    assert not caller.may(Level.WRITE)
    assert not caller.may(Level.ADMIN, "web")


def test_of_many_paths_a_caller_sees_those_it_may_read() -> None:
    assert Caller("token:ci", (Grant(Level.WRITE, "web"),)).visible(
        ["db", "web", "web/a", "webmail"]
    ) == ["web", "web/a"]
    assert ANYONE.visible(["db", "web"]) == ["db", "web"]


def test_what_a_caller_may_not_do_is_refused_with_the_scope_that_it_takes() -> None:
    caller = Caller("token:ci", (Grant(Level.READ), Grant(Level.WRITE, "web")))
    caller.require(Level.WRITE, "web/worker")
    for path, scope in (("db", "write@db"), ("", "write"), (None, "write")):
        with pytest.raises(Forbidden) as caught:
            caller.require(Level.WRITE, path)
        assert caught.value.members == {"scope": scope}
        assert "'token:ci'" in caught.value.detail


def test_a_caller_reads_everything_or_some_subtrees() -> None:
    assert Caller("token:ci", (Grant(Level.WRITE, "web"), Grant(Level.READ, "db"))).readable() == (
        "web",
        "db",
    )
    assert Caller("token:ci", (Grant(Level.WRITE, "web"), Grant(Level.READ))).readable() is None
    assert (NOBODY.readable(), ANYONE.readable()) == ((), None)


def test_to_write_somewhere_is_to_write_to_any_group() -> None:
    assert Caller("token:ci", (Grant(Level.READ), Grant(Level.WRITE, "web"))).may_somewhere(
        Level.WRITE
    )
    assert not Caller("token:ci", (Grant(Level.READ),)).may_somewhere(Level.WRITE)
