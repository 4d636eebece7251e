"""`SGD(weight_decay=)` in every regime, tied to parameters that are stepped as torch does and to ridge regression."""

import copy
import itertools

import naive
import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import methods
from sgdsim.common.checks import InputError

EXACT = ss.BatchAveraged(0)
DECAY = 0.3  # in units of the curvature
ALGORITHMS = {
    "plain": {},
    "heavy ball": {"momentum": 0.5},
    "nesterov": {"momentum": 0.5, "method": "nesterov"},
    "memory": {"method": methods.Memory((0.9, 0.3), (0.5, 1.0), (-0.2, 0.1), 0.8)},
    "schedule-free": {"method": "schedule-free:beta=0.7"},
    "scheduled": {"lr": ss.schedules.Power(0.9, 0.5), "momentum": 0.3},
    "average": {"momentum": 0.5, "average": "ema:0.7"},
    "tail": {"momentum": 0.3, "method": "nesterov", "average": "tail:start=1"},
}


class Model:
    """A linear model `f = Jw` on points and test points, begun at w_0, not 0."""

    def __init__(self, points: int = 4, n_outputs: int = 1) -> None:
        rng = np.random.default_rng(5)
        self.j, self.j_test = rng.standard_normal((points, 7)), rng.standard_normal((3, 7))
        shape = () if n_outputs == 1 else (n_outputs,)
        self.w = rng.standard_normal((7, *shape))
        self.y, self.y_test = rng.standard_normal((points, *shape)), rng.standard_normal((3, *shape))

    def problem(self) -> ss.QuadraticProblem:
        made = ss.QuadraticProblem.from_kernel(
            self.j @ self.j.T,
            self.j @ self.w - self.y,
            cross_kernel=self.j_test @ self.j.T,
            test_residual=self.j_test @ self.w - self.y_test,
        )
        return made.with_origin(-self.y, -self.y_test)

    def network(self) -> ss.NetworkProblem:
        """The same as a network and data."""
        outputs = 1 if self.w.ndim == 1 else self.w.shape[1]
        network = torch.nn.Linear(7, outputs, bias=False).double()
        network.weight.data[:] = torch.tensor(self.w.T)
        return ss.NetworkProblem(network, ss.Dataset(self.j, self.y, "own", self.j_test, self.y_test))

    def losses(self, w: np.ndarray) -> tuple[float, float]:
        train, test = self.j @ w - self.y, self.j_test @ w - self.y_test
        return (train**2).sum() / (2 * len(train)), (test**2).sum() / (2 * len(test))


def decayed(problem: ss.QuadraticProblem, batch_size: int, **more: object) -> ss.SGD:
    return ss.SGD(**{"lr": 0.4, "batch_size": batch_size, "weight_decay": DECAY / problem.torch_lr(1.0), **more})


def losses(problem, sgd, regime, steps, what="loss", **options):
    return ss.simulate(problem, sgd, regime, steps, record=1, observe=what, **options)[what].values[0]


def enumerated(model: Model, sgd: ss.SGD, steps: int) -> np.ndarray:
    """Mean losses on training and test points over all batch sequences, (2, steps + 1)."""
    total, options = 0.0, list(itertools.combinations(range(len(model.y)), sgd.batch_size))
    maps = sgd.maps(0, steps, model.problem().torch_lr(1.0))  # of parameters; `test_the_maps_are_those_of_torch`
    kick = maps.kick * model.problem().torch_lr(1.0)
    for sequence in itertools.product(options, repeat=steps):
        components, path = np.multiply.outer(sgd.begins, model.w), []
        for t, batch in enumerate(sequence):
            path.append(model.losses(np.tensordot(sgd.readout, components, 1)))
            rows = model.j[list(batch)]
            gradient = rows.T @ (rows @ components[0] - model.y[list(batch)]) / len(batch)
            components = np.tensordot(maps.transition[t], components, 1) + np.multiply.outer(kick[t], gradient)
        path.append(model.losses(np.tensordot(sgd.readout, components, 1)))
        total = total + np.array(path).T
    return total / len(options) ** steps


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.6, False), (0.6, True)])
@pytest.mark.parametrize("n_outputs", [1, 2])
def test_a_linear_network_follows_torch_on_the_same_batches(momentum, nesterov, n_outputs):
    """In parameters and in function space, path by path; losses on training and on test points."""
    model, steps, seed = Model(6, n_outputs), 60, 3
    problem = model.network()
    sgd = decayed(problem.quadratic, 2, momentum=momentum, method="nesterov" if nesterov else "heavy-ball")
    keys = ss.sampling.replicate_keys(seed, 2)
    batches = ss.sampling.minibatch_indices(6, np.full(steps, 2), 0, steps, keys)
    x, y = torch.tensor(model.j), torch.tensor(model.y).reshape(6, -1)
    expected = []
    for own in batches:
        theirs = copy.deepcopy(problem.network)
        optimizer = torch.optim.SGD(
            theirs.parameters(),
            lr=problem.quadratic.torch_lr(0.4),
            momentum=momentum,
            nesterov=nesterov,
            weight_decay=sgd.weight_decay,
        )
        path = [model.losses(theirs.weight.detach().numpy().T.reshape(model.w.shape))]
        for batch in own:
            optimizer.zero_grad()
            (0.5 * ((theirs(x[batch]) - y[batch]) ** 2).sum(1).mean()).backward()
            optimizer.step()
            path.append(model.losses(theirs.weight.detach().numpy().T.reshape(model.w.shape)))
        expected.append(np.array(path).T)
    for regime in (ss.RealNetwork(), ss.SampledLinearized()):
        for which, what in enumerate(("loss", "test_loss")):
            found = losses(problem, sgd, regime, steps, what, replicates=2, seed=seed)
            np.testing.assert_allclose(found, np.array(expected)[:, which], rtol=1e-9)


