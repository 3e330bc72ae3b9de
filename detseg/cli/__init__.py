"""The command line: its verbs, which call what is public in Python."""

from __future__ import annotations

from collections.abc import Sequence

from detseg.cli.process import run_until_stopped

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command, see :func:`detseg.cli.verbs.main`; a signal ends it in one line while it is still imported."""

    def run() -> int:
        from detseg.cli.verbs import main

        return main(arguments)

    return run_until_stopped(run)
