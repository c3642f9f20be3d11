"""Make the tables of shrinks and of groups made through the API.

`if_not_exists`, here and up to 0006: older releases committed each CREATE on SQLite by itself, and
a start that died between two of them left some tables. Newer revisions run in one transaction and
do not need it.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ACTIVE = sa.text("state IN ('queued', 'running', 'cancelling')")


def upgrade() -> None:
    op.create_table(
        "shrinks",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("boot_id", sa.String(64), nullable=False),
        sa.Column("group_id", sa.BigInteger, nullable=False),
        sa.Column("group_path", sa.Text, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("request", sa.JSON, nullable=False),
        sa.Column("progress", sa.JSON, nullable=False),
        sa.Column("error", sa.JSON),
        sa.Column("policy", sa.Text),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        if_not_exists=True,
    )
    op.create_index("shrinks_by_time", "shrinks", ["created_at", "id"], if_not_exists=True)
    op.create_index("shrinks_by_group", "shrinks", ["group_path", "created_at"], if_not_exists=True)
    op.create_index(
        "one_active_shrink_a_group",
        "shrinks",
        ["group_id"],
        unique=True,
        sqlite_where=_ACTIVE,
        postgresql_where=_ACTIVE,
        if_not_exists=True,
    )
    op.create_table(
        "made_groups",
        sa.Column("boot_id", sa.String(64), primary_key=True),
        sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("made_groups")
    op.drop_table("shrinks")
