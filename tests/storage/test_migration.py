"""Migrations.

A start that ends at any moment leaves nothing half done, and what older ones left half done is
completed.
"""

import ctypes
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext

from shrinkd.errors import SettingsError, StoreUnavailable
from shrinkd.storage import Store, migration
from shrinkd.storage.revisions import Revisions
from shrinkd.storage.tables import metadata
from tests.support.checkout import ROOT
from tests.support.postgres import Postgres
from tests.support.races import together

REVISIONS = (None, "0001", "0002", "0003", "0004", "0005")
HEAD = "0006"
TABLES_OF = {
    "0001": {"shrinks", "made_groups"},
    "0002": {"intents"},
    "0003": {"policies", "decisions", "policy_states"},
    "0004": {"idempotency_keys"},
    "0005": {"events"},
    "0006": {"audit"},
}
MIGRATIONS = ROOT / "migrations"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/shrinkd.db?timeout=60"
    server: Postgres = request.getfixturevalue("postgres")
    return server.emptied()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "db").mkdir()
    return tmp_path / "db" / "shrinkd.db"


def engine_of(url: str) -> sa.Engine:
    return sa.create_engine(url, poolclass=sa.NullPool)


def made(url: str, revision: str | None) -> None:
    """Make a database as a release of that revision left it, with a row in each table."""
    if revision is None:
        return
    with migration.alone(engine_of(url)) as connection:
        Revisions(migration.MIGRATIONS).upgrade(connection, revision)
        for table in tables_up_to(revision):
            connection.execute(metadata.tables[table].insert().values(sample(table)))


def tables_up_to(revision: str | None) -> set[str]:
    return {
        table
        for made_by, tables in TABLES_OF.items()
        if made_by <= (revision or "")
        for table in tables
    }


def sample(table: str) -> dict[str, Any]:
    """A row with something in each column."""
    kinds: dict[type, object] = {int: 1, str: "x", bool: True, float: 0.5, bytes: b"x"}
    columns = metadata.tables[table].columns
    return {
        column.name: {"a": "x"}
        if isinstance(column.type, sa.JSON)
        else kinds[column.type.python_type]
        for column in columns
    }


def assert_sound(url: str, revision: str | None) -> None:
    """Check that a database is at the newest revision, with the code's tables and all its rows."""
    with engine_of(url).connect() as connection:
        context = MigrationContext.configure(connection)
        assert context.get_current_heads() == (HEAD,)
        assert compare_metadata(context, metadata) == []
        rows = {
            table: [
                dict(row) for row in connection.execute(metadata.tables[table].select()).mappings()
            ]
            for table in metadata.tables
        }
    assert rows == {
        table: [sample(table)] if table in tables_up_to(revision) else []
        for table in metadata.tables
    }


def opened(url: str) -> None:
    with closing(Store(url)) as store:
        store.open()


# -- a start that is killed --------------------------------------------------------------------


def lives(work: Callable[[], object], dies_at: int) -> bool:
    """Run it in a process that gets a kill -9 at the n-th step of a migration.

    Answers whether the process came to its end.
    """
    pid = os.fork()
    if not pid:
        status = 1
        with suppress(BaseException):
            _count_steps(dies_at)
            work()
            status = 0
        os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in {0, -signal.SIGKILL}
    return status == 0


def _count_steps(dies_at: int) -> None:
    """Steps are.

    Each statement that writes to the file, the commit, and each line of the copy; it dies before
    one of them.
    """
    steps = itertools.count(1)

    def step(*_: object) -> None:
        if next(steps) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def statement(connection: sa.Connection, _cursor: object, text: str, *_: object) -> None:
        if connection.engine.url.database and text.split(maxsplit=1)[0] in {
            "BEGIN",
            "CREATE",
            "INSERT",
            "UPDATE",
        }:
            step()

    def trace(frame: Any, event: str, _argument: object) -> Any:
        if frame.f_code.co_name != "_copy" or frame.f_code.co_filename != migration.__file__:
            return None
        if event == "line":
            step()
        return trace

    sa.event.listen(sa.Engine, "before_cursor_execute", statement)
    sa.event.listen(sa.Engine, "commit", step)
    sys.settrace(trace)


