"""Hessian spectra along training: against dense Hessians, plain torch and the network regime; plot and command."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

import sgdsim as ss
from sgdsim import plot, sampling
from sgdsim.cli import main
from sgdsim.common.checks import InputError
from sgdsim.networks import StandardMLP
from sgdsim.networks.curvature import Curvature
from sgdsim.plot import hessian as plot_hessian
from sgdsim.studies.hessians import count_outliers, hessian_spectra, looks

FAST = {"device": "cpu", "lanczos_steps": 5, "n_probes": 2, "top": 4}


@pytest.fixture(scope="module")
def small():
    rng = np.random.default_rng(0)
    return ss.Dataset(rng.standard_normal((40, 5)), rng.standard_normal(40), "noise")


def trained(network, data, lr, batch_size, steps, seed, momentum=0.0):
    """Plain torch on the package's batches."""
    network.build(data.d)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum)
    sizes, keys = np.full(steps, batch_size), sampling.replicate_keys(seed, 1)
    for batch in sampling.minibatch_indices(data.n, sizes, 0, steps, keys)[0]:
        optimizer.zero_grad()
        f = network(torch.as_tensor(data.x[batch]))
        (0.5 * ((f - torch.as_tensor(data.y[batch])) ** 2).mean()).backward()
        optimizer.step()
    return network


def test_the_run_is_that_of_the_network_regime(digits_network):
    steps = [0, 3, 40, 90]
    options = {"momentum": 0.6, "batch_size": 7}
    found = hessian_spectra(
        digits_network.network, digits_network.data, lr=digits_network.quadratic.torch_lr(0.7), **options,
        steps=[40, 3, 0, 90, 3], seed=5, **FAST,
    )  # fmt: skip
    regime = ss.simulate(digits_network, ss.SGD(0.7, **options), ss.RealNetwork(), 90, record=steps, seed=5)
    assert [record.step for record in found.at] == steps == list(found.steps)
    losses = [record.loss for record in found.at]
    np.testing.assert_allclose(losses, regime["loss"].values[0, 0], rtol=1e-9)
    assert losses[-1] < losses[0] / 2
    assert not found.interrupted
    assert found.diverged_at is None


def test_several_outputs_run_as_in_the_network_regime(small):
    y = np.random.default_rng(1).standard_normal((small.n, 3))
    data, network = ss.Dataset(small.x, y, "noise"), nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    problem, options = ss.NetworkProblem(network, data, device="cpu"), {"momentum": 0.6, "batch_size": 7}
    found = hessian_spectra(network, data, lr=problem.quadratic.torch_lr(0.7), **options, steps=[0, 20], seed=5, **FAST)
    regime = ss.simulate(problem, ss.SGD(0.7, **options), ss.RealNetwork(), 20, record=[0, 20], seed=5)
    np.testing.assert_allclose([at.loss for at in found.at], regime["loss"].values[0, 0], rtol=1e-9)


@pytest.mark.parametrize("batch_norm", [False, True])
def test_below_the_largest_rate_full_batches_are_stable(small, batch_norm):
    """Of a linear read-out on frozen features the limit is exact: the loss falls below it and grows above."""
    module = StandardMLP(6, 2, "tanh", batch_norm=batch_norm, seed=3).build(small.d)
    for p in module.layers[:-1].parameters():
        p.requires_grad_(False)
    for p in module.norms.parameters():
        p.requires_grad_(False)
    look = {"batch_size": small.n, "momentum": 0.3, **FAST}
    limit = hessian_spectra(module, small, lr=0.1, steps=[0], **look).largest_lr
    run = lambda factor: hessian_spectra(module, small, lr=factor * limit, steps=[0, 300], **look)  # noqa: E731
    below, above = run(0.98), run(1.02)
    assert below.one_batch is batch_norm
    assert below.at[1].loss < below.at[0].loss
    assert above.diverged_at is not None or above.at[1].loss > 2 * above.at[0].loss


