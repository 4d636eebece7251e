"""Losses on training and test points, as the regime has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.observables.base import Observable
from sgdsim.problem import Problem


@dataclass(frozen=True)
class Loss(Observable):
    """The training loss; every result has it."""

    name: ClassVar[str] = "loss"
    needs: ClassVar[tuple[str, ...]] = ("loss",)
    label: ClassVar[str] = "train loss"
    words: ClassVar[str] = "training loss ‖r‖²/(2N), or that which the problem or the regime's name says"

    def compute(self, problem: Problem, given: Mapping[str, np.ndarray]) -> np.ndarray:
        return given["loss"]


@dataclass(frozen=True)
class TestLoss(Observable):
    """The test loss, of a problem with test points."""

    __test__: ClassVar[bool] = False  # not a test case, whatever pytest makes of the name

    name: ClassVar[str] = "test_loss"
    needs: ClassVar[tuple[str, ...]] = ("test_loss",)
    label: ClassVar[str] = "test loss"
    words: ClassVar[str] = (
        "mean of e²/2 over the test points, or of the loss that the problem or the regime's name says"
    )

    def check(self, problem: Problem) -> None:
        if not problem.has_test:
            raise InputError("observe: test_loss needs a problem with test points, got one without")

    def compute(self, problem: Problem, given: Mapping[str, np.ndarray]) -> np.ndarray:
        return given["test_loss"]
