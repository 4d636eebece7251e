"""sgdsim: theory and simulation of mini-batch SGD on quadratic models.

Names are loaded on first use, so `import sgdsim` is quick and leaves torch, matplotlib and xarray unloaded.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

# The compiled loops and BLAS take turns. A waiting OpenMP team that spins (the default) steals the cores from BLAS: 14
# times slower steps of the averaged regime on 2 cores. It is read when the OpenMP library loads, so it is set here.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_HOMES = {
    "Dataset": "datasets", "InputError": "checks", "Spectrum": "spectrum", "SGD": "sgd",
    "NetworkProblem": "problem", "QuadraticProblem": "problem", "TestPoints": "problem",
    "BatchAveraged": "regimes", "RealNetwork": "regimes", "SampledLinearized": "regimes", "SpectralDiagonal": "regimes",
    "fit_power_law": "fits", "simulate": "simulation", "sweep": "sweeps", "Grid": "sweeps", "merge": "sweeps",
    "load": "results", "save": "results",
}  # fmt: skip
_MODULES = (
    "curvature", "datasets", "fits", "hessians", "lanczos", "methods", "networks", "ntk", "plot", "problem", "regimes",
    "results", "sampling", "schedules", "theory",
)  # fmt: skip

__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str) -> Any:
    if name.startswith("plot"):  # also `from sgdsim import plot_maps`
        importlib.import_module("sgdsim._backend").import_matplotlib()
    if name in _HOMES:
        value = getattr(importlib.import_module(f"sgdsim.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"sgdsim.{name}")
    else:
        raise AttributeError(f"module 'sgdsim' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
