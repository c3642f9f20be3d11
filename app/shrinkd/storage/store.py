"""The database of one daemon with its repositories."""

from pathlib import Path

from shrinkd.storage.audit import AuditRepository
from shrinkd.storage.database import Database
from shrinkd.storage.decisions import DecisionRepository
from shrinkd.storage.events import EventRepository
from shrinkd.storage.idempotency_keys import IdempotencyKeyRepository
from shrinkd.storage.limit_intents import LimitIntentRepository
from shrinkd.storage.made_groups import MadeGroupRepository
from shrinkd.storage.migration import MIGRATIONS
from shrinkd.storage.policies import PolicyRepository
from shrinkd.storage.policy_states import PolicyStateRepository
from shrinkd.storage.shrinks import ShrinkRepository


class Store:
    """One repository for each table of a database: SQLite by default, PostgreSQL by URL.

    Call it from worker threads, not from the event loop. Every method of a repository raises
    StoreUnavailable when the database is full, locked or gone. Times are microseconds since the
    epoch.
    """

    def __init__(self, url: str, migrations: Path = MIGRATIONS) -> None:
        self.database = Database(url, migrations)
        self.shrinks = ShrinkRepository(self.database)
        self.made_groups = MadeGroupRepository(self.database)
        self.limit_intents = LimitIntentRepository(self.database)
        self.policies = PolicyRepository(self.database)
        self.policy_states = PolicyStateRepository(self.database)
        self.decisions = DecisionRepository(self.database)
        self.events = EventRepository(self.database)
        self.idempotency_keys = IdempotencyKeyRepository(self.database)
        self.audit = AuditRepository(self.database)

    def open(self) -> None:
        """Open the database; see Database.open()."""
        self.database.open()

    def close(self) -> None:
        """Close the database; see Database.close()."""
        self.database.close()

    def ping(self) -> None:
        """Prove that the database can be written; see Database.ping()."""
        self.database.ping()
