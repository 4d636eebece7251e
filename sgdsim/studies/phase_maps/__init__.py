"""Maps over (ν, κ) of power-law spectra, from exact curves: measured exponents (`slopes`), best momentum (`momenta`).

Everything here is computed from the contour evaluator on spectra of finite N; the asymptotic statements that it is
compared with are those of `power_law` and `optimal`.
"""

from __future__ import annotations

import warnings

from sgdsim.studies.phase_maps.momenta import (
    BestMomentum,
    ClampedMomentum,
    MomentumMap,
    clamped_momentum,
    momentum_map,
    momentum_profile,
)
from sgdsim.studies.phase_maps.slopes import ExponentMap, LocalExponents, exponents, local_exponents

__all__ = [
    "BestMomentum",
    "ClampedMomentum",
    "ExponentMap",
    "LocalExponents",
    "MomentumMap",
    "clamped_momentum",
    "exponents",
    "local_exponents",
    "momentum_map",
    "momentum_profile",
]


def __getattr__(name: str) -> object:
    if name != "best_momentum":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    message = f"{__name__}.best_momentum is now momentum_profile; the old name goes with the next release"
    warnings.warn(message, DeprecationWarning, stacklevel=2)
    return momentum_profile
