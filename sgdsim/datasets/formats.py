"""The file formats of the real data sets: where the files lie, how they are read and checked.

Nothing is standardised or split here: a reader returns the rows as they are stored (`RawData`), images as unsigned
bytes so that only the rows in use are ever widened to float64. Every defect of a file is an `InputError` naming it.
"""

from __future__ import annotations

import gzip
import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np

from sgdsim.common.checks import InputError
from sgdsim.datasets.preparing import RawData

CIFAR_RECORD = 3073  # one label byte, then 3 x 32 x 32 pixels
CIFAR_FOLDERS = ("cifar10", "cifar10/cifar-10-batches-bin", "cifar-10-batches-bin")
BIKE_FEATURES = (
    *("season", "yr", "mnth", "hr", "holiday", "weekday"),
    *("workingday", "weathersit", "temp", "atemp", "hum", "windspeed"),
)
SGEMM_FEATURES = (
    *("MWG", "NWG", "KWG", "MDIMC", "NDIMC", "MDIMA", "NDIMB"),
    *("KWI", "VWM", "VWN", "STRM", "STRN", "SA", "SB"),
)
_COMPRESSED = 15  # the type of a compressed variable in a Matlab file
SGEMM_RUNS = ("Run1 (ms)", "Run2 (ms)", "Run3 (ms)", "Run4 (ms)")


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of the data files: `data_dir`, else the environment's SGDSIM_DATA, else `data` where we are."""
    if data_dir is None:
        data_dir = os.environ.get("SGDSIM_DATA") or "data"
    if not isinstance(data_dir, (str, os.PathLike)):
        raise InputError(f"data_dir: expected the path of a folder, got {data_dir!r}")
    return Path(data_dir)


def places(path: str) -> list[str]:
    """All relative paths where the file `path` may lie, the one that wins first: plain before `.gz`."""
    plain = path.removesuffix(".gz")
    folder, _, name = plain.rpartition("/")
    folders = CIFAR_FOLDERS if folder == "cifar10" else (folder,)
    return [f"{f}/{name}{end}" if f else name + end for f in folders for end in ("", ".gz")]


def find(folder: Path, path: str) -> Path | None:
    """The file `path` under `folder`, at the first of its places that exists."""
    return next((folder / place for place in places(path) if (folder / place).exists()), None)


def open_content(path: Path) -> BinaryIO:
    """`path` opened for reading its decompressed bytes.

    Judged by the first bytes, not by the name: browsers and servers unpack `.gz` files without renaming them.
    """
    stream = open(path, "rb")  # noqa: SIM115  (handed to the caller, who closes it)
    magic = stream.read(2)
    if magic == b"\x1f\x8b":
        stream.close()
        return gzip.open(path, "rb")  # type: ignore[return-value]
    stream.seek(0)
    return stream


def read_content(path: Path) -> bytes:
    """The decompressed bytes of `path`; InputError if it cannot be read or the compressed stream is damaged."""
    try:
        with open_content(path) as stream:
            return stream.read()
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise InputError(
            f"{path}: expected an intact gzip file, got a truncated or damaged one; fetch it again"
        ) from error
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, got {error.strerror or error}") from error


def _required(folder: Path, path: str, name: str) -> Path:
    place = find(folder, path)
    if place is None:
        raise _missing(folder, places(path), name)
    return place


def _missing(folder: Path, looked_for: Sequence[str], name: str) -> InputError:
    names = ", ".join(looked_for)
    return InputError(
        f"{name}: found none of {names} in the folder {str(folder)!r}; "
        f"run `sgdsim data fetch {name}` or set SGDSIM_DATA to the folder that holds the data"
    )


def read_idx(path: Path, ndim: int) -> np.ndarray:
    """An IDX file of unsigned bytes with `ndim` dimensions: labels (n,) or images (n, rows, columns), uint8."""
    data = read_content(path)
    header = 4 * (1 + ndim)
    if len(data) < header:
        raise InputError(f"{path}: expected an IDX header of {header} bytes, got {len(data)} bytes; fetch it again")
    magic, *shape = struct.unpack(f">{1 + ndim}I", data[:header])
    if magic != 0x0800 + ndim:
        raise InputError(f"{path}: expected the IDX magic number {0x0800 + ndim}, got {magic}; is it another file?")
    size = int(np.prod([int(length) for length in shape], dtype=object))
    if len(data) != header + size:
        raise InputError(
            f"{path}: expected {header + size} bytes for the shape {tuple(shape)} in its header, "
            f"got {len(data)}; fetch it again"
        )
    if size == 0:
        raise InputError(f"{path}: expected at least one value, got the shape {tuple(shape)}")
    return np.frombuffer(data, np.uint8, offset=header).reshape(shape)


