"""How a command ends: its files, then text or JSON, then what could not be written, then the exit code."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING

from sgdsim.cli import outputs
from sgdsim.common.checks import InputError
from sgdsim.common.table import wrapped
from sgdsim.studies.base import Findings

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sgdsim.algorithm.rules import GradientRule
    from sgdsim.problem import Problem
    from sgdsim.studies.rows import Rows


def add_output(
    parser: argparse.ArgumentParser,
    out: str | None = "write the result (.json)",
    plot: str | None = None,
    endings: tuple[str, ...] = outputs.JSON,
) -> None:
    """`--json`, and `--out` and `--plot` with these words of help; None: there is no such file. `endings`: of --out."""
    group = parser.add_argument_group("output")
    for name, words in (("--out", out), ("--plot", plot)):
        if words is not None:
            group.add_argument(name, metavar="FILE", help=words)
    if out is not None:
        add_force(group)
        parser.set_defaults(endings=endings)
    group.add_argument("--json", action="store_true", help="print one JSON document instead of the table")


def add_force(group: argparse._ActionsContainer) -> None:
    """`--force`, beside `--out`."""
    group.add_argument("--force", action="store_true", help="write --out over a file that is there")


def deliver(result: Findings, args: argparse.Namespace) -> int:
    """Write --out as JSON, draw --plot and print the table, or with --json the facts; the exit code. InputError, after
    the numbers, where a file cannot be written."""
    delivery, facts = Delivery(args), result.as_dict()
    delivery.write(facts)
    delivery.draw(lambda plot: result.plot())
    facts |= delivery.files
    return delivery.tell(facts, lambda: "\n".join([result.table().text(), *wrote(facts)]))


class Delivery:
    """Of one command, from its start; `seconds` so far.

    A file that cannot be written is told after the numbers, which may be the work of hours: `failure` holds it.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self._began = args, time.perf_counter()
        self.failure: InputError | None = None

    @property
    def seconds(self) -> float:
        return round(time.perf_counter() - self._began, 3)

    @property
    def files(self) -> dict[str, str | None]:
        """What --out and --plot name, of the two that the command has."""
        return {name: getattr(self.args, name) for name in ("out", "plot") if hasattr(self.args, name)}

    def write(self, facts: Mapping[str, object]) -> None:
        """The facts to --out as JSON, where it is asked for."""
        if self.files.get("out") is not None:
            with self.writing("out"):
                outputs.write_json(facts, self.args.out)

    def keep(self, rows: Rows, facts: Mapping[str, object], problem: Problem, data: xr.Dataset | None = None) -> None:
        """The rows and facts to --out (`outputs.save_rows`), where it is asked for."""
        if self.files.get("out") is not None:
            told = {name: None if value == math.inf else value for name, value in facts.items()}
            with self.writing("out"):
                outputs.save_rows(rows, told, problem, self.args.out, seed=self.args.seed, data=data)

    def draw(self, picture: Callable[[ModuleType], Figure | Axes]) -> None:
        """What `picture` draws to --plot, where it is asked for; it is called with `sgdsim.plot`, which loads late."""
        if self.files.get("plot") is not None:
            from sgdsim import plot

            with self.writing("plot"):
                plot.save(picture(plot), self.args.plot)

    @contextlib.contextmanager
    def writing(self, option: str) -> Iterator[None]:
        """Around the writing of the file that `--option` names; where that fails, the option becomes None."""
        try:
            yield
        except InputError as error:
            self.failed(option, error)

    def failed(self, option: str, error: InputError) -> None:
        """Note that the file of `--option` could not be written."""
        setattr(self.args, option, None)
        self.failure = self.failure or error

    def deliver(
        self,
        found: Findings,
        facts: Mapping[str, object],
        lines: Callable[[], list[str]],
        unit: str = "",
        left: str = "the rest was not run",
        **picture: object,
    ) -> int:
        """Draw the result to --plot, then print it: as JSON `facts`, its own and how it went; as text `lines`, then the
        `ending`. The exit code. `picture`: options of its `plot`."""
        self.draw(lambda plot: found.plot(**picture))
        went = {"interrupted": getattr(found, "interrupted", False), "seconds": self.seconds, **self.files}
        told = {**facts, **found.as_dict(), "seed": self.args.seed, **went}
        return self.tell(told, lambda: "\n".join([*lines(), *ending(told, unit, left)]))

    def tell(self, facts: Mapping[str, object], text: Callable[[], str]) -> int:
        """Print the facts as JSON, or the text; raise what could not be written; 130 after Ctrl-C, else 0."""
        # n is infinite of a population; nothing else that is no number comes here
        finite = {name: None if value == math.inf else value for name, value in facts.items()}
        print(json.dumps(finite, allow_nan=False) if self.args.json else wrapped(text()))
        if self.failure is not None:
            raise self.failure
        return 130 if facts.get("interrupted") else 0


def lr_unit(torch_lr: float) -> str:
    """What the learning rate 1, in units of 1/λ_max, is as one of `torch.optim.SGD`."""
    if math.isinf(torch_lr):  # of infinitely many points
        return "lr is in units of 1/lambda_max"
    return f"lr 1 is {torch_lr:.4g} in torch.optim.SGD"


def rule_lr_unit(rule: GradientRule) -> str:
    """What the learning rate is to a gradient rule."""
    return f"The lr of {rule.name} is {rule.lr_means}"


def interrupted(facts: Mapping[str, object], left: str = "the rest was not run") -> list[str]:
    """The line that says what Ctrl-C left out; none without."""
    return [f"Interrupted: {left}."] if facts.get("interrupted") else []


def wrote(facts: Mapping[str, object]) -> list[str]:
    """A line for each file that was written."""
    return [f"wrote {path}" for path in (facts.get("out"), facts.get("plot")) if path]


def ending(facts: Mapping[str, object], unit: str = "", left: str = "the rest was not run") -> list[str]:
    """The last lines of a text: what Ctrl-C left out, the unit of learning rates, the time it took, the files."""
    took = f"{facts['seconds']:.1f} s."
    return [*interrupted(facts, left), f"{unit}. {took}" if unit else took, *wrote(facts)]
