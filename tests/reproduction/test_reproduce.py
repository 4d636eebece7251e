"""The reproduction report: its published numbers, its exhibits' methods, and what lands on disk."""

import json

import numpy as np
import pytest

import sgdsim as ss
from sgdsim import datasets, ntk, reproduction
from sgdsim.cli import main
from sgdsim.common.checks import InputError
from sgdsim.reproduction import base, document, exponents, kernels, landscapes, momentum, runs, verdicts

CURVE = {"one": (np.array([1, 10]), np.array([1.0, 0.1]))}


@pytest.fixture(scope="module")
def mnist():
    """A context with MNIST in it."""
    if not all(file["present"] for file in datasets.status("mnist")):
        pytest.skip("MNIST is not here (SGDSIM_DATA)")
    return reproduction.Context()


def exhibit(name, rows=1, picture="curve"):
    row = verdicts.Row(
        "loss | at the end", "1", "1.0", "0 … 2", verdicts.REPRODUCED, "", {"ours": np.float64(1), "bad": np.inf}
    )
    pictures = (base.Drawing(picture, "loss_lines", (CURVE,), "A curve."),)
    return base.Exhibit(name, f"Title of {name}", lambda context: base.Finding((row,) * rows, "A text.", pictures))


def use(monkeypatch, *exhibits):
    monkeypatch.setattr(reproduction, "EXHIBITS", exhibits)
    monkeypatch.setattr(document, "EXHIBITS", exhibits)


def test_stars_lie_on_the_paper_grid_where_it_prints_them():
    printed = [(0.73, -0.14), (0.89, -0.06), (1.45, 0.84), (1.54, 0.80)]
    places = [*landscapes.POWER_LAW_STARS.values(), *landscapes.MNIST_STARS.values()]
    for place, star in zip(places, printed, strict=True):
        assert tuple(round(value, 2) for value in landscapes.star(place)) == star
    assert landscapes.RIDGE[3] == landscapes.MNIST_STARS["diagonal"]


def test_least_cell_of_the_power_law_is_the_published_one():
    problem = ss.QuadraticProblem.power_law(landscapes.N, 1.5, 3.0)
    lr, beta = landscapes.LR[1:60], landscapes.MOMENTUM[1:-1]
    loss = landscapes._log_loss(problem, lr[:, None], beta[None])
    bound = ss.theory.stability.diagonal_max_lr(problem, momentum=beta, noise=990 / 999 / 10)
    loss = np.where(lr[:, None] < bound, loss, np.inf)
    i, j = np.unravel_index(np.argmin(loss), loss.shape)
    assert (lr[i], beta[j]) == landscapes.star(landscapes.POWER_LAW_STARS["diagonal"])


def test_mnist_losses_are_those_of_the_notebook_and_its_star_is_not_the_least(mnist):
    problem = mnist.analytic("mnist", landscapes.N, kernels.WITHOUT_FACTOR)
    places = np.array([landscapes.star(place) for place in landscapes.RIDGE])
    ours = np.exp(landscapes._log_loss(problem, *places.T))
    printed = np.array(landscapes.RIDGE_LOSS)
    # one sample of 1000 images beside another: a common factor, and the same shape
    assert 0.5 < ours[0] / printed[0] < 2
    np.testing.assert_allclose(ours / ours[0], printed / printed[0], rtol=0.15)
    assert np.argmin(ours) == np.argmin(printed) == 0


def test_best_learning_rates_are_the_published_ones():
    rows = momentum.best_lr(reproduction.Context()).rows
    lr, loss, other, last = (row.values for row in rows)
    assert [row.verdict for row in rows] == [
        verdicts.REPRODUCED,
        verdicts.REPRODUCED,
        verdicts.PRECISE,
        verdicts.REPRODUCED,
    ]
    assert abs(lr["ours"] - 0.113) < 5e-4
    assert abs(other["ours"] - 0.2433) < 5e-5
    assert 0 < other["excess"] < 0.01
    assert (round(loss["ours"], 2), round(last["ours"], 2)) == (-23.20, -25.11)


def test_critical_eigenvalue_of_mnist_tells_the_kernel(mnist):
    found = [
        ss.theory.stability.critical_eigenvalue(mnist.analytic("mnist", 1000, kind))
        for kind in (kernels.WITHOUT_FACTOR, kernels.WITH_FACTOR)
    ]
    assert abs(found[0] - momentum.CRITICAL_MNIST) < 0.02 < 0.1 < abs(found[1] - momentum.CRITICAL_MNIST)