@pytest.mark.parametrize("batch_norm", [False, True])
def test_the_run_is_that_of_torch(small, batch_norm):
    make = lambda: StandardMLP(6, 2, "tanh", batch_norm=batch_norm, seed=3)  # noqa: E731
    module = make().build(small.d)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    found = hessian_spectra(module, small, lr=0.05, momentum=0.3, batch_size=10, steps=[60], seed=2, **FAST)
    assert all(torch.equal(module.state_dict()[name], value) for name, value in before.items())
    network = trained(make(), small, 0.05, 10, 60, 2, momentum=0.3)
    record = found.at[0]
    f = network(torch.as_tensor(small.x))  # in training mode still: all points are one batch
    loss = 0.5 * ((f - torch.as_tensor(small.y)) ** 2).mean()
    gradient = torch.nn.utils.parameters_to_vector(torch.autograd.grad(loss, network.parameters()))
    assert record.loss == pytest.approx(loss.item(), rel=1e-9)
    assert record.gradient_norm == pytest.approx(gradient.norm().item(), rel=1e-9)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_numbers_against_the_dense_hessian(small, batch_norm, dtype):
    network = StandardMLP(6, 2, "tanh", batch_norm=batch_norm, seed=1)
    found = hessian_spectra(
        network, small, lr=0.1, batch_size=10, steps=[30], top=7, lanczos_steps=40, n_probes=20, device="cpu",
        dtype=dtype,
    )  # fmt: skip
    curvature = Curvature(trained(StandardMLP(6, 2, "tanh", batch_norm=batch_norm, seed=1), small, 0.1, 10, 30, 0),
                          small.x, small.y)  # fmt: skip
    dense = curvature.hessian() @ np.eye(curvature.size)
    values, vectors = np.linalg.eigh((dense + dense.T) / 2)
    values, vectors = values[::-1], vectors[:, ::-1]
    gradient = curvature.gradient()
    record = found.at[0]
    close = {"float64": 1e-8, "float32": 1e-3}[dtype]
    np.testing.assert_allclose(record.eigenvalues, values[:7], atol=close)
    assert record.smallest == pytest.approx(values[-1], abs=close)
    assert record.smallest < 0
    assert max(*record.residuals, record.smallest_residual) < close
    captured = np.cumsum((vectors.T @ gradient) ** 2) / (gradient @ gradient)
    np.testing.assert_allclose(record.captured, captured[:7], atol=10 * close)
    assert record.n_outliers == count_outliers(values[:7], values[-1])
    assert record.bulk_edge == pytest.approx(max(values[record.n_outliers], -values[-1]), abs=close)
    assert 0 < record.trace_error < 0.5 * abs(np.trace(dense))
    assert abs(record.trace - np.trace(dense)) < 4 * record.trace_error
    density = record.density
    exact = np.exp(-0.5 * ((density.grid[:, None] - values) / density.sigma) ** 2).mean(1)
    exact /= density.sigma * np.sqrt(2 * np.pi)
    assert density.weights.sum() == pytest.approx(1, rel=1e-12)
    assert np.trapezoid(np.abs(density.density - exact), density.grid) < 0.3
    beyond = density.grid > (values[6] + values[7]) / 2 + 4 * density.sigma  # the k largest are exact there
    np.testing.assert_allclose(density.density[beyond], exact[beyond], atol=0.03 * exact[beyond].max())


def test_all_eigenvalues_give_the_exact_trace(small):
    network = StandardMLP(3, 1, "tanh", seed=0).build(small.d)
    size = sum(p.numel() for p in network.parameters())
    record = hessian_spectra(network, small, batch_size=5, steps=[0], top=size, n_probes=2, device="cpu").at[0]
    curvature = Curvature(network, small.x, small.y)
    assert record.trace == pytest.approx(np.trace(curvature.hessian() @ np.eye(size)), rel=1e-9)
    assert record.captured[-1] == pytest.approx(1, rel=1e-9)
    assert record.smallest == pytest.approx(record.eigenvalues[-1], abs=1e-9)


