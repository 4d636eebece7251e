"""The four regimes: how one and the same dynamics is followed."""

from sgdsim.regimes.averaged import BatchAveraged
from sgdsim.regimes.base import Regime, parse
from sgdsim.regimes.diagonal import SpectralDiagonal
from sgdsim.regimes.network import RealNetwork
from sgdsim.regimes.sampled import SampledLinearized

__all__ = ["BatchAveraged", "RealNetwork", "Regime", "SampledLinearized", "SpectralDiagonal", "parse"]
