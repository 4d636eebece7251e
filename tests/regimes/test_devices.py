"""The sampled and averaged regimes on torch devices: the numbers of the compiled loops; and which devices there are.

The torch path runs on the CPU here, as device "cpu:0", which users cannot ask for; on CUDA where there is one.
"""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import sampling, schedules
from sgdsim.common import devices
from sgdsim.common.checks import InputError
from sgdsim.recurrence import coupling, exact
from sgdsim.regimes import _sampled_torch
from sgdsim.regimes.averaged import coupling_on_torch
from sgdsim.theory import stability

WHERE = [
    "cpu:0",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]
VARYING = schedules.Steps(3, 2, 10, 23)
ALGORITHMS = [
    ss.SGD(0.4, 0.0, 4),
    ss.SGD(0.3, 0.7, 4),
    ss.SGD(0.3, -0.4, 1),
    ss.SGD(schedules.Power(0.5, 0.2), schedules.Power(0.6, 0.3), VARYING),
    ss.SGD(schedules.WarmupCosine(0.6, 5, 40), 0.5, VARYING, sampling="with-replacement"),
    ss.SGD(0.3, 0.5, VARYING, sampling="reshuffle"),
    ss.SGD.jacobi(0.3, 0.5, 0.2, batch_size=23),
]


def batched(device):
    """The sampled regime in torch on `device`, also where that is the CPU."""
    if device.startswith("cuda"):
        return ss.SampledLinearized(device)
    regime = ss.SampledLinearized()
    object.__setattr__(regime, "device", device)
    return regime


@pytest.fixture(scope="module")
def problem():
    """23 points with 6 test points."""
    rng = np.random.default_rng(2)
    features = rng.standard_normal((29, 40)) * np.arange(1, 41) ** -0.7
    joint = features @ features.T
    return ss.QuadraticProblem.from_kernel(
        joint[:23, :23], rng.standard_normal(23), cross_kernel=joint[23:, :23], test_residual=rng.standard_normal(6)
    )


@pytest.mark.parametrize("device", WHERE)
@pytest.mark.parametrize("sgd", ALGORITHMS)
def test_torch_takes_the_steps_of_the_compiled_loop(problem, sgd, device):
    """Residuals and velocities of 4 replicates after each of several calls."""
    regimes = ss.SampledLinearized(), batched(device)
    one, other = (regime.start(problem, sgd, replicates=4, seed=9, test=True) for regime in regimes)
    assert isinstance(one.r, np.ndarray)
    assert all(x.device.type == device.partition(":")[0] for x in (other.r, other.v, other.kernel))
    for low, high in itertools.pairwise([0, 1, 12, 60]):
        one.advance(low, high)
        other.advance(low, high)
        for name in ("r", "v"):
            mine, theirs = getattr(one, name), getattr(other, name).cpu().numpy()
            np.testing.assert_allclose(theirs, mine, rtol=1e-12, atol=1e-12 * np.abs(mine).max())
    assert not np.array_equal(one.r[0], one.r[1])


@pytest.mark.parametrize("device", WHERE)
def test_all_observables_agree_in_a_run(problem, device):
    runs = [
        ss.simulate(problem, ALGORITHMS[3], regime, 60, observe=["test_loss", "moments"], replicates=3, seed=4)
        for regime in (ss.SampledLinearized(), batched(device))
    ]
    for name in ("loss", "test_loss", "moments"):
        ours, theirs = (run[name].values for run in runs)
        assert type(theirs) is np.ndarray
        np.testing.assert_allclose(theirs, ours, rtol=1e-12, atol=1e-12 * ours.max())
    assert runs[1].regime.values[0] == "sampled"


@pytest.mark.parametrize("device", WHERE)
def test_calls_and_groups_do_not_change_the_numbers(problem, device, monkeypatch):
    sgd, seen = ALGORITHMS[4], []
    for cuts, room in (([0, 40], 1 << 30), ([0, 1, 2, 17, 40], 1 << 30), ([0, 40], 2 * 23 * 23 * 8)):
        monkeypatch.setattr(_sampled_torch, "_GATHERED", room)  # the last: two replicates at a time
        run = batched(device).start(problem, sgd, replicates=5, seed=0, test=False)
        for low, high in itertools.pairwise(cuts):
            run.advance(low, high)
        seen.append(run.held())
    np.testing.assert_array_equal(seen[1], seen[0])
    np.testing.assert_allclose(seen[2], seen[0], rtol=1e-12)