def test_a_network_of_two_layers_follows_torch():
    data = ss.datasets.load("digits", n=20, seed=0)
    problem = ss.NetworkProblem(ss.networks.MLP(width=8, seed=1), data, device="cpu")
    sgd = decayed(problem.quadratic, 20, momentum=0.5, lr=0.2)
    theirs, x, y = copy.deepcopy(problem.network), torch.tensor(data.x), torch.tensor(data.y)
    rate = problem.quadratic.torch_lr(0.2)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=rate, momentum=0.5, weight_decay=sgd.weight_decay)
    expected = []
    for _ in range(21):
        optimizer.zero_grad()
        loss = 0.5 * ((theirs(x).reshape(-1) - y) ** 2).mean()
        expected.append(loss.item())
        loss.backward()
        optimizer.step()
    np.testing.assert_allclose(losses(problem, sgd, ss.RealNetwork(), 20)[0], expected, rtol=1e-9)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_averaged_is_the_mean_over_all_batch_sequences(name):
    model = Model()
    sgd = decayed(model.problem(), 2, **ALGORITHMS[name])
    expected = enumerated(model, sgd, 3)
    for which, what in enumerate(("loss", "test_loss")):
        np.testing.assert_allclose(losses(model.problem(), sgd, EXACT, 3, what)[0], expected[which], rtol=1e-11)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("what", ["loss", "test_loss", "moments"])
def test_at_full_batch_all_agree(name, what):
    model = Model()
    problem, network = model.problem(), model.network()
    sgd = decayed(problem, 4, **ALGORITHMS[name])
    one, *others = (
        losses(problem, sgd, r, 50, what)[0] for r in (ss.SampledLinearized(), EXACT, ss.SpectralDiagonal())
    )
    for other in [*others, losses(network, sgd, ss.RealNetwork(), 50, what)[0]]:
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("n_outputs", [1, 3])
def test_the_origin_of_a_network_is_that_of_its_linear_model(n_outputs):
    """A linear network at parameters 0 gives 0: its residual is −y, on training and test points."""
    model = Model(n_outputs=n_outputs)
    found, expected = model.network().quadratic_at_zero, model.problem()
    for one, other in ((found.origin, expected.origin), (found.test.origin, expected.test.origin)):
        np.testing.assert_allclose(np.abs(one), np.abs(other), rtol=1e-9)  # eigenvectors have no sign
    sgd = decayed(found, 2, momentum=0.4)
    for regime in (EXACT, ss.SpectralDiagonal(), ss.SampledLinearized()):
        for what in ("loss", "test_loss"):
            one, other = (losses(each, sgd, regime, 20, what) for each in (model.network(), expected))
            np.testing.assert_allclose(one, other, rtol=1e-9)


