"""What is said of quadratic problems, asked of any problem."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeVar

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.checks import InputError
from sgdsim.problem.base import Problem
from sgdsim.problem.quadratic import QuadraticProblem

_Given = ParamSpec("_Given")
_Found = TypeVar("_Found")


def of_quadratic(
    function: Callable[Concatenate[QuadraticProblem, _Given], _Found],
) -> Callable[Concatenate[Problem, _Given], _Found]:
    """A function of a quadratic problem that takes any: of a network its linearisation, and where an algorithm with
    weight decay is given, the one that knows the point to which that pulls (`Problem.quadratic_for`)."""

    @functools.wraps(function)
    def on_quadratic(problem: Problem, *arguments: _Given.args, **options: _Given.kwargs) -> _Found:
        if not isinstance(problem, Problem):
            raise InputError(f"problem: expected a QuadraticProblem or a NetworkProblem, got {type(problem).__name__}")
        sgd = next((given for given in (*arguments, *options.values()) if isinstance(given, SGD)), None)
        quadratic = problem.quadratic if sgd is None else problem.quadratic_for(sgd)
        return function(quadratic, *arguments, **options)

    return on_quadratic
