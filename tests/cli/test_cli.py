"""The command line: every command, what it prints and writes, and that its files hold all that makes a run again."""

import gzip
import json
import os
import re
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import cli, schedules

SMALL = ["--n", "40", "--width", "20", "--n-steps", "20", "--replicates", "2"]
POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "3", "--n", "40", "--n-steps", "20", "--replicates", "2"]
SGDSIM = Path(sys.executable).with_name("sgdsim")
REGIMES = ["network", "sampled", "averaged", "diagonal:tau=1"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Run a command in this process: its standard output, after checking exit code and standard error."""

    def call(*words: str, code: int = 0) -> str:
        assert cli.main(list(words)) == code
        out, err = capsys.readouterr()
        assert err == ""
        return out

    return call


@pytest.fixture
def rows(run):
    """Run with --json: the rows of the one document on standard output."""

    def call(*words: str) -> list[dict]:
        return document(run(*words, "--json"))["rows"]

    return call


def document(text: str) -> dict:
    def refuse(word):
        raise AssertionError(f"{word} is not JSON")

    assert text.count("\n") == 1
    return json.loads(text, parse_constant=refuse)


def finals(rows: list[dict]) -> list[list[float | None]]:
    return [[numbers["final_loss"] for numbers in row["regimes"].values()] for row in rows]


# Help and version.


PROBLEM = """--dataset --kernel --residual --targets --data-dir --n --n-test --width --depth --activation --nu --kappa
    --lambda-min"""
ALGORITHM = "--lr --momentum --batch-size --sampling --n-steps --replicates --seed --dtype --device --record-every"
HELP = {
    "": "compare simulate plot data --version",
    "compare": f"{PROBLEM} {ALGORITHM} --regime --tau --zip --out --plot --json",
    "simulate": f"{PROBLEM} {ALGORITHM} --regime --moments --out --plot --json",
    "plot": "loss spectrum FILE --out --observable",
    "data": "list fetch verify",
    "data list": "NAME mnist --data-dir --json",
    "data fetch": "NAME mnist --data-dir --json --mirror",
    "data verify": "NAME mnist --data-dir --json",
}


@pytest.mark.parametrize("command", HELP)
def test_help(run, command):
    text = run(*command.split(), "--help")
    assert text.startswith(f"usage: sgdsim {command}".rstrip())
    listed = text[text.index("\n\n") :]  # below the usage
    for option in HELP[command].split():
        assert re.search(rf"(?<![\w-]){option}(?![\w-])", listed), option
    assert "None" not in text


def test_defaults_in_the_help(run):
    text = " ".join(run("compare", "--help").split())
    for words in ("steps of SGD (default: 1000)", "heavy ball, or a schedule (default: 0 0.5)", "(default: digits)"):
        assert words in text
    assert not re.search(r"\(default[^)]*\) \(default", text)


def test_version(run):
    import importlib.metadata

    assert run("--version") == f"sgdsim {importlib.metadata.version('sgdsim')}\n"


# compare.


def test_compare_prints_a_row_per_cell(run):
    lines = run("compare", *SMALL, "--lr", "0.5", "1", "--batch-size", "5", "10", "20").splitlines()
    assert lines[0].startswith("digits, N = 40, width 20: 20 steps")
    expected = [(a, m, b) for a in ("0.5", "1") for m in ("0", "0.5") for b in ("5", "10", "20")]
    for heading, columns in (("final training loss", ["stable", *REGIMES]), ("final test loss", REGIMES)):
        at = lines.index(heading)
        assert lines[at + 1].split() == ["lr", "momentum", "batch", *columns]
        assert set(lines[at + 2]) == {"-"}
        assert [tuple(line.split()[:3]) for line in lines[at + 3 : at + 15]] == expected
        assert lines[at + 15] == ""
    assert lines[-1].startswith("mean ± standard error")


def test_compare_json(run, rows):
    text = run("compare", *SMALL, "--lr", "0.5", "1", "--momentum", "-0.1", "0.5", "--json")
    found = document(text)
    assert (found["n"], found["n_steps"], found["seed"], found["interrupted"]) == (40, 20, 0, False)
    assert [(row["lr"], row["momentum"], row["batch_size"]) for row in found["rows"]] == [
        (0.5, -0.1, 10), (0.5, 0.5, 10), (1.0, -0.1, 10), (1.0, 0.5, 10),
    ]  # fmt: skip
    for row in found["rows"]:
        assert row["stable"] is True
        assert row["torch_lr"] == pytest.approx(row["lr"] * 40 / found["lambda_max"], rel=1e-12)
        assert list(row["regimes"]) == REGIMES
        for name, numbers in row["regimes"].items():
            assert 0 < numbers["final_loss"] < 0.7
            assert numbers["ratio_to_network"] == numbers["final_loss"] / row["regimes"]["network"]["final_loss"]
            assert numbers["replicates"] == (2 if name in ("network", "sampled") else 1)
            assert (numbers["final_loss_stderr"] is None) == (numbers["replicates"] == 1)
            assert (numbers["diverged"], numbers["done"]) == (0, True)
            assert numbers["final_test_loss"] > 0


@pytest.mark.parametrize("lr", ["5", "1e6", "1e308"])
def test_json_stays_valid_when_cells_diverge(run, lr):
    found = document(run("compare", *SMALL, "--lr", lr, "1", "--json"))["rows"]
    for row in found[:2]:
        assert row["stable"] is False
        for name in REGIMES[1:]:
            assert row["regimes"][name]["diverged"] == row["regimes"][name]["replicates"]
            assert row["regimes"][name]["final_loss"] is None
            assert row["regimes"][name]["ratio_to_network"] is None
    for row in found[2:]:
        assert row["stable"] is True
        assert None not in [numbers["final_loss"] for numbers in row["regimes"].values()]


def test_diverged_cells_in_the_table(run):
    lines = run("compare", *SMALL, "--lr", "5", "1", "--momentum", "0").splitlines()
    for heading in ("final training loss", "final test loss"):
        at = lines.index(heading) + 3
        assert " ".join(lines[at].split()).endswith("diverged 2/2 diverged 1/1 diverged 1/1")
        assert "diverged" not in lines[at + 1]
    assert "yes" in lines[4 + 1]
    assert "no " in lines[3 + 1]


def test_zip_pairs(rows):
    found = rows("compare", *SMALL, "--zip", "--lr", "0.5", "1", "--momentum", "0.1", "0.2", "--batch-size", "8")
    assert [(row["lr"], row["momentum"], row["batch_size"]) for row in found] == [(0.5, 0.1, 8), (1.0, 0.2, 8)]
    apart = rows("compare", *SMALL, "--lr", "0.5", "1", "--momentum", "0.1", "0.2", "--batch-size", "8")
    assert finals(found) == [finals(apart)[0], finals(apart)[3]]


def test_power_law_has_no_network(rows):
    (row,) = rows("compare", *POWER, "--momentum", "0", "--tau", "1", "-1", "0.25")
    assert list(row["regimes"]) == ["sampled", "averaged", "diagonal:tau=1", "diagonal:tau=-1", "diagonal:tau=0.25"]
    assert row["regimes"]["averaged"]["ratio_to_sampled"] > 0
    assert "final_test_loss" not in row["regimes"]["sampled"]


def test_regimes_in_the_order_given(rows):
    (row,) = rows("compare", *POWER, "--momentum", "0", "--regimes", "diagonal:tau=0.5", "sampled")
    assert list(row["regimes"]) == ["diagonal:tau=0.5", "sampled"]


@pytest.mark.parametrize(
    ("option", "short", "long"),
    [
        ("--n-steps", "20", "2e1"),
        ("--batch-size", "10", "1e1"),
        ("--momentum", "-0.001", "-1e-3"),
        ("--n", "40", "4_0"),
    ],
)
def test_forms_of_numbers(rows, option, short, long):
    base = ["compare", *POWER, "--regimes", "sampled", "diagonal"]
    once, again = (finals(rows(*base, option, value)) for value in (short, long))
    assert once == again


@pytest.mark.parametrize("momentum", ["-0.5", "-.5", "-5e-1"])
def test_negative_momentum(rows, momentum):
    found = rows("simulate", *POWER, "--momentum", momentum)
    assert found[0]["momentum"] == -0.5
    assert finals(found) == finals(rows("simulate", *POWER, f"--momentum={momentum}"))
    assert finals(found) != finals(rows("simulate", *POWER, "--momentum", "0"))


@pytest.mark.parametrize(
    ("option", "spec", "made"),
    [
        ("--lr", "power:start=1,exponent=0.5", {"lr": schedules.Power(1, 0.5)}),
        ("--lr", "power:start=1,exponent=0.5,offset=7", {"lr": schedules.Power(1, 0.5, 7)}),
        ("--lr", "warmup-cosine:peak=1,warmup=5,total=20", {"lr": schedules.WarmupCosine(1, 5, 20)}),
        ("--batch-size", "steps:start=4,factor=2,every=8", {"batch_size": schedules.Steps(4, 2, 8)}),
        ("--momentum", "jacobi:a=1.5,b=0.5", {"momentum": schedules.JacobiMomentum(1.5, 0.5)}),
        ("--lr", "jacobi:lr=0.3,a=1.5,b=0.5", {"lr": schedules.JacobiLR(0.3, 1.5, 0.5)}),
    ],
)
def test_schedules(rows, option, spec, made):
    (row,) = rows("compare", *POWER, "--momentum", "0", option, spec, "--out", "r.nc")
    assert row["torch_lr"] is None or option != "--lr"
    problem = ss.QuadraticProblem.power_law(40, 1.5, 3.0)
    sgd = ss.SGD(**{"lr": 1.0, "momentum": 0.0, "batch_size": 10, **made})
    for regime in (ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()):
        direct = ss.simulate(problem, sgd, regime, 20, replicates=2).loss.values[0, :, -1]
        assert row["regimes"][regime.name]["final_loss"] == pytest.approx(direct.mean(), rel=1e-15)
    assert str(ss.load("r.nc")[option[2:].replace("-", "_")].values[0]).startswith(spec.partition(":")[0])


def test_the_seed_decides(rows):
    base = ["compare", *SMALL, "--momentum", "0.3"]
    once, again, other = (finals(rows(*base, "--seed", seed)) for seed in ("3", "3", "4"))
    assert once == again
    assert all(a != b for a, b in zip(once[0], other[0], strict=True))


# Files.


def test_out_holds_what_the_json_says(rows, here):
    found = rows("compare", *SMALL, "--lr", "0.5", "1", "5", "--batch-size", "10", "40", "--out", "r.nc")
    result = ss.load("r.nc")
    assert [path.name for path in here.iterdir()] == ["r.nc"]
    assert dict(result.sizes) == {
        "lr": 3, "momentum": 2, "batch_size": 2, "sampling": 1, "regime": 4, "replicate": 2,
        "step": result.sizes["step"], "mode": 40,
    }  # fmt: skip
    assert len(found) == 12
    for row in found:
        cell = result.sel({name: row[name] for name in ("lr", "momentum", "batch_size", "sampling")})
        for name, numbers in row["regimes"].items():
            for variable in ("loss", "test_loss"):
                final = cell[variable].sel(regime=name).isel(step=-1).values[: numbers["replicates"]]
                mean = final.mean()
                assert numbers[f"final_{variable}"] == (mean if np.isfinite(mean) else None)
            outcome = cell.outcome.sel(regime=name).values[: numbers["replicates"]]
            assert numbers["diverged"] == (outcome == 2).sum()
            assert bool(cell.done.sel(regime=name)) is numbers["done"] is True


@pytest.mark.parametrize(("end", "magic"), [("png", b"\x89PNG"), ("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_plot_of_a_run_and_of_its_file(run, here, end, magic):
    out = run("compare", *SMALL, "--out", "r.nc", "--plot", f"r.{end}")
    assert out.splitlines()[-2:] == ["wrote r.nc", f"wrote r.{end}"]
    for what in ("loss", "spectrum"):
        assert run("plot", what, "r.nc", "--out", f"{what}.{end}") == f"wrote {what}.{end}\n"
    run("plot", "loss", "r.nc", "--observable", "test_loss", "--out", f"test.{end}")
    pictures = {path.stem: path.read_bytes() for path in here.glob(f"*.{end}")}
    assert set(pictures) == {"r", "loss", "spectrum", "test"}
    assert all(content.startswith(magic) for content in pictures.values())
    assert pictures["r"] == pictures["loss"]  # the same picture, from the file alone
    assert len(set(pictures.values())) == 3


@pytest.mark.parametrize("words", [["--lr", "1e6"], ["--n-steps", "1"], ["--n-test", "0"]])
def test_plot_of_odd_runs(run, here, words):
    run("compare", *SMALL, *words, "--plot", "r.png")
    assert (here / "r.png").stat().st_size > 5000


def test_a_link_is_written_through(run, here):
    (here / "folder").mkdir()
    (here / "r.nc").symlink_to("folder/real.nc")
    run("simulate", *POWER, "--out", "r.nc")
    assert (here / "r.nc").is_symlink()
    assert ss.load("folder/real.nc").sizes["mode"] == 40


# simulate.


def test_simulate_with_moments(rows):
    (row,) = rows("simulate", *POWER, "--regime", "diagonal:tau=-1", "--lr", "0.4", "--moments", "--out", "m.nc")
    assert list(row["regimes"]) == ["diagonal:tau=-1"]
    result = ss.load("m.nc").isel(cell=0, regime=0, replicate=0)
    assert result.moments.dims == ("step", "mode")
    assert np.allclose(result.moments.sum("mode") / 80, result.loss, rtol=1e-12, atol=0)
    assert row["regimes"]["diagonal:tau=-1"]["final_loss"] == float(result.loss[-1])


@pytest.mark.parametrize("regime", REGIMES)
def test_simulate_is_one_cell_of_compare(rows, regime):
    values = ["--lr", "0.7", "--momentum", "0.2", "--batch-size", "7"]
    (one,) = rows("simulate", *SMALL, *values, "--regime", regime)
    (all_,) = rows("compare", *SMALL, *values)
    assert one["regimes"][regime]["final_loss"] == all_["regimes"][regime]["final_loss"]
    assert one["regimes"][regime]["final_test_loss"] == all_["regimes"][regime]["final_test_loss"]


def test_record_every(run):
    run("simulate", *POWER, "--record-every", "7", "--out", "r.nc")
    assert ss.load("r.nc").step.values.tolist() == [0, 7, 14, 20]


# A kernel of one's own.


@pytest.mark.parametrize("form", ["npz", "npy", "npy targets", "pt", "pth"])
def test_kernel_files(rows, here, form):
    rng = np.random.default_rng(2)
    features = rng.standard_normal((16, 20))
    joint = features @ features.T
    kernel, cross, residual, test = joint[:12, :12], joint[12:, :12], rng.standard_normal(12), rng.standard_normal(4)
    arrays = {"kernel": kernel, "residual": residual, "cross_kernel": cross, "test_residual": test}
    words = ["--kernel", f"k.{form.split()[0]}"]
    if form == "npz":
        np.savez("k.npz", **arrays)
    elif form.startswith("npy"):
        name = "targets" if "targets" in form else "residual"
        np.save("k.npy", kernel)
        np.save("r.npy", -residual if name == "targets" else residual)
        words += [f"--{name}", "r.npy"]
    else:
        torch.save({name: torch.tensor(value) for name, value in arrays.items()}, f"k.{form}")
    found = rows("compare", *words, "--lr", "0.5", "--batch-size", "3", "--n-steps", "20", "--replicates", "2")
    extra = {} if form.startswith("npy") else {"cross_kernel": cross, "test_residual": test}
    problem = ss.QuadraticProblem.from_kernel(kernel, residual, **extra)
    regimes = [ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()]
    grid = ss.Grid.product(lr=[0.5], momentum=[0.0, 0.5], batch_size=[3])
    observe = ["test_loss"] if extra else []
    result = ss.sweep(problem, grid, regimes, 20, replicates=2, observe=observe)
    for i, row in enumerate(found):
        for j, numbers in enumerate(row["regimes"].values()):
            for name in ("loss", *observe):
                values = result[name].values[0, i, 0, j, : numbers["replicates"], -1]
                assert numbers[f"final_{name}"] == values.mean()


# A run made again from its file alone.


def rebuilt(result):
    """The sweep that the attributes of `result` describe."""
    call, facts = json.loads(result.attrs["call"]), json.loads(result.attrs["problem"])
    seed = int(result.attrs["seed"])
    if facts["kind"] == "power_law":
        problem = ss.QuadraticProblem.power_law(
            facts["n"], facts["nu"], facts["kappa"], facts["lambda_min"], facts["seed"]
        )
    else:
        network = {name: value for name, value in facts["network"].items() if name != "kind"}
        data = facts["data"]
        data = ss.datasets.load(data["name"], data["n"], data["seed"], n_test=data["n_test"])
        problem = ss.NetworkProblem(ss.networks.MLP(**network), data, device=result.attrs["device"])

    def value(name, stored):
        return schedules.parse(name, stored) if isinstance(stored, str) and name != "sampling" else stored

    axes = {name: [value(name, entry) for entry in values] for name, values in call["grid"].items()}
    grid = (ss.Grid.zip if call["zip"] else ss.Grid.product)(**axes)
    classes = {
        "network": ss.RealNetwork, "sampled": ss.SampledLinearized, "averaged": ss.BatchAveraged,
        "diagonal": ss.SpectralDiagonal,
    }  # fmt: skip
    regimes = [
        classes[name.partition(":")[0]](**parameters)
        for name, parameters in zip(call["regimes"], call["regime_parameters"], strict=True)
    ]
    record = None if call["record"] == "log" else call["record"]
    return ss.sweep(
        problem, grid, regimes, call["n_steps"],
        record=record, observe=call["observe"], replicates=call["replicates"], seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize(
    "words",
    [
        ["compare", *SMALL, "--lr", "0.3", "1.1", "--seed", "5", "--depth", "2", "--activation", "erf"],
        ["compare", *SMALL, "--dtype", "float32", "--n-test", "7", "--seed", "123456789012345678"],
        ["compare", *SMALL, "--zip", "--lr", "1", "power:start=0.7,exponent=0.3", "--momentum", "0.1", "0.2"],
        [
            "compare",
            *POWER,
            "--tau",
            "0.123456789012345",
            "-1",
            "--sampling",
            "with-replacement",
            "--lambda-min",
            "1e-3",
        ],
        ["compare", *SMALL, "--sampling", "reshuffle", "--regimes", "network", "sampled", "--record-every", "3"],
        ["simulate", *POWER, "--moments", "--regime", "sampled", "--lr", "0.3333333333333333", "--lambda-min", "0.01"],
    ],
)
def test_a_run_made_again_from_its_attributes(run, words):
    run(*words, "--out", "r.nc")
    result = ss.load("r.nc")
    again = rebuilt(result)
    assert again.attrs["problem_sha256"] == result.attrs["problem_sha256"]
    assert result.done.values.all()
    assert not np.isnan(result.loss.values[..., 0, :]).any()
    assert again.drop_vars("seconds").drop_attrs().equals(result.drop_vars("seconds").drop_attrs())
    assert json.loads(again.attrs["call"]) == json.loads(result.attrs["call"])


# Data sets.


def write_mnist(folder: Path) -> None:
    rng = np.random.default_rng(0)
    (folder / "mnist").mkdir(parents=True)
    for part in ("train", "t10k"):
        images, labels = rng.integers(0, 256, (60, 3, 3)).astype(np.uint8), np.arange(60, dtype=np.uint8) % 10
        for kind, values in (("images", images), ("labels", labels)):
            header = struct.pack(f">{1 + values.ndim}I", 2048 + values.ndim, *values.shape)
            name = f"{part}-{kind}-idx{values.ndim}-ubyte.gz"
            (folder / "mnist" / name).write_bytes(gzip.compress(header + values.tobytes()))


def test_data_list_and_verify(run, here):
    write_mnist(here / "own")
    files = document(run("data", "list", "--data-dir", "own", "--json"))["files"]
    assert {file["dataset"] for file in files if file["present"]} == {"digits", "mnist"}
    lines, licences = (part.splitlines() for part in run("data", "list", "--data-dir", "own").split("\n\n"))
    assert lines[0].split() == ["dataset", "path", "present", "size"]
    assert len(lines) == 1 + len(files)
    assert [line.split()[0] for line in licences[1:]] == list(dict.fromkeys(file["dataset"] for file in files))
    assert "None" not in "".join(lines + licences)
    assert len(run("data", "list", "mnist").splitlines()) == 5 + 3

    text = run("data", "verify", "--data-dir", "own", code=1)  # mnist by name and format, but not by content
    assert text.count("corrupt") == 4
    run("data", "verify", "mnist", "--data-dir", "own", code=1)
    files = document(run("data", "verify", "mnist", "--data-dir", "own", "--json", code=1))["files"]
    assert [file["status"] for file in files] == ["corrupt"] * 4
    assert "expected 47040016 bytes" in files[0]["message"]
    run("data", "verify", "--data-dir", "nowhere")  # nothing damaged in an empty folder
    run("data", "verify", "mnist", "--data-dir", "nowhere", code=1)  # but a data set that is asked for is missing
    assert sorted(path.name for path in here.iterdir()) == ["own"]


def test_data_dir(rows, here, monkeypatch):
    write_mnist(here / "own")
    words = ["compare", "--dataset", "mnist", *SMALL]
    by_option = finals(rows(*words, "--data-dir", "own"))
    monkeypatch.setenv("SGDSIM_DATA", "own")
    assert finals(rows(*words)) == by_option
    monkeypatch.delenv("SGDSIM_DATA")
    (here / "own").rename("data")
    assert finals(rows(*words)) == by_option


REAL = os.environ.get("SGDSIM_DATA")


@pytest.mark.skipif(not REAL, reason="needs the real data: set SGDSIM_DATA to the folder that holds them")
@pytest.mark.parametrize("name", ["mnist", "cifar10", "olivetti", "bike_sharing", "sgemm_product"])
def test_real_data(run, rows, name):
    files = document(run("data", "verify", name, "--json"))["files"]
    assert {file["status"] for file in files if file["required"]} <= {"ok", "unchecked"}
    for row in rows("compare", "--dataset", name, *SMALL, "--lr", "0.5"):
        assert row["stable"] is True
        assert all(0 < numbers["final_loss"] < 2 for numbers in row["regimes"].values())


# Pipes.


def piped(words: list[str], reader: str, folder: Path, buffered: bool) -> tuple[str, str]:
    """Standard output of `reader` and standard error of `sgdsim words | reader`."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    environment |= {} if buffered else {"PYTHONUNBUFFERED": "1"}
    command = " ".join([str(SGDSIM), *words]) + " | " + reader
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    return done.stdout, done.stderr


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("words", [["data", "list"], ["simulate", *POWER], ["simulate", "--help"]])
def test_a_reader_that_goes_away(here, words, buffered):
    out, err = piped(words, "head -n 1", here, buffered)
    assert out.count("\n") == 1
    assert err == ""
    assert piped(words, "true", here, buffered) == ("", "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [["data", "list"], ["--version"], ["simulate", *POWER, "--json"]])
def test_output_that_cannot_be_written(here, words):
    with open("/dev/full", "w") as full:
        done = subprocess.run([SGDSIM, *words], stdout=full, stderr=subprocess.PIPE, text=True, cwd=here, timeout=900)
    assert done.returncode == 1
    assert re.fullmatch(r"sgdsim.*: error: output: No space left on device\n", done.stderr)
