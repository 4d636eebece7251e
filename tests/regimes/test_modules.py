"""The network regime on modules that torch cannot batch, against those that it can, and on several outputs."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import sgdsim as ss
from sgdsim import cli
from sgdsim.algorithm.batches import batch_blocks, label_errors
from sgdsim.algorithm.draws import replicate_keys
from sgdsim.algorithm.methods import EMA
from sgdsim.cli import compare
from sgdsim.common.checks import InputError
from sgdsim.regimes import _replicates

N, STEPS, SEED = 12, 6, 3
ALGORITHMS = {
    "heavy ball": ss.SGD(0.5, 0.4, 3),
    "noisy labels": ss.SGD(0.4, 0.0, 3, label_noise=0.2),
    "an average": ss.SGD(0.4, 0.2, 3, average=EMA(0.7)),
    "importance": ss.SGD(0.2, 0.1, 3, sampling="importance"),
    "adam": ss.SGD(0.01, 0.0, 3, method="adam"),
    "polyak": ss.SGD(0.5, 0.0, 3, method="polyak:maximum=1"),
}


def data(outputs=1, test=True):
    rng = np.random.default_rng(0)
    shape = () if outputs == 1 else (outputs,)
    split = {"x_test": rng.standard_normal((7, 6)), "y_test": rng.standard_normal((7, *shape))} if test else {}
    return ss.Dataset(rng.standard_normal((N, 6)), rng.standard_normal((N, *shape)), "drawn", **split)


def mlp(outputs=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, outputs)).double()


def problem(network, given=None):
    return ss.NetworkProblem(network, data() if given is None else given, device="cpu")


def in_place_of_mlp(network, given=None):
    """With the quadratic problem of `mlp`, and so its learning rates; gradients are the network's own."""
    of = problem(mlp(), given)
    of.quadratic  # noqa: B018  # made here
    of.network = network
    return of


def losses(of, sgd, regime=None, name="loss", **options):
    options = {"replicates": 2, "seed": SEED, "record": 1, **options}
    observe = [name] if isinstance(name, str) else name
    result = ss.simulate(of, sgd, regime or ss.RealNetwork(), STEPS, observe=observe, **options)
    return result[observe[0]].values[0]


class Wrapped(nn.Module):
    """The same outputs as `mlp`, by what torch has no batching rule for."""

    def __init__(self, how):
        super().__init__()
        self.inner, self.how = mlp(), how

    def forward(self, x):
        return getattr(self, self.how)(x)

    def item(self, x):
        return self.inner(x) * (1.0 if self.inner[0].weight.sum().item() > -1e9 else 2.0)

    def mask(self, x):
        out = self.inner(x)
        chosen = x[:, 0] > 0
        out[chosen] = self.inner(x[chosen])
        return out

    def kept(self, x):
        return self.inner[2](checkpoint(self.inner[:2], x, use_reentrant=False))

    def written(self, x):
        x = x.mul_(self.inner[0].weight.sum()).div_(self.inner[0].weight.sum())
        return self.inner(x)


HOWS = ("item", "mask", "kept", "written")


