"""Methods with memory, averaged iterates, noisy labels and one pass: in every regime, tied to enumerations."""

import copy

import naive
import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import methods, sampling
from sgdsim.algorithm import maps
from sgdsim.common.checks import InputError
from sgdsim.theory import linear


class Pulled:
    """Weight decay towards the start, `w' = (1 − αμ)w + αμ w_0 − αg`: the drift is a component that stays at w_0."""

    memory, uses_momentum, is_stationary, spec = 1, False, True, "pulled"
    begins, pull = (1.0, 1.0), 0.3

    def maps(self, steps, lr, momentum):
        shrink = self.pull * lr
        rows = [[1 - shrink, shrink], [0 * lr, 1 + 0 * lr]]
        return maps.Maps(np.array(rows).transpose(2, 0, 1), np.stack([-lr, 0 * lr], 1))


class Ahead:
    """Heavy ball that shows `w + 0.5 v`."""

    memory, uses_momentum, is_stationary, spec = 1, False, False, "ahead"
    readout = (1.0, 0.5)

    def maps(self, steps, lr, momentum):
        return methods.HeavyBall().maps(steps, lr, np.full(len(steps), 0.7))


ALGORITHMS = {
    "nesterov": {"momentum": 0.6, "method": "nesterov"},
    "nesterov negative": {"momentum": -0.4, "method": "nesterov"},
    "memory": {"method": methods.Memory((0.9, 0.3), (0.5, 1.0), (-0.2, 0.1), 0.8)},
    "corner": {"method": "corner:theta=1.6,memory=3"},
    "am1": {"method": "am1:nu=1.5,offset=2"},
    "scheduled": {"lr": ss.schedules.Power(0.9, 0.5), "momentum": ss.schedules.Power(0.5, 0.2), "method": "nesterov"},
    "drift": {"method": Pulled()},
    "readout": {"method": Ahead()},
    "drift's average": {"method": Pulled(), "average": "tail:start=1"},
    "readout's average": {"method": Ahead(), "average": "ema:0.6"},
    "schedule-free": {"method": "schedule-free:beta=0.7"},
    "schedule-free's average": {"method": "schedule-free", "label_noise": 0.4, "average": "ema:0.8"},
    "ema": {"momentum": 0.5, "average": "ema:0.7"},
    "tail": {"momentum": 0.3, "average": "tail:start=1,every=2"},
    "labels": {"momentum": 0.5, "label_noise": 0.7},
    "all": {"momentum": 0.4, "method": "nesterov", "label_noise": 0.3, "average": "ema:0.8"},
}
EXACT = ss.BatchAveraged(0)


def algorithm(name: str, batch_size: int, **more) -> ss.SGD:
    return ss.SGD(**{"lr": 0.6, "batch_size": batch_size, **ALGORITHMS[name], **more})


def has_labels(name: str) -> bool:
    return "label_noise" in ALGORITHMS[name]


def losses(problem, sgd, regime, steps, what="loss", **options):
    return ss.simulate(problem, sgd, regime, steps, record=1, observe=what, **options)[what].values[0]


@pytest.fixture
def four() -> ss.QuadraticProblem:
    rng = np.random.default_rng(5)
    features = rng.standard_normal((6, 7))
    joint = features @ features.T
    return ss.QuadraticProblem.from_kernel(
        joint[:4, :4], rng.standard_normal(4), cross_kernel=joint[4:, :4], test_residual=rng.standard_normal(2)
    )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_averaged_is_the_mean_over_all_batch_sequences(four, name):
    sgd = algorithm(name, 1 if has_labels(name) else 2)
    expected = naive.enumerated_linear(
        four.kernel, four.residual, sgd.maps(0, 3), sgd.begins, sgd.readout, sgd.batch_size, sgd.label_noise
    )
    np.testing.assert_allclose(losses(four, sgd, EXACT, 3)[0], expected, rtol=1e-12)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("what", ["loss", "moments"])
