"""Arguments and options that several client commands share, with their shell completion."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from shrinkd.sizes import parse_limit, parse_size
from shrinkd.terminal import is_shell_safe

_COMPLETION_SECONDS = 0.5


def _validator(parse: Callable[[object], object]) -> Callable[[str], str]:
    """Make a parser that returns its text unchanged, or says why the daemon would refuse it.

    A mistyped size is reported before a request is sent.
    """

    def validate(text: str) -> str:
        try:
            parse(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
        return text

    return validate


def complete_group(context: typer.Context, incomplete: str) -> list[str]:
    """List the group paths that begin with `incomplete`; none if the daemon does not answer.

    A path that a shell would have to quote is left out: some shells run what they complete. A TCP
    port on which any user may listen is not asked.
    """
    from shrinkd.client import Client, ClientError, Terms, is_unverified

    url = context.params.get("url")
    try:
        if is_unverified(url):
            return []
        with Client(url, terms=Terms(timeout_seconds=_COMPLETION_SECONDS, attempts=1)) as shrinkd:
            paths = (str(group["path"]) for group in shrinkd.groups(fields="path"))
            return [path for path in paths if path.startswith(incomplete) and is_shell_safe(path)]
    except (ClientError, ValueError):
        return []


def complete_file(_incomplete: str) -> list[str]:
    """List nothing, so that the shell completes the names of files itself, and quotes them.

    Typer's own completion would offer what was typed, unquoted.
    """
    return []


SIZE: Any = {"metavar": "SIZE", "parser": _validator(parse_size)}
LIMIT: Any = {"metavar": "SIZE|max", "parser": _validator(parse_limit)}
GroupName = Annotated[
    str,
    typer.Argument(
        metavar="GROUP",
        autocompletion=complete_group,
        help="A path, or id:…, container:…, unit:….",
    ),
]
AnyGroup = Annotated[
    str | None,
    typer.Argument(metavar="[GROUP]", autocompletion=complete_group, help="Absent: all groups."),
]
PolicyName = Annotated[str, typer.Argument(metavar="NAME")]
IfMatch = Annotated[str | None, typer.Option(help="Change it only if this is still its etag.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Make every check, and change nothing.")]
AsJson = Annotated[
    bool,
    typer.Option("--json", help="Print JSON: of a list or a stream, one object a line."),
]
Url = Annotated[
    str | None,
    typer.Option(
        help="The address of the daemon: unix:/PATH, http://HOST:PORT or https://HOST:PORT. "
        "Absent: SHRINKD_URL, or the daemon of this host."
    ),
]
TokenFile = Annotated[
    Path | None, typer.Option(help="A file that contains the bearer token. Absent: SHRINKD_TOKEN.")
]