def looped(monkeypatch):
    """Nothing is batched."""

    def refused(*_):
        raise RuntimeError("no batching rule")

    monkeypatch.setattr(_replicates, "vmap", lambda *_: refused)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_by_one_is_all_together(name, monkeypatch):
    both = []
    for one_by_one in (False, True):
        if one_by_one:
            looped(monkeypatch)
        observe = ["loss", "test_loss", "moments"]
        result = ss.simulate(
            problem(mlp()),
            ALGORITHMS[name],
            ss.RealNetwork(),
            STEPS,
            replicates=3,
            seed=SEED,
            observe=observe,
            record=2,
        )
        both.append([result[variable].values for variable in observe])
    for together, alone in zip(*both, strict=True):
        np.testing.assert_allclose(alone, together, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("how", HOWS)
def test_modules_that_torch_cannot_batch(how):
    given = data()
    before = given.x.copy()
    batched = problem(mlp(), given)
    of = in_place_of_mlp(Wrapped(how), given)
    for sgd in (ALGORITHMS["heavy ball"], ALGORITHMS["adam"]):
        run = ss.RealNetwork().start(of, sgd, replicates=2, seed=SEED, test=True)
        plain = ss.RealNetwork().start(batched, sgd, replicates=2, seed=SEED, test=True)
        for each in (run, plain):
            each.advance(0, STEPS)
            each.observe(("loss",))
        assert run.replicates._alone[how != "written"]
        assert not plain.replicates._alone[True]
        for what in ("loss", "test_loss"):
            np.testing.assert_allclose(run.observe((what,))[what], plain.observe((what,))[what], rtol=1e-11)
    np.testing.assert_array_equal(given.x, before)


def test_compiled_steps_need_one_batched_call():
    with pytest.raises(InputError, match=r"compile: expected a module that torch.func.vmap takes"):
        ss.simulate(problem(Wrapped("mask")), ss.SGD(0.5, 0.0, 3), ss.RealNetwork(compile=True), STEPS)


def test_what_depends_on_the_data_is_seen_when_it_comes():
    """Batched until a step whose batch takes the branch that cannot be."""
    calls = []

    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            calls.append(1)
            return self.inner(x) if len(calls) < 7 else self.inner(x) * (self.inner[0].weight.sum().item() != 0)

    of = in_place_of_mlp(Late())
    run = ss.RealNetwork().start(of, ALGORITHMS["heavy ball"], replicates=2, seed=SEED, test=False)
    run.advance(0, 3)
    assert not run.replicates._alone[True]
    run.advance(3, STEPS)
    assert run.replicates._alone[True]
    expected = losses(problem(mlp()), ALGORITHMS["heavy ball"])[:, -1]
    np.testing.assert_allclose(run.observe(("loss",))["loss"], expected, rtol=1e-11)


def test_batched_calls_that_are_wrong_are_not_taken():
    """A weight that is held in a list is not exchanged by functional calls: the batched gradient was 0 there."""

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()
            self.held = [self.inner[0].weight]

        def forward(self, x):
            return self.inner[2](torch.tanh(x @ self.held[0].T + self.inner[0].bias))

    of = in_place_of_mlp(Listed())
    run = ss.RealNetwork().start(of, ALGORITHMS["heavy ball"], replicates=2, seed=SEED, test=False)
    run.advance(0, STEPS)
    expected = losses(problem(mlp()), ALGORITHMS["heavy ball"])[:, -1]
    np.testing.assert_allclose(run.observe(("loss",))["loss"], expected, rtol=1e-11)


def test_transformers_train_without_torch_s_warnings(recwarn):
    """Fused attention is batched by torch's own slow loop, which says so at every call."""
    torch.manual_seed(1)
    layer = nn.TransformerEncoderLayer(3, 1, 4, dropout=0.0, batch_first=True)
    network = nn.Sequential(nn.Unflatten(1, (2, 3)), layer, nn.Flatten(), nn.Linear(6, 1)).double()
    of = in_place_of_mlp(copy.deepcopy(network))
    run = ss.RealNetwork().start(of, ALGORITHMS["heavy ball"], replicates=2, seed=SEED, test=False)
    run.advance(0, STEPS)
    seen = run.observe(("loss",))["loss"][0]
    assert not [one for one in recwarn if "performance drop" in str(one.message)]
    by_hand(network, of, ALGORITHMS["heavy ball"])
    x, y = torch.tensor(of.data.x), torch.tensor(of.data.y)
    np.testing.assert_allclose(seen, 0.5 * ((network(x)[:, 0] - y) ** 2).mean().item(), rtol=1e-10)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_a_recurrent_network_trains_as_a_loop_written_by_hand(kind):
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.layer, self.out = kind(2, 3, batch_first=True).double(), nn.Linear(3, 1).double()

        def forward(self, x):
            return self.out(self.layer(x.reshape(-1, 3, 2))[0][:, -1])

    network = Last()
    of = in_place_of_mlp(copy.deepcopy(network))
    run = ss.RealNetwork().start(of, ALGORITHMS["heavy ball"], replicates=1, seed=SEED, test=False)
    run.advance(0, STEPS)
    by_hand(network, of, ALGORITHMS["heavy ball"])
    x, y = torch.tensor(of.data.x), torch.tensor(of.data.y)
    expected = 0.5 * ((network(x)[:, 0] - y) ** 2).mean().item()
    np.testing.assert_allclose(run.observe(("loss",))["loss"], [expected], rtol=1e-11)


def by_hand(network, of, sgd, loss=None):
    """Plain torch on the batches of replicate 0."""
    x, y = torch.tensor(of.data.x), torch.tensor(of.data.y)
    lr, keys = of.quadratic.torch_lr(sgd.lr), replicate_keys(SEED, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=sgd.momentum)
    diagonal = np.diag(of.quadratic.kernel).reshape(N, -1).sum(1) if sgd.sampler.weighted else None
    ((_, batches, drawn),) = batch_blocks(sgd, N, keys, 0, STEPS, diagonal)
    errors = torch.tensor(label_errors(sgd, batches, 0, keys, of.n_outputs))
    for t, batch in enumerate(batches[0]):
        targets = y[batch] + errors[0, t] if errors.shape[2] else y[batch]
        f = network(x[batch])
        points = (
            loss(f, targets) if loss else 0.5 * ((f.reshape(targets.shape) - targets) ** 2).reshape(len(f), -1).sum(1)
        )
        weights = 1.0 if drawn is None else torch.tensor(drawn[0, t])
        optimizer.zero_grad()
        (weights * points).mean().backward()
        optimizer.step()


def test_a_failure_is_shown_as_one(capsys, monkeypatch):
    """The table once said that the loss was infinite."""

    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = mlp()

        def forward(self, x):
            if x.shape[0] == 3:
                raise ZeroDivisionError("three points")
            return self.inner(x)

    of = problem(Fails())
    monkeypatch.setattr(compare, "described", lambda args: of)
    words = [
        "compare",
        "--lr",
        "0.5",
        "--momentum",
        "0",
        "--n-steps",
        "5",
        "--replicates",
        "1",
        "--batch-size",
        "2",
        "3",
    ]
    assert cli.main([*words, "--regimes", "network"]) == 1
    said = capsys.readouterr().out
    assert "infinite" not in said
    assert re.search(r"yes +failed", said)
    reason = "network: expected a module that trains on batches of shape (3, 6), got: ZeroDivisionError: three points"
    assert reason in said
    with pytest.raises(InputError, match="three points"):
        ss.simulate(of, ss.SGD(0.5, 0.0, 3), ss.RealNetwork(), STEPS)


# several outputs


@pytest.mark.parametrize("name", ["heavy ball", "noisy labels", "importance"])
def test_several_outputs_train_as_a_loop_written_by_hand(name):
    sgd, network = ALGORITHMS[name], mlp(3)
    of = problem(network, data(3))
    result = ss.simulate(
        of, sgd, ss.RealNetwork(), STEPS, replicates=2, seed=SEED, record=[STEPS], observe=["test_loss", "moments"]
    )
    by_hand(network, of, sgd)
    with torch.no_grad():
        r = network(torch.tensor(of.data.x)).numpy() - of.data.y
        e = network(torch.tensor(of.data.x_test)).numpy() - of.data.y_test
    final = result.isel(regime=0, replicate=0, step=-1)
    np.testing.assert_allclose(final["loss"], (r**2).sum() / (2 * N), rtol=1e-11)
    np.testing.assert_allclose(final["test_loss"], (e**2).sum() / (2 * len(e)), rtol=1e-11)
    np.testing.assert_allclose(final["moments"], (of.quadratic.spectrum.eigenvectors.T @ r.ravel()) ** 2, atol=1e-11)
    np.testing.assert_allclose(final["moments"].sum() / (2 * N), final["loss"], rtol=1e-11)


@pytest.mark.parametrize("name", ["heavy ball", "noisy labels", "an average", "importance"])
def test_a_linear_network_of_several_outputs_is_its_linearisation(name):
    """Outputs that share a kernel, and a layer after which they do not."""
    torch.manual_seed(0)
    mixed = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3)).double()
    mixed[1].requires_grad_(False)
    for network in (nn.Linear(6, 3).double(), mixed):
        of = problem(network, data(3))
        for what in ("loss", "test_loss", "moments"):
            network_, sampled = (
                losses(of, ALGORITHMS[name], regime, what) for regime in (ss.RealNetwork(), ss.SampledLinearized())
            )
            np.testing.assert_allclose(network_, sampled, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["heavy ball", "importance", "adam"])
