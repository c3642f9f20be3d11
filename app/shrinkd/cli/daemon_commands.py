"""Commands that run parts of the daemon in this process: serve, db, token, openapi, simulate.

They need the package shrinkd. The package shrinkd-client contains this module too, and there each
of them says so.
"""

import json
import sys
import time
from collections.abc import Callable
from functools import wraps
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, NoReturn, ParamSpec

import typer

from shrinkd.cli.output import one_line
from shrinkd.errors import BackendUnavailable, SettingsError, ShrinkdError
from shrinkd.terminal import say

_P = ParamSpec("_P")

cli = typer.Typer(rich_markup_mode=None)
db = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="The database.")
cli.add_typer(db, name="db")
token = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    help="The tokens in the file that SHRINKD_TOKENS names. A running daemon reads it at SIGHUP.",
)
cli.add_typer(token, name="token")


def needs_daemon(command: Callable[_P, None]) -> Callable[_P, None]:
    """Make a command fail with exit code 2 where only the package shrinkd-client is installed."""

    @wraps(command)
    def checked(*args: _P.args, **named: _P.kwargs) -> None:
        if find_spec("shrinkd.main") is None:
            fail(
                SettingsError(
                    "This command needs the package shrinkd; only shrinkd-client is installed, "
                    "for the commands that talk to a daemon. Run `pip uninstall shrinkd-client`, "
                    "then `pip install shrinkd`."
                )
            )
        command(*args, **named)

    return checked


@cli.command()
@needs_daemon
def serve() -> None:
    """Run the daemon, set up by SHRINKD_* variables. It ends with 0 at SIGTERM or SIGINT."""
    from shrinkd import logs
    from shrinkd.settings import read_settings

    try:
        settings = read_settings()
        logs.configure(settings.log)
        # Here and not above: a wrong setting is reported before the server is loaded.
        from shrinkd import main, server

        server.run(main.create_app(settings), settings)
    except ShrinkdError as error:
        fail(error)


@db.command()
@needs_daemon
def upgrade() -> None:
    """Migrate the schema of SHRINKD_DATABASE_URL, as `serve` does when it starts."""
    from shrinkd.settings import read_settings
    from shrinkd.storage import Store

    try:
        store = Store(read_settings().database_url)
        store.open()
        store.close()
    except ShrinkdError as error:
        fail(error)


@token.command("make")
@needs_daemon
def make_token(
    name: Annotated[
        str,
        typer.Argument(
            help="Its name; certificate:NAME for client certificates with that common name."
        ),
    ],
    scope: Annotated[
        list[str],
        typer.Option(
            help="read, write or admin; with @PATH, for that group and all below it; may be "
            "repeated."
        ),
    ],
    expires: Annotated[
        str, typer.Option(help="The lifetime of a token: a number and m, h, d or w.")
    ] = "90d",
) -> None:
    """Make a token, and print its secret, which is not stored.

    For a certificate, store its scopes; there is no secret to print.
    """
    from shrinkd.auth import tokens

    try:
        if secret := tokens.make(_tokens_path(), name, scope, expires):
            say(secret)
    except ShrinkdError as error:
        fail(error)


@token.command("list")
@needs_daemon
def list_tokens() -> None:
    """Print the name, the scopes and the expiry of each token."""
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
@needs_daemon
def revoke_token(name: str) -> None:
    """Remove a token or a certificate. A running daemon refuses it after SIGHUP."""
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
            "SHRINKD_TOKENS is not set: it has to name the file that holds the tokens."
        )
    return Path(path)


@cli.command()
@needs_daemon
def openapi() -> None:
    """Print the OpenAPI document."""
    from shrinkd import api

    say(*json.dumps(api.build().openapi(), indent=2, ensure_ascii=False).split("\n"), sep="\n")


@cli.command()
@needs_daemon
def simulate() -> None:
    """Simulate a plan from standard input; print its progress and its report as JSON lines.

    The plan is the body of POST /v1/simulations.
    """
    from shrinkd.simulation import run_plan

    try:
        for line in run_plan(sys.stdin.read()):
            say(line)
    except ValueError as error:
        fail(SettingsError(f"The plan cannot be read: {error}"))
    except ShrinkdError as error:
        fail(error)


def fail(error: ShrinkdError) -> NoReturn:
    """Exit with one line on stderr: 3 for a backend that cannot be used, 2 for other errors."""
    say(f"shrinkd: {one_line(error.detail)}", file=sys.stderr)
    sys.exit(3 if isinstance(error, BackendUnavailable) else 2)
