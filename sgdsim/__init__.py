"""sgdsim: theory and simulation of mini-batch SGD on quadratic models.

Names are loaded on first use, so `import sgdsim` is quick and leaves torch, matplotlib and xarray unloaded.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

from sgdsim import _moved

# The compiled loops and BLAS take turns. A waiting OpenMP team that spins (the default) steals the cores from BLAS: 14
# times slower steps of the averaged regime on 2 cores. It is read when the OpenMP library loads, so it is set here.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

_HOMES = {
    "Dataset": "datasets", "InputError": "common.checks", "Spectrum": "problem.spectrum", "SGD": "algorithm.sgd",
    "NetworkProblem": "problem", "QuadraticProblem": "problem", "TestPoints": "problem",
    "BatchAveraged": "regimes", "RealNetwork": "regimes", "SampledLinearized": "regimes", "SpectralDiagonal": "regimes",
    "fit_power_law": "problem.fits", "simulate": "runs.simulation", "sweep": "runs.sweeps", "Grid": "runs.sweeps",
    "recommend": "studies.recommending", "merge": "runs.assembly", "load": "runs.results", "save": "runs.results",
    "cross_entropy_horizon": "studies.cross_entropy",
}  # fmt: skip
_MODULES = {
    "curvature": "networks.curvature", "datasets": "datasets", "fits": "problem.fits", "hessians": "studies.hessians",
    "lanczos": "problem.lanczos", "methods": "algorithm.methods", "networks": "networks", "ntk": "networks.ntk",
    "observables": "observables", "plot": "plot", "problem": "problem", "regimes": "regimes", "results": "runs.results",
    "sampling": "algorithm.sampling", "schedules": "algorithm.schedules", "studies": "studies", "symbolic": "symbolic",
    "theory": "theory",
}  # fmt: skip

_moved.install()

__all__ = sorted([*_HOMES, *_MODULES])  # and `__version__`


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = importlib.import_module("importlib.metadata").version("sgdsim")
    elif name in _HOMES:
        value = getattr(importlib.import_module(f"sgdsim.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = importlib.import_module(f"sgdsim.{_MODULES[name]}")
    else:
        raise AttributeError(f"module 'sgdsim' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
