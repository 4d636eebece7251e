"""Who may import whom, and what importing costs."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "sgdsim"
MODULES = sorted(PACKAGE.rglob("*.py"))
# third-party package → the modules that may import it
ALLOWED = {
    "sympy": {f"theory/{name}.py" for name in ("_algebra", "_asymptotics", "derive", "printing", "prove", "series")},
    "z3": {"theory/prove.py"},
    "matplotlib": {
        "_backend.py",
        "plot.py",
        "plot_budget.py",
        "plot_epochs.py",
        "plot_explorer.py",
        "plot_hessian.py",
        "plot_landscape.py",
        "plot_maps.py",
        "plot_memory.py",
        "plot_overlay.py",
        "plot_published.py",
        "plot_phases.py",
        "plot_schedules.py",
        "plot_show.py",
        "plot_spectrum.py",
        "plot_style.py",
        "plot_tau.py",
        "plot_theory.py",
        "plot_validation.py",
    },
    "seaborn": {"plot_style.py"},
    "ipywidgets": {"explorer.py"},
    "distributed": {"executors.py"},
    "xarray": {
        "budgets.py",
        "epoch_comparison.py",
        "parts.py",
        "results.py",
        "sweeps.py",
        "plot.py",
        "plot_spectrum.py",
        "report.py",
        "simulation.py",
    },
}
THEORY = {
    "checks",
    "problem",
    "methods",
    "schedules",
    "sgd",
    "spectrum",
    "sampling",
    "fits",
    "regimes",
    "theory",
}  # regimes: loops
BELOW = {"plot", "cli", "report", "sweeps", "results"}


def imports(path, typing_too=False):
    """Names of all modules that `path` imports; those for type checkers only are left out."""
    names = []
    tree = ast.parse(path.read_text())
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in guarded and not typing_too:
            continue
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return names


def own(path):
    """The names of sgdsim's own modules (first level) that `path` imports."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("sgdsim.")}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_follow_the_design(path):
    name = path.relative_to(PACKAGE).as_posix()
    tops = {module.split(".")[0] for module in imports(path)}
    for package, homes in ALLOWED.items():
        assert package not in tops or name in homes
    if not name.startswith("cli/") and name != "__main__.py":
        assert "cli" not in own(path)
        assert "plot" not in own(path)
    if name.startswith("theory/"):
        assert own(path) <= THEORY
        assert "torch" not in tops
    if name == "regimes/_kernels.py":
        assert tops <= {"numba", "numpy", "__future__"}
    if name in ("problem.py", "spectrum.py", "sgd.py", "schedules.py", "sampling.py", "networks.py", "ntk.py"):
        assert not own(path) & BELOW


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_keep_quiet(path):
    """No printing outside the command line, no global seeding, no silenced warnings, no reading of argv."""
    if path.parent.name == "cli" or path.name == "__main__.py":
        return
    text = path.read_text()
    calls = [node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    assert "print" not in {getattr(call, "id", "") for call in calls}
    assert not {"seed", "filterwarnings", "simplefilter"} & {getattr(call, "attr", "") for call in calls}
    assert "sys.argv" not in text


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_loads_nothing_heavy():
    heavy = "('torch', 'sympy', 'matplotlib', 'xarray', 'pandas', 'numba', 'sklearn', 'scipy')"
    assert run(f"import sys, sgdsim; print([m for m in {heavy} if m in sys.modules])") == "[]"


def test_problem_and_theory_need_no_torch():
    code = (
        "import sys, sgdsim as ss; from sgdsim.theory import stability;"
        "p = ss.QuadraticProblem.power_law(10, 1.5, 1.0); stability.diagonal_is_stable(p, ss.SGD(0.5));"
        "print('torch' in sys.modules)"
    )
    assert run(code) == "False"


def test_every_public_name_loads():
    names = "[n for n in ss.__all__ if getattr(ss, n) is None]"
    assert run(f"import sgdsim as ss; print({names}, callable(ss.simulate), callable(ss.sweep))") == "[] True True"
