"""The averaged regime on a torch device: the exact form, whose matrix products are what a GPU is good at."""

from __future__ import annotations

import numpy as np
import torch

from sgdsim.algorithm.sgd import SGD, has_momentum
from sgdsim.problem import QuadraticProblem
from sgdsim.regimes.averaged.exact import report
from sgdsim.regimes.base import Run

DTYPES = {"float64": torch.float64, "float32": torch.float32}


class OnTorch(Run):
    """Mean and noise covariances in the eigenbasis, (n,) and (n, n) tensors on `device`."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, test: bool, device: str, dtype: str) -> None:
        self.problem, self.sgd, n = problem, sgd, problem.n
        like = torch.zeros((), dtype=DTYPES[dtype], device=device)
        self.basis, self.lam = like.new_tensor(problem.eigenvectors), like.new_tensor(problem.eigenvalues)
        self.mean, self.velocity = like.new_tensor(problem.coefficients), like.new_zeros(n)
        extra = (n, n) if has_momentum(sgd) else (0, 0)
        self.c, self.j, self.p = like.new_zeros((n, n)), like.new_zeros(extra), like.new_zeros(extra)
        self.noisy = False  # whether there has been any noise yet
        self.gram = like.new_zeros((0, 0))
        if test and problem.test is not None:
            transfer = like.new_tensor(problem.test.transfer)
            self.gram = transfer.T @ transfer / len(transfer)

    def advance(self, start: int, stop: int) -> None:
        values = self.problem.values(self.sgd, start, stop)
        for lr, momentum, noise in zip(values.lr, values.momentum, values.noise, strict=True):
            self._step(float(lr), float(momentum), float(noise))

    def _step(self, lr: float, momentum: float, noise: float) -> None:
        x = lr * self.lam
        if noise > 0 or self.noisy:
            self.noisy = True
            self._add_noise(x, momentum, noise)
        self.velocity = momentum * self.velocity - x * self.mean
        self.mean = self.mean + self.velocity

    def _add_noise(self, x: torch.Tensor, momentum: float, noise: float) -> None:
        """As `_kernels.averaged_advance`. Every term is symmetric to the last bit, or the difference would grow."""
        squares = (self.basis @ self.mean) ** 2 + ((self.basis @ self.c) * self.basis).sum(1)  # E r_i²
        scaled = self.basis * squares.clamp(min=0).sqrt()[:, None]
        covariance = scaled.T @ scaled
        covariance = (covariance + covariance.T).mul_(self.problem.n / 2).sub_(self.c)
        covariance.addr_(self.mean, self.mean, alpha=-1).mul_(noise)  # of the gradients
        kicked = covariance.add_(self.c).mul_(torch.outer(x, x))
        moved = self.c * -x  # column k by x_k
        if self.j.numel():
            crossed = x[:, None] * self.j
            kicked.add_(self.p, alpha=momentum**2).sub_(crossed + crossed.T, alpha=momentum)
            moved.add_(self.j, alpha=momentum)
            self.p, self.j = kicked, moved + kicked
        self.c = self.c + (moved + moved.T) + kicked

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        mean = self.mean.double().cpu().numpy()
        moments = mean**2 + self.c.diagonal().double().cpu().numpy()
        out = {"loss": np.array([moments.sum() / (2 * self.problem.n)])}
        if "test_loss" in what:
            out["test_loss"] = self.problem.test_loss(mean, float((self.gram * self.c).sum()))
        if "moments" in what:
            out["moments"] = moments[None]
        return out

    def report(self) -> dict[str, float]:
        return report(self.problem)
