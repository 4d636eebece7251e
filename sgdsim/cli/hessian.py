"""`sgdsim hessian`: the Hessian's spectrum along a run of mini-batch SGD, with and without batch norm."""

from __future__ import annotations

import argparse
import functools
from typing import TYPE_CHECKING

from sgdsim.cli.arguments import (
    ACTIVATIONS,
    DATASETS,
    add_data_dir,
    add_device,
    add_dtype,
    add_list,
    add_model,
    add_seed,
    named,
)
from sgdsim.cli.base import Commands
from sgdsim.cli.deliver import Delivery, add_output, interrupted, wrote
from sgdsim.cli.own_data import POINTS, add_own_data, complete, load_data
from sgdsim.cli.problems import check_output, own_model, with_shape
from sgdsim.cli.values import schedule_of, whole
from sgdsim.common.checks import InputError

if TYPE_CHECKING:
    from torch import nn

    from sgdsim.datasets import Dataset
    from sgdsim.studies.hessians import HessianSpectra

_DEFAULTS = {"width": 32, "depth": 3, "activation": "relu", "batch_norm": "both"}
_PASSED_ON = (
    *("output", "lr", "momentum", "batch_size", "steps", "sampling", "top", "gap", "lanczos_steps"),
    *("seed", "device", "dtype", "chunk"),
)
_VARIANTS = {"without": "without batch norm", "with": "with batch norm"}


def add_parser(commands: Commands) -> None:
    """Add the command's parser to `commands`."""
    parser = commands.add_parser("hessian", help="density, outliers and gradient of the Hessian along training")
    group = parser.add_argument_group("problem")
    source = group.add_mutually_exclusive_group()
    source.add_argument("--dataset", default="digits", choices=DATASETS, help="data")
    add_own_data(source, group)
    add_data_dir(group)
    group.add_argument("--n", type=whole, help="training points N (default: 500, of --data at most 80%%)")
    # Left open here, so that one beside --model can be refused; see _DEFAULTS.
    group.add_argument("--batch-norm", choices=["both", *_VARIANTS], help="in the hidden layers (default: both)")
    group.add_argument("--width", type=whole, help="hidden units, standard parametrisation (default: 32)")
    group.add_argument("--depth", type=whole, help="hidden layers (default: 3)")
    group.add_argument("--activation", choices=ACTIVATIONS, help="of the hidden units (default: relu)")
    add_model(group, "your own torch model, with its mode: a function")
    group = parser.add_argument_group("algorithm")
    group.add_argument(
        "--lr",
        type=schedule_of("lr"),
        help="that of torch.optim.SGD, or a schedule (default: 1/lambda_max of each network's Hessian at the start)",
    )
    group.add_argument("--momentum", type=schedule_of("momentum"), default=0.0, help="heavy ball, or a schedule")
    group.add_argument("--batch-size", type=schedule_of("batch_size"), default=50, help="or a schedule")
    group.add_argument(
        "--sampling",
        default="without-replacement",
        choices=["without-replacement", "with-replacement", "reshuffle"],
        help="how batches are drawn",
    )
    add_seed(group, "decides data, network, batches and probes")
    add_dtype(group, "of the network")
    add_device(group)
    group = parser.add_argument_group("spectrum")
    add_list(group, "--steps", whole, [0, 10, 100, 1000], "after how many updates")
    group.add_argument("--top", type=whole, default=20, help="largest eigenvalues, among which outliers are sought")
    group.add_argument("--gap", type=float, default=2.0, help="outliers are this many times larger than all the rest")
    group.add_argument("--lanczos-steps", type=whole, default=80, help="of each probe of the density")
    group.add_argument("--probes", type=whole, default=10, help="random vectors for the density")
    group.add_argument("--chunk", type=whole, default=1024, help="training points in one pass, without batch norm")
    add_output(parser, "write everything (JSON)", "draw the densities (.png, .pdf or .svg)")


def hessian(args: argparse.Namespace) -> int:
    from sgdsim.networks import described
    from sgdsim.studies import hessians

    delivery = Delivery(args)
    for name, value in _DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
        elif args.model is not None:
            raise InputError(f"--{name.replace('_', '-')}: expected only without --model, got a model of your own")
    check_output(args)
    if args.plot is not None:
        from sgdsim.plot.hessian import check_panels

        check_panels(1, set(args.steps))
    if args.output is not None and args.model is None:
        raise InputError(f"--output: expected only beside --model, got {args.output!r} without it")
    complete(args, POINTS)
    data = load_data(args, args.dataset, built_in=args.model is None)
    networks = _networks(args, data)
    runs: dict[str, HessianSpectra] = {}
    for name, network in networks.items():
        options = {"n_probes": args.probes, "progress": True, **named(args, *_PASSED_ON)}
        follow = functools.partial(hessians.hessian_spectra, network, **options)
        runs[name] = with_shape(args, data, follow)
        if runs[name].interrupted:
            break
    facts_of = {name: None if args.model else described(network) for name, network in networks.items()}
    facts: dict[str, object] = {
        "data": data.info,
        "runs": {name: {"network": facts_of[name], **run.as_dict()} for name, run in runs.items()},
        "seed": args.seed,
        "interrupted": any(run.interrupted for run in runs.values()),
        "seconds": delivery.seconds,
    }
    delivery.write(facts)
    delivery.draw(lambda plot: plot.hessian_spectra(runs))
    facts |= delivery.files
    return delivery.tell(facts, lambda: _text(args, data, runs, facts))


def _networks(args: argparse.Namespace, data: Dataset) -> dict[str, nn.Module]:
    """The networks to train, by the name of their row."""
    from sgdsim.networks import StandardMLP
    from sgdsim.problem import sizes

    if args.model is not None:
        return {args.model: own_model(args.model)}
    sizes.require_mlp(data.d, args.width, args.depth, data.n_outputs)
    chosen = list(_VARIANTS) if args.batch_norm == "both" else [args.batch_norm]
    return {
        _VARIANTS[which]: StandardMLP(
            args.width,
            args.depth,
            args.activation,
            batch_norm=which == "with",
            seed=args.seed,
            n_outputs=data.n_outputs,
        )
        for which in chosen
    }


def _text(args: argparse.Namespace, data: Dataset, runs: dict[str, HessianSpectra], facts: dict[str, object]) -> str:
    lines = []
    for name, run in runs.items():
        lr = f"{run.lr:.4g}" if isinstance(run.lr, float) else "none" if run.lr is None else run.lr.spec
        how = " (1/λ_max of the Hessian at the start)" if args.lr is None else ""
        lines.append(f"{data.name}, N = {data.n}, {name}: {run.n_parameters} parameters, torch lr {lr}{how}")
        lines.append(run.table().text())
        if run.diverged_at is not None:
            lines.append(f"diverged at step {run.diverged_at}")
        if run.largest_lr is not None:
            own = ", and have statistics of their own" if run.one_batch else ""
            lines.append(
                f"all points as one batch: stable below lr {run.largest_lr:.3g} = 2(1 + momentum)/λ_1 at step "
                f"{run.at[-1].step}; mini-batches may need less{own}"
            )
        lines.append("")
    lines.append(f"outliers: eigenvalues above a gap of a factor {args.gap:g}; shares are of |gradient|².")
    return "\n".join([*lines, *interrupted(facts), f"{facts['seconds']:.1f} s", *wrote(facts)])
