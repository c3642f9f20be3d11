"""Talking to a daemon from a command: the client, its errors as exit codes, and printed answers.

0    done
1    failed: the daemon refused, or the shrink did not reach its target
2    the command line is wrong
75   try again (EX_TEMPFAIL): busy, too many, not ready, or no answer
130  Ctrl-C, which cancels the shrink that the command waits for
"""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from shrinkd.cli import output
from shrinkd.terminal import json_line, say

if TYPE_CHECKING:  # httpx takes longer to load than all else here, and --help does not need it
    from shrinkd.client import Client, ClientError

_FAILED, _USAGE, _TRY_AGAIN = 1, 2, 75


@contextmanager
def connected(url: str | None, token_file: Path | None) -> Iterator["Client"]:
    """Give a client; an error of it becomes one line on stderr and the exit code."""
    from shrinkd.client import Client, ClientError

    try:
        shrinkd = Client(url, token=token_file.read_text().strip() if token_file else None)
    except (OSError, ValueError) as error:
        _fail(str(error), _USAGE)
    try:
        with shrinkd:
            yield shrinkd
    except ClientError as error:
        _fail(f"{error} {_advice(error)}", _exit_code(error))


def show(body: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one resource: a line for each member, or one line of JSON."""
    say(*([json_line(body)] if as_json else output.member_lines(body)), sep="\n")


def show_list(items: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    """Print a table of resources, or a line of JSON for each."""
    for line in map(json_line, items) if as_json else output.table(items, columns):
        say(line)


def _fail(sentence: str, code: int) -> NoReturn:
    say(f"shrinkd: {output.one_line(sentence)}", file=sys.stderr)
    raise typer.Exit(code)


def _exit_code(error: "ClientError") -> int:
    from shrinkd.client import ShrinkFailed, ShrinkInProgress, TooLate, TryAgain, Unreachable

    is_temporary = isinstance(error, Unreachable | TooLate | TryAgain | ShrinkInProgress) or (
        isinstance(error, ShrinkFailed) and error.slug == "shrink-interrupted"
    )
    return _TRY_AGAIN if is_temporary else _FAILED


def _advice(error: "ClientError") -> str:
    """Return the remedy for an error, as a command where there is one; "" if none is known."""
    from shrinkd.client import LimitBelowUsage, PreconditionFailed, ShrinkInProgress, Unreachable

    if isinstance(error, Unreachable):
        return "Is the daemon running? --url or SHRINKD_URL says where."
    if isinstance(error, LimitBelowUsage) and "next" in error.members:
        group = output.group_reference(error.members["group"])
        size = output.exact_size(error.members["next"]["body"]["target_bytes"])
        command = output.shell_command("shrink", group, "--to", size, "--set-limit")
        return f"To shrink it first: {command}"
    if isinstance(error, ShrinkInProgress) and "shrink" in error.members:
        return f"To stop that: {output.shell_command('cancel', error.members['shrink']['id'])}"
    return (
        "Read it again, and give the etag that it has now."
        if isinstance(error, PreconditionFailed)
        else ""
    )
