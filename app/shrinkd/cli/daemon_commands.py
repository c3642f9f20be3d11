"""The command line: shrinkd serve | db upgrade | token | openapi | version here, and what talks to a daemon in commands."""

import json
import logging
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from shrinkd import __version__
from shrinkd.cli import client_commands
from shrinkd.cli.output import one_line
from shrinkd.errors import BackendUnavailable, SettingsError, ShrinkdError
from shrinkd.terminal import guard, say

# Plain, for rich would take longer to load than all else that --help needs.
# Without colours, for what it prints is shown (app/shrinkd/terminal.py), escapes and all.
cli = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"color": False},
    help="Lower a container's memory without killing it.",
)
cli.add_typer(client_commands.cli)
db = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The database.")
cli.add_typer(db, name="db")
token = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Who may call: the lines of the file of SHRINKD_TOKENS. A running daemon reads it at "
    "SIGHUP.",
)
cli.add_typer(token, name="token")

log = logging.getLogger("shrinkd")


@cli.command()
def serve() -> None:
    """Serve the API; SHRINKD_* variables say how. Ends at SIGTERM or SIGINT, with 0."""
    from shrinkd import logs
    from shrinkd.settings import read_settings

    try:
        settings = read_settings()
        logs.configure(settings.log)
        # Here and not above: the other commands need no server, and neither --help nor a wrong
        # setting should wait for one.
        from shrinkd import main
        from shrinkd.server import listen

        listen.run(main.create_app(settings), settings)
    except ShrinkdError as error:
        fail(error)


@db.command()
def upgrade() -> None:
    """Bring the schema of SHRINKD_DATABASE_URL up to date, as `serve` does at its start."""
    from shrinkd.settings import read_settings
    from shrinkd.storage import Store

    try:
        store = Store(read_settings().database_url)
        store.open()
        store.close()
    except ShrinkdError as error:
        fail(error)


@token.command("make")
def make_token(
    name: Annotated[
        str,
        typer.Argument(
            help="What to call it; certificate:NAME for client certificates of that common name."
        ),
    ],
    scope: Annotated[
        list[str],
        typer.Option(
            help="read, write or admin, with @ and a group's path for that subtree; may be "
            "repeated."
        ),
    ],
    expires: Annotated[
        str, typer.Option(help="How long a token holds: a number and m, h, d or w.")
    ] = "90d",
) -> None:
    """Make a token, and print its secret, which is kept nowhere.

    A certificate gets its scopes, and has no secret of ours.
    """
    from shrinkd.auth import tokens

    try:
        if secret := tokens.make(_tokens_path(), name, scope, expires):
            say(secret)
    except ShrinkdError as error:
        fail(error)


@token.command("list")
def list_tokens() -> None:
    """Print the tokens: name, scopes, and when each expires."""
    from shrinkd.auth import tokens

    try:
        for entry in tokens.read_entries(_tokens_path()):
            expiry = f"{entry.expires_at:%Y-%m-%dT%H:%M:%SZ}" if entry.expires_at else "-"
            say(
                entry.name,
                ",".join(entry.scopes),
                expiry,
                "expired" if entry.is_expired(time.time()) else "holds",
                sep="\t",
            )
    except ShrinkdError as error:
        fail(error)


@token.command("revoke")
def revoke_token(name: str) -> None:
    """Take a token or a certificate away. A running daemon forgets it at SIGHUP."""
    from shrinkd.auth import tokens

    try:
        tokens.revoke(_tokens_path(), name)
    except ShrinkdError as error:
        fail(error)


def _tokens_path() -> Path:
    from shrinkd.settings import read_settings

    path = read_settings().tokens
    if path is None:
        raise SettingsError(
            "SHRINKD_TOKENS has to say which file the tokens are in, or are to be in."
        )
    return Path(path)


@cli.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    from shrinkd.api import app as api

    say(*json.dumps(api.build().openapi(), indent=2, ensure_ascii=False).split("\n"), sep="\n")


@cli.command()
def simulate() -> None:
    """Read a plan (the body of POST /v1/simulations) from standard input, and print its progress
    and its report as JSON lines.
    """
    from shrinkd.simulation import run_plan

    try:
        for line in run_plan(sys.stdin.read()):
            say(line)
    except ValueError as error:
        fail(SettingsError(f"The plan cannot be read: {error}"))


@cli.command()
def version() -> None:
    """Print the version."""
    say(__version__)


def fail(error: ShrinkdError) -> NoReturn:
    """End with 3 for a backend that cannot be used and 2 for anything else at start, and one line
    that says what to do.
    """
    say(f"shrinkd: {one_line(error.detail)}", file=sys.stderr)
    sys.exit(3 if isinstance(error, BackendUnavailable) else 2)


def main() -> None:
    """The console script."""
    guard()
    cli(prog_name="shrinkd")
