"""Learning rates and weight decay as `torch.optim.SGD` takes them, for the loss that a training script has.

`--loss` says what a network is trained on; here the loss is a squared one, and the question is what it is divided by,
hence `--torch-loss`.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING

from sgdsim.cli.values import real
from sgdsim.common.checks import InputError, number
from sgdsim.common.specs import shortest

if TYPE_CHECKING:
    from sgdsim.cli.base import Group
    from sgdsim.problem import QuadraticProblem

LOSSES = {"half-mse": "½·mean of squares", "mse": "nn.MSELoss"}


def add_torch(group: Group) -> None:
    """`--torch-lr` and `--torch-loss`."""
    from sgdsim.cli.arguments import add_list

    words = "are these rates of torch.optim.SGD stable?"
    add_list(group, "--torch-lr", real, None, words, metavar="LR")
    group.add_argument(
        "--torch-loss",
        choices=list(LOSSES),
        help="show rates in torch's units, and take --weight-decay in them, for half-mse, "
        "0.5*((f - y)**2).sum(1).mean(), or mse, nn.MSELoss(), whose gradient is 2/C times that of C outputs (default: "
        "half-mse)",
    )


def check_torch(args: argparse.Namespace) -> None:
    """InputError for learning rates that are none, before any data are read."""
    for rate in args.torch_lr or ():
        if number("torch_lr", rate, minimum=0.0) == 0:
            raise InputError("torch_lr: expected a number > 0, got 0")


def asked_for(args: argparse.Namespace) -> bool:
    """Whether torch's units are to be shown."""
    return args.torch_lr is not None or args.torch_loss is not None


def unit(args: argparse.Namespace, problem: QuadraticProblem) -> float:
    """What the learning rate 1, in units of 1/λ_max, is to `torch.optim.SGD` on the loss of --torch-loss: N/λ_max on
    half-mse, C/2 times that on mse, which is the mean over outputs too. InputError of infinitely many points, and for
    --torch-loss where the loss is another."""
    if args.torch_loss is not None and problem.loss != "squared":
        raise InputError(
            f"--torch-loss: expected none with {problem.loss}, whose mean torch takes, got {args.torch_loss}"
        )
    one = problem.torch_lr(1.0) * (problem.n_outputs / 2 if args.torch_loss == "mse" else 1.0)
    if not math.isfinite(one):
        raise InputError("--torch-lr, --torch-loss: expected finitely many points, got infinitely many")
    return one


def decay_unit(args: argparse.Namespace, problem: QuadraticProblem) -> float:
    """What the weight decay 1 of `torch.optim.SGD` on the loss of --torch-loss is on half-mse: lr·decay is the same."""
    return problem.n_outputs / 2 if args.torch_loss == "mse" else 1.0


def decay_lines(args: argparse.Namespace, problem: QuadraticProblem) -> list[str]:
    """What the weight decay given is on half-mse, where it was given on another loss."""
    given = args.weight_decay if isinstance(args.weight_decay, list) else [args.weight_decay]
    one = decay_unit(args, problem)
    if args.torch_loss in (None, "half-mse") or one == 1 or not any(given):
        return []
    values = ", ".join(f"{shortest(decay)} is {shortest(decay * one)}" for decay in given if decay)
    return [f"weight decay of torch.optim.SGD on {LOSSES[args.torch_loss]}, on {LOSSES['half-mse']} as shown: {values}"]


def unit_of(args: argparse.Namespace, problem: QuadraticProblem) -> str:
    """The loss that the unit is of, by name."""
    return args.torch_loss or ("half-mse" if problem.loss == "squared" else problem.loss)


def named_loss(args: argparse.Namespace, problem: QuadraticProblem) -> str:
    """The loss in words."""
    return LOSSES[args.torch_loss or "half-mse"] if problem.loss == "squared" else f"mean {problem.loss}"