def _check_labels(path: Path, labels: np.ndarray) -> np.ndarray:
    if labels.max() > 9:
        row = int(np.argmax(labels > 9))
        raise InputError(f"{path}: expected class labels 0 to 9, got {labels[row]} in record {row + 1}")
    return labels


def read_mnist(folder: Path) -> RawData:
    """The four IDX files of MNIST under `folder`/mnist."""
    parts: list[np.ndarray] = []
    for part in ("train", "t10k"):
        image_path = _required(folder, f"mnist/{part}-images-idx3-ubyte.gz", "mnist")
        label_path = _required(folder, f"mnist/{part}-labels-idx1-ubyte.gz", "mnist")
        images, labels = read_idx(image_path, 3), _check_labels(label_path, read_idx(label_path, 1))
        if len(images) != len(labels):
            raise InputError(f"{label_path}: expected one label for each of {len(images)} images, got {len(labels)}")
        parts += [images, labels]
    x, y, x_test, y_test = parts
    if x.shape[1:] != x_test.shape[1:]:
        raise InputError(f"mnist: expected test images of {x.shape[1:]} pixels as in train, got {x_test.shape[1:]}")
    return RawData(
        x.reshape(len(x), -1), y, "images", x.shape[1:], 255.0, True, x_test.reshape(len(x_test), -1), y_test
    )


def find_cifar_batch(folder: Path, batch: str) -> Path:
    """The file of one CIFAR-10 batch: a full one wherever it lies, else the partial one with the most records."""
    full = find(folder, f"cifar10/{batch}.bin")
    if full is not None:
        return full
    partial = re.compile(re.escape(batch) + r"\.first(\d+)\.bin(\.gz)?")
    candidates = []
    for place in CIFAR_FOLDERS:
        for file in (folder / place).glob(f"{batch}.first*"):
            match = partial.fullmatch(file.name)
            if match:
                candidates.append((int(match[1]), match[2] is None, file))
    if not candidates:
        raise _missing(folder, [*places(f"cifar10/{batch}.bin"), f"cifar10/{batch}.first<records>.bin.gz"], "cifar10")
    return max(candidates)[2]


def read_cifar_batch(path: Path) -> np.ndarray:
    """The records (n, 3073) of a CIFAR-10 binary file, uint8: column 0 the label, then red, green, blue planes."""
    data = read_content(path)
    if not data or len(data) % CIFAR_RECORD:
        raise InputError(f"{path}: expected a multiple of {CIFAR_RECORD} bytes, got {len(data)}; fetch it again")
    records = np.frombuffer(data, np.uint8).reshape(-1, CIFAR_RECORD)
    promised = re.search(r"\.first(\d+)\.bin", path.name)
    if promised is not None and len(records) != int(promised[1]):
        raise InputError(
            f"{path}: expected {int(promised[1])} records, as its name says, got {len(records)}; fetch it again"
        )
    _check_labels(path, records[:, 0])
    return records


def read_cifar10(folder: Path) -> RawData:
    """The five training batches and the test batch, each full or partial."""
    paths = [find_cifar_batch(folder, f"data_batch_{k}") for k in range(1, 6)]
    test_path = find_cifar_batch(folder, "test_batch")
    train = np.concatenate([read_cifar_batch(path) for path in paths])
    test = read_cifar_batch(test_path)
    return RawData(train[:, 1:], train[:, 0], "images", (3, 32, 32), 255.0, True, test[:, 1:], test[:, 0])


