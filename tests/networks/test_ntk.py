"""The empirical tangent kernel of a zoo of architectures, by structure and by Jacobian, against plain autograd."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from sgdsim import ntk
from sgdsim.common.checks import InputError
from sgdsim.networks import MLP
from sgdsim.networks.ntk import empirical, layers


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return F.relu(x + self.second(F.relu(self.norm(self.first(x)), inplace=True)))


class Transformer(nn.Module):
    """Tokens, learned positions, attention written out, a gated MLP, pooling."""

    def __init__(self, vocabulary=11, width=8, length=5, heads=2):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=0)
        self.positions = nn.Parameter(torch.randn(length, width) * 0.3)  # a parameter of no layer
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head, self.heads = nn.Linear(width, 1), heads

    def forward(self, tokens):
        x = self.tokens(tokens) + self.positions
        n, length, width = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(n, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        weights = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        x = x + self.project((weights @ v).transpose(1, 2).reshape(n, length, width))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.head(x.mean(1))


class Attention(nn.Module):
    """torch's own attention uses its packed weights without calling a layer."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.head = nn.Linear(6, 1)

    def forward(self, x):
        x = x.reshape(x.shape[0], -1, 6)
        return self.head(self.attention(x, x, x, need_weights=False)[0].sum(1))


class Tied(nn.Module):
    """One weight in two layers, and one layer called twice."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(12, 12), nn.Linear(12, 12)
        self.decode.weight = self.encode.weight
        self.twice, self.head = nn.Linear(12, 12), nn.Linear(12, 1)

    def forward(self, x):
        x = torch.tanh(self.decode(torch.tanh(self.encode(x))))
        return self.head(torch.tanh(self.twice(torch.tanh(self.twice(x)))))


class Unused(nn.Module):
    """A layer that is never called, a frozen one, a weight used behind its layer's back, a layer used both ways."""

    def __init__(self):
        super().__init__()
        self.unused, self.frozen = nn.Linear(12, 7), nn.Linear(12, 12)
        self.frozen.requires_grad_(False)
        self.behind, self.both, self.head = nn.Linear(12, 12), nn.Linear(12, 12), nn.Linear(12, 1)

    def forward(self, x):
        x = torch.tanh(self.frozen(x)) @ self.behind.weight
        return self.head(torch.tanh(self.both(x)) + x @ self.both.weight.T)


class SequenceFirst(nn.Module):
    """A layer that sees the inputs in its second dimension."""

    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.Linear(4, 4), nn.Linear(4, 1)

    def forward(self, x):
        x = x.reshape(x.shape[0], 3, 4).transpose(0, 1)
        return self.head(torch.tanh(self.mix(x))).sum(0)


def frozen_bias(module, index):
    module[index].bias.requires_grad_(False)
    return module