@pytest.mark.parametrize("device", WHERE)
def test_divergence_is_seen_at_the_same_step(problem, device):
    runs = [
        ss.simulate(problem, ss.SGD(30.0, 0.9, 2), regime, 200, replicates=3)
        for regime in (ss.SampledLinearized(), batched(device))
    ]
    assert (runs[0].outcome.values == runs[0].outcome.values[0, 0]).all()
    assert (runs[0].diverged_at.values > 0).all()
    np.testing.assert_array_equal(runs[1].diverged_at.values, runs[0].diverged_at.values)


@pytest.mark.parametrize("device", WHERE)
def test_cells_share_one_copy_of_the_kernel(device):
    problem = ss.QuadraticProblem.power_law(20, 1.3, 0.8)
    regime = batched(device)
    first, second = (regime.start(problem, ss.SGD(lr), replicates=2, seed=0, test=False).kernel for lr in (0.1, 0.2))
    assert first is second
    grid = ss.Grid.product(lr=[0.1, 0.3, 0.5], momentum=[0.0, 0.5])  # in threads
    ours, theirs = (ss.sweep(problem, grid, [r], 30, replicates=2) for r in (ss.SampledLinearized(), regime))
    np.testing.assert_allclose(theirs.loss.values, ours.loss.values, rtol=1e-12)


def averaged(device, dtype="float64"):
    """The averaged regime in torch on `device`, also where that is the CPU."""
    if device.startswith("cuda"):
        return ss.BatchAveraged(device=device, dtype=dtype)
    regime = ss.BatchAveraged()
    object.__setattr__(regime, "device", device)
    object.__setattr__(regime, "dtype", dtype)
    return regime


@pytest.mark.parametrize("device", WHERE)
@pytest.mark.parametrize("sgd", [sgd for sgd in ALGORITHMS if sgd.sampling != "reshuffle"])
def test_averaged_in_torch_is_the_compiled_exact_form(problem, sgd, device):
    runs = [
        ss.simulate(problem, sgd, regime, 60, observe=["test_loss", "moments"])
        for regime in (ss.BatchAveraged(0), averaged(device))
    ]
    for name in ("loss", "test_loss", "moments"):
        ours, theirs = (run[name].values for run in runs)
        np.testing.assert_allclose(theirs, ours, rtol=1e-11, atol=1e-12 * ours.max())
    assert runs[1].error_estimate.item() == 0


@pytest.mark.parametrize("device", WHERE)
def test_the_contour_in_torch(device):
    """Noisy labels too, with which steps are taken on the CPU alone; test losses."""
    data = ss.datasets.load("digits", n=140, seed=0, n_test=20)
    problem = ss.NetworkProblem(ss.networks.MLP(30, seed=0), data).quadratic
    sgd, regimes = ss.SGD(0.5, 0.0, 4, label_noise=0.1), (ss.BatchAveraged(1e-3, method="contour"), averaged(device))
    object.__setattr__(regimes[1], "method", "contour")
    object.__setattr__(regimes[1], "tolerance", 1e-3)
    ours, theirs = (
        ss.simulate(problem, sgd, regime, 10_000, record=[300, 10_000], observe=["loss", "test_loss"])
        for regime in regimes
    )
    assert theirs.error_estimate.item() <= 1e-3
    for name in ("loss", "test_loss"):
        np.testing.assert_allclose(theirs[name], ours[name], rtol=2e-3)