def test_in_a_hadamard_basis_diagonal_is_averaged(hadamard_problem, name, what):
    sgd = algorithm(name, 3)
    diagonal, averaged = (losses(hadamard_problem, sgd, regime, 40, what) for regime in (ss.SpectralDiagonal(), EXACT))
    np.testing.assert_allclose(diagonal, averaged, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("name", [name for name in ALGORITHMS if not has_labels(name)])
@pytest.mark.parametrize("what", ["loss", "test_loss", "moments"])
def test_at_full_batch_all_agree(four, name, what):
    sgd = algorithm(name, 4)
    regimes = (ss.SampledLinearized(), EXACT, ss.SpectralDiagonal())
    one, *others = (losses(four, sgd, regime, 50, what)[0] for regime in regimes)
    for other in others:
        np.testing.assert_allclose(other, one, rtol=1e-9, atol=1e-14)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_loops_equal_their_twins(tiny, name):
    sgd, steps = algorithm(name, 2), 30
    values, steps_of = sgd.values(5, 0, steps), sgd.maps(0, steps)
    keys = sampling.replicate_keys(3, 2)
    batches = sampling.minibatch_indices(5, values.batch_size, 0, steps, keys)
    errors = sgd.label_noise * sampling.label_errors(0, steps, 2, keys)
    found = losses(tiny, sgd, ss.SampledLinearized(), steps, replicates=2, seed=3)
    for r in range(2):
        path = naive.linear(tiny.kernel, tiny.residual, steps_of, sgd.begins, sgd.readout, batches[r], errors[r])
        np.testing.assert_allclose(found[r], (path**2).mean(1) / 2, rtol=1e-10)
    label = sgd.label_source(5, values.batch_size)
    expected = naive.linear_diagonal(
        tiny.eigenvalues, tiny.coefficients, steps_of, values.noise, label, -0.5, sgd.begins, sgd.readout
    ) / (2 * 5)
    np.testing.assert_allclose(losses(tiny, sgd, ss.SpectralDiagonal(-0.5), steps)[0], expected, rtol=1e-10)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("what", ["loss", "test_loss"])
def test_a_linear_network_follows_its_linearisation(name, what):
    data = ss.datasets.load("digits", n=30, seed=0, n_test=10)
    problem = ss.NetworkProblem(torch.nn.Sequential(torch.nn.Linear(64, 1)).double(), data)
    sgd = algorithm(name, 5, lr=0.3) if name != "scheduled" else algorithm(name, 5)
    network, sampled = (
        losses(problem, sgd, regime, 60, what, replicates=3, seed=2)
        for regime in (ss.RealNetwork(), ss.SampledLinearized())
    )
    np.testing.assert_allclose(network, sampled, rtol=1e-9)


def test_a_drift_is_weight_decay_towards_the_start(tiny):
    """Against `r' = (1 − αμ)r + αμ r_0 − αg` written out, and at full batch where it ends: `r = μ(K̂ + μ)⁻¹ r_0`."""
    sgd, pull = ss.SGD(0.5, 0.0, 2, method=Pulled()), Pulled.pull
    batches = sampling.minibatch_indices(5, np.full(40, 2), 0, 40, sampling.replicate_keys(0, 1))[0]
    r, expected = tiny.residual, []
    for batch in [*batches, batches[0]]:
        expected.append((r**2).mean() / 2)
        gradient = 5 / 2 * tiny.kernel[:, batch] @ r[batch]
        r = r - 0.5 * (gradient + pull * (r - tiny.residual))
    np.testing.assert_allclose(losses(tiny, sgd, ss.SampledLinearized(), 40)[0], expected, rtol=1e-12)
    end = pull * np.linalg.solve(tiny.kernel + pull * np.eye(5), tiny.residual)
    full = losses(tiny, ss.SGD(0.5, 0.0, 5, method=Pulled()), ss.SpectralDiagonal(), 400)[0]
    np.testing.assert_allclose(full[-1], (end**2).mean() / 2, rtol=1e-12)


def test_an_average_is_that_of_what_is_read(tiny):
    batches = sampling.minibatch_indices(5, np.full(30, 2), 0, 30, sampling.replicate_keys(0, 1))[0]
    sgd = ss.SGD(0.5, 0.0, 2, method=Ahead(), average="tail:start=3")
    own = ss.SGD(0.5, 0.0, 2, method=Ahead())
    path = naive.linear(tiny.kernel, tiny.residual, own.maps(0, 30), own.begins, own.readout, batches)
    kept = [path[t] if t < 3 else path[3 : t + 1].mean(0) for t in range(31)]
    found = losses(tiny, sgd, ss.SampledLinearized(), 30)[0]
    np.testing.assert_allclose(found, (np.array(kept) ** 2).mean(1) / 2, rtol=1e-10)


def test_theory_refuses_what_it_does_not_read(tiny):
    with pytest.raises(InputError, match="theory: expected a method whose iterate is where gradients are taken"):
        linear.at_one(tiny, ss.SGD(0.5, 0.0, 2, method=Pulled()))


@pytest.mark.parametrize(
    ("kind", "field", "value", "words"),
    [
        (Ahead, "readout", (0.5, 1.0), "method: expected a readout that is w_0 at the start, got [0.5, 1.0]"),
        (Ahead, "readout", (1.0,), "method: readout: expected shape (2), got (1,)"),
        (Ahead, "begins", (0.5, 1.0), "method: expected component 0 to begin at 1 times w_0, got 0.5"),
        (Pulled, "begins", (1.0, 0.5), "method: expected maps that move nothing without gradients"),
    ],
)
def test_a_method_that_contradicts_itself_is_refused(tiny, kind, field, value, words):
    wrong = kind()
    setattr(wrong, field, value)
    with pytest.raises(InputError) as error:
        ss.simulate(tiny, ss.SGD(0.5, method=wrong), ss.SpectralDiagonal(), 3)
    assert str(error.value).startswith(words)


def test_nesterov_is_that_of_torch():
    data = ss.datasets.load("digits", n=30, seed=0)
    network = torch.nn.Sequential(torch.nn.Linear(64, 1)).double()
    problem, theirs = ss.NetworkProblem(network, data), copy.deepcopy(network)
    rate = problem.quadratic.torch_lr(0.4)
    optimizer = torch.optim.SGD(theirs.parameters(), lr=rate, momentum=0.5, nesterov=True)
    x, y = torch.as_tensor(data.x), torch.as_tensor(data.y)
    expected = []
    for _ in range(31):
        optimizer.zero_grad()
        loss = 0.5 * ((theirs(x)[:, 0] - y) ** 2).mean()
        expected.append(loss.item())
        loss.backward()
        optimizer.step()
    sgd = ss.SGD(0.4, 0.5, 30, method="nesterov")
    np.testing.assert_allclose(losses(problem, sgd, ss.RealNetwork(), 30)[0], expected, rtol=1e-10)


@pytest.mark.parametrize(("momentum", "other"), [(0.6, "heavy-ball"), (0.6, "nesterov"), (-0.3, "heavy-ball")])
@pytest.mark.parametrize("regime", [ss.SampledLinearized(), EXACT, ss.SpectralDiagonal()])
def test_heavy_ball_and_nesterov_are_memory_one(tiny, regime, momentum, other):
    read, direct = (momentum, 1.0) if other == "heavy-ball" else (momentum**2, 1 + momentum)
    memory = methods.Memory((momentum,), (read,), (-1.0,), direct)
    one, two = (
        losses(tiny, sgd, regime, 60)
        for sgd in (ss.SGD(0.3, 0.0, 2, method=memory), ss.SGD(0.3, momentum, 2, method=other))
    )
    np.testing.assert_allclose(one, two, rtol=1e-10)


@pytest.mark.parametrize("average", ["ema:0.9", "tail:start=10,every=3", "tail:start=60"])
def test_an_average_is_that_of_the_iterates(tiny, average):
    """Along one batch sequence, from the residuals themselves; before the start it is the last iterate."""
    sgd = ss.SGD(0.5, 0.3, 2, average=average)
    keys = sampling.replicate_keys(0, 1)
    batches = sampling.minibatch_indices(5, np.full(60, 2), 0, 60, keys)[0]
    plain = ss.SGD(0.5, 0.3, 2)
    path = naive.linear(tiny.kernel, tiny.residual, plain.maps(0, 60), plain.begins, plain.readout, batches)
    if average == "ema:0.9":
        kept = [path[0]]
        for r in path[1:]:
            kept.append(0.9 * kept[-1] + 0.1 * r)
    elif average == "tail:start=60":
        kept = path
    else:
        kept = [path[t] if t < 10 else path[10 : t + 1 : 3].mean(0) for t in range(61)]
    found = losses(tiny, sgd, ss.SampledLinearized(), 60)[0]
    np.testing.assert_allclose(found, (np.array(kept) ** 2).mean(1) / 2, rtol=1e-10)


@pytest.mark.parametrize(
    "extra", [{}, {"label_noise": 0.5, "average": "ema:0.8"}, {"lr": 0.05, "method": "corner:theta=1.5,memory=2"}]
)
@pytest.mark.parametrize("batch_size", [1, 4])
def test_one_pass_over_gaussian_samples_is_the_diagonal_regime(extra, batch_size):
    """τ = −1 is exact there, and fresh samples give its mean within 4 standard errors at every step."""
    problem = ss.QuadraticProblem.power_law(12, 1.3, 1.0)
    sgd = ss.SGD(**{"lr": 0.25, "batch_size": batch_size, "sampling": "one-pass", **extra})
    exact = losses(problem, sgd, ss.SpectralDiagonal(-1), 60)[0]
    runs = losses(problem, sgd, ss.SampledLinearized(), 60, replicates=4000, seed=1)
    error = runs[:, 1:].std(0, ddof=1) / np.sqrt(len(runs))
    assert (abs(runs.mean(0)[1:] - exact[1:]) < 4 * error).all()
    assert (error < 0.06 * exact[1:]).all()
    assert not np.array_equal(runs, losses(problem, sgd, ss.SampledLinearized(), 60, replicates=4000, seed=2))


def test_label_errors_are_standard_normal_and_a_function_of_the_step():
    keys = sampling.replicate_keys(0, 50)
    errors = sampling.label_errors(0, 400, 10, keys)
    assert abs(errors.mean()) < 4 / np.sqrt(errors.size)
    assert abs(errors.var() - 1) < 4 * np.sqrt(2 / errors.size)
    assert abs((errors**4).mean() - 3) < 4 * np.sqrt(96 / errors.size)
    np.testing.assert_array_equal(sampling.label_errors(100, 200, 4, keys), errors[:, 100:200, :4])


def test_noise_of_labels_has_its_floor():
    """At late times the loss does not fall below a level, which plain SGD passes."""
    problem = ss.QuadraticProblem.power_law(10, 1.5, 1.0)
    noisy, plain = (
        losses(problem, ss.SGD(0.5, 0.0, 2, label_noise=s), ss.SpectralDiagonal(), 20_000)[0] for s in (0.3, 0)
    )
    assert noisy[-1] == pytest.approx(noisy[-5000], rel=1e-6)
    assert noisy[-1] > 1e3 * plain[-1]


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (
            {"method": "adagrad"},
            "method: name: expected one of heavy-ball, nesterov, torch, corner, am1, schedule-free, adam, adamw, "
            "polyak; got 'adagrad'",
        ),
        ({"method": "corner:theta=2.5"}, "corner: theta: expected a finite number with 1 < corner: theta < 2, got 2.5"),
        ({"method": "corner"}, "method: corner: expected theta=NUMBER"),
        ({"method": "corner:theta=1.5", "momentum": 0.5}, "momentum: expected 0 with corner"),
        ({"label_noise": -1.0}, "label_noise: expected a finite number with 0 <= label_noise <= 1e+140, got -1.0"),
        ({"average": "ema:2"}, "ema: decay: expected"),
        ({"average": "median"}, "average: name: expected one of ema, tail; got 'median'"),
        ({"method": 3}, "method: expected a name or an object of sgdsim.methods, got 3"),
        ({"method": "am1:nu=0.5"}, "am1: nu: expected a number > 1, got 0.5"),
    ],
)
def test_bad_input(bad, words):
    with pytest.raises(InputError) as error:
        ss.SGD(0.5, **{"batch_size": 2, **bad})
    assert str(error.value).startswith(words)