@pytest.mark.parametrize(
    ("eigenvalues", "smallest", "gap", "count"),
    [
        ([10, 9, 8, 1, 0.9], 0, 2, 3), ([10, 4, 3, 2, 1.5], 0, 2, 1), ([10, 4, 3, 1, 0.9], 0, 2, 3),
        ([10, 9, 8, 7], 0, 2, 0), ([10, 1, 0.9], -6, 2, 0), ([10, 1, 0.9], -4, 2, 1), ([10, 9, 5], 0, 1.5, 2),
        ([5, 0, 0], 0, 2, 1), ([0, 0, 0], 0, 2, 0), ([-1, -2, -3], -4, 2, 0),
        (1.0 / np.arange(1, 20) ** 1.0, 0, 2, 0), (1.0 / np.arange(1, 20) ** 1.5, 0, 2, 1),
        (1.0 / np.arange(1, 20) ** 2.0, 0, 2, 2),
    ],
)  # fmt: skip
def test_count_outliers(eigenvalues, smallest, gap, count):
    assert count_outliers(np.asarray(eigenvalues, float), smallest, gap) == count


def test_a_planted_outlier_is_found_and_carries_the_gradient():
    """A linear model: the Hessian is XᵀX/n, with one direction of large variance along which the target lies."""
    rng = np.random.default_rng(1)
    x = rng.standard_normal((200, 30))
    x[:, 0] *= 10
    data = ss.Dataset(x, x[:, 0], "planted")
    module = nn.Linear(30, 1, bias=False).double()
    nn.init.zeros_(module.weight)
    record = hessian_spectra(module, data, batch_size=200, steps=[0], **FAST).at[0]
    values = np.linalg.eigvalsh(x.T @ x / 200)[::-1]
    np.testing.assert_allclose(record.eigenvalues, values[:4], rtol=1e-9)
    assert record.n_outliers == 1
    assert record.gradient_fraction > 0.99
    assert record.gradient_fraction == record.captured[0]


def test_rounding_makes_no_outliers():
    """A linear model of three points: XᵀX/n has rank 3, the rest of its spectrum is rounding."""
    x = np.linalg.qr(np.random.default_rng(0).standard_normal((30, 3)))[0].T * np.array([[3.0], [3.5], [4.0]])
    module = nn.Linear(30, 1, bias=False).double()
    record = hessian_spectra(module, ss.Dataset(x, np.ones(3), "few"), batch_size=3, steps=[0], **FAST | {"top": 9}).at[
        0
    ]
    np.testing.assert_allclose(record.eigenvalues, [16 / 3, 12.25 / 3, 3, *[0] * 6], atol=1e-12)
    assert record.n_outliers == 3


def test_the_learning_rate_by_default_is_one_over_the_largest_eigenvalue(small):
    found = hessian_spectra(StandardMLP(6, 1, seed=0), small, batch_size=40, steps=[0], **FAST)
    assert found.lr == pytest.approx(1 / found.at[0].eigenvalues[0], rel=1e-6)


def test_divergence_is_a_result(small):
    for dtype in ("float64", "float32"):
        found = hessian_spectra(
            StandardMLP(8, 2, seed=0), small, lr=30.0, batch_size=10, steps=[0, 2000], dtype=dtype, **FAST
        )
        assert [record.step for record in found.at] == [0]
        assert 0 < found.diverged_at < 100
        assert not found.interrupted
    # seen at a step that is looked at, with no batch after it
    last = found.diverged_at
    found = hessian_spectra(StandardMLP(8, 2, seed=0), small, lr=30.0, batch_size=10, steps=[0, last], **FAST)
    assert found.diverged_at == last
    document = json.dumps(found.as_dict(), allow_nan=False)
    assert json.loads(document)["diverged_at"] == last
    figure = plot_hessian.hessian_spectra(found)
    assert f"diverged\nat step {last}" in {text.get_text() for text in figure.axes[1].texts}


