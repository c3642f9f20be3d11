"""The commands that talk to a daemon.

Groups, stats, limit, shrink, cancel, policies, events. Each ends with one of these.

0    done
1    failed: the daemon said no, or the shrink did not get there
2    usage
75   try again (EX_TEMPFAIL): busy, too many, not ready, nobody answers
130  Ctrl-C; it cancels the shrink that is waited for
"""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from shrinkd.cli import output
from shrinkd.sizes import parse_limit, parse_size
from shrinkd.terminal import is_shell_safe, json_line, replace_last_line, say

if TYPE_CHECKING:  # httpx takes longer to load than all else here, and --help has no use for it
    from shrinkd.client import Client, ClientError, ShrinkHandle

_FAILED, _USAGE, _TRY_AGAIN, _INTERRUPTED = 1, 2, 75, 130
_COMPLETING_SECONDS = 0.5

cli = typer.Typer(rich_markup_mode=None)
policies = typer.Typer(rich_markup_mode=None)
cli.add_typer(policies, name="policies")


class State(StrEnum):
    """The states of a shrink, by their names in the API."""

    queued = "queued"
    running = "running"
    cancelling = "cancelling"
    succeeded = "succeeded"
    failed = "failed"
    cancelled = "cancelled"
    interrupted = "interrupted"


