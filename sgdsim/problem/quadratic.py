"""A quadratic problem in its eigenbasis. The conventions are those of `sgdsim.problem`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from sgdsim.common.checks import InputError, array, freeze, frozen_state, integer, json_object, number, own_array
from sgdsim.common.identity import digest, made_once
from sgdsim.problem import outputs, population, power_modes
from sgdsim.problem.base import Population, Problem
from sgdsim.problem.spectrum import Spectrum
from sgdsim.problem.transfer import TestPoints

if TYPE_CHECKING:
    from sgdsim.problem.lanczos import Operator, SpectralMeasure


_LARGEST = 1e145  # of a coefficient: N squares sum to a float, and so do losses 10¹⁰ times as large


@dataclass(frozen=True, eq=False, repr=False)
class QuadraticProblem(Problem):
    """A quadratic problem in its eigenbasis: all that the sampled, averaged and diagonal regimes need.

    Parameters
    ----------
    spectrum : the kernel's spectrum.
    coefficients : (modes,) signed `a_k = ⟨u_k, r_0⟩`; where the spectrum has a multiplicity, `a_k² = c_k` is the sum
        over the mode's eigenvalues. One mode for each of n eigenvalues otherwise.
    test : how test residuals follow the training ones, or None.
    description : JSON-able facts that say how the problem was made.
    basis_seed : where the spectrum has no eigenvectors, the seed of the random orthogonal ones made on demand.
    population : of a population of Gaussian points, of which every step draws new ones, what no training removes; n is
        infinite then. None: a fixed set of points.
    n_outputs : C. With a spectrum of `outputs` = C each mode is of all outputs together.
    signed : (modes, C) where C outputs share the kernel: signed `a_ko = ⟨u_k, r_0 of output o⟩`, whose squares sum to
        `a_k² = c_k`, `coefficients` squared. None: there is one output, or each mode is of all.
    loss_offset : of the quadratic model of another loss (`sgdsim.problem.cross_entropy`), what that has beside
        `‖r‖²/(2N)`. Runs show the sum; all else here, and theory, is of the squares: the loss above the offset.
    origin : as `signed` where that is given, else as `coefficients`: those of the residual of the linear model with all
        its parameters at 0, `r_0 − J w_0`, to where weight decay pulls; test points then have theirs. None: not known,
        and weight decay pulls to the start, as for a linear model that begins at 0. (`NetworkProblem` knows it.)

    Arrays are copied and read-only, so that nothing that is computed from them once can become untrue.
    """

    spectrum: Spectrum
    coefficients: np.ndarray
    test: TestPoints | None = None
    description: dict[str, Any] = field(default_factory=dict)
    basis_seed: int | None = None
    population: Population | None = None  # type: ignore[assignment]  # read-only, as all of it
    n_outputs: int = 1  # type: ignore[assignment]  # read-only
    signed: np.ndarray | None = None
    loss_offset: float = 0.0  # type: ignore[assignment]  # read-only
    origin: np.ndarray | None = None
    __setstate__ = frozen_state

    def __post_init__(self) -> None:
        coefficients = own_array("coefficients", self.coefficients, ndim=1, shape=(self.spectrum.n_modes,))
        largest = np.abs(coefficients).max()
        if largest > _LARGEST:
            raise InputError(
                f"residual: expected values up to {_LARGEST:g}, whose squares are floats, got {largest:.3g}"
            )
        object.__setattr__(self, "coefficients", coefficients)
        object.__setattr__(self, "description", json_object("description", self.description))
        if self.multiplicity is not None and (self.test is not None or self.basis_seed is not None):
            raise InputError("problem: expected no test points and no basis_seed where modes have a multiplicity")
        object.__setattr__(self, "n_outputs", integer("n_outputs", self.n_outputs, minimum=1))
        if self.spectrum.outputs not in (1, self.n_outputs):
            raise InputError(f"n_outputs: expected the spectrum's {self.spectrum.outputs}, got {self.n_outputs}")
        object.__setattr__(self, "loss_offset", number("loss_offset", self.loss_offset))
        if self.signed is not None:
            shape = (self.spectrum.n_modes, self.n_outputs)
            object.__setattr__(self, "signed", own_array("signed", self.signed, ndim=2, shape=shape))
        self._check_outputs()
        self._check_origin()
        if self.population is not None and self.test is not None:
            raise InputError("problem: expected no test points of a population, whose losses are those on new points")

    def _check_origin(self) -> None:
        """Keeps a copy; InputError for another shape, where modes have a multiplicity, and unless test points have one
        too."""
        if self.test is not None and (self.origin is None) != (self.test.origin is None):
            raise InputError("origin: expected one of training and test points, got one of them only")
        if self.origin is None:
            return
        if self.multiplicity is not None:
            raise InputError("origin: expected none where modes have a multiplicity")
        shape = self.coefficients.shape if self.signed is None else self.signed.shape
        object.__setattr__(self, "origin", own_array("origin", self.origin, ndim=len(shape), shape=shape))

    def _check_outputs(self) -> None:
        """InputError unless several outputs either share the kernel or have one over all of them."""
        if (self.n_outputs > 1) != (self.signed is not None or self.spectrum.outputs > 1) and self.multiplicity is None:
            raise InputError("n_outputs: expected signed coefficients, or a spectrum of as many outputs, where several")
        if self.signed is None:
            return
        sums = (self.signed**2).sum(1)
        if self.spectrum.outputs > 1 or not np.allclose(sums, self.coefficients**2, rtol=1e-9, atol=1e-12 * sums.max()):
            raise InputError(
                "signed: expected squares that sum to those of coefficients, of outputs that share a kernel"
            )

    def facts(self) -> dict[str, object]:
        """Its title where it was given one, and its sizes."""
        modes = {} if self.n_modes == self.n else {"n_modes": self.n_modes}
        test = {} if self.test is None else {"n_test": len(self.test.residual)}
        return super().facts() | modes | test

    @classmethod
    def power_law(cls, n: float, nu: float, kappa: float, lambda_min: float = 0.0, seed: int = 0) -> QuadraticProblem:
        """`λ_k = λ_min + (1 − λ_min) k^{−ν}` and `c_k ∝ k^{−κ−1}` summing to 1, k = 1…n ([VKY] sec. 4).

        Up to n = 10⁷ every eigenvalue is a mode; a regime that asks for eigenvectors gets a random orthogonal basis
        decided by `seed`. Beyond, and for `float("inf")`, most are in bins (module power_modes), one or two thousand
        modes with a multiplicity: for the diagonal regime, whose losses are those of all n to 10⁻⁹, and its theory.
        For n = ∞ the loss is `½ Σ c_k`, ½ at the start, and γ = 1/b: the limit of N times the loss at N.

        Raises
        ------
        InputError : n < 1, ν ≤ 0, κ ≤ 0, or λ_min outside [0, 1). For n = ∞: ν ≤ 1 or λ_min > 0, where SGD with noise
            diverges at every learning rate.

        >>> QuadraticProblem.power_law(n=4, nu=2.0, kappa=1.0).eigenvalues
        array([1.    , 0.25  , 0.1111, 0.0625])
        """
        made = power_modes.made(n, nu, kappa, lambda_min, seed)
        return cls(made.spectrum, made.coefficients, description=made.facts, basis_seed=made.basis_seed)

    @classmethod
    def from_kernel(
        cls,
        kernel: np.ndarray,
        residual: np.ndarray,
        *,
        cross_kernel: np.ndarray | None = None,
        test_residual: np.ndarray | None = None,
        description: dict[str, Any] | None = None,
    ) -> QuadraticProblem:
        """From a kernel Θ (n, n) and the initial residual `r_0 = f_0 − y` (n,) on the training points.

        With Θ(test, train) `cross_kernel` (m, n) and `test_residual` (m,) the test loss can be followed too.

        With C outputs residuals are (n, C) and (m, C), and kernels either those that all outputs share, as of a network
        of infinite width, or (nC, nC) and (mC, nC), outputs of a point adjacent, or (n, n, C, C) and (m, n, C, C), as
        `networks.ntk.empirical_ntk` gives them. The loss is summed over outputs, `‖r‖²/(2n)`.

        Raises
        ------
        InputError : a kernel that is not square, symmetric, finite and positive semidefinite, or sizes that differ.
        """
        made = outputs.decomposed(kernel, residual, cross_kernel, test_residual)
        return cls(
            made.spectrum,
            made.coefficients,
            made.test,
            description or made.facts,
            n_outputs=made.n_outputs,
            signed=made.signed,
        )

    @classmethod
    def from_operator(
        cls,
        operator: Operator,
        residual: np.ndarray,
        *,
        n_lanczos: int = 80,
        n_probes: int = 10,
        n_top: int = 20,
        seed: int = 0,
        description: dict[str, Any] | None = None,
    ) -> QuadraticProblem:
        """From products with a kernel Θ that is too large to form (`sgdsim.networks.ntk.ntk_operator`): for the
        diagonal regime and its theory. The other regimes refuse it.

        The spectrum is `Spectrum.from_operator`'s. The error coefficients come from `n_lanczos` steps started at the
        initial residual (n,), or (n, C) with an operator (nC, nC) over all C outputs, those of a point adjacent. They
        have no statistical error: the full-batch loss is exact for t ≤ n_lanczos − 1. Late losses depend on eigenvalues
        that so few products do not show: every loss of the diagonal regime has an error estimate by `alternatives`.
        Raises InputError as `Spectrum.from_operator` does, and for sizes that differ.
        """
        from sgdsim.problem import lanczos

        residual = array("residual", residual, ndim=2 if np.ndim(residual) == 2 else 1)
        have, want = np.shape(operator), (residual.size, residual.size)
        if have != want:
            raise InputError(f"operator: expected shape {want} to match the residual, got {have}")
        spectrum = Spectrum.from_operator(operator, n_lanczos=n_lanczos, n_probes=n_probes, n_top=n_top, seed=seed)
        if residual.ndim == 2:
            spectrum = replace(spectrum, outputs=residual.shape[1])
        measure = lanczos.spectral_measure(operator, residual.ravel(), n_lanczos)
        return cls.from_measures(spectrum, measure, description)

    @classmethod
    def from_measures(
        cls, spectrum: Spectrum, measure: SpectralMeasure, description: dict[str, Any] | None = None
    ) -> QuadraticProblem:
        """From a spectrum and the spectral measure of the initial residual, `Σ_k c_k δ(λ − λ_k)` in the kernel's units.

        Eigenvectors of `spectrum` are dropped. Raises InputError for nodes outside [0, λ_max] by more than rounding.
        """
        joined, c = spectrum.joined(measure)
        facts = {"kind": "matrix-free", "title": f"matrix-free kernel of {joined.n} points", "n": joined.n}
        return cls(joined, np.sqrt(c), description=description or facts, n_outputs=joined.outputs)

    @classmethod
    def from_population(
        cls, eigenvalues: np.ndarray, weights: np.ndarray, residual_risk: float = 0.0, label_noise: float = 0.0
    ) -> QuadraticProblem:
        """A population of Gaussian points, of which every step draws new ones: for `sampling="one-pass"` alone.

        With features `x ~ N(0, H)`, labels `⟨w*, x⟩ + e + ε` and a model `⟨w, x⟩` the loss is the excess risk
        `½ E⟨w − w*, x⟩² = ½ Σ_k c_k`, c_k = λ_k(H) (w − w*)_k² in H's eigenbasis: not divided by a number of points.
        The diagonal regime with τ = −1 follows its expectation exactly, the sampled regime draws. n is infinite.

        Parameters
        ----------
        eigenvalues : (modes,) λ_k(H) ≥ 0, in any order; learning rates are in units of 1/λ_max(H).
        weights : (modes,) c_k at the start, `λ_k(H) (w_0 − w*)_k²`: ½ their sum is the loss at the start.
        residual_risk : ½ E e² of what no linear function of the features explains.
        label_noise : standard deviation σ of ε.

        The risk is the loss and `population.floor`, residual_risk + σ²/2, which no training removes; both parts of it
        are noise of the gradients, of variance 2·residual_risk + σ² (independent of x, as in every Gaussian model).

        Raises
        ------
        InputError : negative numbers, or a weight where the eigenvalue is 0 (a part of residual_risk).

        >>> problem = QuadraticProblem.from_population([2.0, 1.0], [1.0, 0.25], residual_risk=0.1)
        >>> problem.initial_loss, problem.population.floor, problem.n
        (0.625, 0.1, inf)
        """
        spectrum, coefficients = population.modes(eigenvalues, weights)
        rest = Population(residual_risk, label_noise)
        return cls(spectrum, coefficients, description=population.facts(coefficients.size, rest), population=rest)

    @property
    def quadratic(self) -> QuadraticProblem:  # type: ignore[override]  # read-only, as all of it
        """Itself; so that every problem has a `.quadratic`."""
        return self

    @property
    def n(self) -> int:
        """Number of training points N; `math.inf` of a population."""
        return self.spectrum.n if self.population is None else cast(int, math.inf)

    @property
    def loss(self) -> str:
        """The loss that it is of: "squared", or that which its description says it models."""
        return str(self.description.get("loss", "another")) if self.loss_offset else "squared"

    @property
    def share(self) -> float:
        """1/C where each mode is of all C outputs, and has on average so much of a point's noise; else 1."""
        return 1.0 / self.spectrum.outputs

    def output(self, index: int) -> QuadraticProblem:
        """One of the outputs that share the kernel, as a problem of its own; their losses add up."""
        if self.signed is None:
            if self.n_outputs > 1:
                raise InputError("output: expected outputs that share one kernel, got a kernel over all outputs")
            return self
        origin = None if self.origin is None else self.origin[:, index]
        test, points = None, self.test
        if points is not None:
            own = None if points.origin is None else points.origin[:, index]
            test = TestPoints(points.residual[:, index], points.transfer, origin=own)
        description = self.description | {"output": index}
        return QuadraticProblem(self.spectrum, self.signed[:, index], test, description, self.basis_seed, origin=origin)

    def by_output(self) -> tuple[QuadraticProblem, ...]:
        """The outputs that share the kernel, a problem each; itself alone where there is one output.

        InputError as `output`.
        """
        return tuple(self.output(index) for index in range(self.n_outputs))

    @property
    def exponents(self) -> tuple[float, float] | None:
        """(ν, κ) of the infinite power law that the spectrum was made as the beginning of; None where it was not."""
        made = self.description
        if made.get("kind") != "power_law" or made.get("lambda_min"):
            return None
        return float(made["nu"]), float(made["kappa"])

    @property
    def eigenvalues(self) -> np.ndarray:
        """λ_k, (modes,), descending from 1."""
        return self.spectrum.eigenvalues

    @property
    def multiplicity(self) -> np.ndarray | None:
        """(modes,) for how many of the N eigenvalues each mode stands, None: for one; see `Spectrum`."""
        return self.spectrum.multiplicity

    @made_once
    def alternatives(self) -> tuple[QuadraticProblem, ...]:
        """Problems that fit what Lanczos quadrature tells as well as this one; empty where it did not make this. See
        `sgdsim.problem.alternatives`."""
        from sgdsim.problem.alternatives import alternatives

        return alternatives(self)

    def compress(self, tolerance: float = 1e-10) -> QuadraticProblem:
        """The same with fewer modes, each for many eigenvalues; see `sgdsim.problem.compression.compress`."""
        from sgdsim.problem.compression import compress

        return compress(self, tolerance)

    @property
    def has_vectors(self) -> bool:
        """Whether it has eigenvectors, over the points or over all outputs of them: an exact threshold."""
        return self.spectrum.eigenvectors is not None or self.basis_seed is not None

    @property
    def has_basis(self) -> bool:
        """Whether it has eigenvectors over the points, its own or random ones."""
        own = self.spectrum.eigenvectors is not None and self.spectrum.outputs == 1
        return own or self.basis_seed is not None

    @made_once
    def eigenvectors(self) -> np.ndarray:
        """Eigenvectors in columns, (n, n); a seeded random orthogonal basis where the problem has none of its own.

        InputError where there are none, and where they are of all outputs of all points (`spectrum.eigenvectors`).
        """
        if self.spectrum.outputs > 1:
            raise InputError(
                f"problem: expected one kernel over the points, got one over their {self.n_outputs} outputs, of which "
                "this is not known; use the network, sampled, averaged or diagonal regime, and levels full-batch and "
                "spectral-diagonal"
            )
        if self.spectrum.eigenvectors is not None:
            return self.spectrum.eigenvectors
        if self.multiplicity is not None:
            raise InputError(
                f"problem: expected eigenvectors, got a spectrum known by {self.spectrum.known_by} alone; use the "
                "diagonal regime, or build the problem from its kernel matrix"
            )
        if self.basis_seed is None:
            raise InputError("problem: expected eigenvectors (or a basis_seed to draw some), got eigenvalues only")
        gaussian = np.random.default_rng(self.basis_seed).standard_normal((self.n, self.n))
        q, r = np.linalg.qr(gaussian)
        uniform = q * np.sign(np.diag(r))  # with R's signs taken out, Q is uniformly distributed
        return freeze(np.ascontiguousarray(uniform))

    @made_once
    def kernel(self) -> np.ndarray:
        """`K̂ = U diag(λ) Uᵀ`, (n, n), exactly symmetric; (nC, nC) where it is over all C outputs."""
        u = self._vectors
        kernel = (u * self.eigenvalues) @ u.T
        return freeze((kernel + kernel.T) * 0.5)

    @made_once
    def residual(self) -> np.ndarray:
        """`r_0 = U a`, (n,), or (n, C) of C outputs."""
        if self.signed is not None:
            return freeze(self.eigenvectors @ self.signed)
        flat = self._vectors @ self.coefficients
        return freeze(flat.reshape(self.n, -1) if self.n_outputs > 1 else flat)

    @property
    def _vectors(self) -> np.ndarray:
        """Eigenvectors, whatever they are over."""
        own = self.spectrum.eigenvectors
        return self.eigenvectors if own is None or self.spectrum.outputs == 1 else own

    @property
    def initial_loss(self) -> float:
        """`L_0 = Σ a_k² / (2N)`; runs of a model of another loss begin at this and its `loss_offset`."""
        return float(self.coefficients @ self.coefficients) / (2 * self.normaliser)

    @property
    def still(self) -> float:
        """`Σ a_k²` over the modes that never move: the part of the residual that no training removes.

        A decomposition's rounding mixes them with the slowest mode that moves by about N·eps/λ. What may come from
        that, a share of its square, is taken for 0, as it cannot be told; a mode given with λ = 0 counts as it is.
        """
        moving = self.spectrum.moving
        still = float(np.sum(self.coefficients[~moving] ** 2))
        if not still or self.spectrum.eigenvectors is None:
            return still
        mixed = self.spectrum.n_modes * np.finfo(float).eps / self.eigenvalues[moving].min()
        return still if still > mixed**2 * float(self.coefficients @ self.coefficients) else 0.0

    def with_origin(self, origin: np.ndarray, test_origin: np.ndarray | None) -> QuadraticProblem:
        """The same with the residual of the linear model at parameters 0, on training points (n,) or (n, C) and on test
        points (m,) or (m, C): to where weight decay pulls."""
        vectors = self._vectors if self.signed is None else self.eigenvectors
        origin = np.asarray(origin, dtype=np.float64)
        origin = vectors.T @ (origin if self.signed is not None else origin.ravel())
        test = self.test
        if test is not None and test_origin is not None:
            test = replace(test, origin=np.asarray(test_origin).reshape(test.residual.shape))
        return replace(self, origin=origin, test=test)

    @property
    def origin_squares(self) -> np.ndarray:
        """(modes,) the c_k of the point to which weight decay pulls: those of the start where no other is known."""
        if self.origin is None:
            return self.coefficients**2
        return self.origin**2 if self.origin.ndim == 1 else (self.origin**2).sum(1)

    @made_once
    def test_aside(self) -> np.ndarray:
        """What the way to `origin` moves test residuals by beyond what it moves training residuals by, as `test`'s."""
        points, start = self.test, self.coefficients if self.signed is None else self.signed
        assert points is not None  # see `_check_origin`
        if self.origin is None or points.origin is None:
            return freeze(np.zeros_like(points.residual))
        return freeze(points.origin - points.residual - points.transfer @ (self.origin - start))

    def test_loss(self, coefficients: np.ndarray, spread: float = 0.0, gone: float = 0.0) -> np.ndarray:
        """Test loss with residual `U a`, (1,) from a (n,) or (R,) from (R, n); `spread`: the mean square over test
        points of what is random about them, where a is a mean; `gone`: the share of the initial parameters that weight
        decay has taken away. InputError without test points, and where outputs share the kernel: add up those of each
        `output`."""
        if self.signed is not None:
            raise InputError("test_loss: expected one output, or modes of all; add up the losses of each output")
        if self.test is None:
            raise InputError("test_loss: expected a problem with test points, got one without")
        residuals = self.test.residuals(coefficients - self.coefficients)
        if gone and self.origin is not None:
            residuals = residuals + gone * self.test_aside
        square = (residuals**2).mean(-1)
        return np.atleast_1d((square * self.spectrum.outputs + spread) / 2)

    def torch_lr(self, lr: float) -> float:
        """The learning rate for `torch.optim.SGD` on `½·mean((f − y)²)` that equals α = `lr`: `α·N/λ_max(Θ)`."""
        return lr * self.normaliser / self.spectrum.scale

    @made_once
    def fingerprint(self) -> str:
        """SHA-256 over all that a result depends on: spectrum, basis, signed coefficients, test points. Equal problems
        that another type of CPU computed can differ in it, as they do in their last bits."""
        return digest(
            "quadratic", self.spectrum.scale, self.eigenvalues, self.multiplicity, self.coefficients,
            self.spectrum.eigenvectors, self.basis_seed, *(() if self.test is None else self.test.contents),
            *(() if self.spectrum.size is None else ("size", float(self.spectrum.size))),
            *(() if self.population is None else ("population", *vars(self.population).values())),
            *(() if self.n_outputs == 1 else ("outputs", self.n_outputs, self.signed)),
            *(("loss_offset", self.loss_offset) if self.loss_offset else ()),
            *(() if self.origin is None else ("origin", self.origin, self.test and self.test.origin)),
        )  # fmt: skip
