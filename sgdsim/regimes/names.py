"""The regime that a text names."""

from __future__ import annotations

from sgdsim.common.checks import InputError
from sgdsim.regimes.averaged import BatchAveraged
from sgdsim.regimes.base import Regime
from sgdsim.regimes.diagonal import SpectralDiagonal
from sgdsim.regimes.sampled import SampledLinearized


def parse(text: str) -> Regime:
    """The regime called `text`: network, network:loss=cross-entropy, sampled, averaged, diagonal (τ = 1) or
    diagonal:tau=VALUE."""
    head, _, tail = text.partition(":")
    plain = {"sampled": SampledLinearized, "averaged": BatchAveraged}
    key, equals, value = tail.partition("=")
    if head == "network" and (not tail or (key, equals) == ("loss", "=")):
        from sgdsim.regimes.network import RealNetwork  # loads torch

        return RealNetwork(loss=value) if tail else RealNetwork()
    if head in plain and not tail:
        return plain[head]()
    if head in ("diagonal", "averaged"):
        key, equals, value = (tail or "tau=1").partition("=")
        try:
            if (head, key) == ("diagonal", "tau") and equals:
                return SpectralDiagonal(float(value))
            if (head, key) == ("averaged", "tolerance") and equals:
                return BatchAveraged(float(value))
        except ValueError:
            pass
    raise InputError(f"regime: expected network, sampled, averaged or diagonal:tau=NUMBER; got {text!r}")
