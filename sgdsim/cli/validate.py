"""`sgdsim validate`: theory against the training of real networks, as three tables and a picture."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgdsim.cli.arguments import (
    ACTIVATIONS,
    DATASETS,
    add_batch_sizes,
    add_data_dir,
    add_device,
    add_dtype,
    add_list,
    add_seed,
    named,
)
from sgdsim.cli.base import Commands
from sgdsim.cli.deliver import Delivery, add_output, ending, interrupted
from sgdsim.cli.outputs import write_json
from sgdsim.cli.own_data import add_own_data, complete, load_data
from sgdsim.cli.problems import check_output
from sgdsim.cli.steps import add_steps, check_epochs, steps_of
from sgdsim.cli.values import whole
from sgdsim.common.checks import InputError, integer, number
from sgdsim.common.jsonable import jsonable

if TYPE_CHECKING:
    from sgdsim.datasets import Dataset
    from sgdsim.problem import Problem
    from sgdsim.studies.validation import Training
    from sgdsim.studies.validation_tables import Validation

KIND = "sgdsim validate"  # in the files written, so that another JSON document is not taken for one
PARTS = ("thresholds", "training")
AT = (100, 1000, 10_000)
THRESHOLDS = (
    "Learning rates in units of 1/λ_max of the tangent kernel at the start. Predicted: full batch 2(1+β), "
    "spectral-diagonal closure with τ = 1 and −1, exact in mean square at this N. Measured by bisection, on the same "
    "batches for linearisation and network: 'settles' while at least half of the replicates end (second half of the "
    "run) below their initial loss and that of the best constant output or, where they never rose 100-fold, below "
    "what they had early (T/20 to T/10); 'within 10×' while the loss never passes 10 times the initial one. A network "
    "that settles though it was not within 10× has catapulted: its loss grew until its kernel had shrunk."
)
EXPONENTS = (
    "Exponents ξ of L ∝ t^−ξ over decades of t, for the widest network of each data set. 'law' is min(ζ, 2 − 1/ν) of "
    "the power laws fitted to eigenvalues and error coefficients, with its 95% interval: none where that reaches 0. "
    "The others are slopes of the losses themselves: spectral-diagonal closure (τ = 1, the whole spectrum), "
    "linearisation and network on the same batches (± standard error over batch sequences)."
)
RATIOS = (
    "Mean loss of the network over that of its linearisation on the same batches (± standard error over batch "
    "sequences, paired; one network per width, so that the scatter from network to network is not in it). 'kernel "
    "moved' is ‖Θ_t − Θ_0‖/‖Θ_0‖ and 'λ_max' λ_max(Θ_t)/λ_max(Θ_0) at the last step, first replicate."
)
_POINTS = 300
SHORTEST = 40  # steps: a run's beginning and end are compared


def add_parser(commands: Commands) -> None:
    """Add the parser of `sgdsim validate` to the command line's subparsers."""
    parser = commands.add_parser("validate", help="theory against real networks: thresholds, exponents, loss ratios")
    group = parser.add_argument_group("problem")
    source = group.add_mutually_exclusive_group()
    source.add_argument("--dataset", nargs="+", default=["digits"], choices=DATASETS, help="data, one or several")
    add_own_data(source, group)
    add_data_dir(group)
    group.add_argument("--n", type=whole, help=f"training points N (default: {_POINTS}, of --data at most 80%%)")
    add_list(group, "--widths", whole, [100, 300], "hidden units", metavar="WIDTH")
    group.add_argument("--depth", type=whole, default=1, help="hidden layers")
    group.add_argument("--activation", choices=ACTIVATIONS, default="relu", help="of the hidden units")
    group = parser.add_argument_group("algorithm")
    add_batch_sizes(group, [10, 100], "one or several")
    group.add_argument("--momentum", type=float, default=0.0, help="heavy ball")
    group.add_argument(
        "--lr",
        type=float,
        help="of the long runs, in units of 1/lambda_max (default: half of the lowest threshold of theory, for each "
        "network and batch size)",
    )
    add_steps(group, "n_steps", 1000, "of the long runs: ratios and exponents")
    group.add_argument("--threshold-steps", type=whole, default=200, help="of each run in the search for a threshold")
    group.add_argument("--replicates", type=whole, default=4, help="batch sequences")
    group.add_argument("--only", choices=PARTS, help="only the thresholds, or only the long runs")
    add_seed(group, "decides data split, networks and batches")
    add_dtype(group, "of the networks")
    add_device(group)
    group.add_argument(
        "--read", nargs="+", metavar="FILE", help="run nothing: tables and picture of what --out wrote before, joined"
    )
    add_output(parser, "write everything (JSON), anew after each part that is done", "draw it (.png, .pdf or .svg)")
    parser.add_argument("--markdown", action="store_true", help="print the tables in Markdown")


