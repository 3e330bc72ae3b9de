"""The command line: its verbs, which call what is public in Python."""

from detseg.cli.verbs import main

__all__ = ["main"]
