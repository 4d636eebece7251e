"""Weight decay in what theory recommends and calls stable, against explicit matrices, runs and PyTorch itself."""

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.studies import budgets, epoch_comparison, landscape, method_recommendation, schedule_comparison
from sgdsim.studies.stable_rates import asked, stable_rates
from sgdsim.theory import linear, stability, thresholds

LOSSES = {"half-mse": lambda f, y: 0.5 * ((f - y) ** 2).sum(1).mean(), "mse": torch.nn.MSELoss()}


def moments_map(problem: ss.QuadraticProblem, sgd: ss.SGD, tau: float) -> np.ndarray:
    """All second moments (c, j, p) of all modes after a step of heavy ball on the homogeneous part, as a matrix."""
    lam, n, pull = problem.eigenvalues, problem.n, problem.pull(sgd)
    gamma, lr, beta = problem.noise(sgd), sgd.lr, sgd.momentum
    out = np.zeros((3 * n, 3 * n))
    for k in range(n):
        step = np.array([[1 - lr * (lam[k] + pull), beta], [-lr * (lam[k] + pull), beta]])
        (a, b), (c, d) = step
        out[3 * k : 3 * k + 3, 3 * k : 3 * k + 3] = [
            [a * a, 2 * a * b, b * b],
            [a * c, a * d + b * c, b * d],
            [c * c, 2 * c * d, d * d],
        ]
        for i in range(n):
            out[3 * k : 3 * k + 3, 3 * i] += gamma * (lr * lam[k]) ** 2 * (1.0 - tau * (i == k))
    return out


@pytest.mark.parametrize("tau", [1.0, 0.3, -0.4])
@pytest.mark.parametrize("momentum", [0.0, 0.8, -0.5])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_at_the_threshold_an_eigenvalue_of_the_decayed_step_is_one(momentum, tau, batch_size):
    problem = ss.QuadraticProblem.power_law(6, 1.2, 1.0)
    sgd = ss.SGD(1.0, momentum, batch_size, weight_decay=0.02)
    limit = stability.max_lr(problem, sgd, tau=tau)
    at = ss.SGD(limit, momentum, batch_size, weight_decay=0.02)
    radius = np.abs(np.linalg.eigvals(moments_map(problem, at, tau))).max()
    assert radius == pytest.approx(1.0, abs=1e-12)
    found = thresholds.critical_lr(sgd, lambda other: linear.noise_at_one(problem, other, tau) - 1, 1e-12)
    assert limit == pytest.approx(found, rel=1e-11)


@pytest.mark.parametrize("momentum", [0.0, 0.8, -0.5])
def test_the_mean_is_stable_up_to_where_the_step_has_radius_one(momentum):
    problem = ss.QuadraticProblem.power_law(6, 1.2, 1.0)
    limit = stability.max_lr(problem, ss.SGD(1.0, momentum, 6, weight_decay=0.05), "full-batch")
    x = limit * (1 + problem.pull(ss.SGD(1.0, weight_decay=0.05)))
    assert np.abs(np.linalg.eigvals([[1 - x, momentum], [-x, momentum]])).max() == pytest.approx(1.0, abs=1e-14)
    ends = []
    for factor in (0.99, 1.02):
        sgd = ss.SGD(factor * limit, momentum, 6, weight_decay=0.05)
        ends.append(str(ss.simulate(problem, sgd, ss.BatchAveraged(0), 3000)["outcome"].values.ravel()[0]))
    assert ends[0] != ends[1]


def test_rates_with_decay_are_those_of_the_decayed_algorithm():
    problem = ss.QuadraticProblem.power_law(8, 1.2, 1.0)
    sgd = ss.SGD(1.0, 0.5, 2, weight_decay=0.02)
    found = stable_rates(problem, [sgd], exact=True)
    row = found.rows[0]
    assert (row.surely_stable, found.critical) == (None, ())
    assert row.exact < row.spectral_diagonal < row.full_batch < 3.0
    known = asked(problem, [sgd], [0.99 * row.exact, 1.01 * row.exact])
    assert [each.stable for each in known] == [True, False]


