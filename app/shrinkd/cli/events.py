"""The command that shows the events of a node: events."""

from typing import Annotated

import typer

from shrinkd.cli import output
from shrinkd.cli.options import AsJson, TokenFile, Url, complete_group
from shrinkd.cli.session import connected
from shrinkd.terminal import json_line, say

cli = typer.Typer(rich_markup_mode=None)


@cli.command()
def events(
    of_type: Annotated[str | None, typer.Option("--type", help="Only events of this type.")] = None,
    group: Annotated[
        str | None, typer.Option(help="Only events of this group.", autocompletion=complete_group)
    ] = None,
    after: Annotated[str | None, typer.Option(help="Begin after the event with this id.")] = None,
    as_json: AsJson = False,
    url: Url = None,
    token_file: TokenFile = None,
) -> None:
    """Show events as they happen, until Ctrl-C."""
    with connected(url, token_file) as shrinkd:
        for event in shrinkd.events(of_type=of_type, group=group, after=after):
            line = {"id": event.id, "type": event.type, "event": event.members}
            say(
                json_line(line)
                if as_json
                else f"{event.id}  {event.type}  {output.format_value('', event.members)}"
            )
