"""Who calls, and what they may do: scopes, each for a subtree or for all groups."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from shrinkd.errors import Forbidden
from shrinkd.paths import is_at_or_below


class Level(IntEnum):
    """What a scope allows; each allows what those below it do."""

    READ = 1
    WRITE = 2
    """Change limits, shrink, make and remove groups, and set their policies."""
    ADMIN = 3
    """All of the node: policies that select everything, the simulator, the audit."""


@dataclass(frozen=True, slots=True)
class Grant:
    """A scope as it is written, "write@kubepods.slice".

    The level, and the group at and below which it holds; "" is everywhere.
    """

    level: Level
    subtree: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `read`, `write` or `admin`, with @ and the path of a group behind it where it is for
        that alone.

        ValueError.
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
        """Tell whether a group is at or below the subtree."""
        return is_at_or_below(path, self.subtree)


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who was let in.

    A name for the audit and for what is kept for each caller, and the scopes.
    """

    name: str
    """Such as "uid:1000", "token:ci" or "certificate:orchestrator"; who asks nobody is "anyone"."""
    grants: tuple[Grant, ...]

    def may(self, level: Level, path: str | None = None) -> bool:
        """Tell whether the caller may do what needs `level` at the group of a path.

        None is the whole node.
        """
        return any(
            grant.level >= level and (not grant.subtree if path is None else grant.holds_at(path))
            for grant in self.grants
        )

    def may_somewhere(self, level: Level) -> bool:
        """Tell whether there is any group at which the caller may do what needs `level`."""
        return any(grant.level >= level for grant in self.grants)

    def require(self, level: Level, path: str | None = None) -> None:
        """Raise Forbidden, naming the scope that is missing, where may() says no."""
        if not self.may(level, path):
            scope = str(Grant(level, path or ""))
            raise Forbidden(
                f"That takes the scope {scope!a}, which {self.name!a} does not have.", scope=scope
            )

    def readable(self) -> tuple[str, ...] | None:
        """The subtrees that the caller may read; None for everything."""
        return None if self.may(Level.READ) else tuple(grant.subtree for grant in self.grants)

    def visible(self, paths: Iterable[str]) -> list[str]:
        """Those of the paths that the caller may read."""
        return [path for path in paths if self.may(Level.READ, path)]


ANYONE = Caller("anyone", (Grant(Level.ADMIN),))
"""Who calls a daemon that asks nobody: a simulator on a loopback address."""

NOBODY = Caller("nobody", ())
"""Who was not asked who they are: of a page that is for everybody."""