@pytest.fixture(scope="module")
def by_outputs():
    """Linear networks that do not begin at 0, of one and of three outputs."""
    out = {}
    for n_outputs in (1, 3):
        rng = np.random.default_rng(n_outputs)
        torch.manual_seed(n_outputs)
        network = torch.nn.Linear(5, n_outputs, bias=False).double()
        data = ss.Dataset(rng.standard_normal((8, 5)), rng.standard_normal((8, n_outputs)), "own")
        out[n_outputs] = ss.NetworkProblem(network, data, device="cpu")
    return out


@pytest.mark.parametrize("batch_size", [2, 8])
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_the_predicted_loss_is_that_of_the_run(by_outputs, n_outputs, batch_size):
    problem = by_outputs[n_outputs]
    sgd = ss.SGD(1.0, batch_size=batch_size, weight_decay=0.03)
    found = ss.recommend(problem, sgd, 40)
    assert isinstance(found, method_recommendation.MethodRecommendation)

    def loss(lr: float, momentum: float) -> float:
        tried = ss.SGD(lr, momentum, batch_size, weight_decay=0.03)
        return float(ss.simulate(problem, tried, ss.SpectralDiagonal(), 40)["loss"].values.ravel()[-1])

    at = found.answer
    assert at.loss == pytest.approx(loss(at.lr, at.momentum), rel=1e-9)
    assert at.loss != pytest.approx(ss.recommend(problem, batch_size, 40, probe=False).answer.loss, rel=1e-3)
    around = [loss(at.lr * f, b) for f in (0.5, 1.0, 1.4) for b in (0.9 * at.momentum, at.momentum, 0.0)]
    assert at.loss <= min(around) * (1 + 1e-3)
    assert found.known.stable
    assert found.floor.loss == pytest.approx(ss.theory.weight_decay.floor(problem, found.best).loss, rel=1e-12)
    with pytest.raises(InputError, match="weight_decay: expected 0"):
        ss.studies.recommendation.recommend(problem, sgd, 40)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("n_outputs", [1, 3])
def test_the_lines_take_the_steps_of_the_prediction(by_outputs, n_outputs, loss):
    """Full batches, which torch takes in the same order: the loss after the last step, to 1e-9."""
    problem = by_outputs[n_outputs]
    found = ss.recommend(problem, ss.SGD(1.0, batch_size=8, weight_decay=0.03), 25)
    x, y = torch.tensor(problem.data.x), torch.tensor(problem.data.y).reshape(8, n_outputs)
    net = torch.nn.Linear(5, n_outputs, bias=False).double()
    net.load_state_dict(problem.network.state_dict())
    values = {"lr": found.torch_lr(loss), "weight_decay": found.torch_weight_decay(loss)}
    assert values["weight_decay"] == pytest.approx(0.03 if loss == "half-mse" else 0.06 / n_outputs, rel=1e-15)
    optimizer = torch.optim.SGD(net.parameters(), momentum=found.answer.momentum, **values)
    for _ in range(25):
        optimizer.zero_grad()
        LOSSES[loss](net(x), y).backward()
        optimizer.step()
    assert LOSSES["half-mse"](net(x), y).item() == pytest.approx(found.answer.loss, rel=1e-9)
    pasted = eval(found.torch_line(loss), {"torch": torch, "net": net})
    assert pasted.defaults["weight_decay"] == values["weight_decay"]
    assert pasted.defaults["lr"] == pytest.approx(values["lr"], rel=1e-3)
    told = found.as_dict()["torch"][loss]
    assert (told["lr"], told["weight_decay"]) == (values["lr"], values["weight_decay"])


