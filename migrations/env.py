"""Alembic's entry.

The daemon hands its connection over; a developer's `alembic` takes SHRINKD_DATABASE_URL.
"""

import os

import sqlalchemy as sa
from alembic import context

from shrinkd.storage.migration import alone
from shrinkd.storage.tables import metadata


def _migrate(connection: sa.Connection) -> None:
    context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()


handed_over = context.config.attributes.get("connection")
if handed_over is not None:
    _migrate(handed_over)
else:
    with alone(sa.create_engine(os.environ["SHRINKD_DATABASE_URL"])) as own:
        _migrate(own)
