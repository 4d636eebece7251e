"""Who may import whom, and what importing costs."""

from __future__ import annotations

import ast
import importlib
import itertools
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import sgdsim
from sgdsim import _moved

PACKAGE = Path(__file__).parents[1] / "sgdsim"
MODULES = sorted(PACKAGE.rglob("*.py"))
#: The rooms from the ground up: a module imports only from rooms in earlier lines, and from its own.
ROOMS = (
    ("common",),
    ("algorithm", "datasets", "networks"),
    ("problem",),
    ("observables",),
    ("recurrence",),
    ("regimes", "theory"),
    ("symbolic",),
    ("runs",),
    ("studies",),
    ("reproduction",),
    ("plot",),
    ("notebook",),
    ("cli",),
)
FLOOR = {room: floor for floor, rooms in enumerate(ROOMS) for room in rooms}
# third-party package → the rooms that may import it; NumPy may be anywhere
THIRD_PARTY = {
    "distributed": {"runs"},
    "ipywidgets": {"notebook"},
    "llvmlite": {"common"},
    "matplotlib": {"plot"},
    "PIL": {"datasets"},
    "numba": {"algorithm", "recurrence", "regimes", "runs"},
    "pandas": {"common", "datasets", "notebook", "studies"},
    "pooch": {"datasets"},
    "requests": {"datasets"},
    "scipy": {"common", "datasets", "networks", "problem", "recurrence", "reproduction", "studies", "theory"},
    "seaborn": {"plot"},
    "shtab": {"cli"},
    "sklearn": {"datasets", "reproduction"},
    "sympy": {"symbolic"},
    "threadpoolctl": {"common"},
    "torch": {"algorithm", "common", "networks", "problem", "regimes", "studies"},
    "tqdm": {"common"},
    "xarray": {"notebook", "plot", "reproduction", "runs", "studies"},
    "z3": {"symbolic"},
}


