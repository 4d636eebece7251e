"""The problem that SGD solves, and the conventions that every module keeps.

May import: common, algorithm, datasets, networks. A new kind of problem is a module here, with a subclass of
`base.Problem` where `QuadraticProblem` does not do, and an entry in `kinds`, by which the command line asks for it and
files give it back; Lanczos quadratures and fits have modules of their own.

Conventions
-----------
* Residual `r_i = f(x_i) − y_i` on N training points; loss `L = ‖r‖²/(2N)`; `loss[0]` is before any update.
* `K̂ = Θ/λ_max(Θ)` with Θ the tangent kernel; eigenvalues descending, `λ_1 = 1`.
* The learning rate α is in units of `1/λ_max`: `torch.optim.SGD(lr=α·N/λ_max(Θ))` on `½·mean((f − y)²)` is the same
  step. `QuadraticProblem.torch_lr` is the only place where this is converted.
* Weight decay ω is torch's on that loss, ωN/λ_max(Θ) in units of the curvature. With `J w_0` known, of a network, it
  pulls to parameters 0, where the linear model's residual is `r_0 − J w_0`; else to the start, as though `w_0 = 0`.
* Heavy ball in velocity form, `v ← βv − αg`, `w ← w + v`, in every regime.
* `c_k = a_k²` with signed coefficients `a_k = ⟨u_k, r_0⟩`; `s = Σ c_k`, so `L = s/(2N)`.
* γ: strength of the sampling noise (`sgdsim.algorithm.samplers.noise_factor`); τ: closure parameter of the
  spectral-diagonal regime; ν, κ: exponents of `λ_k ~ k^{−ν}` and `Σ_{l≥k} c_l ~ k^{−κ}`; `ζ = κ/ν`.
* Where N is infinite, `c_k` is the mean over all points, `L = s/2` and γ = 1/b.
* float64, except inside the real network, where the dtype is a parameter.

[VKY] in the docstrings: M. Velikanov, D. Kuznedelev, D. Yarotsky, *A view of mini-batch SGD via generating functions:
conditions of convergence, phase transitions, benefit from negative momenta*, ICLR 2023, arXiv:2206.11124.
"""

from sgdsim.common.rooms import listing
from sgdsim.problem.base import Population, Problem
from sgdsim.problem.network import NetworkProblem
from sgdsim.problem.quadratic import QuadraticProblem
from sgdsim.problem.transfer import TestPoints

__dir__ = listing(__name__)

__all__ = ["NetworkProblem", "Population", "Problem", "QuadraticProblem", "TestPoints"]
