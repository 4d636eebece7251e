"""Modules as people write them: each has the kernel that plain autograd gives row by row, or one line says why not."""

import naive
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import sgdsim as ss
from sgdsim import cli, ntk
from sgdsim.common.checks import InputError

N, D = 40, 6


class Body(nn.Module):
    """Two layers; a subclass says what is odd about it by `forward`."""

    def __init__(self, outputs=1):
        super().__init__()
        self.fc, self.head = nn.Linear(D, 5), nn.Linear(5, outputs)

    def forward(self, x):
        return self.head(torch.tanh(self.fc(x)))


def odd(forward, base=Body):
    """A maker of modules whose forward is `forward(self, x)`."""
    return type("Odd", (base,), {"forward": forward})


def in_place(self, x):
    x -= 0.5
    return Body.forward(self, x)


def by_keyword(self, x):
    return self.head(input=torch.tanh(self.fc(input=x)))


def called_differently(self, *args):
    raise AssertionError("sgdsim called a method of the user's")


def routed(self, x):
    y = x.new_zeros(len(x), 5)
    mask = x[:, 0] > 0
    y[mask], y[~mask] = torch.tanh(self.fc(x[mask])), self.other(x[~mask])
    return self.head(y)


class Routed(Body):
    def __init__(self):
        super().__init__()
        self.other = nn.Linear(D, 5)


def again(self, x):
    return Body.forward(self, x) + F.linear(x, self.fc.weight).sum(1, keepdim=True)


def again_in_another_output(self, x):
    f = self.head(torch.tanh(self.fc(x)))
    return torch.cat([f, f + F.linear(x, self.fc.weight).sum(1, keepdim=True)], 1)


def again_for_one_input(self, x):
    f = Body.forward(self, x)
    rare = x[:, 0] == x.new_tensor(inputs()[17, 0])
    return f + F.linear(x, self.fc.weight).sum(1, keepdim=True) * rare[:, None] if rare.any() else f


def by_another_name(self, x):
    return Body.forward(self, x) + x @ self.same[0].T[:, :1]


class Aliased(Body):
    def __init__(self):
        super().__init__()
        self.same = [self.fc.weight]


def takes_a_gradient(self, x):
    x.requires_grad_()
    (slope,) = torch.autograd.grad(Body.forward(self, x).sum(), x, create_graph=True)
    return slope[:, :2]


def mapped_inside(self, x):
    return self.head(torch.tanh(torch.vmap(self.fc)(x)))


def single_inside(self, x):
    return self.head(torch.tanh(self.fc(x).float()).double())


def cut_at_a_number(self, x):
    return Body.forward(self, x[:, : int(x.abs().max().item() > -1) * D])


def checkpointed(self, x):
    return self.head(checkpoint(lambda t: torch.tanh(self.fc(t)), x, use_reentrant=False))


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cell, self.head = kind(2, 4, batch_first=True, **options), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(self.cell(x.reshape(len(x), 3, 2))[0][:, -1])


class Tokens(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.tokens, self.head = nn.Embedding(5, 4, **options), nn.Linear(4, 1)

    def forward(self, x):
        return self.head(torch.tanh(self.tokens(x)).sum(1))


def normed(norm, name="fc"):
    def make():
        body = Body()
        setattr(body, name, norm(getattr(body, name)))
        return body

    return make


def squeezed(by, **buffers):
    def make():
        body = odd(by)()
        for name, value in buffers.items():
            body.register_buffer(name, value)
        return body

    return make


RIGHT = {
    "changes its input in place": odd(in_place),
    "relu in place first": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(D, 1)),
    "has a method build": type("Built", (Body,), {"build": called_differently}),
    "has a method describe": type("Described", (Body,), {"describe": called_differently}),
    "calls by keyword": odd(by_keyword),
    "sparse embedding": lambda: Tokens(sparse=True),
    "old weight norm": normed(nn.utils.weight_norm),
    "weight norm": normed(nn.utils.parametrizations.weight_norm),
    "old spectral norm": normed(nn.utils.spectral_norm),
    "spectral norm": normed(nn.utils.parametrizations.spectral_norm),
    "routes by a mask": odd(routed, Routed),
    "a weight again": odd(again),
    "a weight again in another output": odd(again_in_another_output),
    "a weight again for one input": odd(again_for_one_input),
    "a weight by another name": odd(by_another_name, Aliased),
    "gru": lambda: Recurrent(nn.GRU),
    "lstm": lambda: Recurrent(nn.LSTM),
    "checkpoint": odd(checkpointed),
    "takes a gradient": odd(takes_a_gradient),
    "maps inside": odd(mapped_inside),
    "rounds to float32 inside": odd(single_inside),
    "item": odd(cut_at_a_number),
    "complex buffer": squeezed(
        lambda self, x: Body.forward(self, (x * self.turn).real), turn=torch.tensor([1 + 2j] * D, dtype=torch.complex64)
    ),
    "images": lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(6, 2)),
    "several outputs": lambda: Body(3),
}


