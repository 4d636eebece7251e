"""Tangent kernels: empirical (any torch module), as an operator, and of infinitely wide networks.

Part of the room `networks`, whose imports it may have. A new layer's kernel goes into `layers`.
"""

from sgdsim.common.rooms import listing
from sgdsim.networks.ntk.analytic import analytic_cntk, analytic_ntk
from sgdsim.networks.ntk.empirical import contraction_plan, empirical_ntk
from sgdsim.networks.ntk.functions import evaluate
from sgdsim.networks.ntk.modules import check_module, with_gradients
from sgdsim.networks.ntk.operator import along_parameters, ntk_operator

__dir__ = listing(__name__)

__all__ = [
    "along_parameters",
    "analytic_cntk",
    "analytic_ntk",
    "check_module",
    "contraction_plan",
    "empirical_ntk",
    "evaluate",
    "ntk_operator",
    "with_gradients",
]
