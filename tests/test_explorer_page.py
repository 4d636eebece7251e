"""The explorer in the browser: its JavaScript, run by node, against a table that Python writes.

`numerics.js` and `theory.js` are the same mathematics as `recurrence.contour`, `theory.stability` and
`theory.power_law` on another compression of the spectrum, written again; `test_explorer_browser.py` looks at the page.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import contour
from sgdsim.theory import power_law, stability

PAGE = Path(__file__).parents[1] / "docs" / "_static" / "explorer"
NODE = shutil.which("node") or shutil.which("nodejs")
STEPS = [1, 3, 10, 39, 60, 300, 2000, 10**4, 10**5, 10**6, 10**9]
SIZES = [7, 60, 300, 2000, 20_000, 100_000, math.inf]
KNOWN = 1e-3  # told errors up to which the page draws a loss

needs_node = pytest.mark.skipif(NODE is None, reason="needs node, such as apt-get install nodejs")

_SCRIPT = """
const [N, T, State] = ["numerics", "theory", "state"].map((name) => require(`${process.argv[1]}/${name}.js`));
const given = JSON.parse(require("fs").readFileSync(0), (_, v) => (v === "inf" ? Infinity : v));
const shown = (_, v) => (typeof v === "number" && !Number.isFinite(v) ? String(v) : v);
const answer = (%s)(given);
console.log(JSON.stringify(answer, shown));
"""


def node(function: str, given: object):
    """What a function of JavaScript, with N, T and State in sight, answers; Infinity travels as "inf"."""
    text = json.dumps(given).replace(": Infinity", ': "inf"')
    run = subprocess.run([NODE, "-e", _SCRIPT % function, str(PAGE)], input=text, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def numbers(values) -> np.ndarray:
    return np.array([float(v) for v in values])


def settings(count: int, seed: int) -> list[dict[str, float]]:
    """Random settings: every size, full batch, negative momentum, near the threshold and beyond it."""
    rng = np.random.default_rng(seed)
    out = []
    for i in range(count):
        n = SIZES[i % len(SIZES)]
        nu, kappa = rng.uniform(1.05 if n == math.inf else 0.6, 3.0), rng.uniform(0.2, 8.0)
        b = 1 if i % 3 == 0 else n if i % 11 == 4 and n < math.inf else min(n, int(10 ** rng.uniform(0, 3)))
        beta = [0.0, rng.uniform(-0.95, 0.0), rng.uniform(0.0, 0.9), rng.uniform(0.9, 0.99)][i % 4]
        share = [0.05, 0.5, 0.95, 0.9999, 1.0001, 1.02, 1.5][int(rng.integers(7))]
        out.append({"nu": float(nu), "kappa": float(kappa), "n": n, "b": b, "beta": float(beta), "share": share})
    return out


@pytest.fixture(scope="module")
def table() -> list[dict]:
    """Settings with the library's threshold, losses and law."""
    rows = []
    # By itself the leading mode would nearly diverge: what the contour misses dies out late.
    hard = {"nu": 2.5, "kappa": 4.2, "n": 2000, "b": 11, "beta": 0.665, "share": 0.9999}
    for row in [*settings(21, seed=5), hard]:
        problem = QuadraticProblem.power_law(row["n"], row["nu"], row["kappa"])
        noise = float(problem.noise_factor(row["b"]))
        top = float(stability.diagonal_max_lr(problem, momentum=row["beta"], noise=noise))
        alpha = row["share"] * top
        found = contour.loss_at(problem, np.array(STEPS), lr=alpha, momentum=row["beta"], noise=noise)
        law = power_law.PowerLaw.of(problem)
        hyper = {"lr": alpha, "momentum": row["beta"], "noise": noise}
        signal, noisy = power_law.constants(problem, law, **hyper) if alpha < top else (math.nan, math.nan)
        start = problem.initial_loss
        rows.append(
            row
            | {"alpha": alpha, "noise": noise, "top": top, "critical": stability.critical_eigenvalue(problem)}
            | {"log": (found.log_loss - math.log(start)).tolist(), "error": found.error.tolist()}
            | {"signal": float(signal) / start, "noisy": float(noisy) / start, "zeta": law.zeta}
        )
    return rows


