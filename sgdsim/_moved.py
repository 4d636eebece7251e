"""Modules under the names that they had before each got its room: they import for one more release, with a warning.

To take an old name away for good, delete its entry; this file goes with the last of them.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

#: Old name → new name, both without "sgdsim.".
MOVED = {
    "asymptotes": "studies.asymptotes", "budgets": "studies.budgets", "checks": "common.checks",
    "chunks": "runs.chunks", "closures": "studies.closures", "curvature": "networks.curvature",
    "devices": "common.devices", "epoch_comparison": "studies.epoch_comparison", "estimates": "runs.estimates",
    "executors": "runs.executors", "explorer": "notebook.explorer", "fetching": "datasets.fetching",
    "fit_results": "problem.fits", "fits": "problem.fits", "grids": "runs.grids",
    "hessian_results": "studies.hessians", "hessians": "studies.hessians", "identity": "common.identity",
    "kernel_files": "problem.kernel_files", "lanczos": "problem.lanczos", "machine": "common.machine",
    "maps": "studies.landscape", "measured_stability": "studies.measured_stability", "methods": "algorithm.methods",
    "ntk": "networks.ntk", "ntk.analytic": "networks.ntk.analytic", "ntk.calls": "networks.ntk.calls",
    "ntk.empirical": "networks.ntk.empirical", "ntk.layers": "networks.ntk.layers",
    "ntk.modules": "networks.ntk.modules", "ntk.operator": "networks.ntk.operator", "ownership": "common.ownership",
    "parts": "runs.parts", "plot_budget": "plot.budget", "plot_epochs": "plot.epoch_losses",
    "plot_explorer": "plot.explorer", "plot_hessian": "plot.hessian", "plot_landscape": "plot.recommend",
    "plot_maps": "plot.maps", "plot_memory": "plot.memory", "plot_overlay": "plot.overlays",
    "plot_phases": "plot.phases", "plot_published": "plot.published", "plot_schedules": "plot.schedule",
    "plot_show": "plot.showing", "plot_spectrum": "plot.spectral", "plot_style": "plot.styles",
    "plot_tau": "plot.tau", "plot_theory": "plot.theory", "plot_validation": "plot.validate",
    "problem.fit_results": "problem.fits", "progress": "runs.progress", "report": "studies.comparison",
    "results": "runs.results", "run_tables": "notebook.tables.runs", "sampling": "algorithm.sampling",
    "schedules": "algorithm.schedules", "sgd": "algorithm.sgd", "signals": "common.signals",
    "simulation": "runs.simulation", "specs": "common.specs",
    "spectrum": "problem.spectrum", "sweeps": "runs.sweeps", "tables": "notebook.tables",
    "notebook.run_tables": "notebook.tables.runs", "studies.hessian_results": "studies.hessians",
    "studies.maps": "studies.landscape", "studies.report": "studies.comparison",
    "theory.contour": "recurrence.contour", "theory.derive": "symbolic.derive",
    "theory.horizon": "theory.best_schedules", "theory.phase_maps": "studies.phase_maps",
    "theory.printing": "symbolic.printing",
    "theory.prove": "symbolic.prove", "theory.series": "symbolic.series", "transfer": "problem.transfer",
    "validation": "studies.validation", "verification": "studies.verification",
}  # fmt: skip
#: Where else the definitions of an old module went.
SPLIT = {"simulation": "runs.follow", "results": "common.files", "explorer": "studies.explorer"}
#: Of these the documented names, which stay: no warning.
STAY = ("theory.contour", "theory.derive")


class _Finder:
    """Finds a module under its old name, and warns where it is imported; it finds nothing else."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        package, _, old = name.partition(".")
        if package != "sgdsim" or old not in MOVED:
            return None
        new = f"sgdsim.{MOVED[old]}"
        if old not in STAY:
            message = f"{name} is now {new}; the old name goes with the next release"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
        return ModuleSpec(name, _Both(new, f"sgdsim.{SPLIT[old]}") if old in SPLIT else _Loader(new))


class _Loader:
    """Gives the module from its new place: one module under two names."""

    def __init__(self, new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(self.new)
        self.own = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self.own  # the import system has just put the old name's there


class _Both:
    """Gives a module with what two others hold."""

    def __init__(self, *new: str) -> None:
        self.new = new

    def create_module(self, spec: ModuleSpec) -> None:
        return None  # an ordinary empty one

    def exec_module(self, module: ModuleType) -> None:
        for name in self.new:
            held = vars(importlib.import_module(name))
            vars(module).update({key: value for key, value in held.items() if not key.startswith("__")})


def install() -> None:
    """Let old names be found from now on."""
    if _Finder not in sys.meta_path:
        sys.meta_path.insert(0, _Finder)  # before that of files, which would load a package's modules a second time
