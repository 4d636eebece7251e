"""Learning rates and weight decay as `torch.optim.SGD` takes them, for the loss that a training script has.

`--loss` says what a network is trained on; here the loss is a squared one, and the question is what it is divided by,
hence `--torch-loss`.
"""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, cast

from sgdsim.cli.deliver import lr_unit
from sgdsim.cli.values import add_list, real
from sgdsim.common.checks import InputError, number
from sgdsim.common.specs import shortest

if TYPE_CHECKING:
    from sgdsim.cli.base import Group
    from sgdsim.problem import QuadraticProblem
    from sgdsim.runs.grids import Grid

LOSSES = {"half-mse": "½·mean of squares", "mse": "nn.MSELoss"}


def add_torch(group: Group, words: str, *, many: bool = True) -> None:
    """`--torch-lr`, of which `words` say what is done with them, and `--torch-loss`."""
    if many:
        add_list(group, "--torch-lr", real, None, words, metavar="LR")
    else:
        group.add_argument("--torch-lr", type=real, metavar="LR", help=words)
    add_torch_loss(group)


def add_torch_loss(group: Group) -> None:
    """`--torch-loss`."""
    group.add_argument(
        "--torch-loss",
        choices=list(LOSSES),
        help="show rates in torch's units, and take --weight-decay in them, for half-mse, "
        "0.5*((f - y)**2).sum(1).mean(), or mse, nn.MSELoss(), whose gradient is 2/C times that of C outputs (default: "
        "half-mse)",
    )


BEST = "best"  # in the place of a weight decay


def _real_or_best(text: str) -> float | str:
    return BEST if text == BEST else real(text)


def add_weight_decay(group: Group, many: bool, best: str = "") -> None:
    """`--weight-decay`, which `algorithm` takes up; `best`: what that word stands for, where it is taken."""
    words = "as of torch.optim.SGD: pulls a network's parameters to 0, other problems to their start (default: 0)"
    if many:
        add_list(group, "--weight-decay", real, None, words, metavar="OMEGA")
    else:
        kind = _real_or_best if best else real
        words += f"; best: {best}" if best else ""
        group.add_argument("--weight-decay", type=kind, metavar="OMEGA", help=words)


def add_no_weight_decay(group: Group) -> None:
    """`--weight-decay` where nothing is known with it, so that `refuse_weight_decay` can say why."""
    group.add_argument("--weight-decay", type=real, metavar="OMEGA", help=argparse.SUPPRESS)


def refuse_weight_decay(args: argparse.Namespace, why: str) -> None:
    """InputError for any but 0."""
    if args.weight_decay:
        raise InputError(f"--weight-decay: expected 0, {why}, got {args.weight_decay:g}")


def check_torch(args: argparse.Namespace) -> None:
    """InputError for learning rates that are none, before any data are read."""
    given = args.torch_lr if isinstance(args.torch_lr, list) else [args.torch_lr]
    for rate in given if args.torch_lr is not None else ():
        if number("torch_lr", rate, minimum=0.0) == 0:
            raise InputError("torch_lr: expected a number > 0, got 0")


def asked_for(args: argparse.Namespace) -> bool:
    """Whether torch's units are to be shown."""
    return getattr(args, "torch_lr", None) is not None or args.torch_loss is not None


def unit(args: argparse.Namespace, problem: QuadraticProblem) -> float:
    """What the learning rate 1, in units of 1/λ_max, is to `torch.optim.SGD` on the loss of --torch-loss: N/λ_max on
    half-mse, C/2 times that on mse, which is the mean over outputs too. InputError of infinitely many points, and for
    --torch-loss where the loss is another."""
    if args.torch_loss is not None and problem.loss != "squared":
        raise InputError(
            f"--torch-loss: expected none with {problem.loss}, whose mean torch takes, got {args.torch_loss}"
        )
    one = problem.torch_lr(1.0) * (problem.n_outputs / 2 if args.torch_loss == "mse" else 1.0)
    if not (math.isfinite(one) and math.isfinite(problem.n)):
        raise InputError("--torch-lr, --torch-loss: expected finitely many points, got infinitely many")
    return one


def take_torch_lr(args: argparse.Namespace, default: object) -> None:
    """--torch-lr in the place of --lr, where it is given, until `in_alpha` knows the unit; else what --lr says, or
    `default`. InputError for both at once, and for learning rates that are none."""
    check_torch(args)
    if args.torch_lr is not None and args.lr is not None:
        raise InputError("--torch-lr: expected in place of --lr, got both")
    if args.lr is None:
        args.lr = default if args.torch_lr is None else args.torch_lr


def in_alpha(args: argparse.Namespace, grid: Grid, problem: QuadraticProblem) -> Grid:
    """A grid whose learning rates are those of --torch-lr, where that is given, in units of 1/λ_max, and whose weight
    decay is that of --torch-loss, as `SGD` has it. InputError for gradient rules, whose --lr is torch's already."""
    axes: dict[str, object] = {**grid.axes}
    if args.torch_lr is not None:
        rule = next((sgd.rule for _, sgd in grid.cells() if sgd.rule is not None), None)
        if rule is not None:
            raise InputError(f"--torch-lr: expected a method of torch.optim.SGD, got {rule.name}; give its --lr")
        one = unit(args, problem)
        axes["lr"] = [lr / one for lr in cast("tuple[float, ...]", grid.axes["lr"])]
    if "weight_decay" in grid.axes and (share := decay_unit(args, problem)) != 1:
        axes["weight_decay"] = [share * decay for decay in cast("tuple[float, ...]", grid.axes["weight_decay"])]
    return type(grid).zip(**axes) if grid.zipped else type(grid).product(**axes)


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


def take_torch_loss(args: argparse.Namespace, problem: QuadraticProblem) -> list[str]:
    """--weight-decay as on half-mse from now on, where --torch-loss has another, and the lines that say so. InputError
    as `unit`."""
    if args.torch_loss is None:
        return []
    unit(args, problem)
    lines = decay_lines(args, problem)
    if args.weight_decay:
        args.weight_decay *= decay_unit(args, problem)
    return lines


def in_torch(args: argparse.Namespace, problem: QuadraticProblem) -> dict[str, object]:
    """For JSON, where --torch-loss is given: its loss, and the unit of learning rates there."""
    return {} if args.torch_loss is None else {"torch_loss": args.torch_loss, "torch_lr_per_alpha": unit(args, problem)}


def unit_line(args: argparse.Namespace, problem: QuadraticProblem) -> str:
    """The unit of learning rates, on which loss where --torch-loss is given."""
    if args.torch_loss is None:
        return lr_unit(problem.torch_lr(1.0))
    return f"{lr_unit(unit(args, problem))} on {named_loss(args, problem)}"


def unit_of(args: argparse.Namespace, problem: QuadraticProblem) -> str:
    """The loss that the unit is of, by name."""
    return args.torch_loss or ("half-mse" if problem.loss == "squared" else problem.loss)


def named_loss(args: argparse.Namespace, problem: QuadraticProblem) -> str:
    """The loss in words."""
    return LOSSES[args.torch_loss or "half-mse"] if problem.loss == "squared" else f"mean {problem.loss}"