def validate(args: argparse.Namespace) -> int:
    """Run what was asked for, cell by cell, or read it; print, save and draw."""
    from sgdsim.studies.validation_tables import Validation

    delivery = Delivery(args)
    _check(args)
    facts: dict[str, Any] = {"kind": KIND, "cells": [], "interrupted": False}
    if args.read is not None:
        facts["cells"] = join([load(path) for path in args.read])
    else:
        try:
            for cells in run(args):
                facts["cells"] = cells
                _save(facts, args)
                facts["interrupted"] = _cut_short(cells[-1])
                if facts["interrupted"]:
                    break
        except KeyboardInterrupt:
            facts["interrupted"] = True
    facts["seconds"] = delivery.seconds
    done = any(cell[part] for cell in facts["cells"] for part in PARTS)
    if facts["interrupted"] and not done:  # what is there already stays
        args.out = args.plot = None
    if (error := _save(facts, args)) is not None:
        delivery.failed("out", error)
    found = Validation(facts["cells"])
    delivery.draw(lambda plot: found.plot())
    facts |= delivery.files
    return delivery.tell(facts, lambda: _text(found, facts, markdown=args.markdown))


def _text(found: Validation, facts: Mapping[str, object], *, markdown: bool) -> str:
    """The three tables, each with what it means; those without a row are left out."""
    out: list[str] = []
    for title, words, table in (
        ("Stability thresholds", THRESHOLDS, found.thresholds()),
        ("Exponents", EXPONENTS, found.exponents()),
        ("Network against linearisation", RATIOS, found.ratios()),
    ):
        if table.rows and markdown:
            out += [f"**{title}**", "", table.markdown(), "", words, ""]
        elif table.rows:
            out += [title, table.text(), "", textwrap.fill(words, 110), ""]
    out = out or ["Nothing was done."]
    return "\n".join([*out, *(interrupted(facts) if markdown else ending(facts))]).rstrip("\n")


def _check(args: argparse.Namespace) -> None:
    """InputError for bad values, before anything is computed."""
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.runs.follow import MAX_STEPS
    from sgdsim.theory import stability

    if args.json and args.markdown:
        raise InputError("--markdown: expected only without --json, which prints one document")
    check_output(args)
    for name in ("dataset", "widths", "batch_size"):
        values = getattr(args, name)
        if len(set(values)) < len(values):
            raise InputError(f"{name}: expected different values, got {', '.join(map(str, values))}")
    complete(args, _POINTS)
    n = _POINTS if args.n is None else integer("n", args.n, minimum=1, maximum=stability.EXACT_UP_TO)
    integer("seed", args.seed)
    integer("depth", args.depth)
    integer("replicates", args.replicates, minimum=1, maximum=1_000_000)  # each trains a network
    integer("threshold_steps", args.threshold_steps, minimum=SHORTEST, maximum=MAX_STEPS)
    integer("n_steps", args.n_steps, minimum=SHORTEST, maximum=MAX_STEPS)
    check_epochs(args)
    if args.lr is not None:
        number("lr", args.lr)
    for width in args.widths:
        integer("widths", width, minimum=1)
    for size in args.batch_size:
        SGD(1.0 if args.lr is None else args.lr, args.momentum, size).check(n, 1)


