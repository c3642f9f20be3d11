"""Make the table of events."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("type", sa.String(32), nullable=False),
        sa.Column("group_id", sa.BigInteger),
        sa.Column("group_path", sa.Text),
        sa.Column("data", sa.JSON, nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("events")