class Experts(nn.Module):
    """Each input goes to one of two layers, by its sign."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(12, 5), nn.Linear(12, 5), nn.Linear(5, 1)

    def forward(self, x):
        chosen = (x[:, 0] > 0).nonzero()[:, 0]
        out = torch.tanh(self.first(x))
        if chosen.numel():
            out = out.index_put((chosen,), torch.tanh(self.second(x[chosen])))
        return self.head(out)


def convolutional(*layers, channels=2, height=6, width=None):
    return nn.Sequential(nn.Unflatten(1, (channels, height, width or height)), *layers)


ZOO = {
    **{f"mlp depth {d}": (lambda d=d: MLP(9, d, "gelu", bias_std=0.5, n_inputs=12), 12) for d in range(1, 7)},
    "torch mlp": (lambda: nn.Sequential(nn.Linear(12, 9), nn.ReLU(inplace=True), nn.Linear(9, 1)), 12),
    "cnn": (
        lambda: convolutional(
            nn.Conv2d(2, 5, 3, stride=2, padding=1),
            nn.Tanh(),
            nn.Conv2d(5, 4, 2, dilation=2, bias=False),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(4, 1),
            height=5,
        ),
        50,
    ),
    "uneven conv": (
        lambda: convolutional(
            nn.Conv2d(2, 6, (2, 3), stride=(1, 2), dilation=(2, 1), padding=(0, 2), groups=2),
            nn.Tanh(),
            nn.Conv2d(6, 3, (3, 1), padding=(2, 0)),
            nn.Flatten(),
            nn.Linear(48, 1),
            height=4,
            width=6,
        ),
        48,
    ),
    "tokens with a bias, by Gram matrices": (
        lambda: nn.Sequential(nn.Unflatten(1, (2, 20)), nn.Linear(20, 30), nn.Tanh(), nn.Flatten(), nn.Linear(60, 1)),
        40,
    ),
    "frozen bias": (
        lambda: frozen_bias(nn.Sequential(nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 1)), 0),
        12,
    ),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (3, 8)),
            nn.Conv1d(3, 6, 3, stride=2, padding=2, groups=3),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(30, 1),
        ),
        24,
    ),
    "resnet block": (
        lambda: convolutional(
            Residual(3), nn.AvgPool2d(2), Residual(3), nn.Flatten(), nn.Linear(12, 1), channels=3, height=4
        ),
        48,
    ),
    "depthwise": (
        lambda: convolutional(
            nn.Conv2d(4, 8, 3, groups=4, padding=1),
            nn.GroupNorm(2, 8),
            nn.GELU(),
            nn.Conv2d(8, 2, 1),
            nn.Flatten(),
            nn.Linear(18, 1),
            channels=4,
            height=3,
        ),
        36,
    ),
    "circular conv": (
        lambda: convolutional(
            nn.Conv2d(1, 3, 3, padding=1, padding_mode="circular"), nn.Flatten(), nn.Linear(48, 1), channels=1, height=4
        ),
        16,
    ),
    "same-padded conv": (
        lambda: convolutional(
            nn.Conv2d(1, 3, 2, padding="same"), nn.Tanh(), nn.Flatten(), nn.Linear(48, 1), channels=1, height=4
        ),
        16,
    ),
    "layernorm mlp": (
        lambda: nn.Sequential(nn.Linear(12, 9), nn.LayerNorm(9), nn.ReLU(), nn.BatchNorm1d(9), nn.Linear(9, 1)),
        12,
    ),
    "transformer": (Transformer, "tokens"),
    "torch attention": (Attention, 12),
    "tied": (Tied, 12),
    "unused, frozen, behind": (Unused, 12),
    "sequence first": (SequenceFirst, 12),
    "experts": (Experts, 12),
    "scalar parameter": (lambda: nn.Sequential(nn.Linear(12, 5), nn.PReLU(), nn.Linear(5, 1)), 12),
}


def build(name, outputs=1):
    torch.manual_seed(3)
    make, size = ZOO[name]
    module = make().double().eval()
    for part in module.modules():  # norms away from their trivial start
        if hasattr(part, "running_mean"):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
        if isinstance(part, (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm1d, nn.BatchNorm2d)):
            part.weight.data.normal_()
            part.bias.data.normal_()
    rng = np.random.default_rng(0)
    x = rng.integers(0, 11, (7, 5)) if size == "tokens" else rng.standard_normal((7, size))
    return module, x


def plain(module, x, index=0):
    """Jacobian (n, p) by one backward pass per input."""
    rows = []
    trained = [p for p in module.parameters() if p.requires_grad]
    for sample in torch.as_tensor(x):
        f = module(sample[None]).reshape(-1)[index]
        found = torch.autograd.grad(f, trained, allow_unused=True)
        rows.append(
            torch.cat([(torch.zeros_like(p) if g is None else g).ravel() for g, p in zip(found, trained, strict=True)])
        )
    return torch.stack(rows).detach().numpy()


@pytest.mark.parametrize("name", ZOO)
def test_structure_and_jacobian_agree_with_autograd(name, monkeypatch):
    module, x = build(name)
    jacobian = plain(module, x)
    expected = jacobian @ jacobian.T
    scale = np.abs(expected).max()
    for chunk in (None, 3, 1):
        theta = ntk.empirical_ntk(module, x, chunk=chunk)
        assert np.abs(theta - expected).max() < 1e-10 * scale
        assert (theta == theta.T).all()
        cross = ntk.empirical_ntk(module, x[:4], x[2:], chunk=chunk)
        assert np.abs(cross - expected[:4, 2:]).max() < 1e-10 * scale
    v = np.random.default_rng(1).standard_normal(7)
    product = ntk.ntk_operator(module, x[:4], x, chunk=3)
    assert np.abs(product @ v - expected[:4] @ v).max() < 1e-10 * scale * np.abs(v).sum()
    assert np.abs(product.T @ v[:4] - expected[:, :4] @ v[:4]).max() < 1e-10 * scale * np.abs(v).sum()

    monkeypatch.setattr(layers, "contraction", lambda layer: None)
    assert set(ntk.contraction_plan(module, x).values()) == {"jacobian"}
    assert np.abs(ntk.empirical_ntk(module, x, chunk=3) - expected).max() < 1e-10 * scale


def test_what_has_structure_uses_it():
    """The fast way is taken wherever it is right, and nowhere else."""
    for name in ("mlp depth 3", "torch mlp", "cnn", "conv1d", "resnet block", "depthwise", "layernorm mlp"):
        assert "jacobian" not in ntk.contraction_plan(*build(name)).values(), name
    plan = ntk.contraction_plan(*build("transformer"))
    assert [name for name, kind in plan.items() if kind == "jacobian"] == ["positions"]
    plan = ntk.contraction_plan(*build("tied"))
    assert {name for name, kind in plan.items() if kind == "jacobian"} == {"encode.weight"}
    plan = ntk.contraction_plan(*build("unused, frozen, behind"))
    slow = {name for name, kind in plan.items() if kind == "jacobian"}
    assert slow == {"unused.weight", "unused.bias", "behind.weight", "behind.bias", "both.weight"}
    assert not any(name.startswith("frozen") for name in plan)
    plan = ntk.contraction_plan(*build("torch attention"))
    assert plan["attention.in_proj_weight"] == "jacobian"
    assert plan["head.weight"] == "Linear"
    assert ntk.contraction_plan(*build("sequence first"))["mix.weight"] == "jacobian"


def test_both_ways_of_contracting_a_shared_weight():
    """By Gram matrices where there are few positions, by summed outer products where there are many."""
    rng = torch.Generator().manual_seed(0)
    for positions in (1, 3, 20):
        one, two = (
            layers.LinearForm(*(torch.randn(n, 2, positions, width, generator=rng).double() for width in (5, 4)))
            for n in (6, 3)
        )
        expected = one.gradient() @ two.gradient().T
        torch.testing.assert_close(layers.share(one, two, 10_000), expected)
        torch.testing.assert_close(layers.share(one, two, 1), expected)


@pytest.mark.parametrize("name", ["torch mlp", "cnn", "tied", "scalar parameter"])
def test_several_outputs(name):
    module, x = build(name)
    torch.manual_seed(0)
    last = module.head if name == "tied" else module[-1]
    grown = nn.Linear(last.in_features, 3).double()
    if name == "tied":
        module.head = grown
    else:
        module[-1] = grown
    jacobians = np.stack([plain(module, x, c) for c in range(3)])
    full = np.einsum("cip,ejp->ijce", jacobians, jacobians)
    np.testing.assert_allclose(ntk.empirical_ntk(module, x, output="full", chunk=4), full, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(
        ntk.empirical_ntk(module, x, chunk=4), np.einsum("ijcc->ij", full), rtol=1e-9, atol=1e-10
    )
    np.testing.assert_allclose(ntk.empirical_ntk(module, x, output=2), full[:, :, 2, 2], rtol=1e-9, atol=1e-10)
    flat = full.transpose(0, 2, 1, 3).reshape(21, 21)
    v = np.random.default_rng(0).standard_normal(21)
    np.testing.assert_allclose(ntk.ntk_operator(module, x, chunk=2) @ v, flat @ v, rtol=1e-9, atol=1e-9)


def test_inputs_need_not_be_contiguous():
    module, x = build("torch mlp")
    wide = np.repeat(x, 2, axis=1)[:, ::2]
    assert not wide.flags.c_contiguous
    np.testing.assert_array_equal(ntk.empirical_ntk(module, wide), ntk.empirical_ntk(module, x))


def test_single_precision_is_close():
    module, x = build("cnn")
    exact, single = ntk.empirical_ntk(module, x), ntk.empirical_ntk(module, x, dtype="float32")
    np.testing.assert_allclose(single, exact, rtol=1e-4, atol=1e-5 * np.abs(exact).max())
    assert (single != exact).any()


def test_the_module_is_left_as_it_was():
    module, x = build("resnet block")
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    ntk.empirical_ntk(module, x)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in module.named_parameters())
    assert not any(layer._forward_hooks for layer in module.modules())


def test_memory_follows_the_budget():
    """A smaller budget makes smaller tiles; the numbers stay."""
    module, x = build("cnn")
    work = empirical._Work(module, torch.as_tensor(x), set())
    assert work.chunk(10**6) > work.chunk(10**5) >= work.chunk(1) == 1
    few, many = (ntk.empirical_ntk(module, x, budget=b) for b in (1, 10**9))
    np.testing.assert_allclose(few, many, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"chunk": 0}, "chunk"),
        ({"output": 1}, "output"),
        ({"output": "all"}, "output"),
        ({"dtype": "float16"}, "dtype"),
        ({"device": "tpu"}, "device"),
        ({"budget": 0}, "budget"),
        ({"x2": np.ones((2, 3))}, "x2"),
        ({"x1": np.full((2, 12), np.nan)}, "NaN"),
        ({"x1": np.ones((0, 12))}, "at least one"),
        ({"x1": np.ones((3, 5))}, "inputs of shape"),
    ],
)
def test_bad_requests_are_refused(options, message):
    module, x = build("torch mlp")
    arguments = {"x1": x, **options}
    with pytest.raises(InputError, match=message) as caught:
        ntk.empirical_ntk(module, arguments.pop("x1"), arguments.pop("x2", None), **arguments)
    assert "\n" not in str(caught.value)


def test_parameters_that_overflow_are_named():
    module, x = build("torch mlp")
    module[0].weight.data.fill_(1e200)
    with pytest.raises(InputError, match="NaN or infinite"):
        ntk.empirical_ntk(module, x)


def test_batch_norm_that_goes_by_the_batch_is_refused():
    """Without running statistics it does so in evaluation mode too: the kernel would depend on the chunk."""
    module = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 1)).eval()
    with pytest.raises(InputError, match="1: BatchNorm1d without running statistics"):
        ntk.empirical_ntk(module, np.ones((3, 4)))
