"""Commands on shrinks: shrink, cancel, shrinks."""

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shrinkd.cli import output
from shrinkd.cli.options import (
    SIZE,
    AnyGroup,
    AsJson,
    DryRun,
    GroupName,
    TokenFile,
    Url,
)
from shrinkd.cli.session import connected, show_list
from shrinkd.terminal import json_line, replace_last_line, say

if TYPE_CHECKING:  # as in session.py
    from shrinkd.client import ShrinkHandle

_INTERRUPTED = 130

cli = typer.Typer(rich_markup_mode=None)


class State(StrEnum):
    """The states of a shrink, by their names in the API."""

    queued = "queued"
    running = "running"
    cancelling = "cancelling"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"
    interrupted = "interrupted"


@cli.command()
def shrink(
    group: GroupName,
    to: Annotated[str | None, typer.Option(help="Bring usage below this.", **SIZE)] = None,
    by: Annotated[str | None, typer.Option(help="Bring usage down by this much.", **SIZE)] = None,
    set_limit: Annotated[
        bool, typer.Option("--set-limit", help="Then set max_bytes to --to.")
    ] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Fail after this time.")] = 300,
    rate: Annotated[
        str | None, typer.Option(help="Reclaim at most this much a second.", **SIZE)
    ] = None,
    reason: Annotated[
        str | None, typer.Option(help="A note that is stored with the shrink.")
    ] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Print its id and do not wait for its end.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Shrink a group, and show progress until it is done.

    Ctrl-C cancels the shrink; what was reclaimed stays reclaimed.
    """
    if (to is None) == (by is None):
        raise typer.BadParameter("say either --to SIZE or --by SIZE")
    if set_limit and to is None:
        raise typer.BadParameter("--set-limit makes --to the limit, so it needs one")
    given = {
        "target_bytes": to,
        "reclaim_bytes": by,
        "max_bytes_per_second": rate,
        "reason": reason,
    }
    request: Any = {name: value for name, value in given.items() if value is not None} | (
        {"set_max_bytes": to} if set_limit else {}
    )
    with connected(url, token_file) as shrinkd:
        handle = shrinkd.shrink(group, dry_run=dry_run, timeout_seconds=timeout, **request)
        if detach or dry_run:
            say(
                json_line(handle.now)
                if as_json
                else "It can be done."
                if dry_run
                else handle.now["id"]
            )
        else:
            _watch(handle, as_json=as_json)


@cli.command()
def cancel(
    shrink_id: Annotated[str, typer.Argument(metavar="ID")],
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Cancel a shrink, by the id that `shrinks` shows."""
    with connected(url, token_file) as shrinkd:
        now = shrinkd.follow(shrink_id).cancel()
        say(json_line(now) if as_json else f"{now['id']} is {now['state']}.")


@cli.command()
def shrinks(
    group: AnyGroup = None,
    state: Annotated[
        list[State] | None,
        typer.Option(help="Only shrinks in this state; may be repeated."),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List the shrinks of the last 7 days, newest first."""
    states: Any = [each.value for each in state or ()]
    with connected(url, token_file) as shrinkd:
        columns = (
            "id",
            "state",
            "progress.reclaimed_bytes",
            "progress.target_bytes",
            "created_at",
            "group.path",
        )
        show_list(shrinkd.shrinks(group=group, state=states), columns, as_json=as_json)


def _watch(handle: "ShrinkHandle", *, as_json: bool) -> None:
    """Show the progress of a shrink until it is done.

    Progress goes to stderr, so that stdout has the outcome alone; with --json, to stdout.
    """
    is_terminal = sys.stderr.isatty()
    try:
        for now in handle:
            if as_json:
                say(json_line(now))
            elif is_terminal:
                replace_last_line(output.bar_line(now))
            else:
                say(output.step_line(now), file=sys.stderr)
    except KeyboardInterrupt:
        _cancel(handle)
        raise typer.Exit(_INTERRUPTED) from None
    finally:
        if is_terminal and not as_json:
            say(file=sys.stderr)
    now = handle.wait()
    if not as_json:
        usage = output.format_value("usage_bytes", now["progress"]["usage_bytes"])
        say(f"{now['group']['path']} uses {usage} now.")


def _cancel(handle: "ShrinkHandle") -> None:
    from shrinkd.client import Problem, ShrinkFailed

    try:
        handle.cancel()
        handle.wait()
    except ShrinkFailed as ended:
        say("", f"shrinkd: {ended}", sep="\n", file=sys.stderr)
    except Problem as refused:  # it had just ended by itself
        say("", f"shrinkd: {refused}", sep="\n", file=sys.stderr)
