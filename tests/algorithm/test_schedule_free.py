"""Schedule-Free SGD: the three lines of its paper, what it is at its ends, and what is refused."""

import naive
import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import sampling
from sgdsim.algorithm import maps
from sgdsim.common.checks import InputError
from sgdsim.theory import linear

EXACT = ss.BatchAveraged(0)


def losses(problem, sgd, regime, steps, what="loss", **options):
    return ss.simulate(problem, sgd, regime, steps, record=1, observe=what, **options)[what].values[0]


def batches_of(n, size, steps, seed):
    return sampling.minibatch_indices(n, np.full(steps, size), 0, steps, sampling.replicate_keys(seed, 1))[0]


def three_lines(gradient, start, lr, beta, batches):
    """x before every step and after the last, as the paper writes it, with t from 1."""
    x = z = start
    out = [x]
    for t, batch in enumerate(batches, start=1):
        y = (1 - beta) * z + beta * x
        z = z - lr * gradient(y, batch)
        x = (1 - 1 / t) * x + z / t
        out.append(x)
    return np.array(out)


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("size", [1, 3, 7])
def test_sampled_runs_are_the_papers_three_lines(beta, size):
    rng = np.random.default_rng(size)
    features = rng.standard_normal((7, 9))
    problem = ss.QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal(7))

    def gradient(r, batch):
        return 7 / size * problem.kernel[:, batch] @ r[batch]

    x = three_lines(gradient, problem.residual, 0.3, beta, batches_of(7, size, 300, 4))
    sgd = ss.SGD(0.3, 0.0, size, method=f"schedule-free:beta={beta}")
    found = losses(problem, sgd, ss.SampledLinearized(), 300, seed=4)[0]
    np.testing.assert_allclose(found, (x**2).mean(1) / 2, rtol=1e-11)


def test_a_network_is_the_papers_three_lines():
    data = ss.datasets.load("digits", n=24, seed=0)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).double()
    problem = ss.NetworkProblem(network, data)
    parameters = list(problem.network.parameters())
    inputs, targets = torch.tensor(data.x), torch.tensor(data.y)

    def loss(flat, batch):
        torch.nn.utils.vector_to_parameters(torch.as_tensor(flat), parameters)
        return 0.5 * ((problem.network(inputs[batch])[:, 0] - targets[batch]) ** 2).mean()

    def gradient(flat, batch):
        return torch.cat([g.ravel() for g in torch.autograd.grad(loss(flat, batch), parameters)]).numpy()

    start = torch.nn.utils.parameters_to_vector(parameters).detach().numpy().copy()
    sgd = ss.SGD(0.3, 0.0, 5, method="schedule-free")
    found = losses(problem, sgd, ss.RealNetwork(), 40, seed=2)[0]
    rate = problem.quadratic.torch_lr(0.3)
    x = three_lines(gradient, start, rate, 0.9, batches_of(24, 5, 40, 2))
    np.testing.assert_allclose(found, [loss(point, slice(None)).item() for point in x], rtol=1e-9)
    torch.nn.utils.vector_to_parameters(torch.as_tensor(start), parameters)


@pytest.mark.parametrize("regime", [ss.SampledLinearized(), EXACT, ss.SpectralDiagonal(-0.3)])
def test_without_interpolation_it_averages_plain_sgd(tiny, regime):
    free, averaged = ({"method": "schedule-free:beta=0"}, {"average": "tail:start=1"})
    one, two = (losses(tiny, ss.SGD(0.5, 0.0, 2, **how), regime, 80) for how in (free, averaged))
    np.testing.assert_allclose(one, two, rtol=1e-10)


@pytest.mark.parametrize("regime", [ss.SampledLinearized(), EXACT, ss.SpectralDiagonal(-0.3)])
def test_fully_interpolated_it_is_primal_averaging(tiny, regime):
    """`x ← (1 − c)x + c(z − αg(x))` as a method with the gradient at its iterate."""

    class Primal:
        memory, uses_momentum, is_stationary, spec, begins = 1, False, False, "primal", (1.0, 1.0)

        def maps(self, steps, lr, momentum):
            c, one = 1 / (1 + steps), np.ones(len(steps))
            rows = [[1 - c, c], [0 * one, one]]
            return maps.Maps(np.array(rows).transpose(2, 0, 1), np.stack([-c * lr, -lr], 1))

    one, two = (losses(tiny, ss.SGD(0.5, 0.0, 2, method=m), regime, 80) for m in ("schedule-free:beta=1", Primal()))
    np.testing.assert_allclose(one, two, rtol=1e-10)


def test_written_in_deviations_it_is_the_same(tiny):
    """Components (y, z − y, x − y), which begin empty, read at `y + (x − y)`: `A' = S⁻¹AS`."""
    free, to_points = ss.SGD(0.4, 0.0, 2, method="schedule-free"), np.array([[1, 0, 0], [1, 1, 0], [1, 0, 1]])

    class Deviations:
        memory, uses_momentum, is_stationary, spec, readout = 2, False, False, "deviations", (1.0, 0.0, 1.0)

        def maps(self, steps, lr, momentum):
            points, back = free.method.maps(steps, lr, momentum), np.linalg.inv(to_points)
            return maps.Maps(back @ points.transition @ to_points, points.kick @ back.T)

    deviations = ss.SGD(0.4, 0.0, 2, method=Deviations())
    for regime in (ss.SampledLinearized(), EXACT, ss.SpectralDiagonal(0.5)):
        one, two = (losses(tiny, sgd, regime, 60) for sgd in (free, deviations))
        np.testing.assert_allclose(one, two, rtol=1e-9)
    path = naive.linear(
        tiny.kernel, tiny.residual, free.maps(0, 60), free.begins, free.readout, batches_of(5, 2, 60, 0)
    )
    found = losses(tiny, deviations, ss.SampledLinearized(), 60)[0]
    np.testing.assert_allclose(found, (path**2).mean(1) / 2, rtol=1e-10)


def test_it_is_a_cell_of_a_grid_and_its_file_says_so(tiny, tmp_path):
    grid = ss.Grid.product(lr=[0.3], method=["heavy-ball", "schedule-free:beta=0.5"])
    result = ss.sweep(tiny, grid, ss.SpectralDiagonal(), 20, path=tmp_path / "r.nc")
    loaded = ss.load(tmp_path / "r.nc")
    assert loaded["method"].values.tolist() == ["heavy-ball", "schedule-free:beta=0.5"]
    np.testing.assert_array_equal(loaded["loss"].values, result["loss"].values)


def test_what_is_refused(tiny):
    with pytest.raises(InputError, match=r"lr: expected a constant rate with schedule-free, got power:start=1,expon"):
        ss.SGD(ss.schedules.Power(1.0, 0.5), method="schedule-free")
    with pytest.raises(InputError, match="momentum: expected 0 with schedule-free, which has its own memory"):
        ss.SGD(0.5, 0.9, method="schedule-free")
    with pytest.raises(InputError, match="schedule-free: beta: expected a finite number with 0 <="):
        ss.SGD(0.5, method="schedule-free:beta=1.5")
    with pytest.raises(InputError, match=r"theory: expected hyperparameters \(no schedule\), a method and an average"):
        linear.at_one(tiny, ss.SGD(0.5, method="schedule-free"))
