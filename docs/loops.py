"""Six problems, three optimisers, a plain torch loop, and what was predicted, as in `howto/torch-loop.md`.

`python docs/loops.py [PROBLEM …]` prints its rows (minutes each; real data from `SGDSIM_DATA`). The line is what
`recommend` gives for 1,000 steps with a weight decay of 1e-4, and the same as the peak of a warm-up and cosine; AdamW
has no theory, and torch's defaults. Predicted twice: by sampled runs of the linearised network, and by the `network`
regime. Measured: the network in a loop written by hand, with batches of torch's own generator. ± is one standard error
over runs, as `compare` prints it; covered: no test tells the two sets of runs apart at 1%.
"""

from __future__ import annotations

import copy
import gzip
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from scipy.stats import fisher_exact, ttest_ind
from torch import nn

import sgdsim as ss
from sgdsim.common.statistics import mean_and_error
from sgdsim.common.text import short, tuned
from sgdsim.datasets.formats import data_folder
from sgdsim.regimes.base import Regime
from sgdsim.studies.method_recommendation import MethodRecommendation
from sgdsim.studies.probing import Probe, share
from sgdsim.studies.recommendation import Recommendation

BATCH_SIZE, DECAY, LEVEL = 16, 1e-4, 0.01


@dataclass(frozen=True)
class Size:
    """Steps, those whose losses are shown, the steps of warm-up, and runs of each kind."""

    steps: int = 1000
    shown: tuple[int, ...] = (100, 1000)
    warm_up: int = 100
    linearised: int = 3
    runs: int = 8


@dataclass(frozen=True)
class Setting:
    """An optimiser: its name, the algorithm here, the line that is pasted, and what was told of it."""

    name: str
    sgd: ss.SGD
    line: str
    told: str = ""


def power_law() -> tuple[nn.Module, ss.Dataset]:
    """A linear model of 200 points with λ_k ∝ k^-1.5 and c_k² ∝ k^-2."""
    k = np.arange(1, 201)
    basis, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((200, 200)))
    network, y = nn.Linear(200, 1, bias=False), basis @ (1.0 / k)
    nn.init.zeros_(network.weight)
    return network, ss.Dataset(basis * k**-0.75, y / np.sqrt(np.mean(y**2)), "power law")


