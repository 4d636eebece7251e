"""All commands, in the order of `sgdsim --help`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import NamedTuple

from sgdsim.cli import (
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
    """`add_parser` adds its parser to argparse's subparsers; `run` does the work and returns the exit code."""

    add_parser: Callable[[Commands], None]
    run: Callable[[argparse.Namespace], int]


COMMANDS = {
    "compare": Command(options.add_compare, compare.compare),
    "simulate": Command(options.add_simulate, compare.simulate),
    "spectrum": Command(options.add_spectrum, spectrum.spectrum),
    "stability": Command(stability.add_parser, stability.stability),
    "recommend": Command(recommend.add_parser, recommend.recommend),
    "landscape": Command(landscape.add_parser, landscape.landscape),
    "budget": Command(budget.add_parser, budget.budget),
    "epochs": Command(epochs.add_parser, epochs.epochs),
    "schedule": Command(schedule.add_parser, schedule.schedule),
    "hessian": Command(hessian.add_parser, hessian.hessian),
    "validate": Command(validate.add_parser, validate.validate),
    "theory": Command(theory.add_parser, theory.theory),
    "reproduce": Command(reproduce.add_parser, reproduce.reproduce),
    "plot": Command(options.add_plot, commands.plot),
    "merge": Command(options.add_merge, commands.merge),
    "export": Command(options.add_export, commands.export),
    "data": Command(options.add_data, commands.data),
}
