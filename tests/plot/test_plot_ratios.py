"""The panels below losses: what is divided by what, how far they reach, and where there are none."""

import numpy as np
import pytest
import xarray as xr

from sgdsim import plot
from sgdsim.plot.losses import RATIOS, WITH_RATIOS

STEPS = np.array([0, 1, 2, 5, 10, 20, 50])


def result(regimes: dict[str, np.ndarray], cells: int = 1) -> xr.Dataset:
    """Losses (replicates, steps) of each regime, the same in all cells."""
    most = max(len(losses) for losses in regimes.values())
    loss = np.full((cells, len(regimes), most, STEPS.size), np.nan)
    for i, losses in enumerate(regimes.values()):
        loss[:, i, : len(losses)] = losses
    coords = {"lr": np.linspace(0.1, 1, cells), "regime": list(regimes), "replicate": np.arange(most), "step": STEPS}
    return xr.Dataset({"loss": (("lr", "regime", "replicate", "step"), loss)}, coords=coords)


def below(figure) -> list:
    return [ax for ax in figure.axes if ax.get_label() == RATIOS]


def ratio(ax, label: str) -> np.ndarray:
    (found,) = [line.get_ydata() for line in ax.lines if line.get_label() == label]
    return found


FALL = 0.5 * (STEPS + 1.0) ** -0.5
GROWING = np.array([1.0, 1.0, 1.01, 1.02, 1.1, 1.2, 1.4])


def test_means_over_the_exact_average():
    runs = np.stack([0.9 * GROWING * FALL, 1.1 * GROWING * FALL])
    figure = plot.comparison(result({"network": runs, "averaged": FALL[None], "diagonal:tau=1": 0.99 * FALL[None]}))
    (ax,) = below(figure)
    assert ratio(ax, "network") == pytest.approx(GROWING[1:])
    assert ratio(ax, "diagonal, τ = 1") == pytest.approx(np.full(6, 0.99))
    assert ax.get_ylabel() == "÷ averaged"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["×0.667", "×1", "×1.5"]
    assert ax.get_ylim()[1] > 1.5
    assert ax.get_xlim() == figure.axes[0].get_xlim()


@pytest.mark.parametrize(
    ("names", "reference"),
    [
        (["network", "sampled", "diagonal:tau=1"], "÷ diagonal, τ = 1"),
        (["network", "sampled"], "÷ sampled"),
        (["diagonal:tau=1", "averaged"], "÷ averaged"),
    ],
)
def test_the_reference_is_the_best_known_expectation(names, reference):
    (ax,) = below(plot.comparison(result(dict.fromkeys(names, FALL[None]))))
    assert ax.get_ylabel() == reference


def test_what_diverges_ends_with_a_cross_inside_the_panel():
    growing = FALL * np.array([1, 2, 10, 1e5, 1e300, np.inf, np.inf])
    (ax,) = below(plot.comparison(result({"network": growing[None], "averaged": FALL[None]})))
    (cross,) = [line.get_xydata()[0] for line in ax.lines if line.get_label() == "_diverged"]
    low, high = ax.get_ylim()
    assert low < cross[1] < high
    assert high < 20
    assert 1.5 < cross[0] < 2  # ×2 at step 1, ×10 at step 2


def test_an_average_that_diverges_or_is_nothing_leaves_no_ratio():
    over = np.array([0.5, 0.5, 0.0, np.inf, np.nan, 0.1, 0.1])
    (ax,) = below(plot.comparison(result({"sampled": FALL[None], "averaged": over[None]})))
    assert np.isfinite(ratio(ax, "sampled")).tolist() == [True, False, False, False, True, True]


@pytest.mark.parametrize("regimes", [["network"], ["averaged"], ["network", "unheard-of"]])
def test_nothing_below_where_nothing_is_compared(regimes):
    assert below(plot.comparison(result(dict.fromkeys(regimes, FALL[None])))) == []


def test_many_panels_have_none_below():
    both = {"sampled": FALL[None], "averaged": FALL[None]}
    assert len(below(plot.comparison(result(both, WITH_RATIOS)))) == WITH_RATIOS
    assert below(plot.comparison(result(both, WITH_RATIOS + 1))) == []
