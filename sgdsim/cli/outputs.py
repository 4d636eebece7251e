"""What `--out` may be called, that it does not overwrite, and results of runs written under it."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sgdsim.common import files
from sgdsim.common.checks import InputError

if TYPE_CHECKING:
    import xarray as xr

    from sgdsim.problem import Problem
    from sgdsim.studies.rows import Rows

JSON = (".json",)
TABLES = (".csv", ".parquet")
RUNS = (".nc", ".h5", *TABLES)  # netCDF-4 is HDF5
ROWS = (*RUNS, *JSON)  # of answers that are no runs
ROWS_HELP = "write the answers: all that is known (.nc, .json), or a table (.csv, .parquet)"
SPECTRUM = (".nc", ".h5", ".csv")


def is_table(path: str | None) -> bool:
    """Whether a result goes there as a table."""
    return path is not None and _ending(path) in TABLES


def check_out(args: argparse.Namespace) -> None:
    """InputError where --out has an ending that the command does not write, or is there already: only --force and a
    sweep that goes on write over it."""
    if getattr(args, "out", None) is None:
        return
    if not args.out:
        raise InputError("--out: expected the name of a file, got ''")
    endings: tuple[str, ...] = getattr(args, "endings", ())
    if endings and _ending(args.out) not in endings:
        got = os.path.basename(args.out)
        why = "; runs are kept as netCDF or as a table, and --json prints a document" if _ending(got) in JSON else ""
        raise InputError(f"--out: expected a name that ends in {_either(endings)}, got {got!r}{why}")
    goes_on = _goes_on(args)
    if goes_on and is_table(args.out) and goes_on != "always":
        raise InputError(f"--out: expected .nc with {goes_on}, as a table does not hold a sweep, got {args.out!r}")
    if os.path.exists(args.out) and not args.force and (not goes_on or is_table(args.out)):
        raise InputError(f"--out: expected a new file, got {args.out!r}, which is there; --force replaces it")


def _ending(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _either(endings: tuple[str, ...]) -> str:
    return " or ".join(filter(None, (", ".join(endings[:-1]), endings[-1])))


def _goes_on(args: argparse.Namespace) -> str:
    """Why what a sweep left at --out is used, not replaced: an option, or "always"; "" where it is not."""
    if not hasattr(args, "shard"):
        return ""
    given = next((name for name in ("shard", "retry_failed", "resume") if getattr(args, name, None)), None)
    return "" if given is None and hasattr(args, "resume") else f"--{given.replace('_', '-')}" if given else "always"


def write_json(facts: Mapping[str, object], path: str) -> None:
    """Write one JSON document, all or nothing."""
    with files.replacing(Path(path)) as temporary:
        temporary.write_text(json.dumps(facts, allow_nan=False) + "\n")


def save_rows(
    rows: Rows, facts: Mapping[str, object], problem: Problem, path: str, *, seed: int, data: xr.Dataset | None = None
) -> None:
    """Write answers as their name asks for: netCDF with all facts, a table of the rows, or the facts as JSON. `data`:
    what netCDF has in the place of the rows."""
    from sgdsim.runs import results
    from sgdsim.studies import rows as written

    if _ending(path) in JSON:
        write_json(facts, path)
    elif is_table(path):
        written.write_frame(written.as_frame(written.dataset(rows, facts, problem, seed=seed)), path)
    elif data is None:
        results.save(written.dataset(rows, facts, problem, seed=seed), path)
    else:
        results.save(written.with_problem(data, facts, problem, seed=seed), path)


def save_runs(result: xr.Dataset, path: str) -> None:
    """Write a result of runs as its name asks for: netCDF, or a table of what came out of each."""
    if is_table(path):
        from sgdsim.studies import comparison

        comparison.export(result, path)
    else:
        from sgdsim.runs import results

        results.save(result, path)
