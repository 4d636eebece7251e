"""The site: built without a warning, its examples run, its outputs those that the commands print."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

import sgdsim as ss

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
for _module in ("sphinx", "furo", "myst_nb", "sphinx_copybutton"):
    pytest.importorskip(_module, reason=f"the site needs {_module}: pip install 'sgdsim[docs]'")

sys.path.insert(0, str(DOCS))
import examples  # noqa: E402

# Both builders read the same parsed pages, so they share a process.
_BUILD = """
import sys
from sphinx.cmd.build import build_main
source, out = sys.argv[1:]
common = ["-q", "-W", "--keep-going", "-n", "-d", f"{out}/doctrees"]
failed = [build_main(["-b", builder, *common, source, f"{out}/{builder}"]) for builder in ("html", "doctest")]
print(open(f"{out}/doctest/output.txt").read())
sys.exit(any(failed))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built pages and what the doctest builder said."""
    out = tmp_path_factory.mktemp("site")
    threads = {"OPENBLAS_NUM_THREADS": "1"}  # small matrices on a busy machine
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, str(DOCS), str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, **threads},
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return out / "html", done.stdout


def inventory(html: Path) -> set[str]:
    """Names of all Python objects that the site describes."""
    raw = (html / "objects.inv").read_bytes().split(b"\n", 4)[4]
    lines = zlib.decompress(raw).decode().splitlines()
    return {line.split()[0] for line in lines if " py:" in line}


def test_site_is_built_and_its_doctests_pass(site):
    html, said = site
    assert (html / "index.html").exists()
    total = said.split("Doctest summary")[1].split()
    tests, failures = int(total[total.index("tests") - 1]), int(total[total.index("failures") - 1])
    assert tests > 50
    assert failures == 0
    for page in DOCS.rglob("*.md"):
        text = page.read_text()
        if "{doctest}" in text:
            assert page.relative_to(DOCS).with_suffix("").as_posix() in said


def test_every_public_name_is_described(site):
    names = inventory(site[0])
    for name in ss.__all__:
        thing = getattr(ss, name)
        if inspect.ismodule(thing):
            assert thing.__name__ in names, name
        else:
            homes = {thing.__module__, f"sgdsim.{ss._HOMES[name]}"}
            assert {f"{home}.{name}" for home in homes} & names, name


def public(module):
    """Functions and classes that a module offers, re-exported ones of the package too."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if callable(getattr(module, name))]
    return [
        name
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(thing) or inspect.isclass(thing))
        and (thing.__module__ == module.__name__ or thing.__module__.startswith("sgdsim.plot."))
    ]


@pytest.mark.parametrize(
    "name",
    [
        "plot",
        "recurrence.contour",
        "theory.stability",
        "theory.power_law",
        "theory.optimal",
        "algorithm.schedules",
        "runs.sweeps",
    ],
)
def test_modules_are_described_whole(site, name):
    module = importlib.import_module(f"sgdsim.{name}")
    offered = {f"{module.__name__}.{thing}" for thing in public(module) if getattr(module, thing).__doc__}
    assert offered
    assert offered <= inventory(site[0])


def test_nothing_comes_from_the_network(site):
    pytest.importorskip("sphinx-mathjax-offline", reason="mathematics without a network needs sphinx-mathjax-offline")
    for page in site[0].rglob("*.html"):
        text = page.read_text()
        for marker in ('<script src="http', 'rel="stylesheet" href="http', 'src="//'):
            assert marker not in text, page
    assert (site[0] / "_static" / "mathjax" / "tex-chtml.js").exists()


