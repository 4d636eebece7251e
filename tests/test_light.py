"""What is there at once, and what runs where torch, numba, plotting and data packages are absent."""

import subprocess
import sys

import pytest

import sgdsim as ss

ABSENT = "torch numba matplotlib seaborn xarray pandas h5netcdf h5py sklearn pooch PIL tqdm distributed pyarrow"
BLOCK = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {[*ABSENT.split(), "threadpoolctl"]}:
            raise ImportError("no module named " + name)
sys.meta_path.insert(0, Absent())
import sgdsim as ss
"""


def without_packages(lines: str) -> str:
    """What `lines` print where only NumPy, SciPy and sympy are."""
    run = subprocess.run([sys.executable, "-c", BLOCK + lines], capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_every_module_of_theory_and_symbols_imports_without_them():
    out = without_packages(
        "for room in (ss.theory, ss.symbolic):\n    for name in dir(room):\n        print(getattr(room, name).__name__)"
    )
    assert out.split() == [
        f"sgdsim.{room}.{name}" for room in ("theory", "symbolic") for name in dir(getattr(ss, room))
    ]
    assert "sgdsim.theory.power_law" in out


def test_closed_forms_give_the_same_without_them():
    lines = """
p = ss.QuadraticProblem.power_law(60, 1.5, 0.5)
law = ss.theory.power_law.PowerLaw.of(p)
sgd = ss.SGD(0.5, 0.5, batch_size=10)
print(law.nu, law.kappa, ss.theory.verdicts.verdict(p, sgd).word)
print(*ss.theory.generating.noise_term_at_one(p.eigenvalues, 0.5, 0.1))
"""
    here = subprocess.run([sys.executable, "-c", "import sgdsim as ss" + lines], capture_output=True, text=True)
    there = without_packages(lines)
    assert there == here.stdout
    assert "yes" in there


def test_the_derivation_runs_without_them():
    out = without_packages("from sgdsim.symbolic import derive, printing\nprint(derive.__doc__ is not None)")
    assert out.strip() == "True"


def test_what_needs_compiled_loops_says_so_in_one_line():
    lines = """
try:
    ss.theory.stability.max_lr(ss.QuadraticProblem.power_law(60, 1.5, 0.5), ss.SGD(1, batch_size=10))
except ss.InputError as error:
    print(error)
"""
    out = without_packages(lines)
    assert out.startswith("numba: expected it for the compiled loops")
    assert out.count("\n") == 1


def test_rooms_are_there_without_another_import():
    assert ss.studies.recommendation.recommend
    assert ss.theory.power_law.PowerLaw
    assert "power_law" in dir(ss.theory)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        ss.theory.nothing  # noqa: B018


@pytest.mark.parametrize("room", ["", *ss._MODULES])
def test_completion_lists_what_a_room_offers(room):
    module = getattr(ss, room) if room else ss
    names = dir(module)
    assert names
    assert all(hasattr(module, name) for name in names)
    assert not {"np", "annotations", "dataclass", "importlib", "InputError", "TYPE_CHECKING"} & {*names} - {*ss.__all__}
    assert not any(name.startswith("_") for name in names)


def test_version_is_the_installed_one():
    from importlib.metadata import version

    assert ss.__version__ == version("sgdsim")


def test_help_and_mistakes_in_options_wait_for_no_heavy_package():
    heavy = ["torch", "numba", "xarray", "matplotlib", "pandas", "sklearn"]
    lines = f"import sys, sgdsim.cli\nprint([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True).stdout == "[]\n"
