"""Any linear method in the averaged regime, exactly."""

from __future__ import annotations

import numpy as np

from sgdsim.algorithm.maps import read, read_second
from sgdsim.algorithm.samplers import Sampler
from sgdsim.algorithm.sgd import SGD
from sgdsim.common.blas import calm
from sgdsim.problem import QuadraticProblem
from sgdsim.recurrence import linear_kernels
from sgdsim.recurrence.linear import Steps
from sgdsim.regimes import _linear_kernels
from sgdsim.regimes.averaged.exact import report, test_gram
from sgdsim.regimes.base import diagonal


class Averaged(Steps):
    """The mean of all components, and the covariance of the noise for all pairs of modes: exact, O(m² N²) memory."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, test: bool) -> None:
        super().__init__(problem, sgd)
        n, m = problem.spectrum.n_modes, self.n_components
        sampler, own = sgd.sampler, diagonal(problem, sgd)
        self.inclusion = sampler.pair_inclusion(own) if isinstance(sampler, Sampler) and own is not None else None
        self.first, self.second = self.started(problem.coefficients, problem.origin), np.zeros((n, n, m, m))

    @calm
    def advance(self, start: int, stop: int) -> None:
        u, lam = self.problem.eigenvectors, self.problem.eigenvalues
        for _, values, transition, kick, where in self.blocks(start, stop):
            label = self.label(values.batch_size) * (self.inclusion is None)
            for t in range(values.lr.size):
                noise = np.ascontiguousarray(self.second[:, :, 0, 0])
                squares = (u @ self.first[:, 0]) ** 2 + np.einsum("ik,ik->i", u @ noise, u)  # E r_i²
                if self.inclusion is not None:  # the labels' errors are weighted as the residuals are
                    squares = self.inclusion * (squares + self.sgd.label_noise**2)
                scaled = u * np.sqrt(np.maximum(squares, 0.0))[:, None]
                _linear_kernels.averaged(
                    lam, self.second, self.first, scaled.T @ scaled, self.problem.n, transition[t], kick[t],
                    values.noise[t], label[t], *where,
                )  # fmt: skip
                linear_kernels.mean(lam, self.first, transition[t : t + 1], kick[t : t + 1], *where)

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        mean, noise = read(self.readout, self.first.T), read_second(self.readout, self.second)
        moments = mean**2 + np.diag(noise)
        out = {"loss": np.array([moments.sum() / (2 * self.problem.n)])}
        if "test_loss" in what:
            out["test_loss"] = self.problem.test_loss(mean, np.vdot(test_gram(self.problem), noise), self.gone)
        if "moments" in what:
            out["moments"] = moments[None]
        return out

    def report(self) -> dict[str, float]:
        return report(self.problem)
