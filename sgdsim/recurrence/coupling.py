"""How the points' squared residuals feed each other, `d̃ = d̃⁰ + M(z) d̃`, at many z together.

`M_ij(z) = Σ_kl W_kl(z) u_ik u_jk u_il u_jl`. W is smooth in both modes' log λ: by the nodes of `skeleton` and a basis T
of r columns, `W ≈ (LT) w(z) (LT)ᵀ`, so that `M_ij = Σ_ab w_ab(z) P_a,ij P_b,ij` with r matrices
`P_a = U diag((LT)_a) Uᵀ`. The w(z) of all z lie near a space of few dimensions: `M(z) = Σ_s share_s(z) M_s` with fixed
symmetric real M_s, of which the upper blocks are kept. So all z together cost about what one product with M and a few
with each M_s cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sgdsim.common.blas import one_blas_thread
from sgdsim.recurrence import pairs, share, skeleton

if TYPE_CHECKING:
    from sgdsim.recurrence.averaged_modes import AveragedModes

_ROWS = 48  # points in a block
_SUMS = 8  # partial sums, each made by one thread
_SINGLE = 0.9e-8  # tolerance from which on the matrices may be in float32
_LOOKED_AT = 100  # modes whose pairs' weights are compared with what they are


class Coupling:
    """`shares` (S, Z) of M_s in M(z), and d̃⁰, what begins: `sources` (n, Z). `error`: relative, of M and of d̃⁰. With
    test points, the mean over them of `E (T a)²` is `Σ_s share_s tested_s·d̃ + test_sources`, (S, n) and (Z,)."""

    def __init__(self, of: AveragedModes, sigmas: np.ndarray, tolerance: float) -> None:
        order = np.argsort(-of.x, kind="stable")
        self.of, self.n, self.z, self.rest = of, of.n, np.exp(-sigmas), -np.expm1(-sigmas)
        self.x, self.a, self.u = of.x[order], of.a[order], np.ascontiguousarray(of.u[:, order])
        self.bins = skeleton.bins(self.x, self._family, max(10 * tolerance, 1e-14))
        self.nodes = np.concatenate([each.nodes for each in self.bins])
        self.spread = np.zeros((self.x.size, self.nodes.size))
        for b, last in zip(self.bins, np.cumsum([b.nodes.size for b in self.bins]), strict=True):
            self.spread[b.low : b.high, last - b.nodes.size : last] = b.shares
        started = (self.u * self.a) @ self.spread  # how much of the start each node has in each point
        sizes = np.linalg.norm(started, axis=0)
        noise, kept = self._at_nodes(sizes)
        self.dtype = np.float32 if tolerance >= _SINGLE else np.float64
        self.columns = skeleton.basis(noise, tolerance)
        self.feeds = self._compressed(noise, tolerance)
        began = skeleton.basis(kept, tolerance)
        inverse = began / np.where(sizes > 0, sizes, 1.0)[:, None]
        inner = [began.T @ e @ began for e in kept]
        self.sources = np.stack([of.points.of_rows(started @ inverse, e) for e in inner], 1)
        test = of.problem.test
        self.transfer = None if test is None else test.transfer[:, order]
        self.test_sources = np.zeros(self.z.size, complex)
        if self.transfer is not None:
            tested = (self.transfer * self.a) @ self.spread @ inverse
            self.test_sources += [_squares(tested, e).mean() * of.outputs for e in inner]
        self._add_label_noise()
        self.error = self._looked_at(inverse, inner) + 2 * float(np.finfo(self.dtype).eps)
        self.blocks: list[tuple[int, int, np.ndarray]] = []
        self._make(of)

    def _family(self, x: np.ndarray) -> np.ndarray:
        """Responses of pairs of x (m,) and modes all over the spectrum, at some z: (m, those)."""
        positive = self.x[self.x > 0]
        others = np.geomspace(positive[-1], positive[0], 8)
        some = slice(None, None, max(1, self.z.size // 30))
        z, rest = self.z[some, None, None], self.rest[some, None, None]
        noise, start, determinant = self.of.form(x[:, None], others, self.of.momentum, z, rest)
        determinant = determinant + self.of.gamma * z * (x[:, None] * others) * noise
        both = np.stack([noise / determinant, start / determinant])
        return np.moveaxis(both, 2, 0).reshape(x.size, -1)

    def _responses(self, x: np.ndarray, j: int) -> tuple[np.ndarray, np.ndarray]:
        noise, kept = pairs.responses(
            self.of.form, x[:, None], x, self.of.momentum, self.of.gamma, self.z[j], self.rest[j]
        )
        return self.n * noise, kept

    def _at_nodes(self, sizes: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """W of pairs of nodes, and what is kept of the start times its `sizes`, at each z."""
        found: list[tuple[np.ndarray, np.ndarray]] = [(self.z, self.z)] * self.z.size

        def fill(j: int) -> None:
            noise, kept = self._responses(self.nodes, j)
            found[j] = noise, kept * np.multiply.outer(sizes, sizes)

        share.run([(20.0 * self.nodes.size**2, functools.partial(fill, j)) for j in range(self.z.size)])
        return [noise for noise, _ in found], [kept for _, kept in found]

    def _compressed(self, noise: list[np.ndarray], tolerance: float) -> np.ndarray:
        """The weights of products P_a ∘ P_b, a ≤ b, in each M_s, (S, those); sets `shares`."""
        rank = self.columns.shape[1]
        upper = np.triu_indices(rank)
        twice = np.where(upper[0] == upper[1], 1.0, np.sqrt(2))
        packed = np.stack([twice * (self.columns.T @ w @ self.columns)[upper] for w in noise], 1)
        equal = packed / np.maximum(np.linalg.norm(packed, axis=0), 1e-300)
        left, sizes, _ = np.linalg.svd(np.hstack([equal.real, equal.imag]), full_matrices=False)
        left = left[:, : max(1, int((sizes > tolerance).sum()))]
        self.shares = left.T @ packed
        return (left * twice[:, None]).T

    def _add_label_noise(self) -> None:
        of = self.of
        if of.label == 0:
            return
        for j in range(self.z.size):
            noise, _, determinant = of.form(of.x, of.x, of.momentum, self.z[j], self.rest[j])
            fed = self.z[j] * of.x**2 * noise
            own = of.label * fed / (determinant + of.gamma * fed) / self.rest[j]  # of unit variance from step 1 on
            self.sources[:, j] += of.points.of_variances(own)
            if of.gram is not None:
                self.test_sources[j] += np.diag(of.gram) @ own

    def _looked_at(self, inverse: np.ndarray, inner: list[np.ndarray]) -> float:
        """The relative error of pairs' weights, and of what is kept of the start, among some modes at some z."""
        some = np.unique(np.linspace(0, self.x.size - 1, _LOOKED_AT).astype(int))
        spread, x, a = self.spread[some], self.x[some], self.a[some]
        moved = spread * np.divide(x[:, None], self.nodes, out=np.zeros_like(spread), where=self.nodes > 0)
        moved, began = moved @ self.columns, (spread * a[:, None]) @ inverse
        upper = np.triu_indices(self.columns.shape[1])
        off = []
        for j in range(0, self.z.size, max(1, self.z.size // 6)):
            noise, kept = self._responses(x, j)
            half = np.zeros((self.columns.shape[1],) * 2, complex)
            half[upper] = self.feeds.T @ self.shares[:, j] / 2
            off.append(_relative(moved @ (half + half.T) @ moved.T, noise))
            off.append(_relative(began @ inner[j] @ began.T, kept * np.multiply.outer(a, a)))
        return max(off)

    # The matrices.

    def _make(self, of: AveragedModes) -> None:
        moving, u = [b for b in self.bins if b.nodes[0] > 0], self.u.astype(self.dtype)
        work = functools.partial(self._block, moving)
        lows = range(0, self.n, _ROWS)
        made: dict[int, np.ndarray] = {}

        def fill(low: int) -> None:
            high = min(low + _ROWS, self.n)
            made[low] = work(u[low:high], u[low:])

        with one_blas_thread():
            share.run([(1e9, functools.partial(fill, low)) for low in lows])
        self.blocks = [(low, min(low + _ROWS, self.n), made[low]) for low in lows]
        self.tested = None if self.transfer is None else self._tested(moving, self.transfer)

    def _tested(self, moving: list[skeleton.Bin], transfer: np.ndarray) -> np.ndarray:
        """`tested`, from the test points' residuals in modes, (m, n)."""
        rows = len(transfer)
        if rows > self.n:
            transfer = np.asarray(np.linalg.qr(transfer, mode="r"))
        u, transfer = self.u.astype(self.dtype), transfer.astype(self.dtype)

        def add(low: int, total: np.ndarray) -> None:
            total += self._block(moving, transfer[low : low + _ROWS], u).sum(0)

        return _summed(add, [(low,) for low in range(0, len(transfer), _ROWS)], (len(self.shares), self.n)) / rows

    def _block(self, moving: list[skeleton.Bin], left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """M_s between the points `left` and `right`, given by their share in each mode: (left, S, right)."""
        count, width, of = len(left), len(right), self.dtype
        nodes, at = np.empty((count, sum(b.nodes.size for b in moving), width), of), 0
        for b in moving:
            own = (b.shares * (self.x[b.low : b.high, None] / b.nodes)).T.astype(of)
            scaled = (left[:, None, b.low : b.high] * own).reshape(-1, b.high - b.low)
            nodes[:, at : at + b.nodes.size] = (scaled @ right[:, b.low : b.high].T).reshape(count, -1, width)
            at += b.nodes.size
        columns, feeds = self.columns[:at].T.astype(of), self.feeds.astype(of)
        products, out = np.empty((feeds.shape[1], width), of), np.empty((count, len(feeds), width), of)
        for i in range(count):
            p, at = columns @ nodes[i], 0
            for k in range(len(p)):
                np.multiply(p[k], p[k:], out=products[at : at + len(p) - k])
                at += len(p) - k
            np.matmul(feeds, products, out=out[i])
        return out

    def images(self, v: np.ndarray) -> np.ndarray:
        """`M_s v` for columns v (n, q): (n, S, q)."""
        v = v.astype(self.dtype)

        def add(low: int, high: int, block: np.ndarray, out: np.ndarray) -> None:
            count, terms, width = block.shape
            out[low:high] += (block.reshape(-1, width) @ v[low:]).reshape(count, terms, -1)
            below = np.matmul(block[:, :, high - low :].transpose(1, 2, 0), v[low:high])  # (S, below, q)
            out[high:] += below.transpose(1, 0, 2)

        return _summed(add, self.blocks, (self.n, len(self.shares), v.shape[1]))


def _summed(add: Callable[..., None], parts: Sequence[tuple], shape: tuple[int, ...]) -> np.ndarray:
    """What `add(*part, out)` adds up to over all parts: in an order that does not depend on the threads."""
    groups = [parts[k::_SUMS] for k in range(min(_SUMS, len(parts)))]
    sums = [np.zeros(shape) for _ in groups]

    def work(group: Sequence[tuple], out: np.ndarray) -> None:
        for part in group:
            add(*part, out)

    with one_blas_thread():
        share.run([(1e9, functools.partial(work, *both)) for both in zip(groups, sums, strict=True)])
    return functools.reduce(np.add, sums)


def _relative(found: np.ndarray, right: np.ndarray) -> float:
    size = float(np.linalg.norm(right))
    return float(np.linalg.norm(found - right)) / size if size > 0 else 0.0


def _squares(rows: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """`rowᵀ inner row` of each row."""
    return np.einsum("ia,ia->i", rows @ inner, rows)