def test_kernel_without_the_factor_differs_by_the_factor():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4))
    x *= 3 / np.linalg.norm(x, axis=1)[:, None]  # equal norms: Σ(x, x) = q everywhere
    q = 9 / 4 + 1
    angle = np.arccos(np.clip((x @ x.T / 4 + 1) / q, -1, 1))
    second = (np.sin(angle) + (np.pi - angle) * np.cos(angle)) / (2 * np.pi)
    bare = kernels.without_factor(x)
    np.testing.assert_allclose(ntk.analytic_ntk(x) - bare, (q - 1) * second, atol=1e-7)
    np.testing.assert_array_equal(bare, bare.T)


def test_lines_find_power_laws_but_not_in_tail_sums_cut_off():
    index = np.maximum(np.arange(3000.0), 1)  # indices count from 0, as in the notebook
    mean, off = exponents.line(index**-1.3, (500, 2000))
    assert abs(mean - 1.3) < 1e-12
    assert off < 1e-12
    shares = exponents.tail_shares(np.array([4.0, 3.0, 2.0, 1.0]))
    np.testing.assert_allclose(shares, [0.6, 0.3, 0.1, 0.0])
    # κ = 0: tail sums log(n/k), whose local exponent is 1/log(n/k)
    inner = [1 / np.log(3000 / at) for at in (60, 160, 260)]
    assert inner[0] < exponents.unit_tail(3000) < inner[2]
    assert exponents.unit_tail(10**6) < exponents.unit_tail(3000) < exponents.unit_tail(1000)


def test_recursion_as_written_is_the_average_as_long_as_rounding_is_small():
    problem = runs.first_digits(40)
    sgd = ss.SGD(0.3, 0.0, 5)
    noise = 35 / 39 / 5
    run = ss.simulate(problem, sgd, ss.BatchAveraged(tolerance=0), 60, record=1)
    naive = runs.recursion_as_written(problem.kernel, problem.residual, 0.3, noise, 60)
    np.testing.assert_allclose(naive, run["loss"].squeeze().values, rtol=1e-9)


def test_condition_for_negative_momentum_can_say_no():
    early, late = (momentum._single(200, 1.5, mode) for mode in (1, 60))
    assert ss.theory.optimal.negative_momentum_helps(early, 1.5)
    assert not ss.theory.optimal.negative_momentum_helps(late, 1.5)


def test_prediction_interval_covers_one_more_sample_as_often_as_it_says():
    draws = np.random.default_rng(0).standard_normal((4000, 7))
    covered = [low <= one <= high for *values, one in draws for low, high in [verdicts.next_sample(np.array(values))]]
    assert abs(np.mean(covered) - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 4000)


def test_verdicts():
    assert verdicts.judged(1.3, 1.1, 1.3, 2, 1.0) == verdicts.judged(1.304, 1.1, 1.3, 2, 1.0) == verdicts.REPRODUCED
    assert verdicts.judged(1.31, 1.1, 1.3, 2, 1.0) == verdicts.DIFFERS
    assert verdicts.judged(1.3, 1.1, 1.3, 2, 0.1) == verdicts.UNDETERMINED
    with pytest.raises(InputError, match="reason"):
        verdicts.Row("x", "1", "2", "–", verdicts.DIFFERS)
    with pytest.raises(InputError, match="verdict"):
        verdicts.Row("x", "1", "2", "–", "close enough")


def test_choose_names_the_exhibits(run):
    assert reproduction.choose(["budget", "best-lr"])[0].name == "best-lr"
    assert "expected one of best-lr" in run("reproduce", "--figure", "nonsense", code=2)
    assert "got 'list'" in run("reproduce", "--figure", "budget", "list", code=2)
    listed = run("reproduce", "--figure", "list").splitlines()
    assert [line.split()[0] for line in listed] == [known.name for known in reproduction.EXHIBITS]