@pytest.mark.parametrize("page", examples.pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_print_what_the_page_says(page):
    wrong = examples.run_page(page)
    assert not wrong, "\n\n".join(wrong) + "\n\n(python docs/examples.py --write brings the pages up to date)"


def test_the_readmes_python_runs_in_a_small_size():
    (block,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    for long, short in (("n=300", "n=40"), ("200", "20"), ("10), 1000", "10), 50"), ("n_steps=500", "n_steps=20")):
        assert long in block
        block = block.replace(long, short)
    names: dict[str, object] = {}
    exec(block.replace("replicates=10", "replicates=2"), names)
    assert names["found"].torch_line("mse").startswith("torch.optim.SGD(net.parameters(), lr=")
    assert names["runs"].sizes["regime"] == 4


def test_the_readmes_commands_are_commands():
    from sgdsim.cli.parser import build_parser

    lines = re.findall(r"`sgdsim ([a-z]+ -[^`]*)`", (ROOT / "README.md").read_text(encoding="utf-8"))
    assert len(lines) >= 5
    for line in lines:
        args, unknown = build_parser().parse_known_args(line.split())
        assert (args.command, unknown) == (line.split()[0], [])


def test_every_command_has_an_example():
    from sgdsim.cli.registry import COMMANDS

    blocks = "".join(m["body"] for m in examples._BLOCK.finditer((DOCS / "cli.md").read_text()))
    shown = {command.split()[2] for command, _ in examples.commands(blocks)}
    assert set(COMMANDS) <= shown


def test_comparison_sees_a_difference():
    """The controls of the comparison: what it lets pass, and what it must not."""
    assert examples.same("loss 0.1234 ± 0.01, 3.2 s", "loss 0.1235 ± 0.01, 14 s")
    assert examples.same("a  1e-05\n----", "a 1e-05\n---------")
    for other in (
        "loss 0.1236 ± 0.01, 3.2 s",
        "loss 0.1234 ± 0.01",
        "loss 0.1234 ± 0.03, 3.2 s",
        "gain 0.1234 ± 0.01, 3.2 s",
    ):
        assert not examples.same("loss 0.1234 ± 0.01, 3.2 s", other)
    assert not examples.same("lr 5", "lr 7")


@pytest.mark.parametrize(
    ("stands", "elsewhere", "wrong"),
    [
        ("3 cells, 0.4 s, memory 0.80 GB", "3 cells, 61.0 s, memory 12.31 GB", "5 cells, 0.4 s, memory 0.80 GB"),
        ("residual 8e-16 of λ_max", "residual 2.8e-14 of λ_max", "residual 8e-12 of λ_max"),
        ("residual 8e-16 of λ_max", "residual 3e-17 of λ_max", "residual 0.8 of λ_max"),
        ("loss 8e-16", "loss 9e-16", "loss 3e-14"),  # no rounding error: a number
        ("0.3,0.3318005892874488", "0.3,0.3318005892874511", "0.3,0.3318005894874488"),
        ("0.095652173913,-0.6", "0.095652173914,-0.6", "0.095652173945,-0.6"),
    ],
)  # fmt: skip
def test_what_belongs_to_a_machine_is_not_compared_and_what_is_wrong_is_seen(stands, elsewhere, wrong):
    assert examples.same(stands, elsewhere)
    assert not examples.same(stands, wrong)


@pytest.mark.parametrize("wrong", [("0.1234", "0.1434"), ("2e-15", "2e-09"), ("0.12345678901234", "0.12345679901234")])
def test_a_page_with_a_wrong_number_is_found(tmp_path, wrong):
    page = tmp_path / "page.md"
    stands, printed = (f"loss {wrong[k]}, residual {wrong[k]} of all, 0.{k} s" for k in (0, 1))
    page.write_text(f"```console\n$ echo '{printed}'\n{stands}\n```\n")
    assert len(examples.run_page(page)) == 1
    page.write_text(f"```console\n$ echo '{printed}'\n{printed.replace('0.1 s', '7.5 s')}\n```\n")
    assert not examples.run_page(page)


def test_an_example_is_taken_apart():
    assert list(examples.commands("$ a \\\n  b\nout\n$ c\n")) == [("$ a \\\n  b", "out"), ("$ c", "")]
