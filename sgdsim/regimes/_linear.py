"""Any linear method (`sgdsim.methods`) in the regimes: what each keeps, how it steps and what is seen of it.

A state has `advance(start, stop)` and `observe(what)`. All components of the method are kept; the gradient is taken at
component 0, and losses are read from `sgd.readout`, the iterate or its average.
"""

from __future__ import annotations

import numpy as np

from sgdsim import sampling
from sgdsim.problem import QuadraticProblem
from sgdsim.regimes import _linear_kernels
from sgdsim.sgd import SGD

_BLOCK = 256  # steps whose maps are held at once


def occupied(transition: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where rows of the maps (T, m, m) may differ from 0: offsets (m + 1,) into column numbers."""
    used = (transition != 0).any(0)
    columns = [np.flatnonzero(row) for row in used]
    return np.cumsum([0, *map(len, columns)]), np.concatenate(columns)


class _Steps:
    """The steps of `sgd` on a problem, in blocks."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD) -> None:
        self.problem, self.sgd, self.readout = problem, sgd, sgd.readout

    def blocks(self, start: int, stop: int):
        """Yield (first step, hyperparameters, maps, where they are occupied) for consecutive ranges of steps."""
        for low in range(start, stop, _BLOCK):
            high = min(low + _BLOCK, stop)
            maps = self.sgd.maps(low, high)
            transition, kick = np.ascontiguousarray(maps.transition), np.ascontiguousarray(maps.kick)
            yield low, self.sgd.values(self.problem.n, low, high), transition, kick, occupied(transition)

    def label(self, sizes: np.ndarray) -> np.ndarray:
        """What noisy labels add to the noise, per λ², (T,)."""
        return self.sgd.label_source(self.problem.n, sizes)

    def started(self, values: np.ndarray) -> np.ndarray:
        """(…, m) components before the first step, from the iterate's (…,): no memory, the average at the iterate."""
        out = np.zeros((*values.shape, self.sgd.components))
        out[..., 0] = values
        out[..., self.readout] = values
        return out


class Diagonal(_Steps):
    """Second moments of all components, mode by mode."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, tau: float, test: bool) -> None:
        super().__init__(problem, sgd)
        self.tau, self.test = tau, test
        first = self.started(problem.coefficients)
        self.second = first[:, :, None] * first[:, None, :]
        self.total = float(self.second[:, 0, 0].sum())
        self.first = first if test else None

    def advance(self, start: int, stop: int) -> None:
        for _, values, transition, kick, where in self.blocks(start, stop):
            self.total = _linear_kernels.diagonal(
                self.problem.eigenvalues, self.problem.multiplicity, self.second, self.total, transition, kick,
                values.noise, self.label(values.batch_size), self.tau, *where,
            )  # fmt: skip
            if self.test:
                _linear_kernels.mean(self.problem.eigenvalues, self.first, transition, kick, *where)

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        moments = self.second[:, self.readout, self.readout]
        out = {"loss": np.array([moments.sum() / (2 * self.problem.n)])}
        if "test_loss" in what:
            mean, test = self.first[:, self.readout], self.problem.test
            e = test.residual + test.transfer @ (mean - self.problem.coefficients)
            noise = (moments - mean**2) @ (test.transfer**2).mean(0)
            out["test_loss"] = np.array([(np.mean(e**2) + noise) / 2])
        if "moments" in what:
            out["moments"] = moments[None].copy()
        return out


class Averaged(_Steps):
    """The mean of all components, and the covariance of the noise for all pairs of modes: exact, O(m² N²) memory."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, test: bool) -> None:
        super().__init__(problem, sgd)
        n, m = problem.n, sgd.components
        self.first, self.second = self.started(problem.coefficients), np.zeros((n, n, m, m))

    def advance(self, start: int, stop: int) -> None:
        u, lam = self.problem.eigenvectors, self.problem.eigenvalues
        for _, values, transition, kick, where in self.blocks(start, stop):
            label = self.label(values.batch_size)
            for t in range(values.lr.size):
                noise = np.ascontiguousarray(self.second[:, :, 0, 0])
                squares = (u @ self.first[:, 0]) ** 2 + np.einsum("ik,ik->i", u @ noise, u)  # E r_i²
                scaled = u * np.sqrt(np.maximum(squares, 0.0))[:, None]
                _linear_kernels.averaged(
                    lam, self.second, self.first, scaled.T @ scaled, self.problem.n, transition[t], kick[t],
                    values.noise[t], label[t], *where,
                )  # fmt: skip
                _linear_kernels.mean(lam, self.first, transition[t : t + 1], kick[t : t + 1], *where)

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        mean, noise = self.first[:, self.readout], self.second[:, :, self.readout, self.readout]
        moments = mean**2 + np.diag(noise)
        out = {"loss": np.array([moments.sum() / (2 * self.problem.n)])}
        if "test_loss" in what:
            test = self.problem.test
            e = test.residual + test.transfer @ (mean - self.problem.coefficients)
            spread = np.vdot(test.transfer.T @ test.transfer / len(test.transfer), noise)
            out["test_loss"] = np.array([(np.mean(e**2) + spread) / 2])
        if "moments" in what:
            out["moments"] = moments[None]
        return out


class Sampled(_Steps):
    """All components of each replicate, over the points; with one pass over a population, over the modes."""

    def __init__(self, problem: QuadraticProblem, sgd: SGD, keys: np.ndarray) -> None:
        super().__init__(problem, sgd)
        self.keys, self.one_pass = keys, sgd.sampling == sampling.ONE_PASS
        start = self.started(problem.coefficients if self.one_pass else problem.residual).T
        self.components = np.tile(start, (len(keys), 1, 1))

    def advance(self, start: int, stop: int) -> None:
        from sgdsim.regimes.sampled import batch_blocks, label_errors

        if self.one_pass:
            deviation = self.sgd.label_noise * np.sqrt(self.problem.n)
            for low, values, transition, kick, where in self.blocks(start, stop):
                _linear_kernels.one_pass(
                    self.problem.eigenvalues, self.components, transition, kick, values.batch_size, self.keys, low,
                    deviation, *where,
                )  # fmt: skip
            return
        for low, values, transition, kick, where in self.blocks(start, stop):
            at = 0
            for part, batches in batch_blocks(self.sgd, self.problem.n, self.keys, low, low + values.lr.size):
                errors, window = label_errors(self.sgd, batches, low + at, self.keys), slice(at, at + part.lr.size)
                _linear_kernels.sampled(
                    self.problem.kernel, self.components, transition[window], kick[window], part.batch_size, batches,
                    errors, *where,
                )  # fmt: skip
                at += part.lr.size

    def observe(self, what: tuple[str, ...]) -> dict[str, np.ndarray]:
        r = self.components[:, self.readout]
        with np.errstate(over="ignore", invalid="ignore"):  # a diverged replicate is a result
            out = {"loss": (r**2).mean(1) / 2}
            if "test_loss" in what or "moments" in what:
                a = r if self.one_pass else r @ self.problem.eigenvectors
            if "test_loss" in what:
                test = self.problem.test
                e = test.residual + (a - self.problem.coefficients) @ test.transfer.T
                out["test_loss"] = (e**2).mean(1) / 2
            if "moments" in what:
                out["moments"] = a**2
        return out