@pytest.mark.long
@pytest.mark.parametrize("revision", REVISIONS)
def test_a_start_killed_at_any_step_of_a_migration_leaves_what_the_next_start_completes(
    path: Path, revision: str | None
) -> None:
    made(f"sqlite:///{path}", revision)
    before = path.read_bytes() if revision else b""
    for step in itertools.count(1):
        for file in path.parent.iterdir():
            file.unlink()
        path.write_bytes(before)
        lived = lives(lambda: opened(f"sqlite:///{path}"), step)
        opened(f"sqlite:///{path}")
        assert_sound(f"sqlite:///{path}", revision)
        copies = {file.name for file in path.parent.iterdir()} - {path.name}
        assert copies == ({f"shrinkd.db.revision-{revision}"} if revision else set())
        if lived:
            break
    assert step > 2 + len(tables_up_to(HEAD) - tables_up_to(revision))


def test_a_migration_that_a_developer_starts_is_all_or_nothing_as_well(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHRINKD_DATABASE_URL", f"sqlite:///{path}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))

    def fail(_connection: object, _cursor: object, text: str, *_: object) -> None:
        if "TABLE intents" in text or "EXISTS intents" in text:
            raise KeyboardInterrupt

    sa.event.listen(sa.Engine, "before_cursor_execute", fail)
    try:
        with pytest.raises(KeyboardInterrupt):
            command.upgrade(config, "head")
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", fail)
    assert sa.inspect(engine_of(f"sqlite:///{path}")).get_table_names() == []
    command.upgrade(config, "head")
    assert_sound(f"sqlite:///{path}", None)


# -- a disk that is full -----------------------------------------------------------------------

_CLONE_NEWNS, _MS_REMOUNT, _MS_REC, _MS_PRIVATE = 0x20000, 32, 16384, 1 << 18
_LIBC = ctypes.CDLL(None, use_errno=True)


def _mount(folder: Path, size: int, flags: int = 0) -> None:
    if _LIBC.mount(b"shrinkd", bytes(folder), b"tmpfs", flags, f"size={size}".encode()):
        raise OSError(ctypes.get_errno(), f"mount of {folder}")


def on_small_disks(folder: Path, tried: Callable[[Callable[[int], None]], object]) -> None:
    """Call it in a process with its own mounts.

    Its argument is a function that mounts an empty disk of so many bytes on the folder.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            if _LIBC.unshare(_CLONE_NEWNS) or _LIBC.mount(
                None, b"/", None, _MS_REC | _MS_PRIVATE, None
            ):
                os.write(writer, b"skip: mounts of one's own are not to be had here")
                os._exit(0)

            def renew(size: int) -> None:
                _LIBC.umount2(bytes(folder), 2)
                _mount(folder, size)

            tried(renew)
        except BaseException as error:  # noqa: BLE001
            os.write(writer, f"{type(error).__name__}: {error}".encode()[:4000])
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as answer:
        said = answer.read().decode(errors="replace")
    os.waitpid(pid, 0)
    if said.startswith("skip: "):
        pytest.skip(said.removeprefix("skip: "))
    assert not said


def starts(url: str) -> bool:
    """Whether it can be opened; if not, it is said what to do."""
    with closing(Store(url)) as store:
        try:
            store.open()
        except StoreUnavailable as error:
            advice = str(error)
        else:
            return True
    assert "Make room" in advice
    return False


@pytest.mark.long
@pytest.mark.parametrize(
    ("revision", "page_step"), [(None, 1), ("0001", 3), ("0003", 3), ("0005", 3)]
)
def test_a_start_on_a_full_disk_says_so_and_the_next_one_with_room_finds_everything(
    path: Path, revision: str | None, page_step: int
) -> None:
    base = path.parent.parent / "base.db"
    made(f"sqlite:///{base}", revision)
    content = base.read_bytes() if revision else b""

    def tried(renew: Callable[[int], None]) -> None:
        refused = 0
        for pages in itertools.count(1, page_step):
            renew(len(content) + 4096 * pages)
            if content:
                path.write_bytes(content)
            if starts(f"sqlite:///{path}"):
                break
            refused += 1
            assert not list(path.parent.glob("*.copying"))
            _mount(path.parent, 1 << 24, _MS_REMOUNT)
            opened(f"sqlite:///{path}")
            assert_sound(f"sqlite:///{path}", revision)
        _mount(path.parent, 1 << 24, _MS_REMOUNT)
        assert_sound(f"sqlite:///{path}", revision)
        assert refused > 2

    on_small_disks(path.parent, tried)


def test_a_command_that_finds_the_disk_full_ends_with_2_and_one_line_that_says_what_to_do(
    path: Path,
) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SHRINKD_")}
    environ["SHRINKD_DATABASE_URL"] = f"sqlite:///{path}"

    def tried(renew: Callable[[int], None]) -> None:
        renew(40960)
        upgrade = [sys.executable, "-m", "shrinkd", "db", "upgrade"]
        ended = subprocess.run(upgrade, env=environ, capture_output=True, text=True, check=False)
        assert ended.returncode == 2, ended
        assert ended.stderr.count("\n") == 1, ended
        assert "is full. Make room where SHRINKD_DATABASE_URL is, and try again." in ended.stderr
        _mount(path.parent, 1 << 24, _MS_REMOUNT)
        assert subprocess.run(upgrade, env=environ, check=False).returncode == 0

    on_small_disks(path.parent, tried)


# -- what releases before left half migrated ---------------------------------------------------


def _statements() -> list[tuple[str | None, str]]:
    """List the statements that a first start of those releases committed one by one.

    Each with the revision that was recorded before it.
    """
    sent: list[tuple[str | None, str]] = []
    engine = sa.create_engine("sqlite://")

    def note(_connection: object, _cursor: object, text: str, *_: object) -> None:
        if text.split(maxsplit=1)[0] in {"CREATE", "INSERT", "UPDATE"}:
            sent.append((None, text.replace(" IF NOT EXISTS", "").strip()))

    sa.event.listen(engine, "before_cursor_execute", note)
    with engine.begin() as connection:
        Revisions(migration.MIGRATIONS).upgrade(connection)
    engine.dispose()
    recorded: str | None = None
    whole = []
    for _, text in sent:
        whole.append((recorded, text))
        if not text.startswith("CREATE"):
            recorded = f"{int(recorded or 0) + 1:04}"
    return whole


STATEMENTS = _statements()


def half_made(path: Path, statements: int) -> str | None:
    """Make what was there when one of those releases died behind so many statements, with rows.

    Answer the revision that is recorded.
    """
    recorded = STATEMENTS[statements][0]
    made(f"sqlite:///{path}", recorded)
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for before, text in STATEMENTS[:statements]:
            if before == recorded:
                database.execute(text)
    return recorded


HALVES = [
    number
    for number, (_, text) in enumerate(STATEMENTS)
    if number and STATEMENTS[number - 1][1].startswith("CREATE")
]


@pytest.mark.parametrize(
    "statements", HALVES, ids=lambda number: f"{STATEMENTS[number][0]}-{number}"
)
def test_a_half_migrated_database_is_completed_with_all_that_is_in_it(
    path: Path, statements: int
) -> None:
    recorded = half_made(path, statements)
    opened(f"sqlite:///{path}")
    assert_sound(f"sqlite:///{path}", recorded)


def test_the_halves_are_those_behind_every_statement_of_every_revision() -> None:
    assert len(HALVES) == 17
    assert {STATEMENTS[number][0] for number in HALVES} == set(REVISIONS)


@pytest.mark.parametrize("revision", [*REVISIONS[1:], HEAD])
def test_a_database_that_lost_the_record_of_its_revision_is_recognised_by_its_tables(
    url: str, revision: str
) -> None:
    made(url, revision)
    with engine_of(url).begin() as connection:
        connection.execute(sa.text("DELETE FROM alembic_version"))
    opened(url)
    assert_sound(url, revision)


# -- copies ------------------------------------------------------------------------------------


def test_the_copy_of_a_half_migrated_database_leaves_that_of_the_whole_one_alone(
    path: Path,
) -> None:
    half_made(
        path,
        next(
            number for number in HALVES if STATEMENTS[number][0] == "0005" and number > HALVES[-2]
        ),
    )
    whole = path.with_name("shrinkd.db.revision-0005")
    made(f"sqlite:///{whole}", "0005")
    content = whole.read_bytes()
    opened(f"sqlite:///{path}")
    assert whole.read_bytes() == content
    assert sa.inspect(engine_of(f"sqlite:///{whole}-unfinished")).has_table("audit")


def test_a_copy_has_what_was_in_the_wal_and_is_a_database_that_can_be_taken_instead(
    path: Path,
) -> None:
    made(f"sqlite:///{path}", "0003")
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("PRAGMA wal_autocheckpoint = 0")
        other.execute("UPDATE intents SET path = 'in the WAL'")
        opened(f"sqlite:///{path}")
    copy = path.with_name("shrinkd.db.revision-0003")
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("SELECT path FROM intents").fetchall() == [("in the WAL",)]
    opened(f"sqlite:///{copy}")


# -- several, and others -----------------------------------------------------------------------


@pytest.mark.parametrize("revision", [None, "0003"])
def test_of_daemons_that_start_at_once_one_migrates_and_the_others_say_that_it_has_the_database(
    url: str, revision: str | None
) -> None:
    made(url, revision)
    stores = [Store(url) for _ in range(4)]
    try:
        answers = together(*(store.open for store in stores))
    finally:
        for store in stores:
            store.close()
    assert [type(answer) for answer in answers].count(type(None)) == 1
    assert {answer.detail.split(":")[0] for answer in answers if answer} == {
        "Another shrinkd has this database"
    }
    assert_sound(url, revision)


@pytest.mark.parametrize("revision", [None, "0003"])
def test_of_several_who_migrate_at_once_one_does_it_and_the_others_wait(
    url: str, revision: str | None
) -> None:
    made(url, revision)
    assert together(*[lambda: migration.upgrade(sa.make_url(url))] * 4) == [None] * 4
    assert_sound(url, revision)


def test_who_reads_waits_for_no_migration_and_holds_none_up(path: Path) -> None:
    with closing(Store(f"sqlite:///{path}?timeout=0")) as store:
        store.open()
        with migration.alone(engine_of(f"sqlite:///{path}")):
            assert store.policies.list() == []
        with store.database.reading() as connection:
            connection.execute(sa.text("SELECT * FROM shrinks"))
            with migration.alone(engine_of(f"sqlite:///{path}?timeout=0")):
                pass


DIARY = "CREATE TABLE diary (id INTEGER PRIMARY KEY, text TEXT)"
OTHERS = {
    "another program's tables": ([DIARY], "another program .it has diary"),
    "a view": (["CREATE VIEW diary AS SELECT 1"], "another program .it has diary"),
    "another program's revision": (
        [
            DIARY,
            "CREATE TABLE alembic_version (version_num VARCHAR(32))",
            "INSERT INTO alembic_version VALUES ('c0ffee')",
        ],
        "another program .it is at revision c0ffee",
    ),
    "tables that are called as ours": (
        ["CREATE TABLE events (id INTEGER PRIMARY KEY, title TEXT)"],
        "tables of no revision .*events",
    ),
    "a table of the last revision alone": (
        [STATEMENTS[-3][1], STATEMENTS[-2][1]],
        "tables of no revision",
    ),
}


@pytest.mark.parametrize(("statements", "words"), OTHERS.values(), ids=OTHERS)
def test_a_database_that_is_something_else_is_refused_and_left_as_it_is(
    path: Path, statements: list[str], words: str
) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for statement in statements:
            database.execute(statement)
    content = path.read_bytes()
    with (
        closing(Store(f"sqlite:///{path}")) as store,
        pytest.raises(SettingsError, match=words) as caught,
    ):
        store.open()
    assert "is left as it is" in caught.value.detail
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_database_that_lacks_a_table_of_its_revision_is_refused_by_the_name_of_that(
    url: str,
) -> None:
    made(url, "0003")
    with engine_of(url).begin() as connection:
        connection.execute(sa.text("DROP TABLE intents"))
    with (
        closing(Store(url)) as store,
        pytest.raises(SettingsError, match=r"recorded: 0003; of the nearest one differ: intents"),
    ):
        store.open()


def test_tables_and_indexes_that_somebody_added_are_no_reason_not_to_migrate(url: str) -> None:
    made(url, "0003")
    with engine_of(url).begin() as connection:
        for statement in (
            "CREATE TABLE _replication (seq INTEGER)",
            "CREATE INDEX mine ON shrinks (policy)",
        ):
            connection.execute(sa.text(statement))
    opened(url)
    assert {"_replication", "audit"} <= set(sa.inspect(engine_of(url)).get_table_names())
