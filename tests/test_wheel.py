"""The wheel: built, looked into, installed into an empty environment, and run from there as a new user would."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


def clean_environment() -> dict[str, str]:
    """The environment without what would let this checkout or its settings shine through."""
    hidden = ("PYTHON", "VIRTUAL_ENV", "SGDSIM", "MPLBACKEND", "NUMBA_", "COVERAGE")
    return {name: value for name, value in os.environ.items() if not name.startswith(hidden)}


def call(*words: str | Path, cwd: Path, timeout: float = 900) -> subprocess.CompletedProcess:
    return subprocess.run(
        [str(word) for word in words], cwd=cwd, env=clean_environment(), capture_output=True, text=True, timeout=timeout
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    done = call(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = folder.iterdir()
    return path


def test_contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        info = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        scripts = archive.read(f"{info}/entry_points.txt").decode()
        manifest = archive.read("sgdsim/datasets/MANIFEST.toml")
        metadata = archive.read(f"{info}/METADATA").decode()
    assert "sgdsim = sgdsim.__main__:entry" in scripts
    assert manifest == (ROOT / "data" / "MANIFEST.toml").read_bytes()
    assert f"{info}/licenses/LICENSE" in names
    assert re.search(r"^License-Expression: MIT$", metadata, re.M)
    own = {str(path.relative_to(ROOT)) for path in (ROOT / "sgdsim").rglob("*.py")}
    others = {"sgdsim/datasets/MANIFEST.toml", "sgdsim/py.typed"}
    assert {name for name in names if not name.startswith(info)} == own | others


def needed(name: str, found: dict[str, importlib.metadata.Distribution], extras: Iterable[str] = ("",)) -> None:
    """Add to `found` what the distribution asks for by itself, and what those ask for in turn."""
    for text in importlib.metadata.distribution(name).requires or []:
        requirement = Requirement(text)
        key = canonicalize_name(requirement.name)
        asked = any(requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in extras)
        if asked and key not in found:
            found[key] = importlib.metadata.distribution(requirement.name)
            needed(requirement.name, found, ("", *requirement.extras))


def environment(folder: Path, found: dict[str, importlib.metadata.Distribution]) -> Path:
    """One with pip and these, nothing else: linked from the one that runs the tests, as to download the same files
    again would take minutes."""
    done = call(sys.executable, "-m", "venv", folder, cwd=folder.parent)
    assert done.returncode == 0, done.stderr
    (home,) = folder.glob("lib/python*/site-packages")
    for distribution in found.values():
        for top in {path.parts[0] for path in distribution.files or []} - {"..", "__pycache__"}:
            if not (home / top).exists():
                (home / top).symlink_to(Path(distribution.locate_file(top)))
    return folder


@pytest.fixture
def empty(tmp_path) -> Path:
    """An environment with what the wheel asks for."""
    found: dict[str, importlib.metadata.Distribution] = {}
    needed("sgdsim", found)
    return environment(tmp_path / "venv", found)


def test_run_from_an_empty_environment(wheel, empty, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    python = empty / "bin" / "python"
    install = ["-m", "pip", "install", "--no-input", "--disable-pip-version-check", "--no-deps", "--no-index"]
    done = call(python, *install, wheel, cwd=folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    done = call(python, "-m", "pip", "check", cwd=folder)
    assert done.returncode == 0, done.stdout
    for absent in ("pytest", "z3", "distributed", "pyarrow"):
        assert call(python, "-c", f"import {absent}", cwd=folder).returncode == 1

    where = call(python, "-c", "import sgdsim; print(sgdsim.__file__)", cwd=folder).stdout
    assert Path(where.strip()).is_relative_to(empty)
    command = "compare --n 40 --width 20 --n-steps 20 --replicates 2 --out r.nc --plot r.png"
    done = call(empty / "bin" / "sgdsim", *command.split(), cwd=folder)
    assert done.returncode == 0, done.stderr
    said = [line for line in done.stderr.splitlines() if not line.endswith((" left", " so far", "keeps what is done"))]
    assert said == []  # but how far it is, on a slow machine
    lines = done.stdout.splitlines()
    assert lines[0].startswith("digits, N = 40, width 20: 20 steps")
    assert lines[1] == "final training loss"
    assert lines[2].split() == ["lr", "momentum", "batch", "stable", "network", "sampled", "averaged", "diagonal:tau=1"]
    assert [line.split()[:4] for line in lines[4:6]] == [["1", "0", "10", "yes"], ["1", "0.5", "10", "yes"]]
    assert lines[-2:] == ["wrote r.nc", "wrote r.png"]
    assert sorted(path.name for path in folder.iterdir()) == ["r.nc", "r.png"]
    assert (folder / "r.png").read_bytes().startswith(b"\x89PNG")
    read = "import sgdsim; r = sgdsim.load('r.nc'); print(r.done.values.all(), dict(r.sizes)['regime'])"
    assert call(python, "-c", read, cwd=folder).stdout == "True 4\n"
    # The data sets that the manifest lists are known here too.
    assert "mnist/train-images-idx3-ubyte.gz" in call(empty / "bin" / "sgdsim", "data", "list", cwd=folder).stdout


STAND_IN = """
import shutil, sys, types
files = types.ModuleType("google.colab.files")
def upload():
    shutil.copy(sys.argv[1], ".")
    return {sys.argv[1].rpartition("/")[2]: b""}
files.upload = upload
colab = types.ModuleType("google.colab")
colab.files = files
sys.modules |= {"google": types.ModuleType("google"), "google.colab": colab, "google.colab.files": files}
"""


def test_the_derivation_begins_in_colab_with_a_wheel(wheel, tmp_path):
    """Its first cell and a derivation, by IPython, without an index, torch or numba: nothing but the wheel comes in."""
    found: dict[str, importlib.metadata.Distribution] = {}
    needed("sgdsim", found, ("", "proofs"))
    needed("ipython", found)
    found["ipython"] = importlib.metadata.distribution("ipython")
    for name in ("torch", "numba"):  # which the derivation does without, and which nothing may bring
        del found[name]
    folder = environment(tmp_path / "venv", found)
    cells = json.loads((ROOT / "notebooks" / "01_derivation.ipynb").read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert code[0].count("%pip install --quiet") == 1
    first = code[0].replace("--quiet", "--quiet --no-deps --no-index --no-build-isolation")
    last = "from sgdsim.symbolic.derive import derive\nprint(derive('heavy-ball').threshold)"
    (tmp_path / "cells.ipy").write_text("\n".join([STAND_IN, first, last]), encoding="utf-8")
    done = call(folder / "bin" / "python", "-m", "IPython", "cells.ipy", wheel, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    from sgdsim.symbolic.derive import derive

    assert done.stdout.splitlines()[-1] == str(derive("heavy-ball").threshold)
