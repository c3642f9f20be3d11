"""Groups that were made through the API, and so may be removed through it."""

import sqlalchemy as sa

from shrinkd.storage.database import Database
from shrinkd.storage.tables import made_groups


class MadeGroupRepository:
    """The table `made_groups`: one row for each incarnation of a group, by boot and group id."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def record(self, boot_id: str, group_id: int, path: str, now: int) -> None:
        """Record that this incarnation was made here, and delete the rows of other boots."""
        row = {"boot_id": boot_id, "group_id": group_id, "path": path, "created_at": now}
        with self._database.transaction() as connection:
            connection.execute(made_groups.delete().where(made_groups.c.boot_id != boot_id))
            connection.execute(made_groups.insert().values(row))

    def list_ids(self, boot_id: str) -> set[int]:
        """List the ids of the groups that were made here since this boot."""
        query = sa.select(made_groups.c.group_id).where(made_groups.c.boot_id == boot_id)
        with self._database.reading() as connection:
            return set(connection.execute(query).scalars())

    def delete(self, boot_id: str, group_id: int) -> None:
        """Delete the row of a group, if there is one."""
        matches = (made_groups.c.boot_id == boot_id) & (made_groups.c.group_id == group_id)
        with self._database.transaction() as connection:
            connection.execute(made_groups.delete().where(matches))
