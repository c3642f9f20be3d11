"""The command line: what runs the daemon here, and what talks to one over HTTP."""

from shrinkd.cli.daemon_commands import main

__all__ = ["main"]
