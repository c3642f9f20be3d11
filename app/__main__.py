"""The command line: shrinkd serve | db upgrade | openapi | version."""

import json
import logging
import sys
from typing import NoReturn

import typer

from app import __version__, logs
from app.errors import BackendUnavailable, SettingsError, ShrinkdError
from app.settings import read_settings

cli = typer.Typer(no_args_is_help=True, add_completion=False, help="Lower a container's memory without killing it.")
db = typer.Typer(no_args_is_help=True, help="The database.")
cli.add_typer(db, name="db")

log = logging.getLogger("shrinkd")


@cli.command()
def serve() -> None:
    """Serve the API; SHRINKD_* variables say how. Ends at SIGTERM or SIGINT, with 0."""
    try:
        settings = read_settings()
        logs.configure(settings.log)
        # Here and not above: the other commands need no server, and neither --help nor a wrong setting should wait for one.
        from app import main, serve

        serve.run(main.create_app(settings), settings)
    except ShrinkdError as error:
        fail(error)


@db.command()
def upgrade() -> None:
    """Bring the schema of SHRINKD_DATABASE_URL up to date, as `serve` does at its start."""
    from app.store import Store

    try:
        store = Store(read_settings().database_url)
        store.open()
        store.close()
    except ShrinkdError as error:
        fail(error)


@cli.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from app import api

    print(json.dumps(api.build().openapi(), indent=2, ensure_ascii=False))


@cli.command()
def simulate() -> None:
    """Read a plan (the body of POST /v1/simulations) from standard input, and print its progress and its report as JSON lines."""
    from app.simulations import lines

    try:
        for line in lines(sys.stdin.read()):
            print(line, flush=True)
    except ValueError as error:
        fail(SettingsError(f"The plan cannot be read: {error}"))


@cli.command()
def version() -> None:
    """Print the version."""
    print(__version__)


def fail(error: ShrinkdError) -> NoReturn:
    """End with 3 for a backend that cannot be used and 2 for anything else at start, and one line that says what to do."""
    print(f"shrinkd: {' '.join(error.detail.split())}", file=sys.stderr)
    sys.exit(3 if isinstance(error, BackendUnavailable) else 2)


def main() -> None:
    """The console script."""
    cli()


if __name__ == "__main__":
    main()
