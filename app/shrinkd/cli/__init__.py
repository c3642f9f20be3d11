"""The command line: commands that run the daemon, and commands that talk to one over HTTP."""

from shrinkd.cli.app import main

__all__ = ["main"]