def dense(n_inputs: int, width: int = 128) -> nn.Module:
    """Three layers in torch's own parametrisation."""
    return nn.Sequential(nn.Linear(n_inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


def digits() -> tuple[nn.Module, ss.Dataset]:
    return dense(64), ss.datasets.load("digits", 300, n_test=0)


def table() -> tuple[nn.Module, ss.Dataset]:
    """Rentals of an hour from a csv: 13 columns of numbers."""
    words = ("season", "yr", "mnth", "hr", "holiday", "weekday", "workingday", "weathersit", "temp", "hum", "windspeed")
    path = data_folder() / "Bike-Sharing" / "hour.csv"
    data = ss.datasets.load_file(path, 300, n_test=0, target="cnt", features=words)
    return dense(len(words)), data


def convolutions() -> tuple[nn.Module, ss.Dataset]:
    data = ss.datasets.load("cifar10", 150, n_test=0, flat=False)
    layers = nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU()
    return nn.Sequential(*layers, nn.AvgPool2d(4), nn.Flatten(), nn.Linear(256, 1)), data


def batch_norm() -> tuple[nn.Module, ss.Dataset]:
    """With the means and spreads of the data, in evaluation mode."""
    data = ss.datasets.load("cifar10", 150, n_test=0, flat=False)
    layers = nn.Conv2d(3, 32, 3, stride=2, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten()
    network = nn.Sequential(*layers, nn.Linear(512, 1))
    with torch.no_grad():
        for _ in range(50):
            network(torch.as_tensor(data.x, dtype=torch.float32))
    return network.eval(), data


class Transformer(nn.Module):
    """Two layers over 16 words; from the last place, scores of four next words."""

    def __init__(self, vocabulary: int, width: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Parameter(0.1 * torch.randn(16, width))
        layer = nn.TransformerEncoderLayer(width, 4, 64, dropout=0.0, batch_first=True)
        self.layers, self.out = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(width, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.out(self.layers(self.words(tokens) + self.places)[:, -1])


def transformer() -> tuple[nn.Module, ss.Dataset]:
    """16 words of WikiText-2; which of *the*, *of*, *and*, *in* comes next, one-hot."""
    with gzip.open(data_folder() / "wikitext-2" / "wiki.test.tokens.gz", "rt", encoding="utf-8") as file:
        words = file.read().split()
    common = {word: i for i, (word, _) in enumerate(Counter(words).most_common(199), start=1)}
    tokens, wanted = np.array([common.get(word, 0) for word in words]), ["the", "of", "and", "in"]
    ends = np.random.default_rng(0).permutation([i for i in range(16, len(words)) if words[i] in wanted])[:60]
    y = np.eye(4)[[wanted.index(words[i]) for i in ends]]
    x = np.stack([tokens[i - 16 : i] for i in ends])
    return Transformer(200), ss.Dataset(x, y, "wikitext-2", tokens=True)


PROBLEMS: dict[str, Callable[[], tuple[nn.Module, ss.Dataset]]] = {
    "power law": power_law,
    "digits, 64-128-128-1": digits,
    "csv of hours → rentals, 11-128-128-1": table,
    "CIFAR-10, CNN": convolutions,
    "CIFAR-10, CNN with batch norm, evaluation mode": batch_norm,
    "WikiText-2, two-layer transformer": transformer,
}


def pasted(line: str, net: nn.Module) -> torch.optim.Optimizer:
    """The line, run as it stands."""
    return cast(torch.optim.Optimizer, eval(line, {"torch": torch, "net": net}))


def told(probe: Probe | None) -> str:
    """What `recommend` says of its real steps at theory's best setting, and at the one of the line."""
    if probe is None:
        return "not tried"
    named = {"theory's best": probe.tried[0]}
    if len(probe.tried) > 1:
        named["this" if probe.chosen else f"none of {len(probe.tried)} is recommended, the last"] = probe.tried[-1]
    words = []
    for name, tried in named.items():
        loss = f"{tried.diverged} of {len(tried.ratios)} diverge" if tried.diverged else f"loss ×{short(tried.ratio)}"
        words.append(f"{name} {'follows' if tried.accepted else 'fails'}: {share(tried.reached)} of the limit, {loss}")
    return "; ".join(words)


def line_of(found: Recommendation | MethodRecommendation) -> str:
    """The line that is recommended; where none is, that of the last setting that was tried."""
    line = found.torch_line("half-mse")
    if line is None:
        last = cast(Probe, found.probe).tried[-1]
        rate = f"lr={found.problem.torch_lr(last.lr):.4g}, momentum={tuned(last.momentum)}"
        line = f"torch.optim.SGD(net.parameters(), {rate}, weight_decay={DECAY:g})"
    return line


def settings(problem: ss.NetworkProblem, size: Size) -> Iterator[Setting]:
    """Those of a problem; the algorithm has the digits of the line that is pasted."""
    found = ss.recommend(problem, ss.SGD(1.0, 0.0, BATCH_SIZE, weight_decay=DECAY), size.steps)
    line = line_of(found)
    group = pasted(line, problem.network).param_groups[0]
    lr, momentum = group["lr"] / problem.quadratic.torch_lr(1.0), group["momentum"]
    yield Setting("", ss.SGD(lr, momentum, BATCH_SIZE, weight_decay=DECAY), line, told(found.probe))
    schedule = f"cosine:start={lr!r},total={size.steps},warmup={size.warm_up}"
    sgd = ss.SGD(schedule, momentum, BATCH_SIZE, weight_decay=DECAY, method="torch")
    yield Setting("peak of a warm-up and cosine", sgd, line)
    adamw = "torch.optim.AdamW(net.parameters(), lr=0.001, weight_decay=0.01)"
    yield Setting("", ss.SGD(0.001, 0.0, BATCH_SIZE, method="adamw:weight_decay=0.01"), adamw)


def drawn(n: int, seed: int) -> Iterator[torch.Tensor]:
    """Batches by torch's generator."""
    order = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randperm(n, generator=order)[:BATCH_SIZE]


def measured(
    network: nn.Module, data: ss.Dataset, setting: Setting, batches: Iterable[torch.Tensor], size: Size
) -> list[float]:
    """Losses, ½·mean over points of the squares summed over outputs, after `shown` steps, as anybody would train it."""
    net = copy.deepcopy(network).double()
    x, y = torch.tensor(data.x), torch.tensor(data.y).reshape(len(data.x), -1)
    optimiser = pasted(setting.line, net)
    schedulers = []
    if "cosine" in setting.name:
        rise = torch.optim.lr_scheduler.LinearLR(optimiser, 1 / size.warm_up, total_iters=size.warm_up - 1)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=size.steps - size.warm_up)
        schedulers = [torch.optim.lr_scheduler.SequentialLR(optimiser, [rise, fall], milestones=[size.warm_up])]
    losses = []
    for step, batch in zip(range(1, size.steps + 1), batches, strict=False):
        optimiser.zero_grad()
        (0.5 * ((net(x[batch]) - y[batch]) ** 2).sum(1).mean()).backward()
        optimiser.step()
        for scheduler in schedulers:
            scheduler.step()
        if step in size.shown:
            with torch.no_grad():
                losses.append(0.5 * float(((net(x) - y) ** 2).sum(1).mean()))
    return losses


def predicted(problem: ss.NetworkProblem, sgd: ss.SGD, regime: Regime, runs: int, size: Size) -> np.ndarray:
    """(runs, len(shown)) losses by a regime."""
    run = ss.simulate(problem, sgd, regime, size.steps, record=size.shown, replicates=runs)
    return run["loss"].sel(step=list(size.shown)).values[0]


def finite(losses: np.ndarray) -> np.ndarray:
    """Those of a time, (R,), that did not diverge."""
    return losses[np.isfinite(losses)]


def text(losses: np.ndarray) -> str:
    """Mean and standard error at each time, (R, T) → T texts; of the runs that did not diverge."""
    lost = int((~np.isfinite(losses[:, -1])).sum())
    numbers = [mean_and_error(finite(column)) for column in losses.T]
    words = ", ".join(f"{mean:.3g} ± {error:.1g}" for mean, error in numbers)
    return words + (f"; {lost} of {len(losses)} diverge" if lost else "")


def covered(found: np.ndarray, expected: np.ndarray) -> list[str]:
    """Whether two sets of runs, (R, T) each, are alike as far as these tell, time by time: how many diverge (Fisher's
    test), and the mean of the others (Welch's)."""
    out = []
    for one, other in zip(found.T, expected.T, strict=True):
        counts = [[len(finite(each)), len(each) - len(finite(each))] for each in (one, other)]
        values = [fisher_exact(counts).pvalue, ttest_ind(finite(one), finite(other), equal_var=False).pvalue]
        out.append("NO" if np.nanmin(values) < LEVEL else "not known" if np.isnan(values).any() else "yes")
    return out


def departs(trained: np.ndarray, linearised: np.ndarray) -> str:
    """The ratio of means, of runs that did not diverge."""
    each = zip(trained.T, linearised.T, strict=True)
    return ", ".join(f"×{short(float(finite(one).mean() / finite(other).mean()))}" for one, other in each)


def cells(setting: Setting, linearised: np.ndarray, trained: np.ndarray, loop: np.ndarray) -> list[str]:
    """A row but for its problem; losses (R, T) each."""
    how = f"`{setting.line.replace('torch.optim.', '').replace('net.parameters(), ', '')}`"
    how += f", {setting.name}" if setting.name else ""
    told = setting.told or "–"
    words = [how, told, text(linearised), text(trained), text(loop), ", ".join(covered(loop, trained))]
    return [*words, departs(trained, linearised)]


def rows(chosen: str, size: Size) -> Iterator[str]:
    """Of a problem, as lines of a table."""
    torch.manual_seed(0)
    network, data = PROBLEMS[chosen]()
    problem = ss.NetworkProblem(network, data, device="cpu")
    outputs = f" × {problem.n_outputs}" if problem.n_outputs > 1 else ""
    named = f"{chosen}; N = {problem.n}{outputs}, {problem.n_parameters:,} parameters"
    for setting in settings(problem, size):
        linearised = predicted(problem, setting.sgd, ss.SampledLinearized(), size.linearised, size)
        trained = predicted(problem, setting.sgd, ss.RealNetwork(), size.runs, size)
        loop = np.array([measured(network, data, setting, drawn(len(data.x), k), size) for k in range(size.runs)])
        yield f"| {' | '.join([named, *cells(setting, linearised, trained, loop)])} |"


HEAD = ["problem", "line", "told by `recommend`", "linearised", "`network` regime", "plain loop", "covered", "departs"]


def main() -> None:
    print(f"| {' | '.join(HEAD)} |\n{'|---' * len(HEAD)}|")
    for chosen in sys.argv[1:] or PROBLEMS:
        for row in rows(chosen, Size()):
            print(row, flush=True)


if __name__ == "__main__":
    main()