def modules(package: Path) -> dict[str, Path]:
    """The files of a package by the name of the module in each."""
    out = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        out[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return out


def imports(name: str, path: Path) -> Iterator[tuple[str, str, bool]]:
    """(module, name in it or "", whether for type checkers only) of all imports in a file, inside functions too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and getattr(node.test, "id", getattr(node.test, "attr", "")) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    inside = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "", id(node) in guarded) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = inside[: len(inside) - node.level + 1] if node.level else []
            home = ".".join([*above, *filter(None, [node.module])])
            yield from ((home, alias.name, id(node) in guarded) for alias in node.names)


def arrows(package: Path) -> Iterator[tuple[str, str, bool]]:
    """(module, module that it imports, whether for type checkers only) within a package."""
    files = modules(package)
    for name, path in files.items():
        for home, what, typing_only in imports(name, path):
            if home.split(".")[0] == package.name:
                whole = f"{home}.{what}"
                yield name, whole if whole in files or (what and home == package.name) else home, typing_only


def misplaced(package: Path) -> list[str]:
    """The imports that break the order of rooms, in words. Modules beside the rooms may import any."""
    files, wrong = modules(package), []
    for source, target, _ in arrows(package):
        room = source.split(".")[1] if source.count(".") else ""
        if not room or files[source].parent == package:
            continue
        other = target.split(".")[1] if target.count(".") else target
        if room not in FLOOR:
            wrong.append(f"{source}: {room} is no room of the list")
        elif other != room and FLOOR.get(other, len(ROOMS)) >= FLOOR[room]:
            wrong.append(f"{source} imports {target}: {room} may not import {other}")
    return wrong


def circles(package: Path) -> list[list[str]]:
    """Modules that import each other, directly or by way of others; what type checkers alone see left out."""
    ahead: dict[str, set[str]] = {name: set() for name in modules(package)}
    for source, target, typing_only in arrows(package):
        if not typing_only and target in ahead:
            ahead[source].add(target)

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        todo = [start]
        while todo:
            new = ahead[todo.pop()] - seen
            seen |= new
            todo += new
        return seen

    far = {name: reached(name) for name in ahead}
    rings = {frozenset(other for other in far[name] if name in far[other]) for name in ahead if name in far[name]}
    return sorted(sorted(ring) for ring in rings)


def prying(package: Path) -> list[str]:
    """Where a module takes what another keeps to itself, in words: an underscored name, imported or as `module._name`,
    or an underscored module, which is there for its own folder and what lies below."""
    files, wrong = modules(package), []
    for name, path in files.items():
        taken = [(home, what) for home, what, _ in imports(name, path) if home.split(".")[0] == package.name and what]
        private = [(home, what) for home, what in taken if what[0] == "_" and f"{home}.{what}" not in files]
        known = {what for home, what in taken if f"{home}.{what}" in files}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            owner = getattr(node.value, "id", None) if isinstance(node, ast.Attribute) else None
            if owner in known and re.match("_[^_]", node.attr):
                private.append((owner, node.attr))
        wrong += [f"{name} takes {home}.{what}" for home, what in private]
    for name, target, _ in arrows(package):
        folder = name if files[name].name == "__init__.py" else name.rpartition(".")[0]
        home, mark, _ = target.partition("._")
        if mark and not f"{folder}.".startswith(f"{home}."):
            wrong.append(f"{name} imports {target}")
    return wrong


# Public functions whose annotations may say `Any`, by module and name, and why.
OF_ANY_TYPE = {
    ("sgdsim", "__getattr__"): "what the package offers",
    ("sgdsim.regimes", "__getattr__"): "what the package offers",
    ("sgdsim.cli.base", "Parser.__init__"): "arguments of argparse, handed on",
    ("sgdsim.cli.arguments", "named"): "argparse knows no types: keyword arguments for a function that checks them",
    ("sgdsim.cli.arguments", "algorithm"): "as `named`",
    ("sgdsim.plot.showing", "ShownFigure.add_subplot"): "arguments of matplotlib, handed on",
    ("sgdsim.problem.base", "Problem.description"): "JSON",
    ("sgdsim.problem.kinds", "restored"): "JSON",
    ("sgdsim.problem.network", "NetworkProblem.description"): "JSON",
    ("sgdsim.problem.population", "facts"): "JSON",
    ("sgdsim.problem.population", "read"): "JSON",
    ("sgdsim.problem.population", "restored"): "JSON",
    ("sgdsim.problem.quadratic", "QuadraticProblem.from_kernel"): "JSON",
    ("sgdsim.problem.quadratic", "QuadraticProblem.from_measures"): "JSON",
    ("sgdsim.problem.quadratic", "QuadraticProblem.from_operator"): "JSON",
    ("sgdsim.regimes._before_runs", "adapted"): "a user's regime of an earlier form",
    ("sgdsim.regimes._network_rules", "Rows.__init__"): "arguments of the class above, handed on",
    ("sgdsim.regimes._training", "HeavyBall.__init__"): "arguments of the class above, handed on",
    ("sgdsim.regimes._training", "Linear.__init__"): "arguments of the class above, handed on",
    ("sgdsim.regimes._training", "Training.views"): "arrays of NumPy or torch",
    ("sgdsim.regimes._training", "Training.coefficients"): "arrays of NumPy or torch",
}


def says_any(annotation: ast.expr | None) -> bool:
    """Whether `Any` stands in an annotation, in quotes too."""
    nodes = [] if annotation is None else list(ast.walk(annotation))
    quoted = [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    names = {getattr(node, "id", getattr(node, "attr", "")) for node in nodes}
    return "Any" in names or any(re.search(r"\bAny\b", text) for text in quoted)


def untyped(body: list[ast.stmt], owner: str = "") -> Iterator[str]:
    """The public functions and methods with `Any` in the annotation of a parameter or of what they return."""
    for node in body:
        if isinstance(node, ast.ClassDef) and node.name[0] != "_":
            yield from untyped(node.body, f"{owner}{node.name}.")
        elif isinstance(node, ast.FunctionDef) and (node.name[0] != "_" or node.name.startswith("__")):
            given = node.args
            all_of_them = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
            annotations = [node.returns, *(one.annotation for one in all_of_them if one is not None)]
            if any(map(says_any, annotations)):
                yield owner + node.name


def test_public_signatures_have_types():
    """None says `Any` but those listed, with the reason, above."""
    found = {(m, name) for m, path in modules(PACKAGE).items() for name in untyped(ast.parse(path.read_text()).body)}
    assert found <= {*OF_ANY_TYPE}
    planted = "class A:\n    def f(self, *, x: 'list[Any]'): ...\ndef g() -> Any: ...\ndef _h(x: Any): ..."
    assert list(untyped(ast.parse(planted).body)) == ["A.f", "g"]


def test_rooms_import_only_from_rooms_above_them():
    assert misplaced(PACKAGE) == []


def test_no_circle():
    assert circles(PACKAGE) == []


def test_what_is_underscored_stays_where_it_is():
    assert prying(PACKAGE) == []


def test_the_list_names_every_room():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == {*FLOOR}


@pytest.mark.parametrize("room", FLOOR)
def test_each_room_says_what_it_may_import(room):
    """And that is what it imports at least, and at most what the list allows."""
    words = " ".join((ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text())) or "").split())
    said = re.search(r"May import: ([^.]+)\.", words)
    assert said is not None
    assert re.search(r"\. (A new|Add) ", words[said.end() - 1 :])  # where to add the next one
    above = {other for other in FLOOR if FLOOR[other] < FLOOR[room]}
    named = {"no other room": set(), "every room but notebook": above - {"notebook"}}
    allowed = named.get(said[1]) if said[1] in named else set(said[1].split(", "))
    start = f"{PACKAGE.name}.{room}"
    used = {t.split(".")[1] for s, t, _ in arrows(PACKAGE) if s == start or s.startswith(start + ".")} - {room}
    assert used <= allowed <= above


GOOD = {
    "common/checks.py": "import numpy",
    "problem/__init__.py": "from sgdsim.problem.quadratic import Problem",
    "problem/quadratic.py": "from ..common import checks",
    "theory/laws.py": "from sgdsim.problem import Problem\nfrom sgdsim.common.checks import InputError",
    "cli/program.py": "from sgdsim.theory import laws",
    "__main__.py": "from sgdsim.cli import program",
}


def planted(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / "sgdsim" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        (path.parent / "__init__.py").touch()
    return folder / "sgdsim"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"common/text.py": "def f():\n    from sgdsim.problem import Problem"}, "common may not import problem"),
        ({"problem/fits.py": "import sgdsim.theory.laws as laws"}, "problem may not import theory"),
        ({"theory/loops.py": "from sgdsim import regimes"}, "theory may not import regimes"),
        ({"regimes/base.py": "from ..theory.laws import law"}, "regimes may not import theory"),
        ({"theory/more.py": "from sgdsim.plot.maps import draw"}, "theory may not import plot"),
        ({"problem/deep/er.py": "from ...cli import program"}, "problem may not import cli"),
        ({"common/all.py": "import sgdsim as ss"}, "common may not import sgdsim"),
        ({"problem/typed.py": "if TYPE_CHECKING:\n    from sgdsim.cli import program"}, "problem may not import cli"),
        ({"attic/old.py": "from sgdsim.common import checks"}, "attic is no room"),
    ],
)
def test_an_import_against_the_order_is_seen(tmp_path, wrong, says):
    """The controls of the test above."""
    assert misplaced(planted(tmp_path, GOOD)) == []
    (said,) = misplaced(planted(tmp_path, GOOD | wrong))
    assert says in said


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("from sgdsim.common.checks import _one", "takes sgdsim.common.checks._one"),
        ("from ..common import checks\nchecks._one()", "takes checks._one"),
        ("from sgdsim.common import _inner", "imports sgdsim.common._inner"),
        ("from sgdsim.common._inner import one", "imports sgdsim.common._inner"),
    ],
)
def test_prying_is_seen(tmp_path, wrong, says):
    own = GOOD | {"common/_inner.py": "", "common/deep/er.py": "from sgdsim.common._inner import one"}
    assert prying(planted(tmp_path, own)) == []
    (said,) = prying(planted(tmp_path, own | {"theory/laws.py": wrong}))
    assert said.endswith(says)


def test_a_circle_is_seen(tmp_path):
    assert circles(planted(tmp_path, GOOD)) == []
    inner = "def f():\n    from sgdsim.problem import fits"
    ring = {"problem/fits.py": "from sgdsim.problem.spectrum import a", "problem/spectrum.py": inner}
    assert circles(planted(tmp_path, GOOD | ring)) == [["sgdsim.problem.fits", "sgdsim.problem.spectrum"]]
    typed = {**ring, "problem/spectrum.py": "if TYPE_CHECKING:\n    from sgdsim.problem import fits"}
    assert circles(planted(tmp_path, GOOD | typed)) == []
    package = {"problem/quadratic.py": "from sgdsim.problem import Problem"}
    assert circles(planted(tmp_path, GOOD | package)) == [["sgdsim.problem", "sgdsim.problem.quadratic"]]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_other_packages_have_their_rooms(path):
    name = path.relative_to(PACKAGE)
    own = f"sgdsim.{name.with_suffix('').as_posix().replace('/', '.')}"
    found = {module.split(".")[0] for module, _, types_only in imports(own, path) if not types_only}
    tops = found - {*sys.stdlib_module_names, "sgdsim", "numpy"}
    for package in tops:
        assert name.parts[0] in THIRD_PARTY[package], package
    if name.name.removeprefix("_").removesuffix(".py") in ("kernels", "linear_kernels", "contour_kernels", "adjoint"):
        assert tops <= {"numba"} or name.parts[0] == "reproduction"


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


def test_no_two_test_files_share_a_name():
    """Test folders are no packages: Python would take the second file of a name for the first and run neither."""
    names = [path.name for path in Path(__file__).parent.rglob("test_*.py")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


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


def test_no_module_takes_the_name_of_what_its_package_offers():
    """Importing such a module would replace the function of that name."""
    for name, path in modules(PACKAGE).items():
        if path.name == "__init__.py":
            package = importlib.import_module(name)
            inner = {other.stem if other.is_file() else other.name for other in path.parent.iterdir()}
            for both in inner & {*getattr(package, "__all__", [])}:
                assert isinstance(getattr(package, both), types.ModuleType), f"{name}.{both}"


@pytest.mark.parametrize("old", sorted({*_moved.MOVED} - {*_moved.STAY}))
def test_an_old_name_imports_with_a_warning(old, monkeypatch):
    monkeypatch.delitem(sys.modules, f"sgdsim.{old}", raising=False)
    monkeypatch.setattr(sgdsim, old.partition(".")[0], None, raising=False)  # so that what the import sets goes again
    with pytest.warns(DeprecationWarning, match=rf"^sgdsim\.{old} is now sgdsim\.{_moved.MOVED[old]};"):
        module = importlib.import_module(f"sgdsim.{old}")
    new = importlib.import_module(f"sgdsim.{_moved.MOVED[old]}")
    if old in _moved.SPLIT:
        parts = [new, importlib.import_module(f"sgdsim.{_moved.SPLIT[old]}")]
        for part, name in itertools.chain.from_iterable(((p, n) for n in vars(p) if n[0] != "_") for p in parts):
            assert getattr(module, name) is getattr(part, name)
    else:
        assert module is new
        assert module.__spec__.name == new.__name__


def test_old_imports_in_a_program():
    """As a user's script has them: each warns at its line, and gives the one object that the new name gives."""
    code = (
        "import warnings\nwarnings.simplefilter('always')\n"
        "warnings.showwarning = lambda message, category, file, line, *_: print(line)\n"
        "from sgdsim import budgets\nfrom sgdsim.results import load\nimport sgdsim.theory.prove\n"
        "from sgdsim.simulation import OUTCOMES, simulate\nfrom sgdsim.ntk.empirical import empirical_ntk\n"
        "import sgdsim as ss\nfrom sgdsim.theory import contour, derive\nfrom sgdsim import fits\n"
        "import sgdsim.studies.budgets, sgdsim.recurrence.contour, sgdsim.symbolic.prove\n"
        "print(load is ss.load, simulate is ss.simulate, budgets is sgdsim.studies.budgets, fits is ss.fits,"
        " contour is sgdsim.recurrence.contour, empirical_ntk is ss.ntk.empirical_ntk,"
        " sgdsim.theory.prove is sgdsim.symbolic.prove)"
    )
    assert run(code).split("\n") == ["4", "5", "6", "7", "8", "8", " ".join(["True"] * 7)]


def test_no_other_name_is_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("sgdsim.nothing_of_this_name")


def test_the_noise_of_a_problem_is_asked_of_it():
    """A kernel over several outputs has a share of γ in each mode, which the number of points alone does not tell."""
    asked = re.compile(r"noise(_factor)?\((self\.)?(problem|quadratic)\.n\b")
    found = [str(path.relative_to(PACKAGE)) for path in MODULES if asked.search(path.read_text(encoding="utf-8"))]
    assert found == []
    assert asked.search("gamma = sgd.noise(problem.n)")
