"""Networks in NTK and in standard parametrisation, with their tangent kernels (`ntk`) and curvature.

May import: common. A new architecture is a module here, offered below; a new layer's kernel goes into `ntk.layers`.
"""

from sgdsim.common.rooms import listing
from sgdsim.networks.mlp import ACTIVATIONS, MLP, NTKLinear, StandardMLP, described

__dir__ = listing(__name__)

__all__ = ["ACTIVATIONS", "MLP", "NTKLinear", "StandardMLP", "described"]
