"""The problem that the arguments describe, and the options that commands of theory have in common."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, TypeVar, cast

from sgdsim.algorithm.samplers import CLOSED
from sgdsim.cli.arguments import DEFAULTS, add_device, add_seed
from sgdsim.cli.base import Group
from sgdsim.cli.outputs import check_out
from sgdsim.cli.own_data import OF_OWN_DATA, load_data
from sgdsim.common import files, own_code
from sgdsim.common.checks import InputError, integer
from sgdsim.problem import sizes
from sgdsim.problem.base import Kind, Problem
from sgdsim.problem.kinds import KINDS

if TYPE_CHECKING:
    from torch import nn

    from sgdsim.datasets import Dataset

BATCH_SIZES = (1, 10, 100)
T = TypeVar("T")
_NOT_TAKEN = "expected a module that takes inputs of shape"
_DATA = "data sets"
_OWN = "--data"
_FILE: Literal["--spectrum"] = "--spectrum"
_OF_MODELS = ("recommend", "stability")  # commands of theory that take a quadratic model of another loss


def described(args: argparse.Namespace) -> Problem:
    """The problem that the arguments describe; InputError for arguments that would be ignored."""
    kind = asked_kind(args)
    if kind is not None and getattr(args, "loss", "squared") != "squared":
        raise InputError(
            "--loss: expected cross-entropy only with data sets or --data, got another problem, whose loss is its own"
        )
    if args.output is not None and args.model is None:
        raise InputError(f"--output: expected only beside --model, got {args.output!r} without it")
    data = _DATA if args.data is None else _OWN
    _complete(args, data if kind is None else kind if isinstance(kind, str) else kind.source)
    if isinstance(kind, str):
        from sgdsim.runs.results import load_problem

        return load_problem(args.spectrum)
    return _network(args) if kind is None else kind.load(vars(args))


def asked_kind(args: argparse.Namespace) -> Kind | Literal["--spectrum"] | None:
    """The kind that the arguments ask for: one of `KINDS`, that in a --spectrum file, or None for data sets."""
    if args.spectrum is not None:
        return _FILE
    given = (kind for kind in KINDS.values() if kind.option and getattr(args, kind.option) is not None)
    named = (kind for kind in KINDS.values() if not kind.option and kind.source == args.dataset)
    return next(given, None) or next(named, None)


def _complete(args: argparse.Namespace, source: str) -> None:
    """Put defaults where `source` takes options that are not given; InputError for those that it does not take."""
    takes = {kind.source: kind.takes for kind in KINDS.values()} | {_FILE: ()}
    built_in = ("width", "depth", "activation")
    takes[_DATA] = ("n", "n_test", *(built_in if args.model is None else ()), "model", "targets", "data_dir")
    takes[_OWN] = (*takes[_DATA][:-1], *OF_OWN_DATA)
    if args.model is not None:
        takes[f"{_DATA} without --model"] = built_in
    for name in dict.fromkeys(name for names in takes.values() for name in names):
        if name in takes[source]:
            if getattr(args, name) is None and (source, name) != (_OWN, "n"):
                setattr(args, name, DEFAULTS.get(name))
        elif getattr(args, name) is not None:
            where = " or ".join(other for other, names in takes.items() if name in names)
            raise InputError(f"--{name.replace('_', '-')}: expected only with {where}, got a problem of another kind")


def _network(args: argparse.Namespace) -> Problem:
    """A network on a data set."""
    from sgdsim import networks
    from sgdsim.problem import NetworkProblem

    data = load_data(args, args.dataset, built_in=args.model is None)
    network: nn.Module
    if args.model is not None:
        network = own_model(args.model)
    else:
        network = networks.MLP(args.width, args.depth, args.activation, seed=args.seed, n_outputs=data.n_outputs)
        sizes.require_mlp(data.d, network.width, network.depth, data.n_outputs)
    loss = getattr(args, "loss", "squared")
    how = {"output": args.output, "device": args.device, "loss": loss}
    return with_shape(args, data, lambda given: NetworkProblem(network, given, **how))


def with_shape(args: argparse.Namespace, data: Dataset, make: Callable[[Dataset], T]) -> T:
    """`make` of the data as rows or, where a --model does not take rows of images, of the images, which is told."""
    try:
        return make(data)
    except InputError as error:
        if args.model is None or data.x.ndim != 2 or data.info.get("kind") != "images" or _NOT_TAKEN not in str(error):
            raise
        images = data.as_images()
        try:
            made = make(images)
        except InputError as other:
            raise (error if _NOT_TAKEN in str(other) else other) from None
    args.note = f"{data.name}: {args.model} does not take rows; it gets images {images.x.shape[1:]}"
    return made


def own_model(text: str) -> nn.Module:
    """The module that the function named MODULE:FACTORY returns, looked up from the current folder as well."""
    return cast("nn.Module", own_code.call(text, "--model", "MODULE:FACTORY", "a torch module"))


def check_output(args: argparse.Namespace) -> None:
    """InputError where --plot or --out cannot be written, or would be written over another file."""
    if getattr(args, "plot", None) is not None:
        from sgdsim import plot

        plot.check_path(args.plot, "--plot")
        files.check_writable(args.plot)
    if getattr(args, "out", None):
        files.check_writable(args.out)
    check_distinct(args)
    check_out(args)


def check_distinct(args: argparse.Namespace) -> None:
    """InputError if one file would be written twice, or over an input."""
    inputs = (
        *(kind.option for kind in KINDS.values() if kind.option),
        "spectrum",
        "data",
        "residual",
        "targets",
        "cells",
    )
    outputs = ("out", "plot", "log_file")
    files = [(f"--{name.replace('_', '-')}", getattr(args, name, None)) for name in (*inputs, *outputs)]
    given = [(name, os.path.realpath(path)) for name, path in files if path is not None]
    for i, (name, path) in enumerate(given):
        for other, same in given[:i]:
            if path == same and name in ("--out", "--plot", "--log-file"):
                raise InputError(f"{name}: expected another file than that of {other}, got {os.path.basename(path)!r}")


def add_common(group: Group) -> None:
    """Options that every command of this kind has: how batches are drawn, seed, device."""
    group.add_argument(
        "--sampling",
        default=CLOSED[0],
        choices=CLOSED,
        help="how batches are drawn; one-pass: fresh Gaussian samples; epochs have no closed form",
    )
    add_seed(group)
    add_device(group)


def load(args: argparse.Namespace, *, test: bool = False) -> Problem:
    """The problem, without test points but where `test` asks for them; before that, `check_output`."""
    check_output(args)
    integer("seed", args.seed)
    if args.n_test and not test:
        raise InputError(f"--n-test: expected none or 0, as {args.command} looks at the training loss alone")
    if not test:
        args.n_test = 0 if asked_kind(args) is None else None
    problem = described(args)
    if args.command not in _OF_MODELS:
        problem.check_squared(args.command)
    check_kernel(problem)
    return problem


def check_kernel(problem: Problem) -> None:
    """InputError where there is no memory for the kernel of a network on its data."""
    if problem.has_network:
        test = problem.test_targets
        sizes.require_kernel(problem.n_modes, 0.0 if test is None else test.size)