def test_missing_data_is_recorded_and_the_rest_goes_on(run, monkeypatch, tmp_path):
    names = ("critical", "landscape-mnist", "phases")
    use(monkeypatch, *(known for known in reproduction.EXHIBITS if known.name in names), exhibit("fine"))
    empty = tmp_path / "empty"
    empty.mkdir()
    out = run("reproduce", "--data-dir", str(empty), "--out", "report")
    assert "landscape-mnist: skipped. mnist" in out
    assert "phases: skipped. bike_sharing" in out
    assert "critical: skipped" not in out  # one of its values needs no data
    assert "published 2.14772 · ours 2.147722" in out
    absent = reproduction.Context(data_dir=empty).absent(["digits", "mnist", "bike_sharing"])
    assert absent == "Not here, so left out: mnist, bike_sharing."
    assert "2 rows: 2 reproduced" in out
    text = (tmp_path / "report" / "report.md").read_text()
    assert "*Skipped: mnist" in text
    assert "| loss \\| at the end | 1 | 1.0 | 0 … 2 | reproduced |" in text
    assert "Not here, so left out: mnist." in text
    assert (tmp_path / "report" / "figures" / "curve.png").stat().st_size > 1000
    words = run("reproduce", "--data-dir", str(tmp_path / "nowhere"), "--out", "other", code=2)
    assert "data_dir: expected a folder, got" in words
    assert not (tmp_path / "other").exists()


def test_ctrl_c_keeps_what_is_done(run, monkeypatch, tmp_path):
    def stopped(context):
        raise KeyboardInterrupt

    use(monkeypatch, exhibit("first"), base.Exhibit("second", "Stops", stopped), exhibit("third"))
    facts = json.loads(run("reproduce", "--json", "--full", code=130))
    assert facts["interrupted"]
    assert list(facts["exhibits"]) == ["first"]
    stored = json.loads((tmp_path / "report" / "report.json").read_text())
    assert list(stored["exhibits"]) == ["first"]
    assert stored["exhibits"]["first"]["full"]
    assert stored["exhibits"]["first"]["rows"][0]["values"] == {"ours": 1.0, "bad": None}


def test_a_report_is_taken_up_again_and_other_folders_are_refused(run, monkeypatch, tmp_path):
    use(monkeypatch, exhibit("first"), exhibit("second", picture="other"))
    run("reproduce", "--figure", "second")
    run("reproduce", "--figure", "first")
    folder = tmp_path / "report"
    assert list(json.loads((folder / "report.json").read_text())["exhibits"]) == ["first", "second"]
    use(monkeypatch, exhibit("first", picture="renamed"), exhibit("second", picture="other"))
    run("reproduce", "--figure", "first")
    assert {path.name for path in (folder / "figures").iterdir()} == {"renamed.png", "other.png"}
    assert {path.name for path in folder.iterdir()} == {"report.json", "report.md", "figures"}

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("years of work")
    assert "one with a report of ours" in run("reproduce", "--out", "mine", code=2)
    for text in ('{"made_by": "me", "exhibits": {}}', '{"made_by": "sgdsim repro'):
        (tmp_path / "mine" / "report.json").write_text(text)
        assert "one with a report.json that is not ours, or damaged" in run("reproduce", "--out", "mine", code=2)
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == ["report.json", "thesis.tex"]
    (tmp_path / "file").write_text("")
    assert "got a file" in run("reproduce", "--out", "file", code=2)


def test_two_runs_in_one_folder_keep_each_others_exhibits(monkeypatch, tmp_path):
    first, second = exhibit("first"), exhibit("second", picture="other")
    use(monkeypatch, first, second)
    one, two = (document.Report.open(tmp_path / "report") for _ in range(2))
    for report, known in ((one, first), (two, second)):
        report.add(known, known.work(None), full=False, seed=0, seconds=1.0)
    assert list(json.loads((tmp_path / "report" / "report.json").read_text())["exhibits"]) == ["first", "second"]


def test_a_skipped_exhibit_does_not_replace_one_that_is_done(run, monkeypatch, tmp_path):
    def missing(context):
        raise base.MissingData("gone")

    use(monkeypatch, exhibit("first"))
    run("reproduce")
    use(monkeypatch, base.Exhibit("first", "Title", missing))
    assert main(["reproduce"]) == 0
    assert json.loads((tmp_path / "report" / "report.json").read_text())["exhibits"]["first"]["state"] == "done"


def test_problems_are_made_once():
    context = reproduction.Context()
    assert context.network("digits", 40, 10) is context.network("digits", 40, 10)
    assert context.network("digits", 40, 10) is not context.network("digits", 40, 10, seed=1)
    assert context.size(1, 2) == 1
    assert reproduction.Context(full=True).size(1, 2) == 2
