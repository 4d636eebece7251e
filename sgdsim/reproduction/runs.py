"""Runs: the four regimes on data, and two traps, an unscaled learning rate and the averaged recursion as written."""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import xarray as xr

from sgdsim.algorithm.sgd import SGD
from sgdsim.common.statistics import mean_and_error
from sgdsim.problem import QuadraticProblem
from sgdsim.regimes import BatchAveraged, RealNetwork, SampledLinearized, SpectralDiagonal
from sgdsim.reproduction.base import Context, Drawing, Finding, finished
from sgdsim.reproduction.verdicts import DIFFERS, EVIDENCE, Row, shown, span
from sgdsim.runs.sweeps import Grid, sweep
from sgdsim.studies import budgets as budget_runs
from sgdsim.studies.validation import jackknife
from sgdsim.theory import stability


class _SweepOptions(TypedDict):
    n_steps: int
    seed: int
    executor: str


def _last(result: xr.Dataset, regime: str) -> np.ndarray:
    """The last losses of all replicates."""
    last = result["loss"].sel(regime=regime).isel(step=-1).values.ravel()
    return last[~np.isnan(last)]


def _mean(result: xr.Dataset, regime: str) -> tuple[float, float]:
    """Mean of the last losses over replicates and its standard error."""
    last = _last(result, regime)
    mean, error = mean_and_error(last)
    return float(mean), float(error) if last.size > 1 else 0.0


def _over_average(where: str, n_steps: int, cell: xr.Dataset, means: xr.Dataset) -> Row:
    """The last losses of all regimes in a cell, and of many sampled runs in `means`, over that of the exact average."""
    exact, _ = _mean(cell, "averaged")
    sampled, error = _mean(means, "sampled")
    paired = jackknife(lambda a, b: a.mean() / b.mean(), _last(cell, "network"), _last(cell, "sampled"))
    network, spread = (np.nan if value is None else value for value in paired)
    diagonal = {tau: _mean(cell, SpectralDiagonal(tau).name)[0] for tau in (1, -1)}
    many, replicates = (result.sizes["replicate"] for result in (means, cell))
    values = {"averaged": exact, "sampled": sampled, "tau=1": diagonal[1], "tau=-1": diagonal[-1]}
    return Row.evidence(
        f"loss after {n_steps} steps over the exact average, {where}, α = 1",
        f"sampled {sampled / exact:.3f}, τ = 1 {diagonal[1] / exact:.3f}, "
        f"τ = −1 {diagonal[-1] / exact:.3f}; network over sampled {network:.3f}",
        f"± {error / exact:.3f} sampled ({many} runs), ± {spread:.3f} network ({replicates} runs, the same batches)",
        values | {"sampled_stderr": error, "network_over_sampled": network, "network_stderr": spread},
    )


def regimes(context: Context) -> Finding:
    """Loss curves of the four regimes on data, with the spectra."""
    names = ("digits", "bike_sharing", "mnist") if context.full else ("digits", "bike_sharing")
    n_steps, replicates, many = context.size(300, 1000), 8, 400
    rows, pictures, words = [], [], []
    for name in filter(context.has, names):
        n, width = (500, 500) if name == "digits" or not context.full else (3000, 1000)
        problem = context.network(name, n, width)
        grid = Grid.product(lr=[1.0], momentum=[0.0], batch_size=[10, 100])
        options: _SweepOptions = {"n_steps": n_steps, "seed": context.seed, "executor": "serial"}
        chosen = [RealNetwork(), SampledLinearized(), BatchAveraged(), SpectralDiagonal(1), SpectralDiagonal(-1)]
        result = finished(sweep(problem, grid, chosen, replicates=replicates, **options))
        # A few runs say how far network and linearisation are apart, not what their mean is: rare batches kick it up.
        means = finished(sweep(problem.quadratic, grid, [SampledLinearized()], replicates=many, **options))
        for size in (10, 100):
            where = f"{name}, N = {n}, b = {size}"
            rows.append(_over_average(where, n_steps, result.sel(batch_size=size), means.sel(batch_size=size)))
        ratios = [row.values["tau=1"] / row.values["averaged"] for row in rows[-2:]]
        words.append(f"{name} {min(ratios):.3f} to {max(ratios):.3f}")
        pictures.append(
            Drawing(f"regimes_{name}", "comparison", (result,), f"Four regimes and the spectrum, {name}, N = {n}.")
        )
    worst = max(abs(row.values["sampled"] - row.values["averaged"]) / row.values["sampled_stderr"] for row in rows)
    text = (
        "The network, its linearisation on the same batches, the exact average over batches and the spectral-diagonal "
        f"closures, from one spectrum. The closure τ = 1 over the exact average at the end: {'; '.join(words)}. "
        f"The pictures have {replicates} batch sequences. Where rare batches kick the loss up, the mean over so few "
        f"runs tells little about the average; the mean over {many} is at most {worst:.1f} standard errors from it. "
        f"{context.absent(names)}"
    )
    return Finding(tuple(rows), text, tuple(pictures))