@pytest.mark.parametrize("device", WHERE)
@pytest.mark.parametrize("tolerance", [1e-5, 1e-12])
def test_matrices_of_the_contour_in_torch(device, tolerance):
    """The numbers of the compiled ones, in float32 as they are where that is enough."""
    data = ss.datasets.load("digits", n=150, seed=0, n_test=20)
    problem = ss.NetworkProblem(ss.networks.MLP(30, seed=0), data).quadratic
    of, sigmas = exact.Averaged(problem, ss.SGD(0.5, 0.6, 4)), np.array([1e-4, 0.01 + 0.02j, 0.05 + 3j])
    ours, theirs = (
        coupling.Coupling(of, sigmas, tolerance),
        coupling_on_torch.OnTorch(of, sigmas, tolerance, device=device),
    )
    v = np.random.default_rng(0).standard_normal((150, 3))
    close = 1e-5 if tolerance > 1e-8 else 1e-11
    expected = ours.images(v)
    np.testing.assert_allclose(theirs.images(v), expected, rtol=close, atol=close * np.abs(expected).max())
    np.testing.assert_allclose(theirs.tested, ours.tested, rtol=close, atol=close * np.abs(ours.tested).max())


@pytest.mark.parametrize("device", WHERE)
def test_averaged_in_torch_on_data(device):
    """200 points of digits, 500 steps at 0.9 of the threshold: in float64 to rounding, in float32 to 1e-5."""
    data = ss.datasets.load("digits", n=200, seed=0)
    problem = ss.NetworkProblem(ss.networks.MLP(100, seed=0), data).quadratic
    for momentum in (0.0, 0.9):
        sgd = ss.SGD(1.0, momentum, 10)
        sgd = ss.SGD(0.9 * stability.max_lr(problem, sgd, "exact"), momentum, 10)
        plain = ss.simulate(problem, sgd, ss.BatchAveraged(0), 500).loss.values
        for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-5)):
            ours = ss.simulate(problem, sgd, averaged(device, dtype), 500).loss.values
            np.testing.assert_allclose(ours, plain, rtol=tolerance)


def test_what_the_averaged_regime_refuses(problem):
    with pytest.raises(InputError, match=r"^dtype: expected float64 on the CPU, got float32"):
        ss.BatchAveraged(dtype="float32")
    with pytest.raises(InputError, match=r"^dtype: expected one of float64, float32"):
        ss.BatchAveraged(dtype="half")
    with pytest.raises(InputError, match=r"^device: expected cpu for anything but plain heavy ball"):
        averaged("cpu:0").check(problem, ss.SGD(0.3, label_noise=0.1))


def test_batches_are_padded_where_sizes_vary():
    """What the torch loop relies on: rows of `minibatch_indices` beyond a step's own size are not indices."""
    sizes = np.array([3, 5])
    drawn = sampling.minibatch_indices(23, sizes, 0, 2, sampling.replicate_keys(0, 1))
    assert (drawn[0, 0, 3:] == -1).all()


@pytest.mark.parametrize("device", ["tpu", "cuda:", "cuda:-1", "cuda:0x", "cuda:0\n", "cpu:0", "", None, 0])
def test_unknown_devices_are_refused(device):
    with pytest.raises(InputError, match=r"^device: expected one of auto, cpu, cuda; got .*$") as caught:
        ss.SampledLinearized(device)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device, so asking for it is no mistake")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_cuda_where_there_is_none(device):
    with pytest.raises(InputError, match=f"^device: expected a CUDA device for '{device}', .*use 'cpu' or 'auto'$"):
        ss.SampledLinearized(device)
    assert ss.SampledLinearized("auto") == ss.SampledLinearized()


def test_numbered_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [devices.resolve(word) for word in ("cpu", "auto", "cuda", "cuda:1")] == ["cpu", "cuda", "cuda", "cuda:1"]
    assert ss.SampledLinearized("auto").device == "cuda"
    with pytest.raises(InputError, match="'cuda:0' to 'cuda:1', got 'cuda:2'"):
        devices.resolve("cuda:2")


def test_the_compiled_loop_needs_no_torch():
    code = (
        "import sys, sgdsim as ss; p = ss.QuadraticProblem.power_law(10, 1.5, 1.0);"
        "ss.simulate(p, ss.SGD(0.5), ss.SampledLinearized(), 5); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
