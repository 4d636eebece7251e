"""The command line: each command unpacks its arguments and calls public functions.

May import: every room but notebook. A new command is a module here with `add_parser` and a function of its name,
which ends by `deliver`, and a line in `registry`.
"""

from sgdsim.cli.program import main

__all__ = ["main"]
