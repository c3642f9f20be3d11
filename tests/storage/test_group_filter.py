"""The filter of rows by group: the same rule in memory and in SQL."""

from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from shrinkd.storage import GroupFilter, group_matches
from shrinkd.storage.group_filter import group_condition

PATHS = st.lists(st.sampled_from(["a", "ab", "A", "b", "bc", "%", "_", "é"]), max_size=3).map(
    "/".join
)
COLUMN: sa.Column[str] = sa.Column("path", sa.Text)
TABLE = sa.Table("paths", sa.MetaData(), COLUMN)


@pytest.fixture(scope="module")
def connection() -> Iterator[sa.Connection]:
    engine = sa.create_engine("sqlite://")
    with engine.connect() as connection:
        TABLE.create(connection)
        yield connection
    engine.dispose()


@given(
    paths=st.lists(PATHS, max_size=6),
    groups=st.one_of(st.none(), PATHS, st.lists(PATHS, max_size=3).map(tuple)),
)
def test_sql_selects_what_memory_does(
    connection: sa.Connection, paths: list[str], groups: GroupFilter
) -> None:
    connection.execute(TABLE.delete())
    if paths:
        connection.execute(TABLE.insert(), [{"path": path} for path in paths])
    found = connection.execute(sa.select(COLUMN).where(group_condition(COLUMN, groups))).scalars()
    assert sorted(found) == sorted(path for path in paths if group_matches(path, groups))
