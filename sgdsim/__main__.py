"""The console script and `python -m sgdsim`: Ctrl-C while modules load or after the work ends without a traceback."""

from __future__ import annotations

import sys
from typing import NoReturn

from sgdsim.common.signals import hear_once, ignore_all


def entry() -> NoReturn:
    """Run the command line and end with its exit code."""
    hear_once()
    try:
        from sgdsim.cli import main  # half a second in which Ctrl-C may come

        code = main()
        ignore_all()
    except KeyboardInterrupt:
        ignore_all()
        print("sgdsim: interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    entry()
