"""Run migrations for Alembic.

The daemon passes its connection; the `alembic` command line connects to SHRINKD_DATABASE_URL.
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


given = context.config.attributes.get("connection")
if given is not None:
    _migrate(given)
else:
    with alone(sa.create_engine(os.environ["SHRINKD_DATABASE_URL"])) as own:
        _migrate(own)
