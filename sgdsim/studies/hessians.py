"""The spectrum of a network's Hessian along a run of mini-batch SGD (Ghorbani, Krishnan & Xiao, ICML 2019,
arXiv:1901.10159): density, outliers, and how much of the gradient lies in their span."""

from __future__ import annotations

import contextlib
import copy
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.linalg
import torch
from scipy.sparse.linalg import LinearOperator
from torch import nn
from tqdm import tqdm

from sgdsim.algorithm.batches import batch_blocks
from sgdsim.algorithm.draws import replicate_keys
from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT
from sgdsim.algorithm.schedules import Schedule
from sgdsim.algorithm.sgd import SGD
from sgdsim.common import devices
from sgdsim.common.checks import InputError, choice, integer, number
from sgdsim.common.statistics import mean_and_error
from sgdsim.datasets import Dataset
from sgdsim.networks.curvature import Curvature
from sgdsim.networks.ntk.modules import DTYPES, inputs, outputs, prepared, with_gradients
from sgdsim.problem import lanczos
from sgdsim.runs.follow import MAX_STEPS, has_diverged
from sgdsim.studies.hessian_results import HessianAt, HessianSpectra, count_outliers

__all__ = ["HessianAt", "HessianSpectra", "count_outliers", "hessian_spectra"]

# Largest residual of an eigenpair, relative to the spectrum's range: rounding of the products allows no less.
_TOLERANCE = {"float64": 1e-7, "float32": 1e-4}


@with_gradients
def hessian_spectra(
    module: nn.Module,
    data: Dataset,
    *,
    lr: float | Schedule | None = None,
    momentum: float | Schedule = 0.0,
    batch_size: int | Schedule,
    steps: Sequence[int],
    sampling: str = WITHOUT_REPLACEMENT,
    top: int = 20,
    gap: float = 2.0,
    lanczos_steps: int = 80,
    n_probes: int = 10,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "float64",
    chunk: int = 1024,
    progress: bool = False,
) -> HessianSpectra:
    """Train `module` by mini-batch SGD on ½·mean((f − y)²) and look at the full-batch Hessian at chosen steps.

    The m outliers are the eigenvalues above the last gap of at least a factor `gap`; see `count_outliers`. Batches are
    those of `RealNetwork` for the same seed (replicate 0), and without batch norm so is the run.

    Batch norm in training mode normalises each mini-batch by its own statistics while training, and all n inputs by
    theirs in the loss and the Hessian that are recorded (see `Curvature`); in evaluation mode it is a constant affine
    map. `module` itself is left as it is.

    Parameters
    ----------
    module : network with one output per input (n, d); no dropout in training mode.
    lr : learning rate of `torch.optim.SGD` (not in units of 1/λ_max of the tangent kernel: batch norm in training
        mode has none), a number or schedule; None: 1/λ_max of the Hessian at the start.
    momentum, batch_size, sampling : as in `SGD`; heavy ball in velocity form.
    steps : numbers of updates after which to look; taken in ascending order, each once.
    top : how many of the largest eigenvalues, k; 2 ≤ k ≤ P. At most k − 1 can be outliers.
    lanczos_steps, n_probes : of the density's quadrature; P × (lanczos_steps + k) numbers are held.
    seed : decides batches, probes and start vectors.
    dtype : "float64" or "float32"; float32 lowers the accuracy of eigenpairs from 1e-7 to 1e-4 of the range.
    chunk : inputs in one pass of a Hessian product, where batch norm allows several.
    progress : show a progress bar, if standard error is a terminal.

    Returns
    -------
    HessianSpectra; steps after divergence are absent from it. Ctrl-C ends the run and keeps the steps that are done.

    Raises
    ------
    InputError : arguments out of range; a module that does not fit; no positive eigenvalue at the start and no `lr`.
    """
    if not isinstance(data, Dataset):
        raise InputError(f"data: expected a Dataset, got {type(data).__name__}")
    if not np.iterable(steps) or isinstance(steps, str) or len(steps) == 0:
        raise InputError(f"steps: expected a list of steps, at least one, got {steps!r}")
    steps = tuple(sorted({integer("steps", step, maximum=MAX_STEPS) for step in steps}))
    sgd = SGD(1.0 if lr is None else lr, momentum, batch_size, sampling)
    sgd.check(data.n, steps[-1])
    look = _Look(
        integer("top", top, minimum=2),
        number("gap", gap, minimum=1.0),
        integer("lanczos_steps", lanczos_steps, minimum=1),
        integer("n_probes", n_probes, minimum=1),
        integer("seed", seed),
        _TOLERANCE[choice("dtype", dtype, DTYPES)],
    )
    place = {"device": devices.resolve(device), "dtype": dtype, "chunk": chunk}
    here = Curvature(module, data.x, data.y, **place)
    integer("top", top, minimum=2, maximum=here.size)
    run = _Run(module, data, place["device"], dtype)
    if steps[-1] > 0:
        run.try_batch(int(sgd.batch_sizes(0, steps[-1]).min()))
    start = max(here.loss(), 0.5 * float(np.mean(data.y**2)))  # the former may be 0, and a batch's loss not
    found: list[HessianAt] = []
    diverged_at, interrupted = None, True  # until the last step is done
    with (
        tqdm(total=steps[-1], unit="step", disable=None if progress else True) as bar,
        contextlib.suppress(KeyboardInterrupt),
    ):
        if lr is None:
            largest = look.extreme(here.hessian(), 1, 1.0).eigenvalues[0]
            if not largest > 0:
                raise InputError("lr: expected a number, as the Hessian has no positive eigenvalue at the start")
            lr = 1.0 / float(largest)
            sgd = SGD(lr, momentum, batch_size, sampling)
        for before, step in itertools.pairwise([0, *steps]):
            bar.set_description("training", refresh=False)
            for now, loss in run.advance(sgd, seed, before, step):
                if has_diverged(loss, start):
                    diverged_at = now
                    break
                bar.update(1)
            if diverged_at is None:
                here = Curvature(run.module, data.x, data.y, **place)
                if has_diverged(here.loss(), start):
                    diverged_at = step
            if diverged_at is not None:
                break
            bar.set_description(f"Hessian at step {step}")
            found.append(look.at(here, step))
        interrupted = False
    return HessianSpectra(tuple(found), steps, lr, here.size, diverged_at, interrupted)