def unscaled_lr(context: Context) -> Finding:
    """A network trained at lr = α instead of α·N/λ_max."""
    n = context.size(300, 500)
    problem = context.network("digits", n, 500)
    quadratic, n_steps, alpha = problem.quadratic, 500, 1.0
    factor = quadratic.torch_lr(1.0)
    losses = {}
    for label, lr, regime in (
        ("network, lr = α·N/λ₁", alpha, RealNetwork()),
        ("network, lr = α", alpha / factor, RealNetwork()),
        ("sampled, α", alpha, SampledLinearized()),
        ("sampled, α·λ₁/N", alpha / factor, SampledLinearized()),
    ):
        grid = Grid.product(lr=[lr], momentum=[0.0], batch_size=[100])
        runs = finished(sweep(problem, grid, [regime], n_steps, replicates=4, seed=context.seed, executor="serial"))
        mean = runs["loss"].mean("replicate").squeeze()
        losses[label] = (mean["step"].values[1:], mean.values[1:])
    ends = {label: float(loss[-1]) for label, (_, loss) in losses.items()}
    scaled, wrong, sampled, slow = ends.values()
    rows = (
        Row.evidence(
            f"network over sampled after {n_steps} steps, digits, N = {n}, α = 1, b = 100",
            f"{scaled / sampled:.3f} scaled, {wrong / sampled:.3f} unscaled",
            "the same batches",
            {"scaled": scaled / sampled, "unscaled": wrong / sampled, "factor": factor},
            f"torch.optim.SGD(lr = 1) is α = {1 / factor:.3g} here: a factor N/λ_max(Θ) = {factor:.3g} is missing.",
        ),
        Row.evidence(
            "unscaled network over sampled at the α it really has",
            f"{wrong / slow:.3f}",
            "the same batches",
            {"ours": wrong / slow},
            "So the unscaled run is a run at another α, not a failure of the linearisation.",
        ),
    )
    text = (
        f"The stored version of the authors' training script gives the network lr = α but rescales the kernel by "
        f"N/λ_max for the other regimes. On digits that factor is {factor:.3g}: the network then ends at "
        f"{wrong / sampled:.2f} times the sampled loss, against {scaled / sampled:.2f} with it."
    )
    caption = "A network at the scaled and at the unscaled learning rate, and its linearisation at both."
    return Finding(rows, text, (Drawing("unscaled_lr", "loss_lines", (losses,), caption),))


def recursion_as_written(
    kernel: np.ndarray, residual: np.ndarray, lr: float, noise: float, n_steps: int, dtype: type = np.float64
) -> np.ndarray:
    """`C ← C − α(K̂C + (K̂C)ᵀ) + α²(γN K̂ diag(C) K̂ + (1 − γ) K̂CK̂)`, losses at t = 0 … n_steps.

    Correct, and unstable: rounding makes C slightly asymmetric, and nothing damps the antisymmetric part. Kept to show
    it; use `BatchAveraged`.
    """
    n = residual.size
    k: np.ndarray = kernel.astype(dtype)
    c: np.ndarray = np.outer(residual, residual).astype(dtype)
    out = [np.trace(c)]
    for _ in range(n_steps):
        kc = k @ c
        noisy = (k * np.diagonal(c)) @ k
        c = c - dtype(lr) * (kc + kc.T) + dtype(lr * lr * noise * n) * noisy + dtype(lr * lr * (1 - noise)) * (kc @ k)
        out.append(np.trace(c))
    return np.array(out, dtype=np.float64) / (2 * n)


def first_digits(n: int = 500) -> QuadraticProblem:
    """The first n digits in order, inputs and targets standardised by one mean and deviation; r_0 = −y."""
    from sklearn.datasets import load_digits

    from sgdsim.networks import ntk

    x, y = load_digits(return_X_y=True)
    x, y = x[:n], y[:n].astype(np.float64)
    x, y = (x - x.mean()) / x.std(), (y - y.mean()) / y.std()
    return QuadraticProblem.from_kernel(ntk.analytic_ntk(x), -y)