def inputs(name=""):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((N, D))
    return {"images": x.reshape(N, 1, 2, 3), "sparse embedding": rng.integers(0, 5, (N, 3))}.get(name, x)


def made(make):
    torch.manual_seed(0)
    return make().double().eval()


def near(found, expected, tolerance=1e-9):
    assert np.abs(found - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("name", RIGHT)
def test_the_kernel_is_that_of_autograd_row_by_row(name):
    x = inputs(name)
    expected = naive.rowwise_ntk(made(RIGHT[name]), x)
    tolerance = 1e-5 if "float32" in name else 1e-9
    module, given = made(RIGHT[name]), x.copy()
    near(ntk.empirical_ntk(module, given, output="full", chunk=16), expected, tolerance)
    near(ntk.empirical_ntk(module, given[::-1], output="full"), expected[::-1, ::-1], tolerance)
    near(ntk.empirical_ntk(module, given), np.einsum("ijcc->ij", expected), tolerance)
    near(ntk.empirical_ntk(module, given[:9], given), np.einsum("ijcc->ij", expected)[:9], tolerance)
    flat = expected.swapaxes(1, 2).reshape(len(x) * expected.shape[2], -1)
    v = np.random.default_rng(1).standard_normal(len(flat))
    near(ntk.ntk_operator(module, given, chunk=16) @ v, flat @ v, tolerance)
    assert set(ntk.contraction_plan(module, given)) == {n for n, _ in module.named_parameters()}
    np.testing.assert_array_equal(given, x)


def zero_head(forward):
    def make():
        body = odd(forward)()
        nn.init.zeros_(body.head.weight)
        return body

    return make


def by_hand(self, x):
    if not hasattr(self, "late"):
        self.late = nn.Linear(D, D).to(x)
    return Body.forward(self, self.late(x))


def sometimes(self, x):
    return Body.forward(self, x) * (1.0 if torch.rand(()) < 0.9 else 2.0)


REFUSED = {
    "dropout always": (odd(lambda self, x: Body.forward(self, F.dropout(x, 0.5))), "other outputs.*random"),
    "dropout behind zeros": (zero_head(lambda self, x: Body.forward(self, F.dropout(x, 0.5))), "other outputs"),
    "noise": (odd(lambda self, x: Body.forward(self, x + torch.randn_like(x))), "other outputs"),
    "seldom random": (odd(sometimes), "other outputs"),
    "batch mean": (odd(lambda self, x: Body.forward(self, x - x.mean(0))), "its batch"),
    "batch mean behind zeros": (zero_head(lambda self, x: Body.forward(self, x - x.mean(0))), "its batch"),
    "neighbours": (odd(lambda self, x: Body.forward(self, x + x.roll(1, 0))), "its batch"),
    "complex": (lambda: nn.Sequential(nn.Linear(D, 1, dtype=torch.complex64)), "0.weight: expected real.*view_as"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 1)), "lazy.*call the network once"),
    "lazy by hand": (odd(by_hand), "late.*call the network once"),
    "float32 inside": (odd(lambda self, x: Body.forward(self, x.float())), "float32"),
    "float32 constant": (odd(lambda self, x: Body.forward(self, x @ torch.eye(D))), "float32"),
    "float32 outputs": (odd(lambda self, x: Body.forward(self, x).float()), "float64.*got torch.float32"),
    "classes": (odd(lambda self, x: self.fc(x).argmax(1)), "float64.*got torch.int64"),
    "dict": (odd(lambda self, x: {"loss": x, "logits": x}), "'loss', 'logits'.*output="),
    "tuple": (odd(lambda self, x: (x, x)), "tuple of 0, 1.*output="),
    "bare squeeze": (odd(lambda self, x: Body.forward(self, x).squeeze()), r"squeeze\(-1\)"),
    "two dimensions": (odd(lambda self, x: x.reshape(len(x), 3, 2)), "shape"),
    "reentrant checkpoint": (
        odd(lambda self, x: checkpoint(self.head, self.fc(x), use_reentrant=True)),
        "use_reentrant",
    ),
    "tokens": (lambda: Tokens(), "expected integers.*tokens"),
    "fails": (odd(lambda self, x: self.missing), "missing"),
    "no gradient": (odd(lambda self, x: Body.forward(self, x).detach()), "depend on.*parameters"),
}
IN_TRAINING = {
    "spectral norm": (normed(nn.utils.parametrizations.spectral_norm), r"fc.*spectral_norm in training.*\.eval\(\)"),
    "old spectral norm": (normed(nn.utils.spectral_norm), r"fc.*spectral_norm in training.*\.eval\(\)"),
    "batch norm": (
        lambda: nn.Sequential(nn.Linear(D, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)),
        "are not those.*hessian",
    ),
    "dropout": (lambda: nn.Sequential(nn.Linear(D, 4), nn.Dropout(0.5), nn.Linear(4, 1)), "are not those"),
    "dropout in a recurrent layer": (lambda: Recurrent(nn.GRU, num_layers=2, dropout=0.5), "GRU.*are not those"),
}


