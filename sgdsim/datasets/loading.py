"""`load`: the built-in data sets. It never downloads."""

from __future__ import annotations

import os

from sgdsim.common.checks import choice, integer
from sgdsim.datasets.dataset import Dataset
from sgdsim.datasets.formats import READERS, data_folder
from sgdsim.datasets.preparing import prepared
from sgdsim.datasets.targets import with_targets

NAMES = tuple(READERS)
"""Names that `load` takes."""


def load(
    name: str,
    n: int | None = None,
    seed: int = 0,
    *,
    n_test: int | None = None,
    targets: str = "number",
    data_dir: str | os.PathLike[str] | None = None,
    flat: bool = True,
) -> Dataset:
    """`n` training rows of a data set with a disjoint test split, standardised with the training statistics.

    Rows are drawn by `seed` alone, class by class where the target is a class label (so that each class keeps its
    share), and come in random order. A smaller or larger test split never changes the training rows. `mnist` and
    `cifar10` train on rows of the official training part only and test on rows of the official test part only.

    Images are centred and scaled by one mean and one standard deviation over all training pixels, tables by those of
    each column (a column that is constant in train becomes 0 in both splits: its scale is unknown), targets by those
    of the training targets (a constant target is only centred).

    Parameters
    ----------
    name : str
        One of `NAMES`.
    n : int, optional
        Training rows; default: the whole official training part, or 80 % of a data set that comes in one piece.
    seed : int
        Decides which rows are drawn and their order.
    n_test : int, optional
        Test rows; default: min(n, 1000, what is left). 0 for none.
    targets : str
        "number": as they are stored, standardised, digits and persons too. Of data sets with classes also "one-hot":
        a column of 0 and 1 for each class; "class:3,8": rows of these two classes alone, as −1 and 1.
    data_dir : path, optional
        Folder of the data files; default: the environment variable SGDSIM_DATA, else `data` in the current folder.
    flat : bool
        Images as rows (d,); otherwise (channels, height, width), as convolutions take them. Tables are rows.

    Returns
    -------
    Dataset
        x (n, d), or (n, channels, height, width), y (n,) or (n, C), x_test and y_test alike; `info` holds the
        statistics for going back to the original units (pixels on a scale from 0 to 1) and `n_available`, the number of
        rows to draw training rows from.

    Raises
    ------
    InputError
        Unknown name; a file missing, damaged or of another format; more rows asked for than there are.
    """
    name = choice("name", name, NAMES)
    n = None if n is None else integer("n", n, minimum=1)
    n_test = None if n_test is None else integer("n_test", n_test)
    seed = integer("seed", seed)
    raw = with_targets(READERS[name](data_folder(data_dir)), targets, name)
    data = prepared(raw, name, n, n_test, seed)
    return data.as_images() if raw.kind == "images" and not flat else data