def test_copies_of_one_target_have_as_many_times_its_loss(name):
    """C copies of a network without common parameters: each learns as it would alone."""
    one, given = mlp(), data()
    three = ss.Dataset(given.x, np.tile(given.y[:, None], (1, 3)), "copies")

    class Copies(nn.Module):
        def __init__(self):
            super().__init__()
            self.each = nn.ModuleList([copy.deepcopy(one) for _ in range(3)])

        def forward(self, x):
            return torch.cat([each(x) for each in self.each], 1)

    single = losses(problem(one, given), ALGORITHMS[name])
    np.testing.assert_allclose(losses(problem(Copies(), three), ALGORITHMS[name]), 3 * single, rtol=1e-10)


# cross-entropy


@pytest.mark.parametrize("classes", [2, 3])
def test_cross_entropy_is_torch_s(classes):
    given, network = data(), mlp(1 if classes == 2 else 3)
    labels = np.arange(N) % classes
    y = 2.0 * labels - 1 if classes == 2 else np.eye(3)[labels]
    of = problem(network, ss.Dataset(given.x, y, "classes"))

    def loss(f, targets):
        if classes == 2:
            return nn.functional.binary_cross_entropy_with_logits(f[:, 0], (targets + 1) / 2, reduction="none")
        return nn.functional.cross_entropy(f, targets.argmax(1), reduction="none")

    regime = ss.RealNetwork(loss="cross-entropy")
    assert regime.name == "network:loss=cross-entropy"
    got = losses(of, ALGORITHMS["importance"], regime, ["loss", "accuracy"])[0, -1]
    by_hand(network, of, ALGORITHMS["importance"], loss)
    with torch.no_grad():
        expected = loss(network(torch.tensor(given.x)), torch.tensor(y)).mean()
    np.testing.assert_allclose(got, expected, rtol=1e-11)


def test_what_cross_entropy_refuses():
    regime, numbers = ss.RealNetwork(loss="cross-entropy"), problem(mlp())
    with pytest.raises(
        InputError, match="cross-entropy needs one-hot targets, or 1 and -1 of two classes; got numbers"
    ):
        ss.simulate(numbers, ss.SGD(0.5, 0.0, 3), regime, STEPS)
    classes = problem(mlp(), ss.Dataset(data().x, np.tile([1.0, -1.0], N // 2), "classes"))
    with pytest.raises(
        InputError, match="moments is not known in the network:loss=cross-entropy regime: it is of the squared loss"
    ):
        ss.simulate(classes, ss.SGD(0.5, 0.0, 3), regime, STEPS, observe="moments")
    with pytest.raises(InputError, match="label_noise: expected 0 with cross-entropy"):
        ss.simulate(classes, ss.SGD(0.5, 0.0, 3, label_noise=0.1), regime, STEPS)
    with pytest.raises(InputError, match="loss: expected"):
        ss.RealNetwork(loss="hinge")
    assert ss.regimes.parse("network:loss=cross-entropy") == regime
