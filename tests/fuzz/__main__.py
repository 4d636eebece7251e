"""`make fuzz`: command lines and damaged files from a seed, each failure with what runs it again."""

from __future__ import annotations

import argparse
import collections
import json
import os
import shlex
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # of --model, in the folder that is looked at
os.environ.pop("SGDSIM_DATA", None)  # the small data sets are in the working folder

from fuzz import command_lines, files, inputs, outcome
from fuzz.workers import LIMIT, run_all


def told(what: str, wrong: list[str], task: list) -> None:
    print(f"{what}: {'; '.join(wrong)}\n    --replay {shlex.quote(json.dumps(task))}", flush=True)


def fuzz_lines(args: argparse.Namespace, folder: Path) -> int:
    """Run the command lines; the number of failures."""
    argvs = command_lines.lines(args.seed, args.count)
    codes: collections.Counter[str] = collections.Counter()
    bad = 0
    for number, (code, *wrong) in run_all(
        "outcome:judge", [(argv, str(folder)) for argv in argvs], args.jobs, args.limit
    ):
        codes[code if len(code) < 5 else "died"] += 1
        wrong = wrong if len(code) < 5 else [code]
        if wrong:
            bad += 1
            print(
                f"seed {args.seed}, line {number}: {'; '.join(wrong)}\n    --replay {json.dumps(argvs[number])!r}",
                flush=True,
            )
    print(f"command lines: {args.count}, exit codes {dict(sorted(codes.items()))}, {bad} failures, seed {args.seed}")
    return bad


def fuzz_files(args: argparse.Namespace, folder: Path) -> int:
    """Read the damaged files of each format; the number of failures."""
    names = args.formats or list(files.all_formats(folder))
    tasks = [(name, args.seed, number, str(folder)) for name in names for number in range(args.damaged)]
    codes: dict[str, collections.Counter[str]] = {name: collections.Counter() for name in names}
    for at, (code, *wrong) in run_all("files:judge", tasks, args.jobs, args.limit):
        name, *seeds = tasks[at][:3]
        codes[name][code if len(code) < 5 else "died"] += 1
        wrong = wrong if len(code) < 5 else [code]
        if wrong:
            codes[name]["failures"] += 1
            told(f"{name}, file {seeds[-1]}", wrong, [name, *seeds])
    for name, counted in codes.items():
        bad = counted.pop("failures", 0)
        print(f"{name}: {args.damaged} damaged, exit codes {dict(sorted(counted.items()))}, {bad} failures")
        codes[name]["failures"] = bad
    return sum(counted["failures"] for counted in codes.values())


def main() -> int:
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=2000, help="command lines (default: %(default)s)")
    parser.add_argument("--damaged", type=int, default=500, help="damaged files of each format (default: %(default)s)")
    parser.add_argument("--only", choices=["lines", "files"])
    parser.add_argument("--formats", nargs="+", help="only these formats")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: one a core)")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds until a run is taken to hang")
    parser.add_argument("--replay", help="one command line, or one damaged file, as a failure printed it")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        folder = inputs.write(Path(home))
        if args.replay is not None:
            words = json.loads(args.replay)
            damaged = words[0] in files.all_formats(folder)
            judged = files.judge(*words, str(folder)) if damaged else outcome.judge(words, str(folder))
            print("\n".join(judged))
            return int(len(judged) > 1)
        bad = 0
        if args.only != "files":
            bad += fuzz_lines(args, folder)
        if args.only != "lines":
            bad += fuzz_files(args, folder)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
