"""The batch-averaged regime: exact, or to a tolerance by stepping each pair of modes as often as it needs.

Part of the room `regimes`, whose imports it may have. A new way to keep the pairs is a module beside `tiers`.
"""

from sgdsim.regimes.averaged.batch_averaged import BatchAveraged

__all__ = ["BatchAveraged"]
