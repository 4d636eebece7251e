"""Pictures of results: labelled numbers in, matplotlib Axes or Figures out.

May import: common, algorithm, problem, observables, recurrence, regimes, theory, symbolic, runs, studies. A new picture
is a function in a module here, offered below; the module is not named after it: importing it would replace that.
"""

from sgdsim.common.rooms import listing
from sgdsim.plot import backend  # noqa: F401 — first: it brings in matplotlib
from sgdsim.plot._loss_curves import BAND, LARGEST
from sgdsim.plot.batch_sizes import batch_curves
from sgdsim.plot.budget import budget_curves
from sgdsim.plot.epoch_losses import epochs
from sgdsim.plot.hessian import hessian_spectra
from sgdsim.plot.losses import MAX_CELLS, comparison, loss_curves
from sgdsim.plot.maps import loss_maps
from sgdsim.plot.memory import memory_losses
from sgdsim.plot.overlays import overlay
from sgdsim.plot.phases import (
    clamped_momentum,
    derivation_check,
    exponent_map,
    momentum_map,
    momentum_profile,
    transition,
)
from sgdsim.plot.published import (
    local_exponents,
    loss_lines,
    momentum_profiles,
    negative_momentum_region,
    phases_with_data,
    valley,
)
from sgdsim.plot.recommend import landscape, recommendation
from sgdsim.plot.saving import check_path, save
from sgdsim.plot.schedule import schedules
from sgdsim.plot.showing import show
from sgdsim.plot.spectral import SMALLEST, prepare, spectra, spectrum
from sgdsim.plot.styles import regime_style, style
from sgdsim.plot.tau import closure_errors, tau_curves
from sgdsim.plot.theory import phase_diagram, prediction, stability_map
from sgdsim.plot.validate import validation
from sgdsim.studies.base import DRAWERS

__dir__ = listing(__name__)

DRAWERS |= {
    "BatchSizes": batch_curves,
    "BudgetRuns": lambda found, **options: budget_curves(found.data, found.problem, **options),
    "ComparedCells": lambda found, **options: comparison(found.data, **options),
    "EpochLosses": lambda found, **options: epochs(found.data, **options),
    "Landscape": lambda found, **options: loss_maps(found.data, found.problem, **options),
    "Recommendation": lambda found, **options: recommendation(
        found.problem,
        found.known.best,
        noise=found.noise,
        tau=found.tau,
        found=found.law.prediction,
        law=found.law.law and (found.law.fit or found.law.law),
        **options,
    ),
    "ScheduleComparison": lambda found, **options: schedules(
        [row.scheduled for row in found.rows], found.horizon, sampled=found.losses, **options
    ),
    "HessianSpectra": hessian_spectra,
    "Validation": lambda found, **options: validation(found.cells, **options),
    "ExponentMap": exponent_map,
    "LocalExponents": transition,
    "MomentumMap": momentum_map,
    "ClampedMomentum": clamped_momentum,
}

__all__ = [
    "BAND",
    "LARGEST",
    "MAX_CELLS",
    "SMALLEST",
    "batch_curves",
    "budget_curves",
    "check_path",
    "clamped_momentum",
    "closure_errors",
    "comparison",
    "derivation_check",
    "epochs",
    "exponent_map",
    "hessian_spectra",
    "landscape",
    "local_exponents",
    "loss_curves",
    "loss_lines",
    "loss_maps",
    "memory_losses",
    "momentum_map",
    "momentum_profile",
    "momentum_profiles",
    "negative_momentum_region",
    "overlay",
    "phase_diagram",
    "phases_with_data",
    "prediction",
    "prepare",
    "recommendation",
    "regime_style",
    "save",
    "schedules",
    "show",
    "spectra",
    "spectrum",
    "stability_map",
    "style",
    "tau_curves",
    "transition",
    "validation",
    "valley",
]
