"""All commands, in the order of `sgdsim --help`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from sgdsim.cli import (
    batch,
    budget,
    commands,
    compare,
    epochs,
    hessian,
    landscape,
    options,
    recommend,
    reproduce,
    schedule,
    spectrum,
    stability,
    theory,
    validate,
)
from sgdsim.cli.base import Commands


class Command(NamedTuple):
    """`add_parser` adds its parser to argparse's subparsers; `run` does the work and returns the exit code; `example`:
    a line for its help."""

    add_parser: Callable[[Commands], None]
    run: Callable[[argparse.Namespace], int]
    example: str = ""


COMMANDS = {
    "compare": Command(options.add_compare, compare.compare, "compare --n 100 --lr 0.5,1 --batch-size 10 --epochs 20"),
    "simulate": Command(
        options.add_simulate, compare.simulate, "simulate --n 100 --lr 0.5 --batch-size 10 --n-steps 1e6"
    ),
    "spectrum": Command(options.add_spectrum, spectrum.spectrum, "spectrum --n 500 --plot spectrum.png"),
    "stability": Command(
        stability.add_parser, stability.stability, "stability --n 200 --batch-size 1,10 --torch-lr 0.1"
    ),
    "recommend": Command(recommend.add_parser, recommend.recommend, "recommend --n 500 --batch-size 10 --n-steps 1000"),
    "landscape": Command(
        landscape.add_parser,
        landscape.landscape,
        "landscape --n 200 --lr 0:2:20 --momentum 0:0.9:10 --batch-size 10 --out map.nc",
    ),
    "batch": Command(batch.add_parser, batch.batch, "batch --n 500 --batch-size 1,10,100 --reach 0.1"),
    "budget": Command(budget.add_parser, budget.budget, "budget --n 500 --batch-size 1,2,4 --epochs 10"),
    "epochs": Command(epochs.add_parser, epochs.epochs, "epochs --n 100 --batch-size 10 --epochs 1,5,20"),
    "schedule": Command(schedule.add_parser, schedule.schedule, "schedule --n 200 --batch-size 10 --n-steps 500"),
    "hessian": Command(hessian.add_parser, hessian.hessian, "hessian --n 200 --steps 0,10,100"),
    "validate": Command(validate.add_parser, validate.validate, "validate --n 100 --widths 50,100 --batch-size 10"),
    "theory": Command(theory.add_parser, theory.theory, "theory derive --method nesterov"),
    "reproduce": Command(reproduce.add_parser, reproduce.reproduce, "reproduce --figure best-lr --out report"),
    "plot": Command(options.add_plot, commands.plot, "plot loss result.nc --out loss.png"),
    "merge": Command(options.add_merge, commands.merge, "merge result.nc"),
    "export": Command(options.add_export, commands.export, "export result.nc --out result.csv"),
    "data": Command(options.add_data, commands.data, "data verify bike_sharing"),
}

QUESTIONS = {  # under which the help lists them
    "Does theory predict what a training does?": ("compare", "simulate", "validate"),
    "Which learning rate, momentum, batch size, schedule?": (
        "recommend", "stability", "landscape", "batch", "budget", "epochs", "schedule",
    ),
    "What is in my network and data?": ("spectrum", "hessian"),
    "Where do the formulas and published numbers come from?": ("theory", "reproduce"),
    "Files and data sets": ("plot", "merge", "export", "data"),
}  # fmt: skip
