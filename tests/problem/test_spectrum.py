"""What stands for what in a spectrum: modes that move, and for how many eigenvalues each counts."""

import numpy as np
import pytest

import sgdsim as ss
from sgdsim.common.checks import InputError
from sgdsim.problem.spectrum import Spectrum
from sgdsim.theory import generating, linear, memory, optimal, power_law, stability

RANK = 4


@pytest.fixture(params=range(5))
def pair(request):
    """A kernel of rank 4 on 12 points whose residual it can fit, and the same problem known exactly."""
    rng = np.random.default_rng(request.param)
    u = np.linalg.qr(rng.standard_normal((12, 12)))[0]
    lam, a = np.array([1.0, 0.5, 0.2, 0.1, *np.zeros(8)]), np.array([1.0, -2.0, 0.5, 3.0, *np.zeros(8)])
    kernel = (u * lam) @ u.T
    return ss.QuadraticProblem.from_kernel(kernel, u @ a), ss.QuadraticProblem(Spectrum(lam), a)


def test_rounding_neither_moves_nor_stays(pair):
    decomposed, _ = pair
    assert not (decomposed.eigenvalues[RANK:] == 0).all()  # rounding has left something
    for problem in pair:
        assert problem.spectrum.moving.tolist() == [True] * RANK + [False] * 8
        assert problem.still == 0.0


def test_late_times_of_a_decomposed_kernel_are_those_of_the_exact_spectrum(pair):
    """Its modes at λ ~ 1e-17 gave infinite constants, thresholds of their own and a wrong sign of the best momentum."""
    law = power_law.PowerLaw(nu=1.5, kappa=1.0, Lambda=1.0, A=1.0)
    sgd = ss.SGD(0.2, 0.3, 3, method="nesterov")
    both = [
        [
            *power_law.constants(problem, law, lr=0.2, momentum=0.3, noise=0.25),
            *power_law.method_constants(problem, law, sgd),
            stability.critical_eigenvalue(problem, 4.0),
            stability.critical_eigenvalue(problem, 1.0),
            stability.max_lr(problem, ss.SGD(1.0, 0.3, 3)),
            linear.floor(problem, ss.SGD(0.2, 0.3, 3, label_noise=0.1)).loss,
            memory.transforms(problem, sgd, 1.0).signal.real,
            optimal.negative_momentum_helps(problem, 1.5),
        ]
        for problem in pair
    ]
    assert np.isfinite(both).all()
    np.testing.assert_allclose(*both, rtol=1e-9)
    assert both[1][4] == 0.0  # four modes in all: noise alone cannot destabilise at τ = 4


def test_what_cannot_be_fitted_stays():
    """Two points with one kernel and two targets: half of the difference squared stays."""
    problem = ss.QuadraticProblem.from_kernel(np.ones((2, 2)), np.array([1.0, 3.0]))
    assert problem.still == pytest.approx(2.0)
    law = power_law.PowerLaw(nu=1.5, kappa=1.0, Lambda=1.0, A=1.0)
    assert power_law.constants(problem, law, lr=0.2, noise=0.5)[1] == np.inf
    assert power_law.constants(problem, law, lr=0.2, noise=0.0)[1] == 0.0  # full batches: no noise at all
    assert power_law.method_constants(problem, law, ss.SGD(0.2, batch_size=2))[1] == 0.0
    assert linear.at_one(problem, ss.SGD(0.2)).signal == np.inf
    assert memory.transforms(problem, ss.SGD(0.2), 1.0).signal == np.inf
    assert not optimal.negative_momentum_helps(problem, 3.0)
    with pytest.raises(InputError, match="horizon: expected a number of steps where part of the residual"):
        optimal.best(problem, batch_size=1, law=law)
    predicted = power_law.predict(problem, ss.SGD(0.1), power_law.PowerLaw(nu=1.5, kappa=4.0))
    assert (predicted.noise, predicted.constant, predicted.window) == (None, None, None)


@pytest.mark.parametrize("share", [1e-20, 1e-12, 1e-3])
def test_what_rounding_cannot_have_made_stays(share):
    """Of a well-conditioned kernel a part of 1e-20 of the squared residual can be told; beside λ = 1e-13, none."""
    u = np.linalg.qr(np.random.default_rng(0).standard_normal((8, 8)))[0]
    a = np.sqrt([1.0, 1.0, share, *np.zeros(5)])
    for smallest, known in ((0.5, True), (1e-13, False)):
        lam = np.array([1.0, smallest, *np.zeros(6)])
        problem = ss.QuadraticProblem.from_kernel((u * lam) @ u.T, u @ a)
        if known:
            assert problem.still == pytest.approx(share, rel=1e-3)
        elif share < 1e-6:
            assert problem.still == 0.0


@pytest.mark.parametrize("smallest", [1e-6, 1e-8, 1e-9, 1e-12, 1e-17, 1e-300])
@pytest.mark.parametrize("beta", [0.0, 0.5, -0.5])
def test_slow_modes_are_not_rounded_away(smallest, beta):
    """Ũ(1) and Ṽ(1) of any method, and the transforms at 1, against heavy ball's closed form."""
    lam, c = np.array([1.0, smallest]), np.ones(2)
    problem = ss.QuadraticProblem(Spectrum(lam), c)
    sgd = ss.SGD(0.5, beta)
    expected = [
        generating.noise_propagator_at_one(lam, 0.5, beta, sgd.noise(2), 0.3),
        generating.signal_at_one(lam, c, 0.5, beta, sgd.noise(2), 0.3),
    ]
    one, transforms = linear.at_one(problem, sgd, 0.3), memory.transforms(problem, sgd, 1.0, 0.3)
    np.testing.assert_allclose([one.noise, one.signal], expected, rtol=1e-7)
    np.testing.assert_allclose([transforms.noise, transforms.signal], expected, rtol=1e-7)


def test_counts():
    assert Spectrum(np.array([1.0, 0.5])).counts.tolist() == [1.0, 1.0]
    assert Spectrum(np.array([1.0, 0.5]), multiplicity=np.array([1.0, 4.0])).counts.tolist() == [1.0, 4.0]