@pytest.mark.parametrize("regime", [EXACT, ss.RealNetwork()])
def test_one_pass_has_no_fixed_points(digits_network, regime):
    with pytest.raises(InputError, match=r"sampling: the .* regime has a fixed set of points, got one-pass"):
        ss.simulate(digits_network, ss.SGD(0.5, sampling="one-pass"), regime, 3)


def test_methods_are_axes_of_a_grid(tiny):
    grid = ss.Grid.product(
        lr=[0.3], method=["heavy-ball", "nesterov", methods.Corner(1.5, 2)], average=[None, "ema:0.9"]
    )
    result = ss.sweep(tiny, grid, ss.SpectralDiagonal(), 20)
    assert result.sizes["method"] == 3
    assert result["average"].values.tolist() == ["none", "ema:0.9"]
    alone = ss.simulate(tiny, ss.SGD(0.3, method="corner:theta=1.5,memory=2"), ss.SpectralDiagonal(), 20)
    found = result["loss"].sel({"method": "corner:theta=1.5,memory=2", "average": "none"}).squeeze()
    np.testing.assert_array_equal(found.values, alone["loss"].values.ravel())


@pytest.mark.parametrize(
    "text", ["heavy-ball", "nesterov", "corner:theta=1.8,memory=15", "am1:nu=1.5,power=0.9", "schedule-free:beta=0.5"]
)
def test_texts_read_back(text):
    assert methods.parse_method(text).spec == text
    assert methods.parse_method(methods.parse_method(text).spec) == methods.parse_method(text)
