"""The commands of files: shards brought together, results as tables and pictures, data sets."""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from sgdsim.cli.outputs import check_out
from sgdsim.common import files
from sgdsim.common.checks import InputError
from sgdsim.common.table import Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def merge(args: argparse.Namespace) -> int:
    from sgdsim.runs.assembly import merge

    result = merge(args.out, args.parts)
    done = result["done"].values
    print(f"wrote {args.out}: {int(done.sum())} of {done.size} cells")
    return 0 if done.all() else 1


def export(args: argparse.Namespace) -> int:
    from sgdsim.runs import results
    from sgdsim.studies import comparison

    check_out(args)
    result = results.load(args.file)
    with _as_written(args.file):
        rows = comparison.export(result, args.out, curves=args.curves)
    print(f"wrote {args.out}: {rows} rows")
    return 0


@contextlib.contextmanager
def _as_written(file: str) -> Iterator[None]:
    """InputError for a file whose variables or attributes are not of the kinds that sgdsim writes."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{file}: expected a result as sgdsim writes it, got another ({reason})") from error


def plot(args: argparse.Namespace) -> int:
    from sgdsim import plot
    from sgdsim.runs import results

    plot.check_path(args.out, "--out")
    files.check_writable(args.out)
    check_out(args)
    result = results.load(args.file)
    with _as_written(args.file):
        figure: Figure | Axes
        if args.what == "landscape":
            figure = plot.loss_maps(result, results.problem_of(result))
        else:
            figure = plot.spectrum(result) if args.what == "spectrum" else plot.comparison(result, args.observable)
    plot.save(figure, args.out)
    print(f"wrote {args.out}")
    return 0


def data(args: argparse.Namespace) -> int:
    from sgdsim.datasets import fetching

    if args.action == "fetch":
        paths = [str(p) for p in fetching.fetch(args.name, args.data_dir, mirror=args.mirror, progress=True)]
        print(json.dumps({"files": paths}) if args.json else "\n".join(paths))
        return 0
    listing = args.action == "list"
    made = fetching.status(args.name, args.data_dir) if listing else fetching.verify(args.name, args.data_dir)
    entries = [dict(entry) for entry in made]
    if args.json:
        print(json.dumps({"files": entries}))
    else:
        columns = ("dataset", "path", *(("present", "size") if listing else ("status", "message")))
        words = {True: "yes", False: "no", None: "-"}
        rows = [[words[v] if isinstance(v := entry[c], bool | None) else str(v) for c in columns] for entry in entries]
        print(Table(columns, rows, "l").text(ruled=False, width=200))  # a message is no column of numbers
        licences = {str(entry["dataset"]): str(entry["licence"]) for entry in entries} if listing else {}
        if licences:
            print(f"\n{Table(('dataset', 'licence'), list(licences.items()), 'l').text(ruled=False)}")
    if listing:
        return 0
    needed = args.name is not None  # asked for by name, a data set has to be there
    bad = (e["status"] == "corrupt" or (needed and e["required"] and e["status"] == "missing") for e in entries)
    return 1 if any(bad) else 0
