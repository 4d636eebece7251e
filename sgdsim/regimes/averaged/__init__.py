"""The batch-averaged regime, exact over all batch sequences."""

from sgdsim.regimes.averaged.batch_averaged import BatchAveraged

__all__ = ["BatchAveraged"]
