"""`--data`, `--targets`: data of one's own on the command line, in every command that takes a data set."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import sgdsim as ss
from sgdsim.cli import main
from sgdsim.problem.kernel_files import load_kernel

TEN_CLASSES = (
    "--dataset digits --targets one-hot --n 60 --width 16 --n-steps 5 --replicates 2 --n-test 0 --momentum 0 --lr 0.5"
)
OPTIONS = ["--data", "t.csv", "--target", "price", "--n", "20", "--width", "8"]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    """A command in a folder with data: standard output and the note, or the one line of an error."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((40, 2))
    rows = [f"{a:.4f};{b:.4f};{'xy'[i % 2]};{3 * a - b:.4f}" for i, (a, b) in enumerate(x)]
    Path("t.csv").write_text("a;b b;town;price\n" + "\n".join(rows).replace(".", ","))
    np.savez("t.npz", x=rng.integers(0, 9, (40, 3, 4, 4)), y=np.arange(40) % 4)

    def call(*words, code=0):
        assert main(list(words)) == code
        out, err = capsys.readouterr()
        if code:
            assert (out, err.count("\n")) == ("", 1)
        return err if code else (out, err)

    return call


def test_a_table(run):
    out, note = run("spectrum", *OPTIONS, "--json")
    made = "target price; targets are numbers; 4 input columns, of them town one-hot; numbers standardised"
    assert note == f"sgdsim: t.csv: {made}\n"
    found = json.loads(out)
    data = ss.datasets.load_file("t.csv", 20, target="price")
    assert found["problem"]["data"] == dict(data.info)
    problem = ss.NetworkProblem(ss.networks.MLP(8, seed=0), data, device="cpu")
    np.testing.assert_allclose(found["eigenvalues"], problem.quadratic.eigenvalues, rtol=1e-9, atol=1e-14)


def test_the_default_is_at_most_four_fifths(run):
    out, _ = run("simulate", *OPTIONS[:4], "--width", "4", "--n-steps", "2", "--batch-size", "2", "--json")
    described = json.loads(out)["problem"]["data"]
    assert (described["n"], described["n_test"]) == (32, 8)


@pytest.mark.parametrize(
    "words",
    [
        "recommend --horizon 20 --json",
        "stability --batch-size 2 --json",
        "hessian --steps 0 1 --batch-size 2 --batch-norm without --top 2 --lanczos-steps 3 --probes 1 --json",
        "validate --widths 3 --batch-size 2 --only training --n-steps 40 --replicates 1 --json",
    ],
)
def test_every_command_takes_it(run, words):
    command, *more = words.split()
    width = [] if command == "validate" else OPTIONS[-2:]
    out, note = run(command, *OPTIONS[:-2], *width, *more)
    assert "t.csv" in out
    assert note.startswith("sgdsim: t.csv: target price")


def test_options_reach_the_data(run):
    out, note = run(
        *("simulate", *OPTIONS, "--features", "a", "b b", "--no-standardise", "--n-steps", "1", "--batch-size", "2"),
        "--json",
    )
    described = json.loads(out)["problem"]["data"]
    assert described["columns"] == ["a", "b b"]
    assert described["input_std"] == [1, 1]
    assert "numbers as they are" in note
    out, _ = run("simulate", "--data", "t.npz", "--targets", "class:0,3", "--n", "8", "--width", "4", "--n-steps", "1",
                 "--batch-size", "2", "--json")  # fmt: skip
    assert json.loads(out)["problem"]["data"]["classes"] == ["0", "3"]


def test_a_model_of_ones_own_gets_images_in_their_shape(run):
    Path("own_test_cnn.py").write_text(
        "from torch import nn\ndef cnn():\n"
        "    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 1))\n"
    )
    words = ("--n", "12", "--n-steps", "2", "--batch-size", "3", "--json")
    out, _ = run("simulate", "--data", "t.npz", "--model", "own_test_cnn:cnn", *words)
    assert json.loads(out)["problem"]["data"]["input_shape"] == [3, 4, 4]
    for name in ("cat", "dog"):
        (Path("pets") / name).mkdir(parents=True)
        for i in range(8):
            pixels = np.random.default_rng([i, len(name), name == "cat"]).integers(0, 256, (4, 4, 3))
            Image.fromarray(pixels.astype(np.uint8)).save(f"pets/{name}/{i}.png")
    words = ("--data", "pets", "--targets", "class:cat,dog", *words)
    out, _ = run("simulate", "--model", "own_test_cnn:cnn", *words)
    assert json.loads(out)["problem"]["data"]["classes"] == ["cat", "dog"]
    run("simulate", "--width", "5", *words)  # the built-in network takes rows


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("simulate --target y", "--target: expected only with --data"),
        ("simulate --missing drop", "--missing: expected only with --data"),
        ("hessian --features a", "--features: expected only with --data"),
        ("hessian --data t.csv --data-dir .", "--data-dir: expected only with --dataset"),
        ("simulate --data t.csv --dataset digits", "not allowed with argument --data"),
        ("simulate --data t.csv --data-dir .", "--data-dir: expected only with data sets"),
        ("simulate --data t.csv", "target: expected the name of a column of t.csv"),
        ("simulate --data t.csv --target price --n 50", "n: expected at most 40"),
        ("simulate --data none.csv --target y", "none.csv: expected a file, a folder or MODULE:FUNCTION, found none"),
        ("simulate --dataset power_law --nu 1 --kappa 1 --targets one-hot", "--targets: expected only with"),
        ("simulate --targets three", "targets: expected number, one-hot or class:A,B, got 'three'"),
        ("spectrum --data t.csv --target price --out t.csv", "--out: expected another file than that of --data"),
    ],
)
def test_refusals(run, words, says):
    assert says in run(*words.split(), code=2)


