"""The command line: each subcommand unpacks its arguments and calls public functions.

Exit codes: 0 done, 1 a check found something (`data verify`) or standard output failed (closed, full; files are written
all the same), 2 bad input or an output file that could not be written (one line on standard error), 130 Ctrl-C or
SIGTERM (what was done is printed and saved). A standard error that fails changes nothing.
With `--json` standard output carries one JSON document and nothing else. Letters that the encoding of standard output
lacks are spelled: nu for ν.
"""

from __future__ import annotations

import argparse
import re
import sys
import warnings

from sgdsim.cli import streams
from sgdsim.cli.arguments import Parser
from sgdsim.cli.parser import build_parser
from sgdsim.cli.registry import COMMANDS
from sgdsim.common.checks import InputError
from sgdsim.common.signals import one_interruption


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    program = "sgdsim"

    def tell(message: str) -> None:
        streams.tell(f"{program}: {message}")

    with streams.usable(), warnings.catch_warnings(), one_interruption():
        warnings.showwarning = lambda message, *_: streams.tell(f"sgdsim: {message}")
        try:
            try:
                args = _parse(argv)
                program = f"sgdsim {args.command}"
                code = COMMANDS[args.command].run(args)
            except SystemExit as stop:  # argparse: help was printed, or an error
                code = int(stop.code or 0)
            sys.stdout.flush()  # here, where a failure can still be told
            return code
        except InputError as error:
            tell(f"error: {error}")
            return 2
        except KeyboardInterrupt:
            tell("interrupted")
            return 130
        except SystemError as error:  # a signal that came while compiled code returned
            if not isinstance(error.__cause__ or error.__context__, KeyboardInterrupt):
                raise
            tell("interrupted")
            return 130
        except MemoryError as error:
            tell(f"error: expected a problem that fits into memory, got: {error or 'no memory left'}")
            return 2
        except RuntimeError as error:  # torch's forms of the same
            if not re.search("can't allocate|out of memory|invalid for input of size", str(error)):
                raise
            tell(f"error: expected a problem that fits into memory, got: {str(error).splitlines()[0]}")
            return 2
        except OSError as error:
            if error.filename is not None:
                tell(f"error: {error.filename}: {error.strerror}")
                return 2
            if isinstance(error, FileNotFoundError):  # os.getcwd names no file
                tell("error: expected a working folder, got one that was removed; cd to another")
                return 2
            # Standard output: its reader went away, or its disk is full.
            streams.silence(sys.stdout)
            if not isinstance(error, BrokenPipeError):
                tell(f"error: output: {error.strerror or error}")
            return 1


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; SystemExit after help, the version, or an error."""
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        command = " ".join(filter(None, ("sgdsim", args.command, getattr(args, "action", None))))
        Parser(prog=command).error(f"unrecognized arguments: {' '.join(unknown)}")
    if args.version:
        import importlib.metadata

        print(f"sgdsim {importlib.metadata.version('sgdsim')}")
        raise SystemExit(0)
    if args.command is None:
        *known, last = COMMANDS
        parser.error(f"expected a command: {', '.join(known)} or {last}")
    return args
