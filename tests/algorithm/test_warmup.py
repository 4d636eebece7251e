"""Warm-ups, and schedules that fall over a number of steps: torch's own schedulers give the same rates."""

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

import sgdsim as ss
from sgdsim import schedules
from sgdsim.algorithm.warmup import WarmUp
from sgdsim.common.checks import InputError

TORCH = {
    "cosine:start=0.5,total=12,final=0.1": lambda o: lr_scheduler.CosineAnnealingLR(o, 12, eta_min=0.1),
    "linear:start=0.5,total=12,final=0.1": lambda o: lr_scheduler.LinearLR(o, 1, 0.2, 12),
    "steps:start=0.5,factor=0.3,every=4": lambda o: lr_scheduler.StepLR(o, 4, 0.3),
}


def rates_of_torch(scheduler, n_steps, warmup=0):
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    made = scheduler(optimiser)
    if warmup:
        first = lr_scheduler.LinearLR(optimiser, 1 / warmup, 1, warmup - 1)
        made = lr_scheduler.SequentialLR(optimiser, [first, made], [warmup])
    rates = []
    for _ in range(n_steps):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        made.step()
    return rates


@pytest.mark.parametrize("text", TORCH)
def test_rates_are_those_of_torch(text):
    np.testing.assert_allclose(schedules.parse("lr", text)(np.arange(12)), rates_of_torch(TORCH[text], 12), atol=1e-12)


@pytest.mark.parametrize("text", TORCH)
@pytest.mark.filterwarnings("ignore:.*epoch parameter")
def test_after_a_warm_up_too(text):
    warm = schedules.parse("lr", text.replace("total=12", "total=17") + ",warmup=5")
    np.testing.assert_allclose(warm(np.arange(17)), rates_of_torch(TORCH[text], 17, 5), atol=1e-12)


def test_cosine_with_its_warm_up_is_warmup_cosine():
    t = np.arange(30)
    named = schedules.parse("lr", "warmup-cosine:start=1,warmup=7,total=25,final=0.2")
    cosine = schedules.parse("lr", "cosine:peak=1,warmup=7,total=25,final=0.2")
    np.testing.assert_array_equal(named(t), cosine(t))


@pytest.mark.parametrize(
    "text",
    [
        "power:start=1,exponent=0.5,warmup=4",
        "piecewise:0=1,5=0.5,warmup=3",
        "values:0.4/0.3/0.2,warmup=2",
        "warmup-stable-decay:peak=1,total=10,decay=3,warmup=2",
        "linear:start=1,total=10,warmup=2",
    ],
)
def test_text_reads_back(text):
    schedule = schedules.parse("lr", text)
    assert schedule.spec == text
    assert schedules.parse("lr", schedule.spec) == schedule


def test_the_warm_up_rises_to_the_first_value_and_then_the_schedule_begins():
    power = schedules.Power(2.0, 0.5)
    warm = WarmUp(power, 10)
    np.testing.assert_allclose(warm(np.arange(10)), 0.2 * np.arange(1, 11))
    np.testing.assert_array_equal(warm(np.arange(10, 50)), power(np.arange(40)))


def test_a_list_after_a_warm_up_ends_where_it_ends(tiny):
    sgd = ss.SGD(WarmUp(schedules.Values([0.1, 0.1]), 3), batch_size=2)
    ss.simulate(tiny, sgd, ss.SpectralDiagonal(), 5)
    with pytest.raises(InputError, match="got a schedule of 5"):
        ss.simulate(tiny, sgd, ss.SpectralDiagonal(), 6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("power:start=1,exponent=0.5,warmup=x", "lr: power: warmup: expected a number of steps >= 1, got 'x'"),
        ("values:1/2,warmup=0", "lr: values: warmup: expected a number of steps >= 1, got '0'"),
        ("cosine:start=1,total=3,warmup=5", "cosine: total: expected an integer >= 6, got 3"),
        ("cosine:start=-1,total=3", "cosine: start: expected"),
    ],
)
def test_refused(text, words):
    with pytest.raises(InputError) as caught:
        schedules.parse("lr", text)
    assert words in str(caught.value)


@pytest.mark.parametrize("schedule", [0.5, lambda t: t])
def test_a_warm_up_needs_a_schedule(schedule):
    with pytest.raises(InputError, match="warmup: expected a schedule"):
        ss.SGD(WarmUp(ss.schedules.of(schedule), 5))