def test_ctrl_c_keeps_what_was_done(small, monkeypatch):
    look = looks.Look.at

    def interrupted(self, curvature, step):
        if step == 7:
            raise KeyboardInterrupt
        return look(self, curvature, step)

    monkeypatch.setattr(looks.Look, "at", interrupted)
    found = hessian_spectra(StandardMLP(4, 1, seed=0), small, batch_size=10, steps=[0, 3, 7, 9], **FAST)
    assert [record.step for record in found.at] == [0, 3]
    assert found.interrupted
    assert "not reached" in {text.get_text() for text in plot_hessian.hessian_spectra(found).axes[3].texts}


def test_no_gradient_and_no_curvature(small):
    """At a perfect fit the gradient is 0 and has no direction; a Hessian of zeros has a density, too."""

    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(30, dtype=torch.float64))

        def forward(self, x):
            return (self.weight**4).sum() + 0 * x[:, 0]

    data = ss.Dataset(small.x, np.zeros(small.n), "zeros")
    found = hessian_spectra(Square(), data, lr=1.0, batch_size=10, steps=[0, 5], **FAST)
    assert not found.at[1].eigenvalues.any()
    assert found.at[1].n_outliers == 0
    written = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert written["at"][0]["captured"] == [None] * 4
    assert written["at"][0]["gradient_fraction"] == 0
    with pytest.raises(InputError, match="no positive eigenvalue"):
        hessian_spectra(Square(), data, batch_size=10, steps=[0], **FAST)
    plot_hessian.hessian_spectra(found).canvas.draw()


def test_schedules_and_seeds(small):
    def run(**changes):
        options = {"lr": ss.schedules.parse("lr", "power:start=0.1,exponent=0.5"), "batch_size": 8, "seed": 1}
        return hessian_spectra(StandardMLP(5, 1, seed=0), small, steps=[20], **{**options, **FAST, **changes})

    one, again, other = run(), run(), run(seed=2)
    assert one.at[0].loss == again.at[0].loss
    np.testing.assert_array_equal(one.at[0].density.nodes, again.at[0].density.nodes)
    assert one.at[0].loss != other.at[0].loss
    assert one.as_dict()["lr"].startswith("power:")
    assert run(sampling="reshuffle").at[0].loss != one.at[0].loss


