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

from sgdsim.cli import completion, streams
from sgdsim.cli.base import Parser
from sgdsim.cli.parser import build_parser
from sgdsim.cli.registry import COMMANDS
from sgdsim.common.checks import InputError, meant
from sgdsim.common.signals import one_interruption

_SEVERAL = (
    "--lr",
    "--torch-lr",
    "--momentum",
    "--batch-size",
    "--method",
    "--label-noise",
    "--average",
    "--weight-decay",
)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    program = "sgdsim"
    with streams.usable(), warnings.catch_warnings(), one_interruption():
        warnings.showwarning = lambda message, *_: streams.tell(f"sgdsim: {message}")
        try:
            try:
                args = _parse(argv)
                program = f"sgdsim {args.command}"
                code = COMMANDS[args.command].run(args)
                if hasattr(args, "note"):  # of the data; not earlier, as an error is one line
                    streams.tell(f"sgdsim: {args.note}")
            except SystemExit as stop:  # argparse: help was printed, or an error
                code = int(stop.code or 0)
            sys.stdout.flush()  # here, where a failure can still be told
            return code
        except (Exception, KeyboardInterrupt) as error:
            code, message = _failure(error)
            if message:
                streams.tell(f"{program}: {message}")
            return code


def _failure(error: BaseException) -> tuple[int, str]:
    """The exit code and the message, "" for none; what no user brings about is raised again."""
    if isinstance(error, InputError):
        return 2, f"error: {error}"
    # a signal that came while compiled code returned is the cause of a SystemError
    cause = error.__cause__ or error.__context__ if isinstance(error, SystemError) else error
    if isinstance(cause, KeyboardInterrupt):
        return 130, "interrupted"
    if isinstance(error, MemoryError):
        return 2, f"error: expected a problem that fits into memory, got: {error or 'no memory left'}"
    # torch's forms of the same
    if isinstance(error, RuntimeError) and re.search(
        "can't allocate|out of memory|invalid for input of size", str(error)
    ):
        return 2, f"error: expected a problem that fits into memory, got: {str(error).splitlines()[0]}"
    if not isinstance(error, OSError):
        raise error
    if error.filename is not None:
        return 2, f"error: {error.filename}: {error.strerror}"
    if isinstance(error, FileNotFoundError):  # os.getcwd names no file
        return 2, "error: expected a working folder, got one that was removed; cd to another"
    streams.silence(sys.stdout)  # its reader went away, or its disk is full
    return 1, "" if isinstance(error, BrokenPipeError) else f"error: output: {error.strerror or error}"


def _second_value(sub: Parser, argv: list[str], word: str, command: str | None) -> str:
    """What is wrong with a word behind the value of an option that takes one; "" where it stands elsewhere."""
    before = argv[: argv.index(word)] if word in argv and not word.startswith("--") else []
    at = next((i for i in reversed(range(len(before))) if before[i].startswith("--")), None)
    if at is None:
        return ""
    option, _, first = before[at].partition("=")
    if option not in _SEVERAL and not word.lstrip("-")[:1].isdigit():  # else it may belong nowhere
        return ""
    if not sub.takes_one(option) or len(before) - at != (1 if first else 2):
        return ""
    hint = "; sgdsim compare takes several" if command == "simulate" and option in _SEVERAL else ""
    return f"argument {option}: expected one value, got {first or before[-1]} {word}{hint}"


def _parse(argv: list[str] | None) -> argparse.Namespace:
    """The arguments; SystemExit after help, the version, or an error."""
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        sub = parser.below(filter(None, (args.command, getattr(args, "action", None))))
        if said := _second_value(sub, list(sys.argv[1:] if argv is None else argv), unknown[0], args.command):
            sub.error(said)
        odd = next((word.partition("=")[0] for word in unknown if word.startswith("--")), "")
        sub.error(f"unrecognized arguments: {' '.join(unknown)}{meant(odd, sub.known_options())}")
    if args.version:
        import importlib.metadata

        print(f"sgdsim {importlib.metadata.version('sgdsim')}")
        raise SystemExit(0)
    if args.print_completion is not None:
        print(completion.script(parser, args.print_completion))
        raise SystemExit(0)
    if args.command is None:
        *known, last = COMMANDS
        parser.error(f"expected a command: {', '.join(known)} or {last}")
    return args
