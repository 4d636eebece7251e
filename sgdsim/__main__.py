"""The console script and `python -m sgdsim`: Ctrl-C while modules load or after the work ends without a traceback."""

from __future__ import annotations

import signal
import sys
from typing import NoReturn


def entry() -> NoReturn:
    """Run the command line and end with its exit code."""
    try:
        from sgdsim.cli import main  # half a second in which Ctrl-C may come

        code = main()
    except KeyboardInterrupt:
        print("sgdsim: interrupted", file=sys.stderr)
        code = 130
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and said
    sys.exit(code)


if __name__ == "__main__":
    entry()
