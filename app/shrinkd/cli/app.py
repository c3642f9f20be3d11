"""The console script `shrinkd`: all commands in one program."""

import typer

from shrinkd import __version__
from shrinkd.cli import daemon_commands, events, groups, policies, shrinks
from shrinkd.terminal import escape_standard_streams, say

# Without rich, which takes longer to load than all else that --help needs. Without colours, since
# shrinkd.terminal prints escape sequences as text.
cli = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"color": False},
    help="Lower a container's memory without killing it.",
)
for commands in (groups.cli, shrinks.cli, events.cli, daemon_commands.cli):
    cli.add_typer(commands)
cli.add_typer(policies.cli, name="policies")


@cli.command()
def version() -> None:
    """Print the version."""
    say(__version__)


def main() -> None:
    """Run the command line, with all output made safe for a terminal."""
    escape_standard_streams()
    cli(prog_name="shrinkd")