def test_standard_mlp():
    plain, normed = (StandardMLP(50, 2, "relu", batch_norm=b, seed=4).build(30) for b in (False, True))
    for one, other in zip(plain.layers, normed.layers, strict=True):
        assert torch.equal(one.weight, other.weight)
    assert [layer.bias is None for layer in normed.layers] == [True, True, False]
    assert plain.layers[1].weight.std().item() == pytest.approx(0.2, rel=0.05)
    assert plain.layers[2].weight.std().item() == pytest.approx(0.02**0.5, rel=0.3)
    x = torch.randn(20, 30, dtype=torch.float64)
    h = torch.relu(plain.layers[0](x))
    torch.testing.assert_close(plain(x), plain.layers[2](torch.relu(plain.layers[1](h)))[:, 0])
    h = normed.layers[0](x)
    h = torch.relu((h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt())
    h = normed.layers[1](h)
    h = torch.relu((h - h.mean(0)) / (h.var(0, unbiased=False) + 1e-5).sqrt())
    torch.testing.assert_close(normed(x), normed.layers[2](h)[:, 0])
    assert normed.describe()["batch_norm"] is True
    with pytest.raises(InputError, match="30 columns"):
        plain.build(31)


def bad(**changes):
    rng = np.random.default_rng(0)
    data = changes.pop("data", None) or ss.Dataset(rng.standard_normal((20, 3)), rng.standard_normal(20), "x")
    options = {"lr": 0.1, "batch_size": 5, "steps": [0, 2], **FAST, **changes}
    return hessian_spectra(options.pop("module", None) or StandardMLP(4, 1, seed=0), data, **options)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"top": 22}, "top: expected an integer from 2 to 21"), ({"top": 1}, "top"), ({"gap": 0.9}, "gap"),
        ({"steps": []}, "steps"), ({"steps": 3}, "steps"), ({"steps": [-1]}, "steps"), ({"steps": [1.5]}, "steps"),
        ({"steps": "12"}, "steps"), ({"chunk": 0}, "chunk"), ({"lr": 0.0}, "lr"), ({"lr": float("nan")}, "lr"),
        ({"momentum": 1.0}, "momentum"), ({"batch_size": 21}, "batch_size"), ({"batch_size": 0}, "batch_size"),
        ({"lanczos_steps": 0}, "lanczos_steps"), ({"n_probes": 0}, "n_probes"), ({"seed": -1}, "seed"),
        ({"dtype": "float16"}, "dtype"), ({"device": "tpu"}, "device"), ({"sampling": "any"}, "sampling"),
        ({"data": "digits"}, "data"), ({"module": "mlp"}, "network"),
        ({"module": nn.Sequential(nn.Linear(3, 1), nn.Dropout())}, "Dropout in training mode"),
        ({"module": nn.Linear(4, 1)}, "inputs of shape"), ({"module": nn.Linear(3, 2)}, "one output"),
        ({"module": StandardMLP(4, 1, batch_norm=True), "batch_size": 1}, "more than 1 value"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused(changes, message):
    with pytest.raises(InputError, match=message) as caught:
        bad(**changes)
    assert "\n" not in str(caught.value)


def test_nan_data_are_refused(small):
    with pytest.raises(InputError, match="finite"):
        ss.Dataset(np.where(small.x > 1, np.nan, small.x), small.y, "nan")
    data = ss.Dataset(small.x, small.y, "nan")
    object.__setattr__(data, "x", np.where(small.x > 1, np.nan, small.x))  # behind the Dataset's back
    with pytest.raises(InputError, match="x: expected finite values"):
        hessian_spectra(StandardMLP(4, 1), data, lr=0.1, batch_size=5, steps=[0], **FAST)


# the picture


def test_picture(small):
    runs = {
        name: hessian_spectra(StandardMLP(5, 1, batch_norm=b), small, batch_size=10, steps=[0, 5, 9], **FAST)
        for name, b in (("plain", False), ("normed", True))
    }
    figure = plot.hessian_spectra(runs)
    axes = np.array(figure.axes).reshape(2, 3)
    assert [ax.get_title() for ax in axes[0]] == ["step 0", "step 5", "step 9"]
    for row, (name, run) in zip(axes, runs.items(), strict=True):
        assert name in row[0].get_ylabel()
        for ax, record in zip(row, run.at, strict=True):
            curve, marks = ax.lines
            assert ax.get_yscale() == "log"
            relative = record.eigenvalues[: record.n_outliers] / record.eigenvalues[0]
            np.testing.assert_allclose(marks.get_xdata(), relative, rtol=1e-6)
            assert ax.get_xlim() == axes[0, 0].get_xlim()
            words = ax.texts[0].get_text()
            assert (f"{record.gradient_fraction:.0%} of" in words) == (record.n_outliers > 0)
            x, y = curve.get_data()
            assert np.trapezoid(np.nan_to_num(y), x) == pytest.approx(1, abs=0.02)
    assert axes[0, 0].lines[0].get_color() != axes[1, 0].lines[0].get_color()
    assert len(plot.hessian_spectra(runs["plain"]).axes) == 3
    with pytest.raises(InputError, match="1 to 4"):
        plot.hessian_spectra({})
    with pytest.raises(InputError, match="at most 6"):
        plot.hessian_spectra(dataclasses.replace(runs["plain"], steps=tuple(range(7))))


# the command

WORDS = ["--n", "40", "--width", "5", "--depth", "1", "--steps", "4", "0", "4", "--batch-size", "10", "--top", "5"]
WORDS += ["--lanczos-steps", "8", "--probes", "2", "--device", "cpu"]


@pytest.fixture
def run(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def call(*words, code=0):
        assert main(["hessian", *words]) == code
        printed = capsys.readouterr()
        return printed.err if code == 2 else printed.out

    return call


def test_command(run, tmp_path):
    found = json.loads(run(*WORDS, "--json", "--out", "h.json", "--plot", "h.png"))
    assert list(found["runs"]) == ["without batch norm", "with batch norm"]
    for name, batch_norm in (("without batch norm", False), ("with batch norm", True)):
        direct = hessian_spectra(
            StandardMLP(5, 1, batch_norm=batch_norm, seed=0), ss.datasets.load("digits", 40, 0, n_test=0),
            batch_size=10, steps=[0, 4], top=5, lanczos_steps=8, n_probes=2, device="cpu",
        ).as_dict()  # fmt: skip
        again = dict(found["runs"][name])
        assert again.pop("network")["batch_norm"] is batch_norm
        assert again == json.loads(json.dumps(direct))
        assert [record["step"] for record in again["at"]] == [0, 4]
    assert json.loads((tmp_path / "h.json").read_text())["runs"] == found["runs"]
    assert (tmp_path / "h.png").read_bytes().startswith(b"\x89PNG")
    text = run(*WORDS, "--batch-norm", "with")
    record = found["runs"]["with batch norm"]["at"][1]
    assert "without" not in text
    assert f"{record['eigenvalues'][0]:.3g}" in text
    assert "torch lr" in text


def test_command_with_a_diverging_run(run):
    words = [*WORDS, "--steps", "0", "500", "--lr", "50", "--batch-norm", "without"]
    text = run(*words)
    assert "diverged at step" in text
    assert json.loads(run(*words, "--json"))["runs"]["without batch norm"]["diverged_at"] > 0


def test_command_interrupted(run, monkeypatch, tmp_path):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(looks.Look, "at", stop)
    found = json.loads(run(*WORDS, "--json", "--plot", "h.png", code=130))
    assert found["interrupted"]
    assert list(found["runs"]) == ["without batch norm"]
    assert (tmp_path / "h.png").exists()


def test_own_model(run, tmp_path):
    (tmp_path / "my_normed_model.py").write_text(
        "import torch\n"
        "def make():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Unflatten(1, (1, 8, 8)), torch.nn.Conv2d(1, 2, 3, stride=2),\n"
        "        torch.nn.BatchNorm2d(2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(18, 1))\n"
    )
    words = ["--n", "40", "--steps", "0", "4", "--batch-size", "10", "--top", "4", "--probes", "2", "--device", "cpu"]
    found = json.loads(run(*words, "--model", "my_normed_model:make", "--json"))
    at = found["runs"]["my_normed_model:make"]["at"]
    assert at[1]["loss"] < at[0]["loss"]
    assert "--batch-norm" in run(*words, "--model", "my_normed_model:make", "--batch-norm", "with", code=2)
    assert "No module named" in run(*words, "--model", "no_such_model:make", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--unknown"], "unrecognized"), (["--steps", "-1"], "steps"), (["--steps", "x"], "--steps"),
        (["--steps", "0.5"], "--steps"), (["--steps"], "--steps"), (["--top", "10000"], "top: expected an integer"),
        (["--top", "1"], "top"), (["--chunk", "0"], "chunk"), (["--lr", "0"], "lr"), (["--lr", "nan"], "lr"),
        (["--batch-size", "41"], "batch_size"), (["--batch-size", "1"], "more than 1 value"),
        (["--n", "100000"], "n: expected at most"), (["--width", "0"], "width"), (["--gap", "0.5"], "gap"),
        (["--batch-norm", "maybe"], "--batch-norm"), (["--dataset", "power_law"], "--dataset"),
        (["--probes", "0"], "n_probes"), (["--lanczos-steps", "0"], "lanczos_steps"),
        (["--plot", "h.txt"], "--plot: expected"),
        (["--out", "none/h.json"], "folder"), (["--out", "a.png", "--plot", "a.png"], "--plot"),
        (["--plot", "h.png", "--steps", *"01234567"], "at most 6"), (["--seed", "-1"], "seed"),
        (["--dataset", "mnist", "--data-dir", "."], "fetch"),
    ],
)  # fmt: skip
def test_bad_words(run, tmp_path, words, message):
    error = run(*WORDS, *words, code=2)
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
