"""Six problems, three optimisers, a plain torch loop, and what was predicted, as in `howto/torch-loop.md`.

`python docs/loops.py [PROBLEM …]` prints its rows (minutes each; real data from `SGDSIM_DATA`). The setting is what
`recommend` gives for 1,000 steps with a weight decay of 1e-4, and the same as the peak of a warm-up and cosine; AdamW
has no theory, and torch's defaults. Predicted: three sampled runs of the linearised network. Measured: the network in a
loop written by hand, three seeds.
"""

from __future__ import annotations

import copy
import gzip
import sys
from collections import Counter
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn

import sgdsim as ss
from sgdsim.datasets.formats import data_folder

STEPS, SHOWN, BATCH_SIZE, DECAY, WARM_UP = 1000, (100, 1000), 16, 1e-4, 100


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


def settings(problem: ss.NetworkProblem) -> Iterator[tuple[str, ss.SGD, str]]:
    """Name, algorithm, and the line that is pasted, of each optimiser."""
    found = ss.recommend(problem, ss.SGD(1.0, 0.0, BATCH_SIZE, weight_decay=DECAY), STEPS)
    lr, momentum = found.answer.lr, found.answer.momentum
    line = found.torch_line("half-mse")
    yield "SGD", ss.SGD(lr, momentum, BATCH_SIZE, weight_decay=DECAY), line
    schedule = f"cosine:start={lr},total={STEPS},warmup={WARM_UP}"
    yield "warm-up, cosine", ss.SGD(schedule, momentum, BATCH_SIZE, weight_decay=DECAY, method="torch"), line
    adamw = "torch.optim.AdamW(net.parameters(), lr=0.001, weight_decay=0.01)"
    yield "AdamW", ss.SGD(0.001, 0.0, BATCH_SIZE, method="adamw:weight_decay=0.01"), adamw


def measured(network: nn.Module, data: ss.Dataset, name: str, line: str, seed: int) -> list[float]:
    """Losses, ½·mean over points of the squares summed over outputs, after `SHOWN` steps, as anybody would train it."""
    net, order = copy.deepcopy(network).double(), torch.Generator().manual_seed(seed)
    x, y = torch.tensor(data.x), torch.tensor(data.y).reshape(len(data.x), -1)
    optimiser = eval(line, {"torch": torch, "net": net})
    schedulers = []
    if "cosine" in name:
        rise = torch.optim.lr_scheduler.LinearLR(optimiser, start_factor=1 / WARM_UP, total_iters=WARM_UP - 1)
        fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=STEPS - WARM_UP)
        schedulers = [torch.optim.lr_scheduler.SequentialLR(optimiser, [rise, fall], milestones=[WARM_UP])]
    losses = []
    for step in range(1, STEPS + 1):
        batch = torch.randperm(len(x), generator=order)[:BATCH_SIZE]
        optimiser.zero_grad()
        (0.5 * ((net(x[batch]) - y[batch]) ** 2).sum(1).mean()).backward()
        optimiser.step()
        for scheduler in schedulers:
            scheduler.step()
        if step in SHOWN:
            with torch.no_grad():
                losses.append(float(0.5 * ((net(x) - y) ** 2).sum(1).mean()))
    return losses


def predicted(problem: ss.NetworkProblem, sgd: ss.SGD) -> np.ndarray:
    """(replicates, len(SHOWN)) losses of the linearised network."""
    run = ss.simulate(problem, sgd, ss.SampledLinearized(), STEPS, record=SHOWN, replicates=3)
    return run["loss"].values[0][:, -len(SHOWN) :]


def text(losses: np.ndarray) -> str:
    return ", ".join(f"{mean:.2g} ± {spread:.1g}" for mean, spread in zip(losses.mean(0), losses.std(0), strict=True))


def main() -> None:
    for chosen in sys.argv[1:] or PROBLEMS:
        torch.manual_seed(0)
        network, data = PROBLEMS[chosen]()
        problem = ss.NetworkProblem(network, data, device="cpu")
        for name, sgd, line in settings(problem):
            found = np.array([measured(network, data, name, line, seed) for seed in range(3)])
            pasted = line.replace("torch.optim.", "").replace("net.parameters(), ", "")
            print(f"| {chosen} | {name} `{pasted}` | {text(predicted(problem, sgd))} | {text(found)} |", flush=True)


if __name__ == "__main__":
    main()
