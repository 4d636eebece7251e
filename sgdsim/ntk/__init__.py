"""Tangent kernels: empirical (any torch module), as an operator, and of infinitely wide networks."""

from sgdsim.ntk.analytic import analytic_cntk, analytic_ntk
from sgdsim.ntk.empirical import contraction_plan, empirical_ntk
from sgdsim.ntk.modules import check_module, evaluate, with_gradients
from sgdsim.ntk.operator import ntk_operator

__all__ = [
    "analytic_cntk",
    "analytic_ntk",
    "check_module",
    "contraction_plan",
    "empirical_ntk",
    "evaluate",
    "ntk_operator",
    "with_gradients",
]
