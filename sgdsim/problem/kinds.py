"""All kinds of problem in one list: by their entries here the command line asks for them and files give them back."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.problem import population, power_modes
from sgdsim.problem.base import Kind, Problem
from sgdsim.problem.kernel_files import load_kernel
from sgdsim.problem.quadratic import QuadraticProblem
from sgdsim.problem.spectrum import Spectrum
from sgdsim.problem.transfer import TestPoints


def _kernel(given: Mapping[str, Any]) -> Problem:
    return load_kernel(given["kernel"], residual=given["residual"], targets=given["targets"])


def _power_law(given: Mapping[str, Any]) -> Problem:
    if given["nu"] is None or given["kappa"] is None:
        raise InputError("--dataset power_law: expected --nu and --kappa; for example --nu 1.5 --kappa 3")
    return QuadraticProblem.power_law(given["n"], given["nu"], given["kappa"], given["lambda_min"], given["seed"])


def _size(description: Mapping[str, Any]) -> dict[str, Any]:
    """n of a power law, where most modes are in bins."""
    n = description["n"]
    return {"size": math.inf if n == "inf" else n} if n == "inf" or n > power_modes.EXPLICIT else {}


def _population(given: Mapping[str, Any]) -> Problem:
    return QuadraticProblem.from_population(**population.read(given["population"]))


_ALL = (
    Kind("kernel", "--kernel", ("residual", "targets"), _kernel, "your own kernel: .npz, .npy, .csv or torch file"),
    Kind("power_law", "power_law", ("n", "nu", "kappa", "lambda_min"), _power_law, restored=_size),
    Kind("population", "--population", (), _population, "eigenvalues and weights (.npz)", population.restored),
)
#: By the "kind" of their descriptions. Of others, such as "network", files hold the quadratic problem's arrays alone.
KINDS = {kind.name: kind for kind in _ALL}


class Stored(TypedDict):
    """Of a problem in a file, its outputs and what its loss counts from: see `restored`."""

    n_outputs: int
    over_outputs: int
    signed: np.ndarray | None
    loss_offset: float


def restored(
    description: Mapping[str, Any],
    coefficients: np.ndarray,
    eigenvalues: np.ndarray,
    *,
    eigenvectors: np.ndarray | None = None,
    scale: float = 1.0,
    multiplicity: np.ndarray | None = None,
    probe: np.ndarray | None = None,
    test: TestPoints | None = None,
    basis_seed: int | None = None,
    n_outputs: int = 1,
    over_outputs: int = 1,
    signed: np.ndarray | None = None,
    loss_offset: float = 0.0,
) -> QuadraticProblem:
    """The quadratic problem of a file, from its arrays and its description; `over_outputs`: `Spectrum.outputs`.
    InputError where they do not fit."""
    kind = KINDS.get(str(description.get("kind")))
    facts = {} if kind is None else kind.restored(description)
    if isinstance(compressed := description.get("compressed"), dict):
        facts |= {"size": math.inf if compressed.get("n") == "inf" else compressed.get("n")}
    size = facts.pop("size", None) if multiplicity is not None else None
    spectrum = Spectrum(
        eigenvalues, eigenvectors, scale, multiplicity=multiplicity, size=size, probe=probe, outputs=over_outputs
    )
    facts |= {"n_outputs": n_outputs, "signed": signed, "loss_offset": loss_offset}
    return QuadraticProblem(spectrum, coefficients, test, dict(description), basis_seed, **facts)