def test_ten_classes_of_a_built_in_set(run):
    made = json.loads(run("compare", *TEN_CLASSES.split(), "--json")[0])
    assert made["problem"]["network"]["n_outputs"] == 10
    (row,) = made["rows"]
    assert list(row["regimes"]) == ["network", "sampled", "diagonal:tau=1"]
    assert "600 × 600" in made["left_out"]["averaged"]
    assert row["regimes"]["network"]["final_loss"] == pytest.approx(row["regimes"]["sampled"]["final_loss"], rel=0.2)


def test_two_classes_of_a_built_in_set(run):
    out, note = run("simulate", "--targets", "class:3,8", "--n", "30", "--width", "5", "--n-steps", "2", "--json")
    assert note == ""
    assert json.loads(out)["problem"]["data"]["targets"] == "class:3,8"


def test_a_kernel_from_csv(run):
    x = np.linspace(-1, 1, 12)
    kernel = np.exp(-np.abs(x[:, None] - x))
    np.save("k.npy", kernel)
    np.save("y.npy", np.sign(x))
    np.savetxt("k.csv", kernel, delimiter=",", fmt="%.17g")
    Path("y.csv").write_text("label\n" + "\n".join(f"{y:g}" for y in np.sign(x)))
    Path("german.csv").write_text("\n".join(";".join(f"{v:.17g}" for v in row) for row in kernel).replace(".", ","))
    rows = []
    for k, y in (("k.npy", "y.npy"), ("k.csv", "y.csv"), ("german.csv", "y.npy")):
        out, _ = run("simulate", "--kernel", k, "--targets", y, "--batch-size", "3", "--n-steps", "9", "--json")
        found = json.loads(out)["rows"][0]["regimes"]["diagonal:tau=1"]
        rows.append({name: value for name, value in found.items() if name != "seconds"})
    assert rows[0] == rows[1] == rows[2]
    Path("two.csv").write_text("\n".join(f"{y:g},{1 - y:g}" for y in np.sign(x)))  # two outputs
    np.save("two.npy", np.column_stack([np.sign(x), 1 - np.sign(x)]))
    first, second = (load_kernel("k.npy", targets=path) for path in ("two.csv", "two.npy"))
    np.testing.assert_array_equal(first.coefficients, second.coefficients)
    np.save("one.npy", np.float64(1))
    assert "expected shape (1, 1) to match" in run("simulate", "--kernel", "k.npy", "--residual", "one.npy", code=2)
    assert "expected a .npy or .csv file of the targets, got no ending" in run(
        "simulate", "--kernel", "k.npy", "--targets", "one-hot", code=2
    )


@pytest.mark.parametrize("how", [[], ["--lanczos", "5"]])
def test_a_spectrum_opens_and_is_drawn(run, how):
    """What `spectrum --out` wrote, also without a kernel."""
    run("spectrum", "--n", "40", "--n-test", "0", "--width", "5", *how, "--out", "s.nc")
    opened, problem = ss.load("s.nc"), ss.results.load_problem("s.nc")
    np.testing.assert_array_equal(opened["eigenvalues"], problem.eigenvalues)
    assert ss.results.problem_of(opened).n == 40
    assert ss.plot.spectrum(opened).get_lines()
    run("plot", "spectrum", "s.nc", "--out", "s.svg")
    assert Path("s.svg").stat().st_size > 1000
    assert "such as 'loss', got none" in run("plot", "loss", "s.nc", "--out", "l.svg", code=2)
    assert "got no such variable" in run("export", "s.nc", "--out", "s.csv", code=2)
