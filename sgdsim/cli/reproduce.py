"""`sgdsim reproduce`: the published values and figures again, with intervals, verdicts and reasons."""

from __future__ import annotations

import argparse
import json
import os
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

from sgdsim.cli.arguments import add_data_dir, add_seed
from sgdsim.cli.base import Commands
from sgdsim.cli.deliver import Delivery, interrupted
from sgdsim.common.checks import InputError, integer
from sgdsim.common.table import Table

if TYPE_CHECKING:
    from sgdsim.reproduction import Context, Exhibit
    from sgdsim.reproduction.document import Entry, Report


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim reproduce` to the command line's subparsers."""
    parser = commands.add_parser("reproduce", help="the published values and figures again, and where they differ, why")
    parser.add_argument(
        "--figure", nargs="+", metavar="NAME", help="only these exhibits; list: what there is (default: all)"
    )
    parser.add_argument("--full", action="store_true", help="the paper's sizes: tens of minutes instead of two")
    parser.add_argument("--out", metavar="FOLDER", default="report", help="report.md, report.json and figures/")
    add_data_dir(parser)
    add_seed(parser, "decides samples of data, networks and batches")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of the table")


def reproduce(args: argparse.Namespace) -> int:
    """Work out the exhibits one by one; each is on disk before the next begins."""
    from sgdsim import reproduction

    if args.figure == ["list"]:
        listed = [{"name": exhibit.name, "title": exhibit.title} for exhibit in reproduction.EXHIBITS]
        text = Table([], [[entry["name"], entry["title"]] for entry in listed], "l").text()
        print(json.dumps({"exhibits": listed}) if args.json else text)
        return 0
    exhibits = reproduction.choose(args.figure)
    if args.data_dir is not None and not os.path.isdir(args.data_dir):
        raise InputError(
            f"data_dir: expected a folder, got {args.data_dir!r}; sgdsim data list says where data sets are"
        )
    context = reproduction.Context(args.full, args.data_dir, integer("seed", args.seed))
    from sgdsim.reproduction.document import Report

    report = Report.open(args.out)
    delivery, entries, stopped = Delivery(args), {}, False
    try:
        for i, exhibit in enumerate(exhibits):
            if sys.stderr.isatty():
                print(f"[{i + 1}/{len(exhibits)}] {exhibit.name}", file=sys.stderr, flush=True)
            entries[exhibit.name] = _exhibit(exhibit, context, report)
    except KeyboardInterrupt:
        stopped = True
    facts = {
        "out": args.out,
        "full": args.full,
        "seed": args.seed,
        "exhibits": entries,
        "interrupted": stopped,
        "seconds": delivery.seconds,
    }
    return delivery.tell(facts, lambda: _text(facts))


def _exhibit(exhibit: Exhibit, context: Context, report: Report) -> Entry:
    """One exhibit, worked out, drawn and written; its entry."""
    from sgdsim.reproduction import MissingData

    since = time.perf_counter()
    try:
        finding = exhibit.work(context)
    except MissingData as error:
        return report.skip(exhibit, str(error))
    from sgdsim import plot

    for picture in finding.pictures:
        drawn = getattr(plot, picture.function)(*picture.arguments, **picture.options)
        plot.save(drawn, report.figure(picture.name))
    seconds = time.perf_counter() - since
    return report.add(exhibit, finding, full=context.full, seed=context.seed, seconds=seconds)


def _text(facts: dict[str, Any]) -> str:
    out = []
    for name, entry in facts["exhibits"].items():
        if entry["state"] == "skipped":
            out.append(f"{name}: skipped. {entry['reason']}")
            continue
        out.append(f"{name} ({entry['seconds']:.1f} s)")
        for row in entry["rows"]:
            out.append(f"  {row['quantity']}")
            out.append(f"    published {row['published']} · ours {row['ours']} · {row['interval']} · {row['verdict']}")
            if row["verdict"] == "differs":
                out.append(textwrap.fill(row["reason"], 116, initial_indent="    ", subsequent_indent="    "))
    rows = [row for entry in facts["exhibits"].values() for row in entry["rows"]]
    verdicts = dict.fromkeys(row["verdict"] for row in rows)
    counts = ", ".join(f"{sum(row['verdict'] == verdict for row in rows)} {verdict}" for verdict in verdicts)
    out.append("")
    if counts:
        out.append(f"{len(rows)} rows: {counts}")
    out += interrupted(facts, "the exhibits above are done and in the report")
    out.append(f"{facts['seconds']:.1f} s; wrote {facts['out'].rstrip('/')}/report.md")
    return "\n".join(out)
