"""How often the class that the outputs name is the right one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.observables.base import Observable
from sgdsim.problem import Problem, cross_entropy


def check_classes(what: str, problem: Problem) -> None:
    """InputError, in the name of `what`, unless the targets are classes: one-hot, or 1 and −1 of one output."""
    y = problem.targets
    if y is None:
        raise InputError(f"{what} needs the targets, got a problem without a network and data")
    cross_entropy.check_classes(what, y)


def share_right(residual: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The share of points, (…), whose outputs y + r name the class of y: the largest of several, the sign of one."""
    with np.errstate(invalid="ignore"):  # a diverged replicate is a result
        f = y + residual
        right = f.argmax(-1) == y.argmax(-1) if y.ndim == 2 else np.sign(f) == y
    return right.mean(-1)


@dataclass(frozen=True)
class Accuracy(Observable):
    """The share of training points of the right class: the largest output is that of a one-hot target, the first of
    equal ones; of targets ±1 the output has the target's sign. NaN where the run has diverged.

    InputError for other targets. Regimes of expectations have none, as it is not a function of second moments: NaN
    beside regimes that have it, InputError where they are alone.
    """

    name: ClassVar[str] = "accuracy"
    needs: ClassVar[tuple[str, ...]] = ("residual",)
    label: ClassVar[str] = "train accuracy"
    words: ClassVar[str] = "share of training points whose class is right"
    linear: ClassVar[bool] = True
    diverged: ClassVar[float] = np.nan

    def check(self, problem: Problem) -> None:
        check_classes(f"observe: {self.name}", problem)

    def compute(self, problem: Problem, given: Mapping[str, np.ndarray]) -> np.ndarray:
        assert problem.targets is not None  # see `check`
        return share_right(given["residual"], problem.targets)


@dataclass(frozen=True)
class TestAccuracy(Accuracy):
    """`Accuracy` on the test points."""

    __test__: ClassVar[bool] = False  # not a test case, whatever pytest makes of the name

    name: ClassVar[str] = "test_accuracy"
    needs: ClassVar[tuple[str, ...]] = ("test_residual",)
    label: ClassVar[str] = "test accuracy"
    words: ClassVar[str] = "share of test points whose class is right"

    def check(self, problem: Problem) -> None:
        super().check(problem)
        if not problem.has_test:
            raise InputError("observe: test_accuracy needs a problem with test points, got one without")

    def compute(self, problem: Problem, given: Mapping[str, np.ndarray]) -> np.ndarray:
        assert problem.test_targets is not None  # see `check`
        return share_right(given["test_residual"], problem.test_targets)