def run(args: argparse.Namespace) -> Iterator[list[dict[str, object]]]:
    """All cells, one for each data set, width and batch size; yields the list so far after each part that is done.

    A long run that Ctrl-C ended is the last one, with what it had.
    """
    from sgdsim import networks
    from sgdsim.algorithm.sgd import SGD
    from sgdsim.problem import NetworkProblem, sizes
    from sgdsim.regimes import RealNetwork, SampledLinearized
    from sgdsim.studies import measured_stability as measured
    from sgdsim.studies import validation as v

    chosen = [load_data(args, name, built_in=True, n_at_most=_POINTS) for name in args.dataset]
    for data in chosen:
        _check_modes(data)
    steps = {(data.n, size): _steps(args, data.n, size) for data in chosen for size in args.batch_size}
    cells: list[dict[str, object]] = []
    for data in chosen:
        for width in args.widths:
            sizes.require_mlp(data.d, width, args.depth, data.n_outputs)
            network = networks.MLP(width, args.depth, args.activation, seed=args.seed, n_outputs=data.n_outputs)
            problem = NetworkProblem(network, data, device=args.device)
            for size in args.batch_size:
                cell = {"dataset": data.name, "n": data.n, "network": network.describe(), "batch_size": size}
                cell |= named(args, "momentum", "seed", "dtype")
                cells.append(cell | dict.fromkeys((*PARTS, "ratios", "slopes", "law")))
                if args.only != "training":
                    found = measured.thresholds(
                        problem,
                        size,
                        momentum=args.momentum,
                        n_steps=args.threshold_steps,
                        seed=args.seed,
                        replicates=args.replicates,
                        progress=True,
                        regimes=[SampledLinearized(), RealNetwork(args.dtype)],
                    )
                    cells[-1]["thresholds"] = jsonable(found)
                    yield cells
                if args.only != "thresholds":
                    lr = v.safe_lr(problem.quadratic, size, args.momentum) if args.lr is None else args.lr
                    trained = v.train(
                        problem,
                        SGD(lr, args.momentum, size),
                        steps[data.n, size],
                        at=AT,
                        replicates=args.replicates,
                        dtype=args.dtype,
                        seed=args.seed,
                        progress=True,
                    )
                    cells[-1] |= read_off(trained, problem)
                    yield cells


def _steps(args: argparse.Namespace, n: int, size: int) -> int:
    """Of the long runs at this batch size."""
    from sgdsim.runs.follow import MAX_STEPS

    what = "n_steps" if args.epochs is None else f"epochs: steps at batch {size}"
    return integer(what, steps_of(args, "n_steps", n, size), minimum=SHORTEST, maximum=MAX_STEPS)


def _check_modes(data: Dataset) -> None:
    """InputError for more modes NC than the exact threshold, which all tables and runs use, is worked out for."""
    from sgdsim.theory.stability import EXACT_UP_TO

    if data.n * data.n_outputs > EXACT_UP_TO:
        raise InputError(
            f"--n: expected at most {EXACT_UP_TO} modes, N times outputs, of which the exact threshold takes products "
            f"of matrices, got {data.n} points with {data.n_outputs} outputs; take --n {EXACT_UP_TO // data.n_outputs}"
        )


def read_off(trained: Training, problem: Problem) -> dict[str, object]:
    """Ratios, slopes and the law of one long run, beside the run itself, as JSON-able values."""
    from sgdsim.studies import validation as v

    try:
        law = v.law(problem)
    except InputError:  # too few modes for a fit
        law = None
    at = [step for step in AT if step <= trained.n_steps] or [trained.n_steps]
    slopes = [v.slopes(trained, window) for window in v.decades(trained.n_steps)]
    return {
        "training": jsonable(trained),
        "ratios": jsonable(v.ratios(trained, at)),
        "slopes": jsonable(slopes),
        "law": jsonable(law),
    }


def _cut_short(cell: dict[str, Any]) -> bool:
    return cell["training"] is not None and cell["training"]["interrupted"]


def _save(facts: dict[str, object], args: argparse.Namespace) -> InputError | None:
    """Write the file, if one is asked for; the error where that fails, so that work goes on."""

    if args.out is None:
        return None
    try:
        write_json(facts, args.out)
    except InputError as error:
        return error
    return None


def load(path: str) -> list[dict[str, object]]:
    """The cells of a file that `--out` wrote; InputError for any other file."""
    try:
        facts = json.loads(Path(path).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a file that sgdsim validate --out wrote, got: {error}") from error
    if not isinstance(facts, dict) or facts.get("kind") != KIND:
        raise InputError(f"{path}: expected a file that sgdsim validate --out wrote, got another JSON document")
    return facts["cells"]


def join(files: list[list[dict[str, object]]]) -> list[dict[str, object]]:
    """One list of cells, in order of first appearance; a later file fills what is missing and replaces what is not."""
    joined: dict[str, dict[str, Any]] = {}
    for cell in (cell for cells in files for cell in cells):
        key = json.dumps([cell[name] for name in ("dataset", "n", "network", "batch_size", "momentum", "seed")])
        found = {name: value for name, value in cell.items() if value is not None}
        joined[key] = {**dict.fromkeys(cell), **joined.get(key, {}), **found}
    order = list(dict.fromkeys(cell["dataset"] for cell in joined.values()))
    return sorted(
        joined.values(),
        key=lambda cell: (order.index(cell["dataset"]), cell["network"].get("width", 0), cell["batch_size"]),
    )
