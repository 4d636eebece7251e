"""A run of mini-batch SGD at whose steps the Hessian is looked at."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from sgdsim.algorithm.batches import batch_blocks
from sgdsim.algorithm.draws import replicate_keys
from sgdsim.algorithm.samplers import WITHOUT_REPLACEMENT
from sgdsim.algorithm.schedules import Schedule
from sgdsim.algorithm.sgd import SGD
from sgdsim.common import devices
from sgdsim.common.checks import InputError, choice, integer, number
from sgdsim.common.progress import Bar
from sgdsim.common.table import Cell, Table
from sgdsim.datasets import Dataset
from sgdsim.networks.curvature import Curvature
from sgdsim.networks.ntk.functions import entry_of
from sgdsim.networks.ntk.modules import DTYPES, inputs, outputs, prepared, with_gradients
from sgdsim.runs.follow import MAX_STEPS, has_diverged
from sgdsim.studies.base import Findings
from sgdsim.studies.hessians.looks import HessianAt, Look

# Largest residual of an eigenpair, relative to the spectrum's range: rounding of the products allows no less.
_TOLERANCE = {"float64": 1e-7, "float32": 1e-4}


@dataclass(frozen=True, eq=False, repr=False)
class HessianSpectra(Findings):
    """What `hessian_spectra` gives: `at`, one `HessianAt` for each of the `steps` reached.

    `lr`: the torch learning rate used, a number or a schedule (None if Ctrl-C came before it was known);
    `diverged_at`: the step at which the loss had passed 1e10 times its start or the mean of y²/2 (or was no
    finite number), None if it never did; `interrupted`: ended early by Ctrl-C; `one_batch`: batch norm made all n
    inputs one batch; `largest_lr`: below this torch learning rate a step on all inputs is stable at the last step
    looked at, 2(1 + β)/λ_1 (None where β is a schedule, or λ_1 no positive number).
    """

    at: tuple[HessianAt, ...]
    steps: tuple[int, ...]
    lr: float | Schedule | None
    n_parameters: int
    diverged_at: int | None
    interrupted: bool
    one_batch: bool = False
    largest_lr: float | None = None

    def as_dict(self) -> dict[str, object]:
        """Everything as JSON-able values; NaN becomes None, a schedule its text form."""
        lr = self.lr.spec if isinstance(self.lr, Schedule) else self.lr
        return {**vars(self), "lr": lr, "steps": list(self.steps), "at": [record.as_dict() for record in self.at]}

    def table(self) -> Table:
        """A row for each step looked at; shares are of ‖∇L‖², in the span of the outliers and of up to 10 leading."""
        leading = min(10, self.at[0].captured.size) if self.at else 0
        headers = ["step", "loss", "|gradient|", "λ_1", "λ_1/λ_2", "λ_min", "trace", "outliers", "in them"]
        rows: list[list[Cell]] = [
            [
                at.step,
                f"{at.loss:.3g}",
                f"{at.gradient_norm:.3g}",
                f"{at.eigenvalues[0]:.3g}",
                f"{at.leading_ratio:.2f}",
                f"{at.smallest:.3g}",
                f"{at.trace:.3g} ± {at.trace_error:.2g}",
                at.n_outliers,
                f"{at.gradient_fraction:.1%}",
                f"{at.captured[leading - 1]:.1%}",
            ]
            for at in self.at
        ]
        return Table([*headers, f"in {leading} leading"], rows)


@with_gradients
def hessian_spectra(
    module: nn.Module,
    data: Dataset,
    *,
    output: str | int | None = None,
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
    """Train `module` by mini-batch SGD on ½·mean((f − y)²), summed over outputs, and look at the full-batch Hessian at
    chosen steps.

    The m outliers are the eigenvalues above the last gap of at least a factor `gap`; see `count_outliers`. Batches are
    those of `RealNetwork` for the same seed (replicate 0), and without batch norm so is the run.

    Batch norm in training mode normalises each mini-batch by its own statistics while training, and all n inputs by
    theirs in the loss and the Hessian that are recorded (see `Curvature`); in evaluation mode it is a constant affine
    map. `module` itself is left as it is.

    Parameters
    ----------
    module : network with as many outputs per input as targets; no dropout in training mode.
    output : of a module that gives a dict, a tuple or the like: the key or the index of the outputs.
    lr : learning rate of `torch.optim.SGD` (not in units of 1/λ_max of the tangent kernel: batch norm in training
        mode has none), a number or schedule; None: 1/λ_max of the Hessian at the start.
    momentum, batch_size, sampling : as in `SGD`; heavy ball in velocity form.
    steps : numbers of updates after which to look; taken in ascending order, each once.
    top : how many of the largest eigenvalues, k; 2 ≤ k ≤ P. At most k − 1 can be outliers.
    lanczos_steps, n_probes : of the density's quadrature; P × (lanczos_steps + k) numbers are held.
    seed : decides batches, probes and start vectors.
    dtype : "float64" or "float32"; float32 lowers the accuracy of eigenpairs from 1e-7 to 1e-4 of the range.
    chunk : inputs in one pass of a Hessian product, where batch norm allows several.
    progress : show how far it is, on standard error.

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
    look = Look(
        integer("top", top, minimum=2),
        number("gap", gap, minimum=1.0),
        integer("lanczos_steps", lanczos_steps, minimum=1),
        integer("n_probes", n_probes, minimum=1),
        integer("seed", seed),
        _TOLERANCE[choice("dtype", dtype, DTYPES)],
    )
    device = devices.resolve(device)
    if output is not None:
        module = entry_of(module, output)
    curvature = functools.partial(Curvature, x=data.x, y=data.y, device=device, dtype=dtype, chunk=chunk)
    here = curvature(module)
    integer("top", top, minimum=2, maximum=here.size)
    run = _Run(module, data, device, dtype)
    if steps[-1] > 0:
        run.try_batch(int(sgd.batch_sizes(0, steps[-1]).min()))
    start = max(here.loss(), 0.5 * float(np.sum(data.y**2)) / data.n)  # the former may be 0, and a batch's loss not
    records: list[HessianAt] = []
    diverged_at, interrupted = None, True  # until the last step is done
    with (
        Bar(progress, "training", steps[-1], work=f"{steps[-1]:,} steps and their spectra") as bar,
        contextlib.suppress(KeyboardInterrupt),
    ):
        if lr is None:
            steepest = look.extreme(here.hessian(), 1, 1.0).eigenvalues[0]
            if not steepest > 0:
                raise InputError("lr: expected a number, as the Hessian has no positive eigenvalue at the start")
            lr = 1.0 / float(steepest)
            sgd = SGD(lr, momentum, batch_size, sampling)
        for before, step in itertools.pairwise([0, *steps]):
            bar.describe("training", refresh=False)
            for now, loss in run.advance(sgd, seed, before, step):
                if has_diverged(loss, start):
                    diverged_at = now
                    break
                bar.update(1)
            if diverged_at is None:
                here = curvature(run.module)
                if has_diverged(here.loss(), start):
                    diverged_at = step
            if diverged_at is not None:
                break
            bar.describe(f"Hessian at step {step}")
            records.append(look.at(here, step))
        interrupted = False
    leading = float(records[-1].eigenvalues[0]) if records else 0.0
    largest = None if isinstance(momentum, Schedule) or not leading > 0 else 2 * (1 + momentum) / leading
    return HessianSpectra(tuple(records), steps, lr, here.size, diverged_at, interrupted, here.one_batch, largest)


class _Run:
    """Mini-batch SGD on a copy of a module. Its own loop: the step of `RealNetwork` maps over replicates and is for
    networks with a tangent kernel, which batch norm in training mode has not."""

    def __init__(self, module: nn.Module, data: Dataset, device: str, dtype: str) -> None:
        self._x = inputs("x", data.x, device, DTYPES[dtype])
        self._y = torch.tensor(data.y, device=device).to(DTYPES[dtype]).reshape(data.n, -1)
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
        for values, batches, _ in batch_blocks(sgd, len(self._y), replicate_keys(seed, 1), start, stop):
            indices = torch.as_tensor(batches[0], dtype=torch.int64, device=self._x.device)
            for t in range(values.lr.size):
                batch = indices[t, : values.batch_size[t]]
                targets = self._y[batch]
                loss = 0.5 * ((self.module(self._x[batch]).reshape(targets.shape) - targets) ** 2).sum(1).mean()
                yield step, loss.item()
                gradients = torch.autograd.grad(loss, self._free, materialize_grads=True)
                with torch.no_grad():
                    for p, v, g in zip(self._free, self._velocities, gradients, strict=True):
                        p.add_(v.mul_(values.momentum[t]).sub_(g, alpha=values.lr[t]))
                step += 1