@pytest.mark.parametrize("name", [*REFUSED, *IN_TRAINING])
def test_what_has_no_kernel_is_refused_in_one_line(name):
    make, message = {**REFUSED, **IN_TRAINING}[name]
    torch.manual_seed(0)
    module = make() if name in ("complex", "lazy") else make().double()
    module.train(name in IN_TRAINING)
    x = inputs()
    calls = {
        "kernel": lambda: ntk.empirical_ntk(module, x),
        "operator": lambda: ntk.ntk_operator(module, x),
        "plan": lambda: ntk.contraction_plan(module, x),
        "problem": lambda: ss.NetworkProblem(module, ss.Dataset(x, x[:, 0], "own"), device="cpu"),
        "outputs": lambda: ntk.evaluate(module, x),
    }
    if name in ("no gradient", "reentrant checkpoint"):
        del calls["outputs"]
    if name == "lazy":
        del calls["problem"]
    for entry, call in calls.items():
        with pytest.raises(InputError, match=message) as caught:
            call()
        assert "\n" not in str(caught.value), entry


def test_what_needs_single_precision_has_it():
    """A module that makes float32 of its own works in float32."""
    module = made(odd(lambda self, x: Body.forward(self, x @ torch.eye(D)))).float()
    expected = naive.rowwise_ntk(module, inputs().astype(np.float32))[:, :, 0, 0]
    np.testing.assert_allclose(ntk.empirical_ntk(module, inputs(), dtype="float32"), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sparse", [False, True])
def test_the_derivative_and_not_what_a_batch_makes_of_it(sparse):
    """scale_grad_by_freq divides a token's gradient by its count in the batch: no derivative of anything."""
    tokens = np.random.default_rng(0).integers(0, 5, (N, 3))
    expected = naive.rowwise_ntk(made(Tokens), tokens)[:, :, 0, 0]
    module = made(lambda: Tokens(scale_grad_by_freq=True, sparse=sparse))
    near(ntk.empirical_ntk(module, tokens), expected)
    near(ntk.ntk_operator(module, tokens) @ np.ones(N), expected.sum(1))
    assert module.tokens.scale_grad_by_freq


class Bags(nn.Module):
    """Bags of tokens in each of the ways to call them; `learned`: with weights that are parameters."""

    def __init__(self, how, learned=False, outputs=1, **options):
        super().__init__()
        self.bag, self.head, self.how = nn.EmbeddingBag(7, 4, **options), nn.Linear(4, outputs), how
        self.weights = nn.Embedding(7, 1) if learned else None

    def forward(self, x):
        weights = None if self.weights is None else self.weights(x)[..., 0]
        if self.how == "rows":
            found = self.bag(x, per_sample_weights=weights)
        elif self.how == "offsets":
            begins = torch.arange(0, x.numel() + self.bag.include_last_offset, x.shape[1])
            found = self.bag(x.flatten(), begins, None if weights is None else weights.flatten())
        else:  # of different lengths, and empty
            lengths = (x != 1).sum(1)
            found = self.bag(x[x != 1], lengths.cumsum(0) - lengths)
        return self.head(torch.tanh(found))


@pytest.mark.parametrize("how", ["rows", "offsets", "lengths"])
@pytest.mark.parametrize(
    "options",
    [
        {"mode": "sum"},
        {"mode": "mean", "sparse": True, "outputs": 2},
        {"mode": "max"},
        {"mode": "sum", "padding_idx": 0},
        {"mode": "mean", "padding_idx": -1},
        {"mode": "max", "padding_idx": 0},
        {"mode": "mean", "scale_grad_by_freq": True},
        {"mode": "max", "max_norm": 0.5},
        {"mode": "sum", "learned": True, "padding_idx": 0},
        {"mode": "mean", "include_last_offset": True},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_bags_of_tokens(how, options):
    tokens = np.random.default_rng(0).integers(0, 7, (N, 3))
    tokens[3], tokens[4] = 1, 0  # an empty bag, and one of padding
    if how == "lengths" and {"learned", "include_last_offset"} & {*options}:
        pytest.skip("not of this kind")
    module = made(lambda: Bags(how, **options))
    plain = made(lambda: Bags(how, **{**options, "scale_grad_by_freq": False}))
    expected = naive.rowwise_ntk(plain, tokens)
    near(ntk.empirical_ntk(module, tokens, output="full"), expected)
    flat = expected.swapaxes(1, 2).reshape(N * expected.shape[2], -1)
    v = np.random.default_rng(1).standard_normal(len(flat))
    near(ntk.ntk_operator(module, tokens, chunk=16) @ v, flat @ v)
    w = torch.cat([p.detach().flatten() for p in plain.parameters()]).numpy()
    rows = naive.rowwise_jacobian(plain, tokens)
    near(ntk.along_parameters(module, tokens), (rows @ w)[:, 0] if len(flat) == N else rows @ w)


# Inputs.


def test_inputs_of_many_kinds():
    module, x = made(Body), inputs()
    expected = ntk.empirical_ntk(module, x)
    wants = torch.tensor(x, requires_grad=True)
    frame = pytest.importorskip("pandas").DataFrame(x)
    for given in (wants, frame, np.ma.masked_array(x, np.zeros_like(x, bool)), torch.tensor(x).to_sparse(), x.tolist()):
        np.testing.assert_array_equal(ntk.empirical_ntk(module, given), expected)
    assert ntk.evaluate(module, torch.tensor(x).bfloat16()).shape == (N,)
    for given in (np.ma.masked_greater(x, 1.0), np.ma.masked_greater(inputs("sparse embedding"), 1)):
        with pytest.raises(InputError, match=r"x1: expected .*masked"):
            ntk.empirical_ntk(module, given)


# Problems.


def problem(module, x=None, y=None, **options):
    x = inputs() if x is None else x
    return ss.NetworkProblem(module, ss.Dataset(x, x[:, 0] if y is None else y, "own"), device="cpu", **options)


def test_a_lazy_module_is_made_once():
    torch.manual_seed(0)
    lazy = problem(nn.Sequential(nn.LazyLinear(5), nn.Tanh(), nn.LazyLinear(1)))
    assert lazy.network[0].weight.shape == (5, D)
    expected = naive.rowwise_ntk(made(lambda: lazy.network), inputs())[:, :, 0, 0]
    near(ntk.empirical_ntk(lazy.network, inputs()), expected)
    with torch.no_grad():
        f = lazy.network.double()(torch.tensor(inputs()))[:, 0].numpy()
    near(lazy.initial_outputs[0], f)


RESULTS = {
    "dict": lambda self, x: {"hidden": x, "logits": Body.forward(self, x)},
    "tuple": lambda self, x: (x, Body.forward(self, x)),
    "list": lambda self, x: [x, Body.forward(self, x)],
}


@pytest.mark.parametrize("kind", RESULTS)
def test_one_of_several_results(kind):
    key = "logits" if kind == "dict" else 1
    chosen = problem(made(odd(RESULTS[kind])), output=key)
    assert [name for name, _ in chosen.network.named_parameters()] == [name for name, _ in Body().named_parameters()]
    near(ntk.empirical_ntk(chosen.network, inputs()), ntk.empirical_ntk(made(Body), inputs()))
    plain = problem(made(Body))
    near(chosen.initial_outputs[0], plain.initial_outputs[0])
    assert chosen.fingerprint != plain.fingerprint
    for wrong in ("loss", 7):
        with pytest.raises(InputError, match=r"output: expected one of .*(logits|1).*got"):
            problem(made(odd(RESULTS[kind])), output=wrong)
    with pytest.raises(InputError, match="output: expected none"):
        problem(made(Body), output=0)
    run = ss.simulate(chosen, ss.SGD(0.1, 0.0, 5), ss.RealNetwork(), 5)
    np.testing.assert_array_equal(run["loss"], ss.simulate(plain, ss.SGD(0.1, 0.0, 5), ss.RealNetwork(), 5)["loss"])


def test_tied_weights_have_two_names():
    def tied():
        net = nn.Sequential(nn.Linear(D, D), nn.Tanh(), nn.Linear(D, D), nn.Tanh(), nn.Linear(D, 1))
        net[2].weight = net[0].weight
        return net

    assert problem(made(tied)).n_parameters == D * D + 3 * D + 1


def test_training_moves_a_parameter_by_its_own_name_only():
    with pytest.raises(InputError, match=r"fc.weight: expected to be used by that name only"):
        problem(made(odd(by_another_name, Aliased)))


def test_outputs_and_targets_are_as_many():
    assert ntk.evaluate(made(lambda: Body(3)), inputs()).shape == (N, 3)
    with pytest.raises(InputError, match=r"one output per input.*got 3"):
        problem(made(lambda: Body(3)))


def test_an_output_named_on_the_command_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "of_several.py").write_text(
        "import torch\nclass Net(torch.nn.Linear):\n    def forward(self, x):\n"
        "        return {'hidden': x, 'logits': super().forward(x)}\ndef make():\n    return Net(64, 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    line = ["spectrum", "--n", "20", "--model", "of_several:make"]
    for given, word in (([], "'hidden', 'logits'"), (["--output", "0"], "trainable parameters")):
        assert cli.main([*line, *given]) == 2
        assert word in capsys.readouterr().err
    for given in ("logits", "1"):
        assert cli.main([*line, "--output", given]) == 0
    assert cli.main(["spectrum", "--n", "20", "--output", "1"]) == 2
    assert "--output: expected only beside --model" in capsys.readouterr().err


def test_a_method_describe_is_the_users_own():
    described = problem(made(RIGHT["has a method describe"])).description
    assert described["network"] == {"kind": "Described"}
    assert problem(ss.networks.MLP(4, seed=0)).description["network"]["width"] == 4
