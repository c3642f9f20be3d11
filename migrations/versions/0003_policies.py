"""Make the tables of policies, of their decisions and of their states."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "policies",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("priority", sa.BigInteger, nullable=False),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("body", sa.JSON, nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )
    op.create_table(
        "decisions",
        sa.Column(
            "id",
            sa.BigInteger().with_variant(sa.Integer, "sqlite"),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("policy", sa.String(63), nullable=False),
        sa.Column("generation", sa.BigInteger, nullable=False),
        sa.Column("group_id", sa.BigInteger, nullable=False),
        sa.Column("group_path", sa.Text, nullable=False),
        sa.Column("mode", sa.String(16), nullable=False),
        sa.Column("verdict", sa.String(16), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("signals", sa.JSON, nullable=False),
        sa.Column("look_seconds", sa.Double, nullable=False),
        sa.Column("asked_bytes", sa.BigInteger),
        sa.Column("granted_bytes", sa.BigInteger),
        sa.Column("freed_bytes", sa.BigInteger),
        sa.Column("shrink_id", sa.String(32)),
        sa.Column("errno", sa.String(32)),
        sa.Column("times", sa.BigInteger, nullable=False),
        sqlite_autoincrement=True,
        if_not_exists=True,
    )
    op.create_index("decisions_by_policy", "decisions", ["policy", "id"], if_not_exists=True)
    op.create_index("decisions_by_group", "decisions", ["group_path", "id"], if_not_exists=True)
    op.create_table(
        "policy_states",
        sa.Column("policy", sa.String(63), primary_key=True),
        sa.Column("boot_id", sa.String(64), primary_key=True),
        sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("state", sa.JSON, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        if_not_exists=True,
    )


def downgrade() -> None:
    op.drop_table("policy_states")
    op.drop_table("decisions")
    op.drop_table("policies")
