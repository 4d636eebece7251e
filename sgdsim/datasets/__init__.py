"""Real data for the experiments: inputs and targets, split and standardised the same way on every machine.

`load` reads the built-in sets where they are there already and never downloads; `fetch` is the explicit download and
`verify` checks the files. `load_file` reads data of one's own: `tables`, `arrays`, `folders`, by their suffix in `own`.
May import: common. A new data set is an entry in `data/MANIFEST.toml`, beside the package, and a reader in `formats`.
"""

from sgdsim.common.rooms import listing
from sgdsim.datasets.dataset import Dataset
from sgdsim.datasets.fetching import fetch
from sgdsim.datasets.loading import NAMES, load
from sgdsim.datasets.manifest import status, verify
from sgdsim.datasets.own import load_file, sentence
from sgdsim.datasets.preparing import MAX_DEFAULT_TEST

__dir__ = listing(__name__)

__all__ = ["MAX_DEFAULT_TEST", "NAMES", "Dataset", "fetch", "load", "load_file", "sentence", "status", "verify"]