class _Run:
    """Mini-batch SGD on a copy of a module."""

    def __init__(self, module: nn.Module, data: Dataset, device: str, dtype: str) -> None:
        self._x = inputs("x", data.x, device, DTYPES[dtype])
        self._y = torch.tensor(data.y, device=device).to(DTYPES[dtype])
        self.module = prepared(module, self._x, DTYPES[dtype])
        self._free = [p for p in self.module.parameters() if p.requires_grad]
        self._velocities = [torch.zeros_like(p) for p in self._free]

    def try_batch(self, size: int) -> None:
        """InputError if the module cannot take a batch of `size`; batch norm in training mode refuses single inputs."""
        if not outputs(copy.deepcopy(self.module), self._x[:size]).requires_grad:
            raise InputError("network: expected outputs that depend on the parameters, got constant ones")

    def advance(self, sgd: SGD, seed: int, start: int, stop: int) -> Iterator[tuple[int, float]]:
        """Make the updates start … stop − 1; yields, before each, its number and the loss of its batch."""
        step = start
        for values, batches, _ in batch_blocks(sgd, self._y.numel(), replicate_keys(seed, 1), start, stop):
            indices = torch.as_tensor(batches[0], dtype=torch.int64, device=self._x.device)
            for t in range(values.lr.size):
                batch = indices[t, : values.batch_size[t]]
                loss = 0.5 * ((self.module(self._x[batch]).reshape(-1) - self._y[batch]) ** 2).mean()
                yield step, loss.item()
                gradients = torch.autograd.grad(loss, self._free, materialize_grads=True)
                with torch.no_grad():
                    for p, v, g in zip(self._free, self._velocities, gradients, strict=True):
                        p.add_(v.mul_(values.momentum[t]).sub_(g, alpha=values.lr[t]))
                step += 1


