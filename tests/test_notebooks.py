"""Every notebook runs from top to bottom, at small sizes, and is committed with small outputs.

`python tests/test_notebooks.py notebooks/*.ipynb` runs the notebooks given and writes them back with their outputs,
without times, versions or widget states, so that running them again changes little. `SGDSIM_FULL=1` before it takes
full sizes; the tests never do.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import re
import sys
import tempfile
import textwrap
from pathlib import Path

import pytest
from PIL import Image

nbclient = pytest.importorskip("nbclient", reason="needs nbclient")
nbformat = pytest.importorskip("nbformat", reason="needs nbformat")
pytest.importorskip("ipykernel", reason="needs ipykernel")

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
LARGEST = 300_000  # bytes of a committed notebook
MAY_IMPORT = {"sgdsim", "numpy", "xarray", "matplotlib", "os", "sys", "torch", "google"}
WIDGET = "application/vnd.jupyter.widget-view+json"
TIMEOUT = 7200 if os.environ.get("SGDSIM_FULL") == "1" else 600  # seconds a cell


def kernel_here(folder: Path) -> None:
    """Make the interpreter that runs this the kernel "python3", whatever kernels are installed."""
    home = folder / "jupyter" / "kernels" / "python3"
    home.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (home / "kernel.json").write_text(
        json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}), "utf-8"
    )
    os.environ["JUPYTER_PATH"] = str(folder / "jupyter")  # looked at before all other places
    os.environ["IPYTHONDIR"] = str(folder / "ipython")  # nobody's start-up files


def execute(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Run all cells in `folder` with a fresh kernel; raises CellExecutionError where one fails."""
    client = nbclient.NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=TIMEOUT,
        record_timing=False,
        store_widget_state=False,
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def cleaned(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what differs from run to run or machine to machine: versions, widget models, warnings of the system, and
    where a text was cut (what is printed leaves the kernel in pieces of some fifth of a second)."""
    notebook.metadata = nbformat.from_dict(
        {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        }
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict({})
        if cell.cell_type == "code":
            outputs = [o for o in cell.outputs if WIDGET not in o.get("data", {}) and o.get("name") != "stderr"]
            cell.outputs = outputs[:1]
            for output in outputs[1:]:
                if output.output_type == cell.outputs[-1].output_type == "stream":
                    cell.outputs[-1].text += output.text
                else:
                    cell.outputs.append(output)
    return notebook


def with_small_pictures(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Pictures in 256 colours, a third of the bytes."""
    for output in (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs):
        if "image/png" in output.get("data", {}):
            picture = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
            small = io.BytesIO()
            picture.quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
            output.data["image/png"] = base64.b64encode(small.getvalue()).decode()
    return notebook


def source(notebook: nbformat.NotebookNode) -> ast.Module:
    """All code of a notebook; lines of shell or magic commands count as nothing."""
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    return ast.parse(re.sub(r"^(\s*)[%!].*$", r"\1pass", code, flags=re.MULTILINE))


@pytest.fixture
def kernels(tmp_path, monkeypatch):
    for name in ("JUPYTER_PATH", "IPYTHONDIR"):  # set by kernel_here; put back afterwards
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("SGDSIM_FULL", raising=False)
    kernel_here(tmp_path)
    work = tmp_path / "work"
    work.mkdir()
    return work


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 5


def test_the_kernel_is_this_interpreter(kernels):
    cells = [nbformat.v4.new_code_cell("import os, sys; print(sys.executable, os.environ.get('SGDSIM_FULL'))")]
    done = execute(nbformat.v4.new_notebook(cells=cells), kernels)
    assert done.cells[0].outputs[0].text.split() == [sys.executable, "None"]


def test_printed_slowly_is_printed_once(kernels):
    """What a busy machine does to a loop of prints: the kernel sends what there is before the loop has ended."""
    code = """
        import sys
        for word in ("one", "two"):
            print(word)
            sys.stdout.flush()
            print("a warning", file=sys.stderr, flush=True)
        word
    """
    cells = [nbformat.v4.new_code_cell(textwrap.dedent(code))]
    done = execute(nbformat.v4.new_notebook(cells=cells), kernels)
    assert len(done.cells[0].outputs) > 3
    printed, value = cleaned(done).cells[0].outputs
    assert (printed.output_type, printed.text) == ("stream", "one\ntwo\n")
    assert value.data == {"text/plain": "'two'"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_from_top_to_bottom(path, kernels):
    notebook = nbformat.read(path, as_version=4)
    if path.stem.startswith("01"):  # the derivation stands alone
        notebook.cells.append(nbformat.v4.new_code_cell("import sys; print('torch' in sys.modules)"))
    done = execute(notebook, kernels)
    if path.stem.startswith("01"):
        assert done.cells[-1].outputs[0].text == "False\n"
    before = nbformat.read(path, as_version=4).cells
    for cell, committed in zip(cleaned(done).cells, before, strict=False):
        if cell.cell_type == "code":  # the outputs that readers see are of the same kinds
            kinds = [sorted(output.get("data", {"text": ""})) for output in cell.outputs]
            assert kinds == [sorted(output.get("data", {"text": ""})) for output in committed.outputs]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_is_committed_small_with_outputs(path):
    assert path.stat().st_size < LARGEST
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count is not None for cell in code)
    outputs = [output for cell in code for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not re.search(r"/(home|root|tmp|work|Users)/", json.dumps(notebook.cells, ensure_ascii=False))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_has_the_form(path):
    """Words first and last; only the library, numpy, xarray and matplotlib; no function or formula of its own."""
    notebook = nbformat.read(path, as_version=4)
    first, last = notebook.cells[0], notebook.cells[-1]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert last.cell_type == "markdown"
    assert "what to try next" in last.source.lower()
    tree = source(notebook)
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module.split(".")[0])
        assert not isinstance(node, ast.FunctionDef | ast.ClassDef)
    assert names <= MAY_IMPORT
    assert "sgdsim" in names


def refresh(paths: list[Path]) -> None:
    """Run notebooks and write them back with their outputs."""
    for path in paths:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            kernel_here(folder)
            work = folder / "work"
            work.mkdir()
            done = with_small_pictures(cleaned(execute(nbformat.read(path, as_version=4), work)))
        nbformat.write(done, path)


if __name__ == "__main__":
    refresh([Path(name) for name in sys.argv[1:]] or NOTEBOOKS)
