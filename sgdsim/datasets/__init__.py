"""Real data."""

from sgdsim.datasets.fetching import fetch, status, verify
from sgdsim.datasets.loading import MAX_DEFAULT_TEST, NAMES, Dataset, load

__all__ = ["MAX_DEFAULT_TEST", "NAMES", "Dataset", "fetch", "load", "status", "verify"]
