"""Infinite-width kernels (NTK and NNGP) of fully connected and convolutional networks in NTK parametrisation.

The recursion is that of Jacot, Gabriel & Hongler (arXiv:1806.07572, Theorem 1; Lee et al., arXiv:1711.00165, eq. 5, for
the NNGP), in the parametrisation of `networks.MLP`: biases in hidden layers only, a linear read-out without bias.
With `V(c, q, q') = E φ(u)φ(v)` for centred Gaussians (u, v) of variances q, q' and covariance c, and `V̇ = ∂V/∂c`,

    Σ_1 = σ_w² x·x'/d + σ_b²,   Σ_{l+1} = σ_w² V(Σ_l) + σ_b²,   NNGP = σ_w² V(Σ_depth),
    Θ_1 = Σ_1,                  Θ_{l+1} = Σ_{l+1} + σ_w² Θ_l V̇(Σ_l),   NTK = NNGP + σ_w² Θ_depth V̇(Σ_depth).

Accuracy. Everything is exact up to rounding, with two exceptions. (1) `relu`, `leaky_relu`: V̇ has a square-root
singularity at correlation ±1, where rounding in Σ becomes a relative error of up to 6e-8; pairs closer than rounding
can tell count as equal, so that duplicates get what the diagonal has. (2) `tanh`, `silu`: a truncated series; V and V̇
of each layer are off by at most 1e-10 times their values on the diagonal, unless `terms` is given. The number of terms
grows with the variances; beyond about 90 (tanh) or 370 (silu) there are too many, and an InputError says so.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sgdsim.common.checks import InputError, array, choice, integer, number

# 1 - correlation² below this is rounding (of scalar products, mostly) and counts as 0.
_SAME = 3e-14
# Variances whose products, and ratios to `_NEVER_ZERO`, are floats with room to spare.
_SMALLEST, _LARGEST, _NEVER_ZERO = 1e-100, 1e100, 1e-150
# Numbers in a tile: a handful of such arrays stay in the cache, which is faster than long rows.
_TILE = 1 << 15
# Truncation of the series: relative tail allowed, and terms tried at most.
_TAIL, _MAX_TERMS = 1e-10, 4096

# A `state` holds what V needs to know of each input: its first entry is the variance q. `(c, state, state') → V, V̇`.
State = np.ndarray
Dual = Callable[[np.ndarray, State, State], tuple[np.ndarray, np.ndarray]]


def _determinant(c: np.ndarray, q1: np.ndarray, q2: np.ndarray) -> np.ndarray:
    """q1 q2 - c², with 0 for what is rounding."""
    product = q1 * q2
    result = product - c * c
    product *= _SAME
    result[result < product] = 0.0
    return result


def _arctan(c: np.ndarray, root: np.ndarray) -> np.ndarray:
    """arctan(c/root), ±π/2 for root = 0 (0 if c = 0, too); several times faster than np.arctan2."""
    result = root + _NEVER_ZERO
    np.divide(c, result, out=result)
    return np.arctan(result, out=result)


def _rectifier(slope: float) -> Dual:
    """max(x, slope x): Cho & Saul (2009), eqs. 3 and 6 (n = 0, 1); φ(x) = slope x + (1 - slope) relu(x)."""

    def dual(c: np.ndarray, s1: State, s2: State) -> tuple[np.ndarray, np.ndarray]:
        root = np.sqrt(_determinant(c, s1[0], s2[0]))  # √(q q') sin θ
        derivative = _arctan(c, root)  # π/2 - θ, without an arccos's loss of digits near ±1
        derivative /= 2 * np.pi
        derivative += 0.25
        root /= 2 * np.pi
        root += c * derivative
        if slope != 0:
            root *= (1 - slope) ** 2
            root += slope * c
            derivative *= (1 - slope) ** 2
            derivative += slope
        return root, derivative

    return dual


def _erf(c: np.ndarray, s1: State, s2: State) -> tuple[np.ndarray, np.ndarray]:
    """Williams (1997), eq. 11: (2/π) arcsin(2c/√((1 + 2q)(1 + 2q'))), written with an arctan."""
    q1, q2 = s1[0], s2[0]
    root = np.sqrt(4 * _determinant(c, q1, q2) + (1 + 2 * (q1 + q2)))
    return 2 / np.pi * _arctan(2 * c, root), 4 / np.pi / root


def _gelu(c: np.ndarray, s1: State, s2: State) -> tuple[np.ndarray, np.ndarray]:
    """x P(ξ < x), by integrating E[u v 1(ξ < u) 1(η < v)] by parts (cf. Tsuchida et al., arXiv:2002.08517)."""
    q1, q2 = s1[0], s2[0]
    determinant = _determinant(c, q1, q2)
    square = determinant + (1 + q1 + q2)  # (1 + q)(1 + q') - c²
    root = np.sqrt(square)
    orthant = 0.25 + _arctan(c, root) / (2 * np.pi)
    weights = 1 / (1 + q1) + 1 / (1 + q2)
    bracket = determinant + c * c * weights
    root *= 2 * np.pi
    return c * orthant + bracket / root, orthant + c * (2 * weights - 1 + bracket / square) / root


class _Series:
    """Mehler's formula: `V̇ = Σ_k d_k(q) d_k(q') ρ^k`, with d_k the Hermite coefficients of z → φ'(√q z).

    For `φ = even + constant·x + odd`, of which one is zero: `slope` is φ' - constant, of the given parity, analytic for
    `|Im x| < strip`, so that `|d_k| ~ exp(-strip √(2k/q))`. A state is q, the mean of φ, and the d_k of that parity.
    """

    def __init__(self, slope: Callable, even: Callable, parity: int, constant: float, strip: float) -> None:
        self.slope, self.even, self.parity, self.constant, self.strip = slope, even, parity, constant, strip

    def state(self, q: np.ndarray, terms: int | None) -> State:
        """The state (2 + terms, *q.shape); with None, as many terms as the largest variance needs."""
        tried = terms or 16
        while terms is None:
            largest, tail = self._coefficients(q.max(keepdims=True), tried)
            if tail <= _TAIL:
                squares = largest[2:].ravel() ** 2
                beyond = tail * squares.sum() + np.cumsum(squares[::-1])[::-1]  # what is lost without terms j, j + 1, …
                terms = max(1, int((beyond > _TAIL * squares.sum()).sum()))
            elif tried == _MAX_TERMS:
                raise InputError(
                    f"inputs: expected smaller pre-activations for this activation, got a variance of {q.max():.3g} "
                    f"(relative error {tail:.1g} after {tried} terms); scale the inputs, or choose `terms`"
                )
            tried *= 2
        return self._coefficients(q, terms)[0]

    def _coefficients(self, q: np.ndarray, terms: int) -> tuple[State, float]:
        """The state, and the part of E (φ' - constant)² that its terms miss (the largest over q)."""
        s = np.sqrt(q.ravel())
        # Trapezoidal rule on z >= 0, exact to rounding once 2π/h exceeds the integrand's frequencies: up to √k from the
        # polynomial, and 37/strip (37 = -log of rounding) from φ'. Beyond z = 13 the weight is below rounding.
        h = 2 * np.pi / (np.sqrt(2 * terms + 2) + 37 * max(s.max(), 1.0) / self.strip)
        z = h * np.arange(1 + int(13 / h))
        before, now = np.zeros_like(z), np.exp(-(z**2) / 4) / (2 * np.pi) ** 0.25
        weight = 2 * h * now
        weight[0] /= 2
        density = weight * now
        functions = np.empty((terms, z.size))
        for k in range(2 * terms):  # He_k(z) exp(-z²/4)/√k!, which neither over- nor underflows
            if k % 2 == self.parity:
                functions[k // 2] = now * weight
            before, now = now, (z * now - np.sqrt(k) * before) / np.sqrt(k + 1)
        result, tail = np.empty((2 + terms, s.size)), 0.0
        result[0] = q.ravel()
        for i in range(0, s.size, 2048):
            x = np.multiply.outer(z, s[i : i + 2048])
            slope = self.slope(x)
            result[1, i : i + 2048] = density @ self.even(x)
            result[2:, i : i + 2048] = functions @ slope
            total = density @ slope**2
            missed = total - (result[2:, i : i + 2048] ** 2).sum(0)
            tail = max(tail, float(np.divide(missed, total, out=missed, where=total > 0).max()))
        return result.reshape(-1, *q.shape), tail

    def __call__(self, c: np.ndarray, s1: State, s2: State) -> tuple[np.ndarray, np.ndarray]:
        scale = np.sqrt(s1[0] * s2[0])
        rho = np.divide(c, scale, out=np.zeros_like(c), where=scale > 0)
        square = rho * rho
        value, derivative, term = (np.zeros_like(c) for _ in range(3))
        for j in reversed(range(len(s1) - 2)):
            np.multiply(s1[2 + j], s2[2 + j], out=term)
            derivative *= square
            derivative += term
            term *= 1 / (2 * j + 1 + self.parity)  # V = ∫ V̇ dc
            value *= square
            value += term
        if self.parity:
            value *= rho
            derivative *= rho
        derivative += self.constant**2
        value += self.constant**2
        value *= c
        value += s1[1] * s2[1]
        return value, derivative


def _silu_slope(x: np.ndarray) -> np.ndarray:
    t = np.tanh(x / 2) / 2
    return t + x * (0.25 - t * t)


_DUALS: dict[str, Dual] = {
    "relu": _rectifier(0.0),
    "leaky_relu": _rectifier(0.01),
    "erf": _erf,
    "gelu": _gelu,
    "tanh": _Series(lambda x: 1 - np.tanh(x) ** 2, np.zeros_like, 0, 0.0, np.pi / 2),
    "silu": _Series(_silu_slope, lambda x: x * np.tanh(x / 2) / 2, 1, 0.5, np.pi),
    "linear": lambda c, s1, s2: (c, np.ones_like(c)),
}


def analytic_ntk(
    x1: np.ndarray,
    x2: np.ndarray | None = None,
    *,
    depth: int = 1,
    activation: str = "relu",
    weight_std: float = 1.0,
    bias_std: float = 1.0,
    kind: str = "ntk",
    slope: float = 0.01,
    terms: int | None = None,
) -> np.ndarray:
    """The limit of `empirical_ntk(MLP(width, depth, activation, ...), x1, x2)` for width → ∞.

    Parameters
    ----------
    x1, x2 : inputs (n1, d) and (n2, d); `x2=None` means `x1`, and gives a kernel that is symmetric to the last bit.
    depth : number of hidden layers; 0 is the linear model, `σ_w² x·x'/d`.
    activation : one of `networks.ACTIVATIONS`, or "leaky_relu" with `slope` (its factor for negative numbers).
    weight_std, bias_std : σ_w > 0 and σ_b ≥ 0.
    kind : "ntk", or "nngp" for the covariance of the network's outputs at initialisation.
    terms : terms of the series of `tanh` and `silu`; None: enough for errors of 1e-10 (see the module).

    Returns
    -------
    (n1, n2) float64; beside this array only a tile of it is held. Raises InputError for values out of range.
    """
    network = _Network(depth, activation, weight_std, bias_std, kind, slope, terms)
    x1 = array("x1", x1, ndim=2)
    x2 = x1 if x2 is None else array("x2", x2, ndim=2, shape=(None, x1.shape[1]))
    same = np.array_equal(x1, x2)
    kernel = x1 @ (x1 if same else x2).T
    kernel /= x1.shape[1]
    # Of one array the variances are the diagonal itself: then correlations are 1 there, whatever the rounding.
    q = [kernel.diagonal().copy()] if same else [np.einsum("id,id->i", x, x) / x.shape[1] for x in (x1, x2)]
    return network.fill(kernel, q, lambda rows, columns: kernel[rows, columns], same)


def analytic_cntk(
    x1: np.ndarray,
    x2: np.ndarray | None = None,
    *,
    depth: int = 1,
    kernel_size: int = 3,
    activation: str = "relu",
    weight_std: float = 1.0,
    bias_std: float = 1.0,
    kind: str = "ntk",
    slope: float = 0.01,
    terms: int | None = None,
) -> np.ndarray:
    """The same for convolutional networks with infinitely many channels and no pooling (CNTK-V; Arora et al., 2019).

    `depth` convolutions of odd `kernel_size` with zero padding that keeps the image size and one bias per channel, then
    a linear read-out of all channels and positions. Weights are scaled by `σ_w/√(channels · kernel_size²)`, at borders
    too, and in the read-out by `σ_w/√(channels · height · width)`. `x1`, `x2` are images (n, channels, height, width),
    everything else is as in `analytic_ntk`; it takes `height · width` times as long.
    """
    patch = integer("kernel_size", kernel_size, minimum=1)
    if patch % 2 == 0:
        raise InputError(f"kernel_size: expected an odd integer, got {kernel_size}")
    network = _Network(depth, activation, weight_std, bias_std, kind, slope, terms, patch)
    x1 = array("x1", x1, ndim=4)
    x2 = x1 if x2 is None else array("x2", x2, ndim=4, shape=(None, *x1.shape[1:]))
    same = np.array_equal(x1, x2)
    q = [np.einsum("icxy,icxy->ixy", x, x) / x.shape[1] for x in ([x1] if same else [x1, x2])]

    def covariance(rows: slice, columns: slice) -> np.ndarray:
        return np.einsum("icxy,jcxy->ijxy", x1[rows], x2[columns]) / x1.shape[1]

    return network.fill(np.empty((len(x1), len(x2))), q, covariance, same)


class _Network:
    """The recursion for networks whose every position sees itself (fully connected: one position) or a patch."""

    def __init__(self, depth, activation, weight_std, bias_std, kind, slope, terms, patch=1) -> None:
        self.depth = integer("depth", depth)
        self.dual = _DUALS[choice("activation", activation, _DUALS)]
        slope = number("slope", slope)
        if activation == "leaky_relu":
            self.dual = _rectifier(slope)
        weight_std, bias_std = number("weight_std", weight_std), number("bias_std", bias_std, minimum=0.0)
        if weight_std <= 0:
            raise InputError(f"weight_std: expected a number > 0, got {weight_std}")
        self.weight, self.bias = weight_std * weight_std, bias_std * bias_std
        self.tangent = choice("kind", kind, ("ntk", "nngp")) == "ntk"
        self.terms = None if terms is None else integer("terms", terms, minimum=1)
        self.patch = patch

    def fill(self, kernel: np.ndarray, q: list[np.ndarray], covariance: Callable, same: bool) -> np.ndarray:
        """Write the kernel by tiles, given variances (n, ...) for each side and covariances (n1, n2, ...)."""
        states = self._states(np.concatenate(q))
        firsts, seconds = [s[:, : len(kernel)] for s in states], [s[:, -kernel.shape[1] :] for s in states]
        edge = max(1, int((_TILE / q[0][0].size) ** 0.5))
        for i in range(0, kernel.shape[0], edge):
            for j in range(i if same else 0, kernel.shape[1], edge):
                rows, columns = slice(i, i + edge), slice(j, j + edge)
                pairs = [(s1[:, rows, None], s2[:, None, columns]) for s1, s2 in zip(firsts, seconds, strict=True)]
                tile = self._tile(covariance(rows, columns), pairs)
                if same and i == j:
                    tile = np.triu(tile) + np.triu(tile, 1).T
                kernel[rows, columns] = tile
                if same and i != j:
                    kernel[columns, rows] = tile.T
        if not np.isfinite(kernel).all():
            raise InputError("inputs: the kernel has entries beyond the floats; scale the inputs or weight_std")
        return kernel

    def _states(self, q: np.ndarray) -> list[State]:
        """The state of all inputs in each hidden layer."""
        states = []
        for _ in range(self.depth):
            q = self.weight * self._patch_mean(q) + self.bias
            if not ((q == 0) | ((q >= _SMALLEST) & (q <= _LARGEST))).all():
                raise InputError(
                    f"inputs: expected pre-activations with variances from {_SMALLEST:g} to {_LARGEST:g} in every "
                    f"layer, got {q.min():.3g} to {q.max():.3g}; scale the inputs or weight_std"
                )
            states.append(self.dual.state(q, self.terms) if isinstance(self.dual, _Series) else q[None])
            q = self.dual(q, states[-1], states[-1])[0]
        return states

    def _tile(self, c: np.ndarray, pairs: list[tuple[State, State]]) -> np.ndarray:
        theta = np.zeros_like(c)
        for s1, s2 in pairs:
            c = self.weight * self._patch_mean(c) + self.bias
            if self.tangent:
                theta = self.weight * self._patch_mean(theta) + c
            c, derivative = self.dual(c, s1, s2)
            theta *= derivative
        c = self.weight * (c + theta if self.tangent and pairs else c)
        return c.mean(axis=tuple(range(2, c.ndim)))

    def _patch_mean(self, a: np.ndarray) -> np.ndarray:
        """Mean over the patch around each position (last two axes), with zeros beyond the border."""
        for axis in (-2, -1) if self.patch > 1 else ():
            a, total = np.moveaxis(a, axis, -1), np.moveaxis(a.copy(), axis, -1)
            for k in range(1, self.patch // 2 + 1):
                total[..., k:] += a[..., :-k]
                total[..., :-k] += a[..., k:]
            a = np.moveaxis(total, -1, axis) / self.patch
        return a
