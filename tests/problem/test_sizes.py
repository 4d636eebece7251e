"""Networks and kernels that do not fit are refused before they are made."""

import pytest

from sgdsim import networks
from sgdsim.common import memory
from sgdsim.common.checks import InputError
from sgdsim.problem import sizes


@pytest.mark.parametrize(("depth", "outputs"), [(0, 1), (1, 1), (1, 3), (3, 2)])
def test_the_parameters_are_those_of_the_network(monkeypatch, depth, outputs):
    asked = {}
    monkeypatch.setattr(memory, "require", lambda what, needed, advice: asked.update(what=what, needed=needed))
    sizes.require_mlp(7, 11, depth, outputs)
    parameters = sum(p.numel() for p in networks.MLP(11, depth, n_inputs=7, n_outputs=outputs).parameters())
    assert asked["what"] == f"a network of {parameters:.3g} parameters and work on it"
    assert asked["needed"] >= 4 * 8 * parameters  # what the problem alone takes, measured


def test_a_kernel_takes_five_of_its_size(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 40e6 + 8e6)
    sizes.require_kernel(1000)
    sizes.require_kernel(1000, 1000)
    with pytest.raises(InputError, match=r"got a kernel and its eigenvectors of about 49 MB; take a smaller --n"):
        sizes.require_kernel(1000, 1100)
