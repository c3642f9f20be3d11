"""Define the tables of the database.

Times are whole microseconds since the epoch (UTC), because SQLite keeps no time zone. A change here
needs a migration (migrations/versions).
"""

import sqlalchemy as sa

metadata = sa.MetaData()

shrinks = sa.Table(
    "shrinks",
    metadata,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("boot_id", sa.String(64), nullable=False),
    sa.Column("group_id", sa.BigInteger, nullable=False),
    sa.Column("group_path", sa.Text, nullable=False),
    sa.Column("state", sa.String(16), nullable=False),
    sa.Column("request", sa.JSON, nullable=False),
    sa.Column("progress", sa.JSON, nullable=False),
    sa.Column("error", sa.JSON(none_as_null=True)),
    sa.Column("policy", sa.Text),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("started_at", sa.BigInteger),
    sa.Column("finished_at", sa.BigInteger),
    sa.Index("shrinks_by_time", "created_at", "id"),
    sa.Index("shrinks_by_group", "group_path", "created_at"),
    sa.Index(
        "one_active_shrink_a_group",
        "group_id",
        unique=True,
        sqlite_where=sa.text("state IN ('queued', 'running', 'cancelling')"),
        postgresql_where=sa.text("state IN ('queued', 'running', 'cancelling')"),
    ),
)

made_groups = sa.Table(
    "made_groups",
    metadata,
    sa.Column("boot_id", sa.String(64), primary_key=True),
    sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

intents = sa.Table(
    "intents",
    metadata,
    sa.Column("boot_id", sa.String(64), primary_key=True),
    sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("path", sa.Text, nullable=False),
    sa.Column("steps", sa.JSON, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("name", sa.String(63), primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("priority", sa.BigInteger, nullable=False),
    sa.Column("enabled", sa.Boolean, nullable=False),
    sa.Column("body", sa.JSON, nullable=False),
    sa.Column("generation", sa.BigInteger, nullable=False),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
)

decisions = sa.Table(
    "decisions",
    metadata,
    # SQLite numbers rows only in a column of the type INTEGER, and reuses ids without
    # AUTOINCREMENT.
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
    sa.Index("decisions_by_policy", "policy", "id"),
    sa.Index("decisions_by_group", "group_path", "id"),
    sqlite_autoincrement=True,
)

policy_states = sa.Table(
    "policy_states",
    metadata,
    sa.Column("policy", sa.String(63), primary_key=True),
    sa.Column("boot_id", sa.String(64), primary_key=True),
    sa.Column("group_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("state", sa.JSON, nullable=False),
    sa.Column("updated_at", sa.BigInteger, nullable=False),
)

events = sa.Table(
    "events",
    metadata,
    # Numbered by the event log: without a gap, and the same when a commit that lost its answer is
    # tried again.
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("at", sa.BigInteger, nullable=False),
    sa.Column("type", sa.String(32), nullable=False),
    sa.Column("group_id", sa.BigInteger),
    sa.Column("group_path", sa.Text),
    sa.Column("data", sa.JSON, nullable=False),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("caller", sa.Text, primary_key=True),
    sa.Column("route", sa.String(64), primary_key=True),
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("request", sa.String(32), nullable=False),
    sa.Column("makes", sa.String(32), nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("headers", sa.JSON(none_as_null=True)),
    sa.Column("body", sa.LargeBinary),
    sa.Column("created_at", sa.BigInteger, nullable=False),
    sa.Index("idempotency_keys_by_time", "caller", "created_at"),
)

audit = sa.Table(
    "audit",
    metadata,
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
    sa.Index("audit_by_time", "at"),
)
