"""Networks in NTK and in standard parametrisation, their tangent kernels and curvature."""

from sgdsim.networks.mlp import ACTIVATIONS, MLP, NTKLinear, StandardMLP

__all__ = ["ACTIVATIONS", "MLP", "NTKLinear", "StandardMLP"]
