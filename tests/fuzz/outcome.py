"""One command line run in a folder of its own, and what is wrong with what came of it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from fuzz.inputs import tree
from fuzz.workers import captured
from sgdsim import cli
from sgdsim.cli.parser import build_parser

# What a line on standard error must say, beside its beginning: the words of sgdsim's own messages, or argparse's.
REASONS = (
    *("expected", "found", "could not be", "holds a sweep", "unrecognized arguments", "required", "not allowed with"),
    *(
        "invalid choice",
        "invalid float value",
        "ignored explicit argument",
        "no closed form",
        "follows linear methods only",
        "has a fixed set of points",
    ),
    *(os.strerror(number) for number in range(1, 60)),
)
# Where exit code 1 is documented: a check found something, or cells are missing or failed.
MAY_FAIL = ("data verify", "theory prove", "merge")
OUTPUTS = ("out", "plot", "log_file")
INPUTS = ("kernel", "spectrum", "residual", "targets", "cells", "file", "read")
OLD = ("old.nc", "old.png", "old.log")


def run(argv: list[str], folder: Path) -> tuple[int | None, str, str, str]:
    """Exit code (None: an exception came out), standard output, standard error and the traceback."""
    code, trace = None, ""
    sys.modules.pop("models", None)
    with captured(folder) as said:
        try:
            code = cli.main(argv)
        except BaseException:
            trace = traceback.format_exc()
    return code, *said, trace


def judge(argv: list[str], inputs: str) -> list[str]:
    """Run `argv` beside copies of the files in `inputs`: the exit code, and what is wrong."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        folder = Path(home) / "here"
        shutil.copytree(inputs, folder)
        for name in OLD:
            (folder / name).write_text("older")
        before = tree(folder)
        code, out, err, trace = run(argv, folder)
        return [str(code), *complaints(argv, code, out, err, trace, before, tree(folder))]


def complaints(
    argv: list[str], code: int | None, out: str, err: str, trace: str, before: dict[str, bytes], after: dict[str, bytes]
) -> list[str]:
    """What is wrong, each in a line; the oracle."""
    if code is None:
        return [raised(trace)]
    wrong = []
    if "Traceback" in err or "Traceback" in out:
        wrong.append("a traceback was printed: " + err[err.find("Traceback") :].strip().splitlines()[-1])
    touched = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    if code == 2:
        journal = asked_for(argv, touched) if argv[:1] == ["validate"] else set()  # keeps each part that was done
        lost = [name for name in touched if name not in journal]
        return wrong + refused(out, err) + [f"exit code 2, but {name} was touched" for name in lost]
    if code not in (0, 1):
        return [*wrong, f"exit code {code}"]
    if code == 1 and not " ".join(argv).startswith(MAY_FAIL) and "failed" not in out:
        wrong.append(f"exit code 1 without a failed cell: {err.strip()[:200]}")
    if "--json" in argv and not {"-h", "--help", "--version"} & {*argv}:
        wrong += not_json(out)
    return wrong + [f"{name} was touched" for name in touched if name not in asked_for(argv, touched)]


def raised(trace: str) -> str:
    """The last line of a traceback, and where in sgdsim it came from."""
    inside = [line.strip() for line in trace.splitlines() if "/sgdsim/" in line and line.strip().startswith("File")]
    where = inside[-1].split("/sgdsim/")[-1].replace('", line ', ":").split(",")[0] if inside else "?"
    return f"raised {trace.strip().splitlines()[-1][:300]} at {where}"


def refused(out: str, err: str) -> list[str]:
    """What is wrong with how bad input was told."""
    wrong = []
    if out:
        wrong.append(f"exit code 2, but standard output says {out[:80]!r}")
    if err.count("\n") != 1 or not err.endswith("\n"):
        wrong.append(f"exit code 2 with {err.count(chr(10))} lines: {err[-300:]!r}")
    if not err.startswith("sgdsim") or not any(reason in err for reason in REASONS):
        wrong.append(f"exit code 2 without a reason: {err[:300]!r}")
    return wrong


def not_json(out: str) -> list[str]:
    def never(text: str) -> None:
        raise ValueError(f"holds {text}")

    try:
        json.loads(out, parse_constant=never)
    except ValueError as error:
        return [f"--json: expected one document, got {out[:80]!r}: {error}"]
    return []


def asked_for(argv: list[str], touched: list[str]) -> set[str]:
    """Those of the files `touched` that the options told sgdsim to write."""
    try:
        args, _ = build_parser().parse_known_args(argv)
    except SystemExit:  # help
        args = argparse.Namespace(command=None)

    def plain(names: tuple[str, ...]) -> set[str]:
        values = [getattr(args, name, None) for name in names]
        flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
        return {os.path.normpath(value) for value in flat if isinstance(value, str)}

    outputs = plain(OUTPUTS) - plain(INPUTS)
    folders = tuple(f"{name}/" for name in outputs) if args.command == "reproduce" else ()
    if getattr(args, "shard", None) is not None or args.command == "merge":
        folders += tuple(f"{name}.parts/" for name in outputs)
    if getattr(args, "resume", None) or args.command == "landscape":  # what was begun there is used up
        outputs |= {name for name in touched if name.split(".parts/")[0] in outputs}
    return {name for name in touched if name in outputs or (folders and name.startswith(folders))}