@pytest.fixture(scope="module")
def answers(table) -> list[dict]:
    """What the page's numerics say about the same settings."""
    if NODE is None:
        pytest.skip("needs node, such as apt-get install nodejs")
    asked = [{key: row[key] for key in ("nu", "kappa", "n", "b", "beta", "alpha")} for row in table]
    return node(
        """({ rows, steps }) => rows.map(({ nu, kappa, n, b, beta, alpha }) => {
            const gamma = N.noiseFactor(n, b), modes = N.modesFor(nu, kappa, n, beta, gamma);
            const law = T.law(nu, kappa, modes, alpha, beta, gamma), sum = (all) => all.reduce((a, b) => a + b, 0);
            const { log, error } = N.losses(modes, alpha, beta, gamma, steps), critical = T.criticalEigenvalue(modes);
            return { gamma, top: T.maxLr(modes, beta, gamma), critical, log, error, law,
                     count: sum(modes.counts), total: sum(modes.c), modes: modes.lam.length };
        })""",
        {"rows": asked, "steps": STEPS},
    )


@needs_node
def test_losses_are_those_of_the_library(table, answers):
    known = 0
    for row, answer in zip(table, answers, strict=True):
        want, found = np.array(row["log"]), numbers(answer["log"])
        told, sure = numbers(answer["error"]), np.array(row["error"]) < 1e-6
        shown = sure & (told <= KNOWN) & np.isfinite(found)
        # In the deep tail, where a loss has grown for long, and after very many steps the digits of the rate count.
        allowed = 1e-6 + 1e-6 * np.abs(want) + 1e-13 * np.array(STEPS)
        off = np.abs(found - want)
        assert (off[shown] <= allowed[shown]).all(), (row, off)
        assert (off[shown] <= told[shown] + allowed[shown] / 10).all(), (row, off, told)
        assert (want[found == np.inf] > 600).all()
        known += (shown | ~sure | (np.abs(want) > 1000)).sum()
    assert known > 0.99 * len(table) * len(STEPS)  # what the page does not draw is the exception


@needs_node
def test_thresholds_are_those_of_the_library(table, answers):
    for row, answer in zip(table, answers, strict=True):
        assert answer["gamma"] == pytest.approx(row["noise"], rel=1e-13, abs=0)
        assert answer["top"] == pytest.approx(row["top"], rel=1e-8), row
        assert answer["critical"] == pytest.approx(row["critical"], rel=1e-8), row


@needs_node
def test_laws_are_those_of_the_library(table, answers):
    compared = 0
    for row, answer in zip(table, answers, strict=True):
        phase = str(power_law.phase(row["nu"], row["zeta"])) if row["noise"] > 0 else power_law.SIGNAL
        law = answer["law"]
        assert law["phase"] == phase
        assert (law["exponent"] is None) == ("divergence" in phase)
        if row["share"] >= 1 or law["exponent"] is None:
            continue
        exponent = power_law.exponent(row["nu"], row["zeta"]) if row["noise"] > 0 else row["zeta"]
        assert law["exponent"] == pytest.approx(float(exponent), rel=1e-12)
        assert law["signal"] == pytest.approx(row["signal"], rel=1e-6)
        want = row["noisy"] if phase == power_law.NOISE else row["signal"]
        assert law["constant"] == pytest.approx(want, rel=1e-6)
        compared += 1
    assert compared >= 8


@needs_node
def test_few_modes_stand_for_all(table, answers):
    for row, answer in zip(table, answers, strict=True):
        assert answer["total"] == pytest.approx(1, rel=1e-12)
        assert answer["modes"] <= 1000
        if row["n"] < math.inf:
            assert answer["count"] == pytest.approx(row["n"], rel=1e-9)


