"""The command line."""

from sgdsim.cli.program import main

__all__ = ["main"]