@dataclass(frozen=True)
class _Look:
    """How to look at a Hessian."""

    top: int
    gap: float
    lanczos_steps: int
    n_probes: int
    seed: int
    tolerance: float

    def at(self, curvature: Curvature, step: int) -> HessianAt:
        hessian, gradient = curvature.hessian(), curvature.gradient()
        top = self.extreme(hessian, self.top, 1.0)
        density, traces = self.density(hessian, top)
        trace, trace_error = mean_and_error(traces)
        bottom = self.extreme(hessian, 1, -1.0)
        smallest = float(bottom.eigenvalues[0])
        floor = self.tolerance * max(abs(top.eigenvalues[0]), abs(smallest))
        length = float(np.linalg.norm(gradient))
        along = top.eigenvectors.T @ (gradient / length) if length > 0 else np.full(self.top, np.nan)
        return HessianAt(
            step=step,
            loss=curvature.loss(),
            gradient_norm=length,
            eigenvalues=top.eigenvalues,
            residuals=top.residuals,
            smallest=smallest,
            smallest_residual=float(bottom.residuals[0]),
            trace=float(trace),
            trace_error=float(trace_error),
            captured=np.cumsum(along**2),
            n_outliers=count_outliers(top.eigenvalues, smallest, self.gap, floor),
            density=density,
        )

    def density(
        self, hessian: LinearOperator, top: lanczos.TopEigenpairs
    ) -> tuple[lanczos.SpectralDensity, np.ndarray]:
        """The density of all P eigenvalues, and the trace by each probe, (probes,).

        The eigenvalues in `top` are exact in it, each of weight 1/P; the probes see what lies beyond them only.
        """
        size, known = top.eigenvectors.shape
        exact = np.tile(top.eigenvalues, (self.n_probes, 1))
        if known == size:
            nodes, weights = exact, np.full(exact.shape, 1.0 / (size * self.n_probes))
        else:
            nodes, weights = lanczos.quadrature(
                hessian, n_steps=self.lanczos_steps, n_probes=self.n_probes, seed=self.seed, without=top.eigenvectors
            )
            nodes = np.hstack([exact, nodes])
            weights = np.hstack([np.full(exact.shape, 1 / self.n_probes), weights * (size - known)]) / size
        return lanczos.smoothed(nodes, weights), size * self.n_probes * (nodes * weights).sum(1)

    def extreme(self, hessian: LinearOperator, k: int, sign: float) -> lanczos.TopEigenpairs:
        """The k largest (`sign` 1) or smallest (−1) eigenpairs, outermost first.

        A multiple of the identity is added, about as large as the Hessian: then the residual that counts as converged
        is relative to the spectrum's range, and not to each eigenvalue, however close to 0 it lies.
        """
        probe = np.random.default_rng(self.seed).standard_normal(hessian.shape[0])
        diagonal, off, _ = lanczos.tridiagonal(hessian, probe, 20)
        shift = float(np.abs(scipy.linalg.eigvalsh_tridiagonal(diagonal, off)).max()) or 1.0
        shifted = LinearOperator(hessian.shape, matvec=lambda v: sign * (hessian @ v) + shift * v, dtype=np.float64)
        pairs = lanczos.top_eigenpairs(shifted, k, tolerance=self.tolerance, seed=self.seed)
        # Not `pairs.eigenvalues − shift`, which has the rounding errors of the shift: the Hessian may be 0.
        found = np.einsum("ij,ij->j", pairs.eigenvectors, hessian @ pairs.eigenvectors)
        order = np.argsort(-sign * found, kind="stable")
        return lanczos.TopEigenpairs(found[order], pairs.eigenvectors[:, order], pairs.residuals[order])