def read_olivetti(folder: Path) -> RawData:
    """`faces` of olivettifaces.mat: one face per column, its pixels column by column; ten faces per person."""
    from scipy.io import loadmat

    path = _required(folder, "olivetti/olivettifaces.mat", "olivetti")
    content = read_content(path)
    try:
        with warnings.catch_warnings(action="error"):
            _check_compressed(content)
            variables: dict[str, object] = loadmat(io.BytesIO(content), variable_names=["faces"])
    except Exception as error:  # a damaged file makes SciPy raise almost anything
        raise InputError(f"{path}: expected a Matlab 5 file, got one that SciPy cannot read; fetch it again") from error
    if "faces" not in variables:
        raise InputError(f"{path}: expected a variable `faces` of shape (4096, 400), got a file without it")
    faces = np.asarray(variables["faces"])
    if faces.shape != (4096, 400) or faces.dtype.kind not in "uif":
        raise InputError(f"{path}: expected `faces` as numbers of shape (4096, 400), got {faces.dtype} {faces.shape}")
    upright = faces.T.reshape(400, 64, 64).transpose(0, 2, 1).reshape(400, 4096)
    return RawData(upright, np.arange(400) // 10, "images", (64, 64), 255.0, True)


def _check_compressed(content: bytes) -> None:
    """Raise where a compressed variable of a Matlab 5 file is not whole; SciPy takes one that lacks its checksum.

    After 128 bytes of header, each variable has a type (15: zlib) and a length in 4 bytes each.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    at = 128
    while order and at < len(content):
        kind, length = struct.unpack_from(f"{order}II", content, at)
        at += 8
        if kind == _COMPRESSED:
            matrix = zlib.decompress(content[at : at + length])
            if struct.unpack_from(f"{order}I", matrix, 4) != (len(matrix) - 8,):
                raise ValueError("more in it than its header says")
        at += length


def read_csv(path: Path, columns: Sequence[str]) -> np.ndarray:
    """The named columns of a csv file, in that order, as a finite float64 array (rows, columns)."""
    import pandas as pd

    content = io.BytesIO(read_content(path))
    try:
        table = pd.read_csv(content, low_memory=False)
    except (ValueError, pd.errors.ParserError) as error:  # ValueError: bad encoding, empty file
        reason = " ".join(str(error).split())[:120]
        raise InputError(
            f"{path}: expected a comma-separated table with a header line, got an error: {reason}"
        ) from error
    absent = [column for column in columns if column not in table.columns]
    if absent:
        raise InputError(f"{path}: expected the columns {', '.join(columns)}; missing: {', '.join(absent)}")
    if len(table) == 0:
        raise InputError(f"{path}: expected at least one row below the header, got none")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes surplus leading fields as row names
        raise InputError(f"{path}: expected {len(table.columns)} fields in each row as in the header, got more")
    result = np.empty((len(table), len(columns)))
    for j, column in enumerate(columns):
        cells = table[column]
        is_text = not pd.api.types.is_numeric_dtype(cells) or pd.api.types.is_bool_dtype(cells)
        result[:, j] = pd.to_numeric(cells.astype(str), errors="coerce") if is_text else cells
        bad = ~np.isfinite(result[:, j])
        if bad.any():
            row = int(np.argmax(bad))
            shown = "an empty or NaN cell" if pd.isna(cells.iloc[row]) else repr(str(cells.iloc[row]))[:40]
            raise InputError(
                f"{path}: row {row + 1} below the header, column {column!r}: expected a finite number, got {shown}"
            )
    return result


def read_bike_sharing(folder: Path) -> RawData:
    """Bike-Sharing/hour.csv: 12 calendar and weather columns, target `cnt` (rentals in the hour)."""
    table = read_csv(_required(folder, "Bike-Sharing/hour.csv", "bike_sharing"), (*BIKE_FEATURES, "cnt"))
    return RawData(table[:, :-1], table[:, -1], "table", (len(BIKE_FEATURES),), 1.0, False)


def read_sgemm_product(folder: Path) -> RawData:
    """sgemm_product.csv: 14 kernel parameters, target the mean of the four run times (ms)."""
    path = _required(folder, "sgemm_product/sgemm_product.csv", "sgemm_product")
    table = read_csv(path, (*SGEMM_FEATURES, *SGEMM_RUNS))
    d = len(SGEMM_FEATURES)
    return RawData(table[:, :d], table[:, d:].mean(axis=1), "table", (d,), 1.0, False)


def read_digits(folder: Path) -> RawData:
    """The 1797 digit images that come with scikit-learn; `folder` is not looked at."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return RawData(x, y, "images", (8, 8), 16.0, True)


READERS = {
    "digits": read_digits,
    "mnist": read_mnist,
    "cifar10": read_cifar10,
    "olivetti": read_olivetti,
    "bike_sharing": read_bike_sharing,
    "sgemm_product": read_sgemm_product,
}