@needs_node
def test_the_best_point_is_the_best():
    """The loss there is the library's, and no point of a grid of the library's is lower."""
    setting = {"nu": 1.5, "kappa": 3.0, "n": 2000, "b": 1, "last": 10**4}
    best = node(
        "(s) => { const map = T.map(s); map.rows.forEach((_, i) => map.fill(i)); return T.best(s, map); }", setting
    )
    problem = QuadraticProblem.power_law(2000, 1.5, 3.0)

    def log_loss(lr, momentum):
        return contour.loss_at(problem, 10**4, lr=lr, momentum=momentum, batch_size=1).log_loss

    least = float(log_loss(best["alpha"], best["beta"]))
    assert best["log"] == pytest.approx(least - math.log(problem.initial_loss), abs=1e-6)
    grid = log_loss(np.geomspace(0.02, 1.0, 20)[:, None], np.linspace(-0.7, 0.9, 17)[None])
    assert least <= grid.min() + 0.005
    assert not best["edge"]
    # Negative momentum wins where the noise dominates ([VKY] sec. 5).
    assert best["beta"] < 0


@needs_node
def test_the_window_is_where_the_law_holds():
    found = node(
        "(s) => T.view(s)", {"nu": 1.5, "kappa": 0.8, "n": math.inf, "b": 10, "alpha": 0.3, "beta": 0.5, "last": 10**6}
    )
    first, last = found["window"]
    assert last == 10**6
    assert 1 < first < 1000
    problem = QuadraticProblem.power_law(math.inf, 1.5, 0.8)
    steps = np.array([first, 10**4, 10**6])
    loss = contour.loss_at(problem, steps, lr=0.3, momentum=0.5, batch_size=10).loss / problem.initial_loss
    law = found["law"]["constant"] * steps ** -found["law"]["exponent"]
    assert np.abs(law / loss - 1).max() <= 0.1


@needs_node
def test_a_setting_without_losses_says_why():
    setting = {"nu": 0.9, "kappa": 1, "n": math.inf, "b": 1, "alpha": 0.1, "beta": 0, "last": 100}
    said = node("(s) => { try { T.view(s); } catch (e) { return e.message; } }", setting)
    assert "diverges at every learning rate" in said


@needs_node
@pytest.mark.parametrize(
    ("link", "refused"),
    [
        ("#nu=1.3&kappa=0.7&n=inf&lr=0.4&momentum=0.8&batch_size=10&t=1e6", []),
        ("#lr=0.05", []),
        ("", []),
        ("#lr=abc&momentum=0.5", ["lr=abc"]),
        ("#gamma=3", ["gamma=3"]),
        ("#momentum=7", ["momentum=0.995"]),
        ("#lr=inf", ["lr=inf"]),
        ("#lr=1<script>", ["lr=1<script>"]),
        ("#n=100&batch_size=500", ["batch_size=100"]),
    ],
)
def test_a_link_holds_the_setting(link, refused):
    """What is read is written again and read the same; what is not taken is told."""
    function = """(link) => {
        const { setting, refused } = State.fromLink(link), again = State.toLink(setting);
        return [setting, refused, State.fromLink(again), State.toLink(State.fromLink(again).setting) === again];
    }"""
    setting, told, again, same = node(function, link)
    assert [text.split("=")[0] for text in told] == [text.split("=")[0] for text in refused]
    assert again == {"setting": setting, "refused": []}
    assert same
    if "momentum=0.8" in link:
        want = {"nu": 1.3, "kappa": 0.7, "n": "Infinity", "alpha": 0.4, "beta": 0.8, "b": 10, "last": 1_000_000}
        assert setting == want


def test_the_page_stands_alone():
    """It opens from a file without a network: classic scripts that lie beside it, nothing from elsewhere."""
    html = (PAGE / "index.html").read_text(encoding="utf-8")
    scripts = re.findall(r'<script src="([^"]+)">', html)
    assert sorted(scripts) == sorted(path.name for path in PAGE.glob("*.js"))
    assert "module" not in html
    for path in PAGE.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|^\s*(import|export)\s|@import|fetch\(|XMLHttpRequest", text, re.MULTILINE), (
            path
        )