def test_budgets_are_those_of_decayed_runs():
    problem = ss.QuadraticProblem.power_law(60, 1.5, 0.5)
    how = {"momentum": 0.5, "n_steps": 80, "weight_decay": 1e-3}
    result = budgets.run(problem, ss.SpectralDiagonal(), batch_sizes=[1, 4], **how)
    found = budgets.BudgetRuns.of(result, problem)
    assert found.law is None
    for run in found.runs:
        sgd = ss.SGD(run.lr, 0.5, run.batch_size, weight_decay=1e-3)
        alone = ss.simulate(problem, sgd, ss.SpectralDiagonal(), run.n_steps)["loss"].values.ravel()[-1]
        assert run.final_loss == pytest.approx(alone, rel=1e-12)
        assert run.max_lr_spectral_diagonal == stability.max_lr(problem, sgd)
    assert max(run.lr / run.max_lr_spectral_diagonal for run in found.runs) == pytest.approx(0.5, rel=0.01)


def test_small_decayed_steps_depend_on_the_budget_alone():
    """Where all modes are slow and overdamped γα_eff and α_eff·t count, and all modes decay by α_eff·ω·t alike."""
    problem = ss.QuadraticProblem.power_law(60, 1.5, 0.5)
    how = {"lr": 0.002, "momentum": 0.0, "n_steps": 100_000, "weight_decay": 1e-4}
    result = budgets.run(problem, ss.SpectralDiagonal(), batch_sizes=[1, 4], **how)
    assert budgets.compare(budgets.curves(result, problem)).ratio_by_noise.max() < 1.01


def test_epochs_are_those_of_decayed_runs():
    rng = np.random.default_rng(2)
    features = rng.standard_normal((6, 7))
    problem = ss.QuadraticProblem.from_kernel(features @ features.T, rng.standard_normal(6))
    found = epoch_comparison.compare(problem, [2], epochs=(1, 3), replicates=3, weight_decay=0.05, momentum=0.3)
    sgd = ss.SGD(float(found["lr"][0]), 0.3, 2, weight_decay=0.05)
    limit = stability.max_lr(problem, sgd)
    assert sgd.lr == pytest.approx(limit / 2, rel=1e-2)
    exact = ss.simulate(problem, sgd, ss.BatchAveraged(0), 9, record=[3, 9])["loss"].sel(step=[3, 9]).values.ravel()
    np.testing.assert_allclose(found["theory"].sel(batch_size=2, epoch=[1, 3]), exact, rtol=1e-12)
    assert np.isnan(found["reshuffled_exact"]).all()  # not known, not that without decay
    every = ss.SGD(sgd.lr, 0.3, 2, sampling="reshuffle", weight_decay=0.05)
    run = ss.simulate(problem, every, ss.SampledLinearized(), 9, record=[9], replicates=3)["loss"].values[0, :, -1]
    np.testing.assert_allclose(found["loss"].sel(sampling="reshuffle", epoch=3).values.ravel(), run, rtol=1e-12)


def test_maps_are_judged_with_decay():
    problem = ss.QuadraticProblem.power_law(20, 1.5, 1.0)
    grid = ss.Grid.product(lr=[0.2, 0.4], momentum=[0.0, 0.5], batch_size=[4], weight_decay=[0.01])
    result = ss.sweep(problem, grid, ss.SpectralDiagonal(), 30, record=[30])
    (found,) = landscape.judged(result, problem, ss.SGD(1.0, weight_decay=0.01)).maps
    assert (found.panel.weight_decay, found.panel.is_plain) == (0.01, False)
    sgd = ss.SGD(found.least.lr, found.least.momentum, 4, weight_decay=0.01)
    assert found.max_lr_spectral_diagonal == stability.max_lr(problem, sgd)
    assert found.max_lr_full_batch == pytest.approx(2 * (1 + sgd.momentum) / (1 + problem.pull(sgd)), rel=1e-14)


def test_schedules_know_none():
    problem = ss.QuadraticProblem.power_law(20, 1.5, 1.0)
    with pytest.raises(InputError, match="weight_decay: expected 0, as this is not known with it"):
        schedule_comparison.compare(problem, ss.SGD(1.0, batch_size=4, weight_decay=0.01), 20, 2)
