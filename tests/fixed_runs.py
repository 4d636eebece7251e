"""A fixed list of runs, for changes that must not change a bit: `python tests/fixed_runs.py --write before.json`, the
change, `python tests/fixed_runs.py --compare before.json`. On one machine; clear compiled caches (__pycache__) between.

Every regime with every method, sampling, average, noise and schedule that it follows, on problems of each kind; every
executor; saved files; what each command prints, with times left out. `--files FOLDER` keeps a result, a spectrum and an
unfinished sweep there with `--write`; with `--compare` they are read and gone on with.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import xarray as xr

import sgdsim as ss
from sgdsim.cli import main as command_line

_TIMES = re.compile(r'"seconds[^"]*": ([-0-9.e]+|\{[^}]*\})|"peak_memory": \d+|\b\d+(\.\d+)? s\b|[\d.]+ GB')
_POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "40"]
_DIGITS = ["--dataset", "digits", "--n", "40", "--width", "12"]
COMMANDS = {
    "compare": ["compare", *_DIGITS, "--n-steps", "60", "--replicates", "3", "--tau", "1", "-1", "--zip"],
    "compare adam": ["compare", *_DIGITS, "--n-steps", "30", "--regimes", "sampled", "--method", "adam", "--lr", "0.01",
                     "--momentum", "0"],
    "simulate": ["simulate", *_POWER, "--lr", "0.5", "--n-steps", "1e6"],
    "spectrum": ["spectrum", *_DIGITS],
    "spectrum lanczos": ["spectrum", *_DIGITS, "--lanczos", "10"],
    "stability": ["stability", *_POWER, "--batch-size", "1", "10", "--momentum", "0", "0.9", "--exact"],
    "recommend": ["recommend", *_POWER, "--batch-size", "10", "--horizon", "1000"],
    "landscape": ["landscape", *_POWER, "--lr", "0:2:6", "--momentum", "-0.5:0.9:4", "--n-steps", "50", "--regime",
                  "diagonal", "sampled", "--replicates", "2", "--executor", "serial"],
    "batch": ["batch", *_DIGITS, "--batch-size", "1", "10", "--pairs", "5"],
    "budget": ["budget", *_POWER, "--batch-size", "1", "4", "--n-steps", "200"],
    "epochs": ["epochs", *_POWER, "--batch-size", "10", "--epochs", "5", "--replicates", "20"],
    "schedule": ["schedule", *_POWER, "--batch-size", "10", "--n-steps", "60"],
    "hessian": ["hessian", "--n", "40", "--width", "8", "--lr", "0.015", "--steps", "0", "20"],
    "validate": ["validate", "--n", "40", "--widths", "12", "--batch-size", "10", "--n-steps", "100",
                 "--threshold-steps", "60", "--replicates", "2"],
    "theory derive": ["theory", "derive"],
}  # fmt: skip


def problems() -> dict[str, ss.QuadraticProblem | ss.NetworkProblem]:
    """Small ones of each kind."""
    rng = np.random.default_rng(7)
    features = rng.standard_normal((15, 14))
    joint = features @ features.T
    kernel = ss.QuadraticProblem.from_kernel(
        joint[:12, :12], rng.standard_normal(12), cross_kernel=joint[12:, :12], test_residual=rng.standard_normal(3)
    )
    operator = ss.QuadraticProblem.from_operator(
        joint[:12, :12], rng.standard_normal(12), n_lanczos=6, n_probes=2, n_top=3
    )
    network = ss.networks.MLP(width=12, depth=2, seed=1)
    return {
        "power law": ss.QuadraticProblem.power_law(24, 1.5, 1.0),
        "kernel": kernel,
        "matrix-free": operator,
        "network": ss.NetworkProblem(network, ss.datasets.load("digits", 20, 0, n_test=5), device="cpu"),
    }


def algorithms() -> Iterator[ss.SGD]:
    """Methods, schedules, averages and noise with each sampling."""
    power = ss.schedules.parse("lr", "power:start=0.5,exponent=0.3")
    kinds = [
        {"lr": 0.4}, {"lr": 0.4, "momentum": -0.4}, {"lr": 0.4, "momentum": 0.8}, {"lr": power, "momentum": 0.5},
        {"lr": 0.3, "momentum": 0.5, "method": "nesterov"}, {"lr": 0.2, "method": "corner:theta=1.5,memory=3"},
        {"lr": 0.2, "method": "am1:nu=1.5"}, {"lr": 0.01, "method": "adam"},
        {"lr": 0.3, "average": "ema:0.9"}, {"lr": 0.3, "momentum": 0.5, "average": "tail:start=10"},
        {"lr": 0.3, "label_noise": 0.2},
    ]  # fmt: skip
    for given, sampling in itertools.product(kinds, (*ss.sampling.OF_POINTS, ss.sampling.ONE_PASS)):
        yield ss.SGD(**given, batch_size=4, sampling=sampling)


def digest(result: xr.Dataset) -> str:
    """Of all numbers, coordinates and what the attributes say, but for times, versions and the machine."""
    total = hashlib.sha256()
    for name in sorted(map(str, result.variables)):
        if name != "seconds":
            values = result[name].values
            total.update(f"{name}{result[name].dims}{values.shape}".encode())
            total.update(repr(values.tolist()).encode() if values.dtype == object else values.tobytes())
    kept = {key: value for key, value in result.attrs.items() if key in ("call", "problem", "seed", "interrupted")}
    total.update(json.dumps(kept, sort_keys=True, default=int).encode())
    return total.hexdigest()[:16]


def attempt(run: Callable[[], xr.Dataset]) -> str:
    """The digest of a result, or the message where it is refused."""
    try:
        return digest(run())
    except ss.InputError as error:
        return str(error)


def all_runs() -> Iterator[tuple[str, str]]:
    """(name, what came out) of every run in this process."""
    regimes = [ss.RealNetwork(), ss.SampledLinearized(), ss.BatchAveraged(), ss.BatchAveraged(0.0)]
    regimes += [ss.SpectralDiagonal(tau) for tau in (1.0, 0.0, -1.0, 1 / 3)]
    for (kind, problem), sgd, regime in itertools.product(problems().items(), algorithms(), regimes):
        tested = problem.quadratic.test is not None
        observe = ["loss", "test_loss", "moments"] if tested else ["loss", "moments"]
        options = {"record": 7, "observe": observe, "replicates": 2, "seed": 3}
        name = f"{kind} | {json.dumps(sgd.spec())} | {regime}"
        yield name, attempt(lambda p=problem, s=sgd, r=regime, o=options: ss.simulate(p, s, r, 30, **o))
    yield from executors()


def executors() -> Iterator[tuple[str, str]]:
    """The same sweep by each."""
    grid = ss.Grid.product(lr=[0.2, 0.5, 50.0], momentum=[0.0, 0.5], batch_size=[3])
    regimes = [ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()]
    pools: dict[str, Callable[[], contextlib.AbstractContextManager[object]]] = {
        "serial": lambda: contextlib.nullcontext("serial"),
        "threads": lambda: contextlib.nullcontext("threads"),
        "pool of threads": lambda: concurrent.futures.ThreadPoolExecutor(2),
        "pool of processes": lambda: concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")),
        "dask": lambda: contextlib.nullcontext("dask"),
    }
    for name, make in pools.items():
        with make() as executor:
            sweep = lambda e=executor: ss.sweep(  # noqa: E731
                problems()["power law"], grid, regimes, 200, replicates=3, seed=1, executor=e
            )
            yield f"sweep by {name}", attempt(sweep)


def all_commands() -> Iterator[tuple[str, str]]:
    """(name, what was printed) of every command, as text and as JSON."""
    for (name, words), form in itertools.product(COMMANDS.items(), ([], ["--json"])):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(io.StringIO()):
            code = command_line([*words, *form])
        yield f"{' '.join([name, *form])}", f"{code}: {_TIMES.sub('…', printed.getvalue())}"


def write_files(folder: Path) -> None:
    """What an earlier version leaves behind: a result, a spectrum, an unfinished sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    grid = ss.Grid.product(nu=[1.2, 1.5], lr=[0.2, 0.5])
    ss.sweep(ss.QuadraticProblem.power_law, _sized(grid), ss.SpectralDiagonal(), 50, path=folder / "result.nc")
    for i in (1, 2):
        ss.sweep(
            problems()["kernel"], ss.Grid.product(lr=[0.2, 0.5], batch_size=3), [ss.SampledLinearized()], 50,
            path=folder / "unfinished.nc", shard=(i, 3),
        )  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        command_line(["spectrum", *_DIGITS, "--out", str(folder / "spectrum.nc")])


