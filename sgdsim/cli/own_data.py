"""The options of data sets, built in and of one's own, and the data that they ask for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from sgdsim.common.checks import InputError

if TYPE_CHECKING:
    from sgdsim.cli.base import Group
    from sgdsim.datasets import Dataset

OF_OWN_DATA = ("target", "features", "categorical", "missing", "no_standardise", "tokens")
POINTS = 500  # training points where their number is left open


def add_own_data(source: Group, group: Group) -> None:
    """`--data`, instead of --dataset, and what says how it is read; left open, so that others can be refused."""
    source.add_argument(
        "--data",
        metavar="FILE",
        help="data of your own: a table (.csv, .parquet), arrays (.npz, .npy), a folder with images of each class in a "
        "subfolder, or MODULE:FUNCTION, which returns (x, y)",
    )
    group.add_argument("--target", nargs="+", metavar="COLUMN", help="of --data: the column of the targets")
    group.add_argument("--features", nargs="+", metavar="COLUMN", help="of --data: the inputs (default: all others)")
    group.add_argument(
        "--categorical",
        nargs="+",
        metavar="COLUMN",
        help="of --data: inputs that are categories though they are numbers",
    )
    group.add_argument(
        "--targets",
        metavar="KIND",
        help="number, one-hot or class:A,B (these two alone, as -1 and 1); default: number, of text one-hot; with "
        "--kernel a FILE (.npy, .csv), of which minus is the residual",
    )
    words = "of --data, where values are missing: refuse, drop the row, or the mean of the column (default: refuse)"
    group.add_argument("--missing", choices=["refuse", "drop", "mean"], help=words)
    group.add_argument("--no-standardise", action="store_true", default=None, help="leave the numbers of --data alone")
    group.add_argument("--tokens", action="store_true", default=None, help="inputs of --data are integers that stay so")


def load_data(args: argparse.Namespace, name: str, *, built_in: bool, n_at_most: int = POINTS) -> Dataset:
    """The data of --data, or the built-in set `name`; what was made of one's own is told at the end, as `note`.

    `built_in`: for a network of ours, which takes rows (n, d).
    """
    from sgdsim import datasets

    if args.data is None:
        targets = "number" if args.targets is None else args.targets
        return datasets.load(name, args.n, args.seed, n_test=args.n_test, targets=targets, data_dir=args.data_dir)
    data = _own(args, n_at_most, built_in)
    args.note = datasets.sentence(data)
    return data


def _own(args: argparse.Namespace, n_at_most: int, flat: bool) -> Dataset:
    from sgdsim import datasets

    target = args.target[0] if args.target is not None and len(args.target) == 1 else args.target
    return datasets.load_file(
        args.data,
        args.n,
        args.seed,
        target=target,
        features=args.features,
        categorical=args.categorical or (),
        targets=args.targets,
        missing=args.missing or "refuse",
        standardise=not args.no_standardise,
        tokens=bool(args.tokens),
        n_test=args.n_test,
        n_at_most=n_at_most,
        flat=flat,
    )


def complete(args: argparse.Namespace, n: int) -> None:
    """For commands that take nothing but data, without test points: `n` points where the number is left open.

    InputError for options of --data without it, and for --data-dir beside it.
    """
    if args.data is not None and args.data_dir is not None:
        raise InputError("--data-dir: expected only with --dataset, got --data, which is a file of its own")
    given = next((name for name in OF_OWN_DATA if getattr(args, name) is not None), None)
    if args.data is None and given is not None:
        raise InputError(f"--{given.replace('_', '-')}: expected only with --data, got a built-in data set")
    args.n_test = 0
    if args.n is None and args.data is None:
        args.n = n
