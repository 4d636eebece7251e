"""A population of Gaussian points, of which every step of SGD draws new ones: its modes, its file, what files keep."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from sgdsim.common.array_files import read_arrays
from sgdsim.common.checks import InputError, array
from sgdsim.problem.base import Population
from sgdsim.problem.spectrum import Spectrum

_IN_FILE = ("eigenvalues", "weights", "residual_risk", "label_noise")


def modes(eigenvalues: np.ndarray, weights: np.ndarray) -> tuple[Spectrum, np.ndarray]:
    """The spectrum, descending from 1, and a_k = √weights_k in that order. InputError as `from_population`."""
    values = array("eigenvalues", eigenvalues, ndim=1)
    shares = array("weights", weights, ndim=1, shape=values.shape)
    if values.min() < 0 or values.max() <= 0:
        raise InputError(f"eigenvalues: expected numbers >= 0 with a positive one, got {values.min():g} as the least")
    if shares.min() < 0:
        raise InputError(f"weights: expected numbers >= 0, got {shares.min():g} as the least")
    if (shares[values == 0] > 0).any():
        raise InputError("weights: expected 0 where the eigenvalue is 0, as such a feature is 0; got more")
    order = np.argsort(-values, kind="stable")
    scale = float(values[order[0]])
    return Spectrum(values[order] / scale, None, scale), np.sqrt(shares[order])


def read(path: str) -> dict[str, Any]:
    """The arguments of `QuadraticProblem.from_population` in an .npz file; InputError for any other file."""
    arrays = read_arrays(Path(path), "population")
    if not {"eigenvalues", "weights"} <= arrays.keys() <= {*_IN_FILE}:
        have = ", ".join(sorted(arrays)) or "none"
        raise InputError(
            f"{path}: expected an .npz file with arrays eigenvalues and weights, and maybe numbers residual_risk and "
            f"label_noise, got {have}"
        )
    numbers = {name: arrays.pop(name) for name in _IN_FILE[2:] if name in arrays}
    for name, value in numbers.items():
        if np.size(value) != 1:
            raise InputError(f"{path}: expected {name} to be one number, got {np.size(value)}")
    return {**arrays, **{name: np.asarray(value).item() for name, value in numbers.items()}}


def facts(n_modes: int, population: Population) -> dict[str, Any]:
    """Its description, without its arrays."""
    words = {"residual_risk": "residual risk", "label_noise": "label noise"}
    given = [f", {text} {getattr(population, name):g}" for name, text in words.items() if getattr(population, name)]
    return {
        "kind": "population", "title": f"population of {n_modes} modes{''.join(given)}", "modes": n_modes,
        **vars(population),
    }  # fmt: skip


def restored(description: Mapping[str, Any]) -> dict[str, Any]:
    """What `facts` says beside the arrays."""
    return {"population": Population(description["residual_risk"], description["label_noise"])}
