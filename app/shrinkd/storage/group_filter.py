"""Select rows by the group that they are about, in memory and in SQL by the same rule."""

from collections.abc import Collection

import sqlalchemy as sa

from shrinkd.paths import is_at_or_below

GroupFilter = str | tuple[str, ...] | None
"""Which groups: the one with this path, those at or below one of several paths, or all (None)."""


def group_matches(path: str, groups: GroupFilter) -> bool:
    """Tell whether a filter selects the group with this path."""
    if isinstance(groups, tuple):
        return any(is_at_or_below(path, subtree) for subtree in groups)
    return groups in {None, path}


def group_condition(column: sa.Column[str], groups: GroupFilter) -> sa.ColumnElement[bool]:
    """Express a filter in SQL, for a column that holds paths."""
    if groups is None:
        return sa.true()
    return at_or_below_any(column, groups) if isinstance(groups, tuple) else column == groups


def at_or_below_any(column: sa.Column[str], subtrees: Collection[str]) -> sa.ColumnElement[bool]:
    """Express paths.is_at_or_below in SQL, for any of several subtrees; NULL is below none.

    By substr(): LIKE ignores the case of letters on SQLite, and the order of strings depends on the
    database.
    """
    ways = (
        (column == subtree) | (sa.func.substr(column, 1, len(subtree) + 1) == f"{subtree}/")
        if subtree
        else column.is_not(None)
        for subtree in subtrees
    )
    return sa.or_(sa.false(), *ways)