def _checker(parse: Callable[[object], object]) -> Callable[[str], str]:
    """Let through, as it was written, what the daemon will read as a size.

    A slip is told before anybody is asked.
    """

    def checked(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        return text

    return checked


def _complete_group(context: typer.Context, incomplete: str) -> list[str]:
    """Ask the daemon, and no stranger.

    A shell that completes wants no explanation why there is none.

    Nor is a name offered that would have to be quoted: a shell may run it.
    """
    from shrinkd.client import Client, ClientError, Terms, is_stranger

    try:
        if is_stranger(context.params.get("url")):
            return []
        with Client(
            context.params.get("url"), terms=Terms(timeout_seconds=_COMPLETING_SECONDS, attempts=1)
        ) as shrinkd:
            paths = (str(group["path"]) for group in shrinkd.groups(fields="path"))
            return [path for path in paths if path.startswith(incomplete) and is_shell_safe(path)]
    except (ClientError, ValueError):
        return []


def _leave_to_the_shell(_incomplete: str) -> list[str]:
    """Offer nothing.

    Then a shell completes the names of files itself, and quotes them. Typer would offer what was
    typed, unquoted.
    """
    return []


_A_SIZE: Any = {"metavar": "SIZE", "parser": _checker(parse_size)}
_A_LIMIT: Any = {"metavar": "SIZE|max", "parser": _checker(parse_limit)}
GroupName = Annotated[
    str,
    typer.Argument(
        metavar="GROUP",
        autocompletion=_complete_group,
        help="A path, or id:…, container:…, unit:….",
    ),
]
AnyGroup = Annotated[
    str | None,
    typer.Argument(metavar="[GROUP]", autocompletion=_complete_group, help="Absent: all groups."),
]
PolicyName = Annotated[str, typer.Argument(metavar="NAME")]
IfMatch = Annotated[str | None, typer.Option(help="Only if its etag is this one still.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Make every check, and change nothing.")]
AsJson = Annotated[
    bool,
    typer.Option(
        "--json", help="The answer as it is; of a list or of what goes on, one JSON object a line."
    ),
]
Url = Annotated[
    str | None,
    typer.Option(
        help="Where the daemon is: unix:/PATH or http://HOST:PORT. Absent: SHRINKD_URL, or this "
        "host's."
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option(help="A file with the bearer token in it. Absent: SHRINKD_TOKEN.")
]


@cli.command()
def node(as_json: AsJson = False, url: Url = None, token_file: TokenFile = None) -> None:
    """Show the machine: its kernel, its memory, and what can be done there."""
    with _talking(url, token_file) as shrinkd:
        _show(shrinkd.node(), as_json=as_json)


@cli.command()
def groups(
    parent: Annotated[
        str | None, typer.Option(help="Only those below this one.", autocompletion=_complete_group)
    ] = None,
    order_by: Annotated[
        str, typer.Option(help="Such as path, or -usage_bytes for the largest first.")
    ] = "path",
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List the groups."""
    with _talking(url, token_file) as shrinkd:
        found = shrinkd.groups(parent=parent, order_by=order_by)
        _list(found, ("usage_bytes", "max_bytes", "effective_max_bytes", "path"), as_json=as_json)


@cli.command()
def group(
    group: GroupName, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show one group: its names and limits."""
    with _talking(url, token_file) as shrinkd:
        _show(shrinkd.group(group), as_json=as_json)


@cli.command()
def stats(
    group: AnyGroup = None, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show what a group uses, and what for; or all groups in a table."""
    with _talking(url, token_file) as shrinkd:
        if group is not None:
            _show(shrinkd.stats(group), as_json=as_json)
        else:
            columns = (
                "usage_bytes",
                "anon_bytes",
                "file_bytes",
                "swap_bytes",
                "reclaimable_estimate_bytes",
                "max_bytes",
                "group.path",
            )
            _list(shrinkd.stats_all()["items"], columns, as_json=as_json)


@cli.command()
def limit(
    group: GroupName,
    maximum: Annotated[
        str | None,
        typer.Argument(help="Such as 400M; max is no limit. Absent: show the limits.", **_A_LIMIT),
    ] = None,
    high: Annotated[str | None, typer.Option(help="Throttle above this.", **_A_LIMIT)] = None,
    low: Annotated[
        str | None,
        typer.Option(
            help="Reclaim below this only in need; max protects all, 0 nothing.", **_A_LIMIT
        ),
    ] = None,
    minimum: Annotated[
        str | None,
        typer.Option(
            "--min", help="Never reclaim below this; max protects all, 0 nothing.", **_A_LIMIT
        ),
    ] = None,
    swap_max: Annotated[str | None, typer.Option(help="The most of swap.", **_A_LIMIT)] = None,
    soft_limit: Annotated[
        str | None, typer.Option(help="Reclaim from above this first.", **_A_LIMIT)
    ] = None,
    if_match: IfMatch = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Set limits at once, all or nothing.

    Or show them. A limit below usage is refused, and costs nothing.
    """
    named = {
        "max": maximum,
        "high": high,
        "low": low,
        "min": minimum,
        "swap_max": swap_max,
        "soft_limit": soft_limit,
    }
    limits: Any = {f"{name}_bytes": size for name, size in named.items() if size is not None}
    with _talking(url, token_file) as shrinkd:
        if limits:
            _show(
                shrinkd.set_limits(group, if_match=if_match, dry_run=dry_run, **limits),
                as_json=as_json,
            )
        else:
            _show(shrinkd.limits(group), as_json=as_json)


@cli.command()
def shrink(
    group: GroupName,
    to: Annotated[str | None, typer.Option(help="Bring usage below this.", **_A_SIZE)] = None,
    by: Annotated[
        str | None, typer.Option(help="Bring usage down by this much.", **_A_SIZE)
    ] = None,
    set_limit: Annotated[
        bool, typer.Option("--set-limit", help="Then make --to the limit.")
    ] = False,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="Give up after so long.")] = 300,
    rate: Annotated[
        str | None, typer.Option(help="Reclaim no more than this in a second.", **_A_SIZE)
    ] = None,
    reason: Annotated[str | None, typer.Option(help="For whoever reads of it later.")] = None,
    detach: Annotated[
        bool, typer.Option("--detach", help="Start it and leave: print its id.")
    ] = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Shrink a group, and show how far it is until it is done.

    Ctrl-C cancels it; what was reclaimed stays reclaimed.
    """
    if (to is None) == (by is None):
        raise typer.BadParameter("say either --to SIZE or --by SIZE")
    if set_limit and to is None:
        raise typer.BadParameter("--set-limit makes --to the limit, so it needs one")
    wanted = {
        "target_bytes": to,
        "reclaim_bytes": by,
        "max_bytes_per_second": rate,
        "reason": reason,
    }
    request: Any = {name: value for name, value in wanted.items() if value is not None} | (
        {"set_max_bytes": to} if set_limit else {}
    )
    with _talking(url, token_file) as shrinkd:
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
    with _talking(url, token_file) as shrinkd:
        now = shrinkd.follow(shrink_id).cancel()
        say(json_line(now) if as_json else f"{now['id']} is {now['state']}.")


@cli.command()
def shrinks(
    group: AnyGroup = None,
    state: Annotated[
        list[State] | None,
        typer.Option(help="Only those in this state; may be said more than once."),
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """List shrinks, the newest first, of 7 days."""
    states: Any = [each.value for each in state or ()]
    with _talking(url, token_file) as shrinkd:
        columns = (
            "id",
            "state",
            "progress.reclaimed_bytes",
            "progress.target_bytes",
            "created_at",
            "group.path",
        )
        _list(shrinkd.shrinks(group=group, state=states), columns, as_json=as_json)


@policies.callback(invoke_without_command=True)
def list_policies(
    context: typer.Context,
    group: Annotated[
        str | None, typer.Option(help="Only those that select it.", autocompletion=_complete_group)
    ] = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """What the memory of groups ought to be: list the policies, or do something with one."""
    if context.invoked_subcommand is None:
        with _talking(url, token_file) as shrinkd:
            columns = (
                "name",
                "kind",
                "mode",
                "enabled",
                "priority",
                "status.matched_groups",
                "status.last_decision.reason",
            )
            _list(shrinkd.policies(group=group), columns, as_json=as_json)


@policies.command("show")
def show_policy(
    name: PolicyName, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show a policy, and what the daemon makes of it."""
    with _talking(url, token_file) as shrinkd:
        _show(shrinkd.policy(name), as_json=as_json)


@policies.command("put")
def put_policy(
    name: PolicyName,
    file: Annotated[
        typer.FileText,
        typer.Argument(
            autocompletion=_leave_to_the_shell, help="The policy as JSON; - is standard input."
        ),
    ],
    if_match: IfMatch = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Make a policy, or replace it as a whole."""
    try:
        policy = json.load(file)
    except ValueError as error:
        raise typer.BadParameter(f"{file.name} is not JSON: {error}") from None
    with _talking(url, token_file) as shrinkd:
        _show(shrinkd.put_policy(name, policy, if_match=if_match, dry_run=dry_run), as_json=as_json)


@policies.command("delete")
def delete_policy(
    name: PolicyName,
    if_match: IfMatch = None,
    dry_run: DryRun = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Take a policy away; what it has done stays done."""
    with _talking(url, token_file) as shrinkd:
        shrinkd.delete_policy(name, if_match=if_match, dry_run=dry_run)


@policies.command("evaluate")
def evaluate_policy(
    name: PolicyName, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """Show what a policy would do now to each of its groups, and why."""
    with _talking(url, token_file) as shrinkd:
        _list(
            shrinkd.evaluate_policy(name)["items"],
            ("verdict", "reason", "asked_bytes", "group.path", "signals"),
            as_json=as_json,
        )


@policies.command("decisions")
def list_decisions(
    name: PolicyName, as_json: AsJson = False, url: Url = None, token_file: TokenFile = None
) -> None:
    """List what a policy decided, the newest first."""
    with _talking(url, token_file) as shrinkd:
        columns = (
            "decided_at",
            "verdict",
            "reason",
            "asked_bytes",
            "freed_bytes",
            "times",
            "group.path",
        )
        _list(shrinkd.decisions(policy=name), columns, as_json=as_json)


@cli.command()
def events(
    of_type: Annotated[str | None, typer.Option("--type", help="Only those of this type.")] = None,
    group: Annotated[
        str | None, typer.Option(help="Only those of this group.", autocompletion=_complete_group)
    ] = None,
    after: Annotated[str | None, typer.Option(help="Begin behind the event of this id.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show what happens, as it happens, until Ctrl-C."""
    with _talking(url, token_file) as shrinkd:
        for event in shrinkd.events(of_type=of_type, group=group, after=after):
            line = {"id": event.id, "type": event.type, "event": event.members}
            say(
                json_line(line)
                if as_json
                else f"{event.id}  {event.type}  {output.told('', event.members)}"
            )


@contextmanager
def _talking(url: str | None, token_file: Path | None) -> Iterator["Client"]:
    """A client; what goes wrong with it is one line on stderr, and the exit code."""
    from shrinkd.client import Client, ClientError

    try:
        shrinkd = Client(url, token=token_file.read_text().strip() if token_file else None)
    except (OSError, ValueError) as error:
        _fail(str(error), _USAGE)
    try:
        with shrinkd:
            yield shrinkd
    except ClientError as error:
        _fail(f"{error} {_advice(error)}", _code(error))


def _fail(sentence: str, code: int) -> NoReturn:
    say(f"shrinkd: {output.one_line(sentence)}", file=sys.stderr)
    raise typer.Exit(code)


def _code(error: "ClientError") -> int:
    from shrinkd.client import ShrinkFailed, ShrinkInProgress, TooLate, TryAgain, Unreachable

    passes = isinstance(error, Unreachable | TooLate | TryAgain | ShrinkInProgress)
    return (
        _TRY_AGAIN
        if passes or (isinstance(error, ShrinkFailed) and error.slug == "shrink-interrupted")
        else _FAILED
    )


def _advice(error: "ClientError") -> str:
    """What to do about it, as a command where there is one."""
    from shrinkd.client import LimitBelowUsage, PreconditionFailed, ShrinkInProgress, Unreachable

    if isinstance(error, Unreachable):
        return "Is the daemon running? --url or SHRINKD_URL says where."
    if isinstance(error, LimitBelowUsage) and "next" in error.members:
        size = output.exact(error.members["next"]["body"]["target_bytes"])
        return (
            "To shrink it first: "
            f"{output.command('shrink', output.named(error.members['group']), '--to', size, '--set-limit')}"
        )
    if isinstance(error, ShrinkInProgress) and "shrink" in error.members:
        return f"To stop that: {output.command('cancel', error.members['shrink']['id'])}"
    return (
        "Read it again, and give the etag that it has now."
        if isinstance(error, PreconditionFailed)
        else ""
    )


def _show(body: Mapping[str, Any], *, as_json: bool) -> None:
    say(*([json_line(body)] if as_json else output.facts(body)), sep="\n")


def _list(items: Iterable[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool) -> None:
    for line in map(json_line, items) if as_json else output.table(items, columns):
        say(line)


def _watch(handle: "ShrinkHandle", *, as_json: bool) -> None:
    """Show a shrink until it is done.

    The steps on stderr, so that stdout has the outcome alone, or with --json each on stdout.
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
        say(
            f"{now['group']['path']} uses {output.told('_bytes', now['progress']['usage_bytes'])} "
            "now."
        )


def _cancel(handle: "ShrinkHandle") -> None:
    from shrinkd.client import Problem, ShrinkFailed

    try:
        handle.cancel()
        handle.wait()
    except ShrinkFailed as ended:
        say("", f"shrinkd: {ended}", sep="\n", file=sys.stderr)
    except Problem as refused:  # it was done a moment before
        say("", f"shrinkd: {refused}", sep="\n", file=sys.stderr)
