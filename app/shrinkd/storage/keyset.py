"""Parts of queries that repositories share: keyset pages, and limits on the number of rows."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa


def newest_first(
    query: sa.Select[Any],
    key: Sequence[sa.Column[Any]],
    limit: int,
    before: Sequence[int | str] | None,
) -> sa.Select[Any]:
    """Sort a query by a unique key in descending order, and cut it to one page.

    `before` is the key of the last row of the page before; None begins with the newest row.
    """
    query = query.order_by(*(column.desc() for column in key)).limit(limit)
    return query if before is None else query.where(sa.tuple_(*key) < sa.tuple_(*before))


def newest_beyond(
    column: sa.Column[Any], most: int, *conditions: sa.ColumnElement[bool]
) -> sa.ScalarSelect[Any]:
    """Select the newest id of those beyond the `most` newest; NULL where there are not so many."""
    query = sa.select(column).where(*conditions).order_by(column.desc())
    return query.offset(most).limit(1).scalar_subquery()
