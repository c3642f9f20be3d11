"""Define scopes, each for a subtree or for all groups, and check a caller's."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from shrinkd.errors import Forbidden
from shrinkd.paths import is_at_or_below


class Level(IntEnum):
    """Order the levels of scopes; each includes the ones below it."""

    READ = 1
    WRITE = 2
    """Change limits, shrink, make and remove groups, and set their policies."""
    ADMIN = 3
    """The whole node: policies that select everything, the simulator, the audit."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Hold one scope, written like "write@kubepods.slice".

    It has a level, and the group at and below which it holds; "" is everywhere.
    """

    level: Level
    subtree: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `read`, `write` or `admin`, optionally with @ and the path of a group.

        ValueError for anything else.
        """
        name, at, subtree = text.strip().partition("@")
        if name.upper() not in Level.__members__ or (at and not subtree):
            raise ValueError(
                f"{text!a} is no scope: write read, write or admin, and @ with the path of a group "
                "for that subtree alone"
            )
        return cls(Level[name.upper()], subtree.strip("/"))

    def __str__(self) -> str:
        return self.level.name.lower() + (f"@{self.subtree}" if self.subtree else "")

    def holds_at(self, path: str) -> bool:
        """Return whether a group is at or below the subtree."""
        return is_at_or_below(path, self.subtree)


@dataclass(frozen=True, slots=True)
class Caller:
    """Identify an authenticated sender of requests and its scopes.

    The audit and per-caller records use the name.
    """

    name: str
    """For instance "uid:1000", "token:ci" or "certificate:orchestrator"; "anyone" without
    authentication."""
    grants: tuple[Grant, ...]

    def may(self, level: Level, path: str | None = None) -> bool:
        """Return whether the caller has `level` at the group of a path; None is the whole node."""
        return any(
            grant.level >= level and (not grant.subtree if path is None else grant.holds_at(path))
            for grant in self.grants
        )

    def may_somewhere(self, level: Level) -> bool:
        """Return whether the caller has `level` at any group."""
        return any(grant.level >= level for grant in self.grants)

    def require(self, level: Level, path: str | None = None) -> None:
        """Raise Forbidden, naming the missing scope, unless may() permits it."""
        if not self.may(level, path):
            scope = str(Grant(level, path or ""))
            raise Forbidden(
                f"That takes the scope {scope!a}, which {self.name!a} does not have.", scope=scope
            )

    def readable(self) -> tuple[str, ...] | None:
        """Return the subtrees that the caller may read; None for everything."""
        return None if self.may(Level.READ) else tuple(grant.subtree for grant in self.grants)

    def visible(self, paths: Iterable[str]) -> list[str]:
        """Return those of the paths that the caller may read."""
        return [path for path in paths if self.may(Level.READ, path)]


ANYONE = Caller("anyone", (Grant(Level.ADMIN),))
"""The caller of a daemon without authentication: a simulator on a loopback address."""

NOBODY = Caller("nobody", ())
"""The caller of a public page, which needs no authentication."""
