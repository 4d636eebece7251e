"""Schedules: values, text form, and the polynomial that the Jacobi schedule stands for."""

import numpy as np
import pytest
from scipy.special import eval_jacobi

import sgdsim as ss
from sgdsim import schedules
from sgdsim.common.checks import InputError


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (1.0, -0.3), (-0.5, -0.5), (2.5, 0.0), (-0.3, -0.7)])
def test_jacobi_residuals_are_jacobi_polynomials(a, b):
    """Full-batch residuals after t steps are P_t(1 − αλ)/P_t(1) (a + b = −1 included, where the formula is 0/0)."""
    problem = ss.QuadraticProblem.power_law(30, 1.3, 1.0)
    sgd = ss.SGD.jacobi(1.8, a, b, batch_size=30)
    run = ss.simulate(problem, sgd, ss.SpectralDiagonal(), 40, record=1, observe=["moments"])
    for t in range(41):
        factor = eval_jacobi(t, a, b, 1 - 1.8 * problem.eigenvalues) / eval_jacobi(t, a, b, 1.0)
        expected = (problem.coefficients * factor) ** 2
        # the moments recurrence cancels near a polynomial's roots: compare on the scale of the coefficients
        np.testing.assert_allclose(run["moments"].values[0, 0, t], expected, rtol=1e-9, atol=1e-15)


def test_values():
    t = np.arange(6)
    np.testing.assert_allclose(schedules.Power(2.0, 0.5, 3.0)(t), 2 / np.sqrt(1 + t / 3))
    warm = schedules.WarmupCosine(1.0, 2, 5, 0.2)(t)
    np.testing.assert_allclose(warm, [0.5, 1.0, 1.0, 0.8, 0.4, 0.2])
    np.testing.assert_allclose(schedules.Steps(3, 2, 2, 10)(t), [3, 3, 6, 6, 10, 10])
    assert schedules.JacobiMomentum(0.5, 0.5)(t)[0] == 0


@pytest.mark.parametrize(
    ("parameter", "schedule"),
    [
        ("lr", schedules.Power(0.1, 0.3333333333333333, 7.0)),
        ("lr", schedules.WarmupCosine(1.5, 10, 100, 0.1)),
        ("batch_size", schedules.Steps(4, 2.0, 50, 64)),
        ("lr", schedules.JacobiLR(1.1, 0.1, 0.2)),
        ("momentum", schedules.JacobiMomentum(0.1, 0.2)),
    ],
)
def test_text_form_reads_back(parameter, schedule):
    assert schedules.parse(parameter, schedule.spec) == schedule


def test_numbers_read_as_numbers():
    assert schedules.parse("lr", "0.5") == 0.5
    assert schedules.parse("batch_size", "10") == 10


def test_an_algorithm_takes_texts():
    as_text = ss.SGD("cosine:start=0.3,total=1000,warmup=100", "0.9", "steps:start=4,factor=2,every=50")
    fields = (schedules.parse("lr", "cosine:start=0.3,total=1000,warmup=100"), 0.9, schedules.Steps(4, 2, 50))
    assert as_text == ss.SGD(*fields)
    for words in (
        {"lr": "fast"},
        {"lr": "-1"},
        {"lr": "nan"},
        {"lr": 1, "momentum": "1.5"},
        {"lr": 1, "batch_size": "2.5"},
    ):
        with pytest.raises(InputError, match=f"{[*words][-1]}: expected"):
            ss.SGD(**words)


@pytest.mark.parametrize(
    ("parameter", "text"),
    [
        ("lr", "fast"),
        ("lr", "cosine:peak=1"),
        ("lr", "power:start=1"),
        ("lr", "power:start=1,power=2"),
        ("batch_size", "1.5"),
        ("lr", "power:start=x,exponent=1"),
        ("lr", "jacobi:lr=1,a=-1,b=0"),
        ("batch_size", "jacobi:lr=1,a=0,b=0"),
        ("lr", "warmup-cosine:peak=1,warmup=10,total=10"),
        ("lr", "power:start=-1,exponent=1"),
        ("lr", "steps:start=1,factor=2,every=0"),
    ],
)
def test_bad_text_is_one_clear_line(parameter, text):
    with pytest.raises(InputError, match="expected") as caught:
        schedules.parse(parameter, text)
    assert "\n" not in str(caught.value)


def test_a_schedule_that_leaves_its_range_is_refused_before_the_run():
    problem = ss.QuadraticProblem.power_law(30, 1.3, 1.0)
    with pytest.raises(InputError, match="batch_size: expected values from 1 to 30"):
        ss.simulate(problem, ss.SGD(0.5, 0.0, schedules.Steps(8, 2, 100)), ss.SampledLinearized(), 1000)
    with pytest.raises(InputError, match="lr: expected values finite"):
        ss.simulate(problem, ss.SGD(schedules.Power(0.5, -400.0)), ss.SampledLinearized(), 1000)


@pytest.mark.parametrize("parameter", schedules.PARAMETERS)
def test_every_form_that_a_parameter_takes_reads_back(parameter):
    """Piecewise too, whose text stood in files before it could be read."""
    steps = schedules.Piecewise((0, 10, 30), (3.0, 1.25, 7.0))
    assert schedules.parse(parameter, steps.spec) == steps
    assert schedules.parse(parameter, "steps:start=4,factor=2,every=50") == schedules.Steps(4, 2, 50)


def test_piecewise_linear():
    """Its values, its text, and that pieces of one slope are the polynomial of power 1."""
    lines = schedules.parse("lr", "piecewise-linear:0=0,4=1,6=0.5")
    assert lines(np.array([0, 1, 2, 4, 5, 6, 100])).tolist() == [0, 0.25, 0.5, 1, 0.75, 0.5, 0.5]
    assert schedules.parse("batch_size", lines.spec) == lines
    falling = schedules.PiecewiseLinear((0, 30, 80), (0.8, 0.5, 0.0))
    np.testing.assert_allclose(falling(np.arange(100)), schedules.Polynomial(0.8, 80)(np.arange(100)), atol=1e-15)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("piecewise-linear:", "lr: piecewise-linear: expected STEP=VALUE,STEP=VALUE,…; got ''"),
        ("piecewise-linear:0=1,x=2", "lr: piecewise-linear: expected STEP=VALUE,STEP=VALUE,…; got 'x=2'"),
        ("piecewise-linear:5=1,9=2", "lr: piecewise-linear: expected steps 0 < … in ascending order"),
        ("piecewise:0=1,9=2,9=3", "lr: piecewise: expected starts 0 < … in ascending order"),
        ("piecewise:0=inf", "lr: piecewise: values: expected a finite number, got inf"),
    ],
)
def test_bad_pieces(text, words):
    with pytest.raises(InputError) as error:
        schedules.parse("lr", text)
    assert str(error.value).startswith(words)