def _sized(grid: ss.Grid) -> ss.Grid:
    return ss.Grid.product(**grid.axes, n=20, kappa=1.0)


def read_files(folder: Path) -> Iterator[tuple[str, str]]:
    """What is made of them."""
    grid = _sized(ss.Grid.product(nu=[1.2, 1.5], lr=[0.2, 0.5]))
    yield "load", attempt(lambda: ss.load(folder / "result.nc"))
    kept = folder / "result.nc"
    power = ss.QuadraticProblem.power_law
    yield "go on with a result", attempt(lambda: ss.sweep(power, grid, ss.SpectralDiagonal(), 50, path=kept))
    grid = ss.Grid.product(lr=[0.2, 0.5], batch_size=3)
    unfinished = folder / "unfinished.nc"
    regimes = [ss.SampledLinearized()]
    yield "go on", attempt(lambda: ss.sweep(problems()["kernel"], grid, regimes, 50, path=unfinished))
    spectrum = str(folder / "spectrum.nc")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        command_line(["compare", "--spectrum", spectrum, "--n-steps", "20", "--replicates", "2"])
    yield "compare --spectrum", _TIMES.sub("…", out.getvalue())


def _from_the_first_difference(before: str, now: str) -> tuple[str, str]:
    same = next((i for i, (x, y) in enumerate(zip(before, now, strict=False)) if x != y), 0)
    near = slice(max(0, same - 60), same + 60)
    return f"before: …{before[near]!r}", f"now: …{now[near]!r}"


def main() -> int:
    """Write or compare; 1 where anything differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--write", type=Path, metavar="FILE")
    how.add_argument("--compare", type=Path, metavar="FILE")
    parser.add_argument("--files", type=Path, metavar="FOLDER")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    files = args.files and args.files.resolve()
    stored, before = (args.write or args.compare).resolve(), os.getcwd()
    with tempfile.TemporaryDirectory() as empty:
        os.chdir(empty)
        found = dict(itertools.chain(all_runs(), all_commands()))
        if files and args.write:
            write_files(files)
        if files:
            with tempfile.TemporaryDirectory() as copied:
                copy = Path(copied, "files")
                shutil.copytree(files, copy)
                found |= dict(read_files(copy))
        os.chdir(before)
    if args.write:
        stored.write_text(json.dumps(found, indent=1), encoding="utf-8")
        print(f"{len(found)} runs written")
        return 0
    expected = json.loads(stored.read_text(encoding="utf-8"))
    differing = [name for name in {**expected, **found} if expected.get(name) != found.get(name)]
    for name in differing:
        print(name, *_from_the_first_difference(str(expected.get(name)), str(found.get(name))), sep="\n  ")
    print(f"{len(found) - len(differing)} of {len(found)} runs are the same")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
