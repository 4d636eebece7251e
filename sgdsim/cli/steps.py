"""How many steps: `--n-steps`, which `--horizon` means as well, or `--epochs` of N/b steps each."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import TYPE_CHECKING

from sgdsim.cli.values import real, whole
from sgdsim.common.checks import InputError, integer, number

if TYPE_CHECKING:
    from sgdsim.cli.base import Group

OPTION = {"n_steps": "--n-steps", "horizon": "--horizon"}


def add_steps(group: Group, name: str, default: int, words: str, epochs: str = "the same in epochs") -> None:
    """`--n-steps` and `--horizon`, which are one option whose value is called `name`, and `--epochs`."""
    either = group.add_mutually_exclusive_group()
    first = OPTION[name]
    other = next(option for option in OPTION.values() if option != first)
    either.add_argument(first, other, dest=name, type=whole, default=default, metavar="STEPS", help=words)
    either.add_argument(
        "--epochs", type=real, metavar="E", help=f"{epochs}, of N/b steps each; of N/b rounded down with reshuffle"
    )


def check_epochs(args: argparse.Namespace) -> None:
    """InputError for epochs that are none, before any data are read."""
    if args.epochs is not None:
        number("epochs", args.epochs, minimum=0.0)
        if args.epochs == 0:
            raise InputError("epochs: expected a number above 0, got 0")


def steps_of(args: argparse.Namespace, name: str, n: float, batch_size: object) -> int:
    """The steps that are asked for, of batches of `batch_size` from `n` points: E·N/b, rounded up, or with reshuffle
    E times the whole batches of an epoch. InputError where these are not known."""
    given: int = getattr(args, name)
    if args.epochs is None:
        return given
    if not isinstance(batch_size, int):
        raise InputError(f"--epochs: expected a constant batch size, got a schedule; give {OPTION[name]}")
    if not math.isfinite(n):
        raise InputError(f"--epochs: expected finitely many points, got infinitely many; give {OPTION[name]}")
    integer("batch_size", batch_size, minimum=1, maximum=int(n))
    whole_batches = getattr(args, "sampling", None) == "reshuffle"
    epoch = Fraction(int(n) // batch_size) if whole_batches else Fraction(int(n), batch_size)
    return max(1, math.ceil(Fraction(repr(args.epochs)) * epoch))


def settle(args: argparse.Namespace, name: str, n: float, batch_sizes: Iterable[object]) -> int:
    """`steps_of` one batch size, put in the place of what was given; InputError where there are several."""
    sizes = list(dict.fromkeys(batch_sizes))
    if args.epochs is not None and len(sizes) > 1:
        some = ", ".join(str(getattr(size, "spec", size)) for size in sizes[:6])
        raise InputError(
            f"--epochs: expected one batch size, as all runs have the same steps, got {some}; give {OPTION[name]}, or "
            "run each batch size alone"
        )
    count = steps_of(args, name, n, sizes[0])
    setattr(args, name, count)
    return count