def naive_averaged(context: Context) -> Finding:
    """The averaged recursion in its usual form, against ours and against the mean of sampled runs."""
    problem, n_steps, size = first_digits(), 1000, 10
    noise = float(problem.noise_factor(size))
    naive = recursion_as_written(problem.kernel, problem.residual, 1.0, noise, n_steps)
    replicates = context.size(1000, 4000)
    grid = Grid.product(lr=[1.0], momentum=[0.0], batch_size=[size])
    chosen = [SampledLinearized(), BatchAveraged()]
    runs = finished(sweep(problem, grid, chosen, n_steps, replicates=replicates, seed=context.seed, executor="serial"))
    sampled, error = _mean(runs, "sampled")
    ours, _ = _mean(runs, "averaged")
    steps = runs["step"].values
    curve = runs["loss"].sel(regime="averaged").squeeze().transpose("step", "replicate").values[:, 0]
    off = np.abs(naive[steps] / curve - 1) > 0.01
    first = int(steps[np.argmax(off)]) if off.any() else None
    when = f"wrong by 1% from t = {first} on" if first is not None else "not yet wrong by 1%"
    good = abs(ours - sampled) <= 4 * error
    rows = (
        Row(
            "averaged loss of 500 digits, t = 1000, α = 1, b = 10",
            "–",
            f"{ours:.5f}",
            f"sampled mean {sampled:.5f} ± {error:.5f} ({replicates} runs)",
            EVIDENCE if good else DIFFERS,
            "" if good else "Beyond four standard errors of the sampled mean.",
            {"ours": ours, "sampled": sampled, "stderr": error},
        ),
        Row.evidence(
            "the same by the recursion as written, float64",
            shown(naive[-1]),
            when,
            {"ours": float(naive[-1]), "first wrong step": first},
            "The antisymmetric part that rounding puts into C grows like (1 + α²(1 − γ)λ_iλ_j)^t, so the value itself "
            "depends on the machine's order of summation.",
        ),
    )
    mean = runs["loss"].sel(regime="sampled").mean("replicate").squeeze().values
    lines = {
        "recursion as written": (np.arange(1, n_steps + 1), naive[1:]),
        "symmetric by construction": (steps[1:], curve[1:]),
        f"mean of {replicates} sampled runs": (steps[1:], mean[1:]),
    }
    text = (
        f"The recursion as usually written is {when} and ends at {shown(naive[-1])}; ours ends at {ours:.5f}, the mean "
        f"of {replicates} sampled runs at {sampled:.5f} ± {error:.5f}."
    )
    caption = "Averaged loss of 500 digits: the recursion as written leaves the mean of sampled runs."
    return Finding(rows, text, (Drawing("naive_averaged", "loss_lines", (lines,), caption),))


def stability_maps(context: Context) -> Finding:
    """Stable learning rates at three levels, for a power law and for MNIST."""
    problems = {"power law ν = 1.5": QuadraticProblem.power_law(1000, 1.5, 3.0)}
    n = context.size(500, 1000)
    problems[f"digits, N = {n}"] = context.network("digits", n, 500).quadratic
    rows, pictures = [], []
    for i, (name, problem) in enumerate(problems.items()):
        points = []
        for size in (1, 10, 100):
            for momentum in (0.0, 0.6):
                sgd = SGD(1.0, momentum, size)
                exact = stability.max_lr(problem, sgd, "exact", tolerance=1e-4)
                points.append((size, momentum, exact))
            levels = stability.max_lr(problem, SGD(1.0, 0.0, size)), points[-2][2]
            rows.append(
                Row.evidence(
                    f"largest stable α at β = 0, b = {size}, {name}",
                    f"{levels[0]:.3f} by τ = 1",
                    f"{levels[1]:.3f} exactly at this N, 2 by full batch",
                    {"diagonal": levels[0], "exact": levels[1]},
                )
            )
        caption, options = f"Stable learning rates, {name}.", {"taus": [1.0, -1.0], "exact": points}
        pictures.append(Drawing(f"stability_{i + 1}", "stability_map", (problem, [1, 10, 100]), caption, options))
    worst = max(abs(row.values["diagonal"] / row.values["exact"] - 1) for row in rows)
    text = f"The closure τ = 1 and the exact threshold differ by up to {worst:.0%} here."
    return Finding(tuple(rows), text, tuple(pictures))


def budgets(context: Context) -> Finding:
    """Whether the loss depends on t·b alone."""
    name = "mnist" if context.full else "digits"
    n = context.size(500, 3000)
    problem = context.network(name, n, context.size(500, 1000)).quadratic
    rows, pictures, words = [], [], []
    for momentum in (0.0, 0.9):
        sizes, n_steps = [1, 4, 16, 64], context.size(10_000, 100_000)
        result = budget_runs.run(problem, SpectralDiagonal(1), batch_sizes=sizes, momentum=momentum, n_steps=n_steps)
        finished(result)
        ratio = budget_runs.compare(budget_runs.curves(result, problem)).ratio
        ratio = ratio[np.isfinite(ratio)]
        last = float(ratio[-1])
        rows.append(
            Row.evidence(
                f"largest over least loss at equal t·b, b = 1 … 64, {name}, N = {n}, β = {momentum:g}",
                f"{last:.3f} at the end",
                span(float(ratio.min()), float(ratio.max()), 3, "over the budgets"),
                {"ours": last, "ratios": ratio.tolist()},
            )
        )
        words.append(f"{last:.2f} at β = {momentum:g} (at most, at small budgets, {ratio.max():.2f})")
        caption = f"Loss against t and against t·b at matched learning rates, β = {momentum:g}."
        pictures.append(Drawing(f"budget_{momentum:g}".replace(".", "_"), "budget_curves", (result, problem), caption))
    text = (
        "Learning rates matched by γα, spectral-diagonal theory: losses at the last common budget differ by a factor "
        f"{' and '.join(words)}. The budget alone counts as long as no learning rate comes near 2(1 + β)."
    )
    return Finding(tuple(rows), text, tuple(pictures))
