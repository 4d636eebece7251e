"""The spectrum of a network's Hessian along a run of mini-batch SGD (Ghorbani, Krishnan & Xiao, ICML 2019,
arXiv:1901.10159): density, outliers, and how much of the gradient lies in their span.

`looks` is about one Hessian, `training` about the run.
"""

from sgdsim.common.rooms import listing
from sgdsim.studies.hessians.looks import HessianAt, count_outliers
from sgdsim.studies.hessians.training import HessianSpectra, hessian_spectra

__dir__ = listing(__name__)

__all__ = ["HessianAt", "HessianSpectra", "count_outliers", "hessian_spectra"]
