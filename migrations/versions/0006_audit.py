"""Make the table of attempted changes."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("caller", sa.Text, nullable=False),
        sa.Column("operation", sa.Text),
        sa.Column("method", sa.String(16), nullable=False),
        sa.Column("path", sa.Text, nullable=False),
        sa.Column("request_id", sa.String(64), nullable=False),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("body", sa.JSON(none_as_null=True)),
        sa.Column("group_id", sa.BigInteger),
        sa.Column("group_path", sa.Text),
        sa.Column("status", sa.Integer),
        sa.Column("problem", sa.Text),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("times", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_index("audit_by_time", "audit", ["at"], if_not_exists=True)


def downgrade() -> None:
    op.drop_table("audit")