def flat(network: torch.nn.Module, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Its parameters w (P,), outputs f (n,) and their derivatives J (n, P), by one backward pass for each input."""
    parameters, f, rows = list(network.parameters()), network(torch.tensor(x)).reshape(-1), []
    for one in f:
        rows.append(np.concatenate([g.ravel() for g in torch.autograd.grad(one, parameters, retain_graph=True)]))
    w = np.concatenate([p.detach().numpy().ravel() for p in parameters])
    return w, f.detach().numpy(), np.array(rows)


def test_a_module_of_single_precision_is_pulled_as_its_double_is():
    """One that makes constants of float32 throughout cannot be asked in float64."""

    class Turned(torch.nn.Module):
        def __init__(self, dtype):
            super().__init__()
            torch.manual_seed(0)
            self.turn = 2 * torch.eye(64, dtype=dtype)  # no buffer: it stays as it is
            self.inner, self.outer = torch.nn.Linear(64, 16).to(dtype), torch.nn.Linear(16, 1).to(dtype)

        def forward(self, x):
            return self.outer(torch.tanh(self.inner(x @ self.turn)))

    data, kinds = ss.datasets.load("digits", n=8, seed=0, n_test=5), ("float32", "float64")
    single = Turned(torch.float32)
    double = Turned(torch.float64)
    double.load_state_dict(single.state_dict())
    one, other = (
        ss.NetworkProblem(module, data, dtype=kind, device="cpu")
        for module, kind in zip((single, double), kinds, strict=True)
    )
    found = ss.networks.ntk.along_parameters(single, data.x, dtype="float32")
    w, _, j = flat(double, data.x)
    np.testing.assert_allclose(found, j @ w, rtol=1e-4, atol=1e-5)
    sgd = decayed(other.quadratic, 3, momentum=0.4)
    for regime in (EXACT, ss.SampledLinearized()):
        for what in ("loss", "test_loss"):
            np.testing.assert_allclose(
                losses(one, sgd, regime, 20, what), losses(other, sgd, regime, 20, what), rtol=1e-3
            )


def test_sampled_is_the_linearised_network_in_its_parameters():
    """Of two layers: `f = f_0 + J(w − w_0)`, w stepped as torch does, on the same batches."""
    data = ss.datasets.load("digits", n=8, seed=0, n_test=5)
    problem = ss.NetworkProblem(ss.networks.MLP(width=4, activation="tanh", seed=1).double(), data, device="cpu")
    (w0, f, j), (_, f_test, j_test) = flat(problem.network, data.x), flat(problem.network, data.x_test)
    np.testing.assert_allclose(ss.networks.ntk.along_parameters(problem.network, data.x), j @ w0, rtol=1e-10)
    sgd, steps = decayed(problem.quadratic, 3, momentum=0.4), 40
    keys = ss.sampling.replicate_keys(5, 1)
    batches = ss.sampling.minibatch_indices(8, np.full(steps, 3), 0, steps, keys)[0]
    w, v, rate, expected = w0, 0.0, problem.quadratic.torch_lr(0.4), []
    for batch in [*batches, batches[0]]:
        r, e = f + j @ (w - w0) - data.y, f_test + j_test @ (w - w0) - data.y_test
        expected.append([(r**2).mean() / 2, (e**2).mean() / 2])
        v = 0.4 * v - rate * (j[batch].T @ r[batch] / 3 + sgd.weight_decay * w)
        w = w + v
    for which, what in enumerate(("loss", "test_loss")):
        found = losses(problem, sgd, ss.SampledLinearized(), steps, what, seed=5)[0]
        np.testing.assert_allclose(found, np.array(expected)[:, which], rtol=1e-8)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("knows", [True, False])
def test_in_a_hadamard_basis_diagonal_is_averaged(hadamard_problem, name, knows):
    problem, origin = hadamard_problem, np.random.default_rng(8).standard_normal(16)
    problem = problem.with_origin(origin, None) if knows else problem
    sgd = decayed(problem, 3, **ALGORITHMS[name])
    for what in ("loss", "moments"):
        diagonal, averaged = (losses(problem, sgd, regime, 40, what) for regime in (ss.SpectralDiagonal(), EXACT))
        np.testing.assert_allclose(diagonal, averaged, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("momentum", [0.0, 0.7])
def test_it_ends_at_kernel_ridge_regression(momentum):
    """`w = (Jᵀ J + ωN)⁻¹ Jᵀ y`, from wherever it begins: `f = Θ(x, X)(Θ + ωN)⁻¹ y`."""
    model = Model()
    problem = model.problem()
    sgd = decayed(problem, 4, momentum=momentum)
    solved = np.linalg.solve(model.j @ model.j.T + 4 * sgd.weight_decay * np.eye(4), model.y)
    expected = model.losses(model.j.T @ solved)
    for regime in (ss.SpectralDiagonal(), EXACT, ss.SampledLinearized()):
        found = ss.simulate(problem, sgd, regime, 500, record=[500], observe=["loss", "test_loss"])
        for which, what in enumerate(("loss", "test_loss")):
            np.testing.assert_allclose(found[what].values[0, 0, -1], expected[which], rtol=1e-9)


def test_without_an_origin_it_pulls_to_the_start(tiny):
    """Against `r' = r − α(N/b K̂ r_B + ω(r − r_0))`, and against the method that has this drift as a component."""
    sgd = decayed(tiny, 2)
    batches = ss.sampling.minibatch_indices(5, np.full(40, 2), 0, 40, ss.sampling.replicate_keys(0, 1))[0]
    r, expected = tiny.residual, []
    for batch in [*batches, batches[0]]:
        expected.append((r**2).mean() / 2)
        r = r - 0.4 * (5 / 2 * tiny.kernel[:, batch] @ r[batch] + DECAY * (r - tiny.residual))
    np.testing.assert_allclose(losses(tiny, sgd, ss.SampledLinearized(), 40)[0], expected, rtol=1e-12)


def test_what_begins_at_its_targets_is_pulled_away_and_has_not_diverged():
    problem = ss.QuadraticProblem(ss.Spectrum(np.array([1.0, 0.5])), np.zeros(2), origin=np.ones(2))
    run = ss.simulate(problem, decayed(problem, 2), ss.SpectralDiagonal(), 200, record=[0, 200])
    expected = (0.3 / 1.3) ** 2 / 4 + (0.3 / 0.8) ** 2 / 4
    np.testing.assert_allclose(run["loss"].values[0, 0], [0.0, expected], rtol=1e-9)


@pytest.mark.parametrize("tau", [1.0, -1.0, 0.3])
@pytest.mark.parametrize("name", ["plain", "heavy ball", "nesterov", "average"])
def test_the_contour_is_the_recurrence(name, tau):
    problem = ss.QuadraticProblem.power_law(n=60, nu=1.5, kappa=1.0)
    sgd = decayed(problem, 10, **ALGORITHMS[name], weight_decay=0.01 / 60)
    found = {}
    for method in ("recurrence", "contour"):
        regime = ss.SpectralDiagonal(tau, method=method, compress=False)
        found[method] = ss.simulate(problem, sgd, regime, 3000, record=[100, 1000, 3000])["loss"].values
    np.testing.assert_allclose(found["contour"], found["recurrence"], rtol=1e-9)


def test_a_diagonal_step_is_its_twin(tiny):
    sgd = decayed(tiny, 2, momentum=0.5, average="ema:0.7", label_noise=0.3)
    steps = ss.algorithm.maps.with_origin(tiny.maps(sgd, 0, 30), sgd.begins)
    values = sgd.values(5, 0, 30)
    label = sgd.label_source(5, values.batch_size)
    expected = naive.linear_diagonal(
        tiny.eigenvalues, tiny.coefficients, steps, values.noise, label, -0.5, [*sgd.begins, 1.0], [*sgd.readout, 0.0]
    ) / (2 * 5)
    np.testing.assert_allclose(losses(tiny, sgd, ss.SpectralDiagonal(-0.5), 30)[0], expected, rtol=1e-10)


def test_one_pass_averages_to_the_closure_of_gaussian_features():
    problem = ss.QuadraticProblem.power_law(n=20, nu=1.5, kappa=1.0)
    sgd = decayed(problem, 4, sampling="one-pass", lr=0.2)
    sampled = losses(problem, sgd, ss.SampledLinearized(), 30, replicates=4000)
    mean, error = sampled.mean(0), sampled.std(0) / np.sqrt(4000)
    exact = losses(problem, sgd, ss.SpectralDiagonal(-1.0), 30)[0]
    assert (np.abs(mean - exact)[1:] < 4 * error[1:]).all()


@pytest.mark.parametrize("regime", [ss.SampledLinearized(), EXACT, ss.SpectralDiagonal(), ss.RealNetwork()])
def test_no_weight_decay_is_what_it_was(regime):
    problem = Model(6).network()
    one, other = (
        losses(problem, sgd, regime, 20) for sgd in (ss.SGD(0.4, 0.5, 2), ss.SGD(0.4, 0.5, 2, weight_decay=0.0))
    )
    np.testing.assert_array_equal(one, other)
    assert "weight_decay" not in ss.SGD(0.4).spec()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weight_decay": -1.0}, "weight_decay: expected a finite number with 0 <= weight_decay, got -1.0"),
        ({"weight_decay": np.inf}, "weight_decay: expected a finite number"),
        ({"weight_decay": "much"}, "weight_decay: expected a finite number"),
        ({"weight_decay": 0.1, "method": "adam"}, "weight_decay: expected 0 with adam"),
    ],
)
def test_what_it_cannot_be_is_refused(given, words):
    with pytest.raises(InputError) as error:
        ss.SGD(0.1, **given)
    assert str(error.value).startswith(words)
