"""Data sets: the parsers against published facts, the split, the standardisation, and every kind of bad file."""

import gzip
import hashlib
import json
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from sgdsim import datasets
from sgdsim.common.checks import InputError
from sgdsim.datasets import formats, preparing

IMAGES = {"digits", "mnist", "cifar10", "olivetti"}
SINGLE_FILE = {"digits": 1797, "olivetti": 400, "bike_sharing": 17379, "sgemm_product": 241600}


@pytest.fixture(scope="module")
def real() -> Path:
    folder = os.environ.get("SGDSIM_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("needs the real data: set SGDSIM_DATA to the folder that holds them")
    return Path(folder)


def need(folder: Path, path: str) -> Path:
    found = formats.find(folder, path)
    if found is None:
        pytest.skip(f"needs {path} under SGDSIM_DATA")
    return found


def message(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


# Writers of small files, independent of the readers.


def write_idx(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = struct.pack(f">{1 + values.ndim}I", 2048 + values.ndim, *values.shape)
    data = header + values.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def write_mnist(folder: Path, n: int = 60, n_test: int = 30, end: str = "") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    arrays = {
        "train-images-idx3-ubyte": rng.integers(0, 256, (n, 3, 2)),
        "train-labels-idx1-ubyte": np.arange(n) % 10,
        "t10k-images-idx3-ubyte": rng.integers(0, 256, (n_test, 3, 2)),
        "t10k-labels-idx1-ubyte": np.arange(n_test) % 10,
    }
    for name, values in arrays.items():
        write_idx(folder / "mnist" / (name + end), values)
    return arrays


def write_cifar(path: Path, n: int, *, offset: int = 0, packed: bool = False) -> np.ndarray:
    """`n` records whose first pixel is their number + offset, labels 0..9 in turn."""
    records = np.random.default_rng(offset).integers(0, 256, (n, 3073)).astype(np.uint8)
    records[:, 0] = np.arange(n) % 10
    records[:, 1] = np.arange(n) + offset
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(records.tobytes()) if packed else records.tobytes())
    return records


def write_bike(folder: Path, table: np.ndarray | None = None, n: int = 50) -> np.ndarray:
    """hour.csv with the columns in the official order; `table` (n, 13) holds the features and cnt."""
    if table is None:
        table = np.random.default_rng(1).integers(0, 100, (n, 13)).astype(float)
    header = ["instant", "dteday", *formats.BIKE_FEATURES, "casual", "registered", "cnt"]
    lines = [",".join(header)]
    for i, row in enumerate(table):
        cells = [repr(float(value)) for value in row]
        lines.append(",".join([str(i + 1), "2011-01-01", *cells[:-1], "7", "8", cells[-1]]))
    (folder / "Bike-Sharing").mkdir(parents=True, exist_ok=True)
    (folder / "Bike-Sharing" / "hour.csv").write_text("\r\n".join(lines) + "\r\n", newline="")
    return table


# The user's own arrays.


def test_dataset_takes_own_arrays():
    ds = datasets.Dataset([[1, 2, 3], [4, 5, 6]], [0, 1], "own", x_test=[[7, 8, 9]], y_test=[2], info={"a": (1, 2)})
    assert (ds.n, ds.d) == (2, 3)
    assert ds.x.dtype == ds.y.dtype == ds.x_test.dtype == np.float64
    assert ds.info == {"a": [1, 2]}  # as JSON would give it back
    assert repr(ds) == "Dataset('own', n=2, d=3, n_test=1)"
    with pytest.raises(AttributeError):
        ds.name = "other"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": [1.0, 2.0]}, "x: expected 2 dimension"),
        ({"x": [[1.0], [np.nan]]}, "x: expected finite values"),
        ({"x": np.empty((0, 3)), "y": []}, "x: expected at least one value"),
        ({"y": [1.0]}, "y: expected shape (2)"),
        ({"y": ["a", "b"]}, "y: expected an array of real numbers"),
        ({"x_test": [[1.0]]}, "y_test: expected an array beside x_test"),
        ({"y_test": [1.0]}, "x_test: expected an array beside y_test"),
        ({"x_test": [[1.0, 2.0]], "y_test": [1.0]}, "x_test: expected shape (any, 1)"),
        ({"x_test": [[1.0]], "y_test": [1.0, 2.0]}, "y_test: expected shape (1)"),
        ({"name": ""}, "name: expected a non-empty string"),
        ({"info": {"a": object()}}, "info: expected a dict that JSON can hold"),
        ({"info": [1]}, "info: expected a dict, got list"),
    ],
)
def test_dataset_refuses(change, words):
    good = {"x": [[1.0], [2.0]], "y": [0.0, 1.0], "name": "own"}
    assert words in message(datasets.Dataset, **(good | change))


# load: what needs no file.


@pytest.mark.parametrize("bad", [0, -1, 2.5, True, "10", float("nan")])
def test_n_refused(bad):
    assert "n: expected an integer >= 1" in message(datasets.load, "digits", bad)


@pytest.mark.parametrize("bad", [-1, 2.5, False])
def test_n_test_refused(bad):
    assert "n_test: expected an integer >= 0" in message(datasets.load, "digits", 10, n_test=bad)


@pytest.mark.parametrize("bad", [-1, 0.5, True, None])
def test_seed_refused(bad):
    assert "seed: expected an integer >= 0" in message(datasets.load, "digits", 10, bad)


def test_unknown_name_lists_the_names():
    text = message(datasets.load, "imagenet")
    assert all(name in text for name in datasets.NAMES)


def test_more_rows_than_there_are():
    assert "1797" in message(datasets.load, "digits", 1798)
    text = message(datasets.load, "digits", 1700, n_test=98)
    assert "at most 97" in text
    assert "1797" in text
    assert datasets.load("digits", 1700, n_test=97).x_test.shape == (97, 64)


def test_no_row_left_for_a_test_split():
    with pytest.warns(UserWarning, match="no row is left") as record:
        ds = datasets.load("digits", 1797)
    assert record[0].filename == __file__  # points at the caller
    assert ds.x_test is None
    assert ds.y_test is None
    assert ds.info["n_test"] == 0


@pytest.mark.filterwarnings("error")
def test_no_test_split_on_request():
    assert datasets.load("digits", 1797, n_test=0).x_test is None


def test_digits_shapes_and_defaults():
    ds = datasets.load("digits")
    assert ds.x.shape == (1437, 64)  # 80 %
    assert ds.x_test.shape == (360, 64)  # all that is left
    assert ds.x.dtype == ds.y.dtype == ds.x_test.dtype == ds.y_test.dtype == np.float64
    assert ds.info["input_shape"] == [8, 8]
    assert ds.info["n_available"] == 1797
    assert json.loads(json.dumps(ds.info)) == ds.info
    assert len(datasets.load("digits", 20).x_test) == 20
    assert len(datasets.load("digits", 1, n_test=3).x_test) == 3


def test_data_dir_from_the_environment(tmp_path, monkeypatch):
    write_bike(tmp_path / "here", n=11)
    write_bike(tmp_path / "data", n=12)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SGDSIM_DATA", raising=False)
    assert datasets.load("bike_sharing", 5).info["n_available"] == 12
    monkeypatch.setenv("SGDSIM_DATA", str(tmp_path / "here"))
    assert datasets.load("bike_sharing", 5).info["n_available"] == 11
    assert datasets.load("bike_sharing", 5, data_dir="data").info["n_available"] == 12
    assert "expected the path of a folder" in message(datasets.load, "bike_sharing", 5, data_dir=3)


# The split.


def raw_targets(ds: datasets.Dataset, which: str = "y") -> np.ndarray:
    """Labels in original units."""
    y = getattr(ds, which) * (ds.info["target_std"] or 1.0) + ds.info["target_mean"]
    return np.rint(y).astype(int)


def numbered_bike(folder: Path, n: int = 100) -> None:
    """A table whose target is the row's number, so that a row is recognised by its target."""
    table = np.random.default_rng(2).normal(size=(n, 13))
    table[:, -1] = np.arange(n)
    write_bike(folder, table)


@pytest.mark.parametrize("n", [1, 2, 37, 60, 99])
def test_train_and_test_are_disjoint(tmp_path, n):
    numbered_bike(tmp_path)
    ds = datasets.load("bike_sharing", n, seed=3, n_test=100 - n, data_dir=tmp_path)
    train, test = raw_targets(ds), raw_targets(ds, "y_test")
    assert sorted([*train, *test]) == list(range(100))


def test_train_rows_do_not_depend_on_n_test():
    loads = [datasets.load("digits", 150, 4, n_test=m) for m in (0, 1, 150, 1647)]
    for other in loads[1:]:
        np.testing.assert_array_equal(loads[0].x, other.x)
        np.testing.assert_array_equal(loads[0].y, other.y)


def test_test_rows_do_not_depend_on_n(tmp_path):
    numbered_bike(tmp_path)
    chosen = [
        raw_targets(datasets.load("bike_sharing", n, 4, n_test=20, data_dir=tmp_path), "y_test") for n in (5, 40, 80)
    ]
    assert set(chosen[0]) == set(chosen[1]) == set(chosen[2])


def test_a_larger_n_keeps_the_rows_of_a_smaller(tmp_path):
    numbered_bike(tmp_path)
    small, large = (set(raw_targets(datasets.load("bike_sharing", n, 4, data_dir=tmp_path))) for n in (30, 31))
    assert small < large


def test_seed_decides():
    one, same, other = (datasets.load("digits", 100, seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(one.x, same.x)
    np.testing.assert_array_equal(one.y_test, same.y_test)
    assert not np.array_equal(one.y, other.y)
    # ... and not a global one
    np.random.seed(0)  # noqa: NPY002
    np.testing.assert_array_equal(one.x, datasets.load("digits", 100, 7).x)


@pytest.mark.parametrize("n", [1, 7, 10, 99, 500, 1796])
def test_classes_keep_their_share(n):
    everything = np.bincount(formats.read_digits(Path()).y, minlength=10)
    ds = datasets.load("digits", n, seed=n)
    counts = np.bincount(raw_targets(ds), minlength=10)
    assert counts.sum() == n
    assert np.all(np.abs(counts - n * everything / 1797) < 1)
    m = len(ds.y_test)
    counts_test = np.bincount(raw_targets(ds, "y_test"), minlength=10)
    assert np.all(np.abs(counts_test - m * everything / 1797) < 2)


def test_rows_are_not_sorted_by_class():
    y = raw_targets(datasets.load("digits", 500))
    sorted_pairs = np.mean(np.diff(y) >= 0)
    assert sorted_pairs < 0.7  # 0.55 in random order, 1 when sorted
    assert len(set(y[:50])) > 5


def test_few_rows_of_equal_classes_differ_with_the_seed(tmp_path):
    write_mnist(tmp_path)
    labels = {int(raw_targets(datasets.load("mnist", 1, seed, data_dir=tmp_path))[0]) for seed in range(30)}
    assert len(labels) > 4


@pytest.mark.parametrize(
    ("total", "weights", "capacity", "expected"),
    [
        (10, [50, 30, 20], [50, 30, 20], [5, 3, 2]),
        (3, [50, 30, 20], [50, 30, 20], [1, 1, 1]),  # quotas 1.5, 0.9, 0.6
        (2, [50, 30, 20], [50, 30, 20], [1, 1, 0]),  # quotas 1.0, 0.6, 0.4
        (9, [50, 30, 20], [2, 30, 20], [2, 4, 3]),  # 2 of the 4.5 wanted; the rest in turn
        (6, [1, 1, 1], [0, 1, 5], [0, 1, 5]),
        (0, [3, 4], [3, 4], [0, 0]),
        (7, [3, 4], [3, 4], [3, 4]),
    ],
)
def test_largest_remainders(total, weights, capacity, expected):
    rng = np.random.default_rng(0)
    assert preparing._allocate(total, np.array(weights), np.array(capacity), rng).tolist() == expected


# The standardisation.


def test_images_use_one_mean_and_std_of_the_training_pixels():
    ds = datasets.load("digits", 200)
    assert abs(ds.x.mean()) < 1e-12
    assert ds.x.std() == pytest.approx(1, abs=1e-12)
    assert ds.x_test.mean() != pytest.approx(0, abs=1e-6)
    pixels = np.concatenate([ds.x, ds.x_test]) * ds.info["input_std"] + ds.info["input_mean"]
    np.testing.assert_allclose(pixels * 16, np.rint(pixels * 16), atol=1e-9)  # back to whole grey levels
    assert pixels.min() == pytest.approx(0, abs=1e-12)
    assert pixels.max() == pytest.approx(1)
    assert abs(ds.y.mean()) < 1e-12
    assert ds.y.std() == pytest.approx(1)


def test_tables_use_the_training_statistics_of_each_column(tmp_path):
    table = np.random.default_rng(3).normal(5, 2, size=(80, 13)) * np.logspace(-3, 3, 13)
    table[:, -1] = np.arange(80)
    write_bike(tmp_path, table)
    ds = datasets.load("bike_sharing", 30, n_test=50, data_dir=tmp_path)
    rows, rows_test = table[raw_targets(ds)], table[raw_targets(ds, "y_test")]
    mean, std = rows.mean(axis=0), rows.std(axis=0)
    np.testing.assert_allclose(ds.x, ((rows - mean) / std)[:, :-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ds.x_test, ((rows_test - mean) / std)[:, :-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ds.y_test, (rows_test[:, -1] - mean[-1]) / std[-1], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(ds.info["input_mean"], mean[:-1])
    np.testing.assert_allclose(ds.info["input_std"], std[:-1])


def test_a_constant_column_becomes_zero(tmp_path):
    table = np.random.default_rng(3).normal(size=(40, 13))
    table[:, 2] = 0.1  # not representable: its computed mean and std are off by rounding
    write_bike(tmp_path, table)
    ds = datasets.load("bike_sharing", 37, data_dir=tmp_path)
    assert np.all(ds.x[:, 2] == 0)
    assert np.all(ds.x_test[:, 2] == 0)
    assert ds.info["input_std"][2] == 0


def test_a_column_constant_in_train_only_stays_bounded_in_test(tmp_path):
    table = np.random.default_rng(3).normal(size=(40, 13))
    table[:, -1] = np.arange(40)
    write_bike(tmp_path, table)
    train = raw_targets(datasets.load("bike_sharing", 20, data_dir=tmp_path))
    table[train, 4] = 1e9
    write_bike(tmp_path, table)
    ds = datasets.load("bike_sharing", 20, data_dir=tmp_path)
    assert np.all(ds.x[:, 4] == 0)
    assert np.all(ds.x_test[:, 4] == 0)


def test_a_constant_target_is_only_centred(tmp_path):
    table = np.random.default_rng(3).normal(size=(40, 13))
    table[:, -1] = 0.1
    write_bike(tmp_path, table)
    ds = datasets.load("bike_sharing", 30, data_dir=tmp_path)
    assert np.all(ds.y == 0)
    assert np.all(ds.y_test == 0)


@pytest.mark.filterwarnings("error")
def test_one_row(tmp_path):
    numbered_bike(tmp_path)
    ds = datasets.load("bike_sharing", 1, n_test=2, data_dir=tmp_path)
    assert np.all(ds.x == 0)
    assert np.all(ds.y == 0)
    assert set(ds.y_test + ds.info["target_mean"]) <= set(range(100))  # centred on the one target, in its units


# IDX files.


@pytest.mark.parametrize("end", ["", ".gz"])
def test_mnist_files_plain_and_packed(tmp_path, end):
    arrays = write_mnist(tmp_path, end=end)
    raw = formats.read_mnist(tmp_path)
    np.testing.assert_array_equal(raw.x, arrays["train-images-idx3-ubyte"].reshape(60, 6))
    np.testing.assert_array_equal(raw.y_test, arrays["t10k-labels-idx1-ubyte"])
    ds = datasets.load("mnist", data_dir=tmp_path)
    assert ds.x.shape == (60, 6)  # the whole training part
    assert ds.x_test.shape == (30, 6)  # the whole test part, though n is all
    assert ds.info["input_shape"] == [3, 2]
    assert "at most 60" in message(datasets.load, "mnist", 61, data_dir=tmp_path)
    assert "at most 30" in message(datasets.load, "mnist", 5, n_test=31, data_dir=tmp_path)


def test_mnist_parts_are_kept_apart(tmp_path):
    arrays = write_mnist(tmp_path)
    train = np.full((60, 3, 2), 10)
    train[:30] = 20
    write_idx(tmp_path / "mnist/train-images-idx3-ubyte", train)
    write_idx(tmp_path / "mnist/t10k-images-idx3-ubyte", np.full_like(arrays["t10k-images-idx3-ubyte"], 200))
    ds = datasets.load("mnist", 40, n_test=30, data_dir=tmp_path)
    back = np.rint(255 * (ds.x * ds.info["input_std"] + ds.info["input_mean"]))
    back_test = np.rint(255 * (ds.x_test * ds.info["input_std"] + ds.info["input_mean"]))
    assert set(back.ravel()) == {10.0, 20.0}
    assert set(back_test.ravel()) == {200.0}


def test_content_decides_whether_a_file_is_packed(tmp_path):
    write_mnist(tmp_path, end=".gz")
    path = tmp_path / "mnist/train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.decompress(path.read_bytes()))
    assert formats.read_mnist(tmp_path).x.shape == (60, 6)


def test_a_plain_file_wins_over_a_packed_one(tmp_path):
    write_mnist(tmp_path)
    write_mnist(tmp_path / "other", n=70, end=".gz")
    for path in (tmp_path / "other/mnist").iterdir():
        path.rename(tmp_path / "mnist" / path.name)
    assert len(formats.read_mnist(tmp_path).x) == 60


def test_missing_file_says_what_to_do(tmp_path):
    write_mnist(tmp_path)
    (tmp_path / "mnist/t10k-labels-idx1-ubyte").unlink()
    text = message(datasets.load, "mnist", 5, data_dir=tmp_path)
    assert "mnist/t10k-labels-idx1-ubyte," in text
    assert "mnist/t10k-labels-idx1-ubyte.gz" in text
    assert str(tmp_path) in text
    assert "sgdsim data fetch mnist" in text
    assert "SGDSIM_DATA" in text


@pytest.mark.parametrize("name", [name for name in datasets.NAMES if name != "digits"])
def test_missing_data_set(tmp_path, name):
    assert f"sgdsim data fetch {name}" in message(datasets.load, name, 5, data_dir=tmp_path / "absent")


def rewrite(path: Path, change) -> None:
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("train-images-idx3-ubyte", lambda b: b[:-1], "expected 376 bytes for the shape (60, 3, 2)"),
        ("train-images-idx3-ubyte", lambda b: b + b"\0", "got 377"),
        ("train-images-idx3-ubyte", lambda b: b[:7], "expected an IDX header of 16 bytes, got 7"),
        ("train-images-idx3-ubyte", lambda b: b"", "got 0 bytes"),
        ("train-images-idx3-ubyte", lambda b: b"\0\0\x08\x01" + b[4:], "magic number 2051, got 2049"),
        ("train-labels-idx1-ubyte", lambda b: b"\0\0\x08\x03" + b[4:], "magic number 2049, got 2051"),
        ("train-labels-idx1-ubyte", lambda b: b[:4] + struct.pack(">I", 59) + b[8:-1], "60 images, got 59"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:-1] + b"\x0a", "labels 0 to 9, got 10 in record 30"),
        ("t10k-labels-idx1-ubyte", lambda b: b[:4] + bytes(4), "at least one value"),
        ("t10k-images-idx3-ubyte", lambda b: b[:8] + struct.pack(">II", 2, 3) + b[16:], "test images of (3, 2)"),
        ("t10k-images-idx3-ubyte", lambda b: b[:4] + b"\xff" * 12 + b[16:], "got 196"),
        ("t10k-images-idx3-ubyte", lambda b: gzip.compress(b)[:-20], "truncated or damaged"),
        ("t10k-images-idx3-ubyte", lambda b: gzip.compress(b)[:-8] + bytes(8), "truncated or damaged"),
        ("t10k-images-idx3-ubyte", lambda b: gzip.compress(b)[:10] + b"\xff" * 40, "truncated or damaged"),
    ],
)
def test_damaged_idx_files(tmp_path, file, change, words):
    write_mnist(tmp_path)
    rewrite(tmp_path / "mnist" / file, change)
    text = message(datasets.load, "mnist", 5, data_dir=tmp_path)
    assert words in text
    assert "mnist" in text


def test_a_folder_in_place_of_a_file(tmp_path):
    (tmp_path / "Bike-Sharing/hour.csv").mkdir(parents=True)
    assert "expected a readable file" in message(datasets.load, "bike_sharing", data_dir=tmp_path)


# CIFAR-10 records.


def write_cifar_parts(folder: Path, *, skip: str = "") -> None:
    for k, batch in enumerate([f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]):
        if batch != skip:
            write_cifar(folder / f"cifar10/{batch}.first20.bin.gz", 20, offset=20 * k, packed=True)


def test_cifar_records(tmp_path):
    write_cifar_parts(tmp_path)
    raw = formats.read_cifar10(tmp_path)
    assert raw.x.shape == (100, 3072)
    assert raw.x_test.shape == (20, 3072)
    np.testing.assert_array_equal(raw.x[:, 0], np.arange(100))  # batches in order
    np.testing.assert_array_equal(raw.x_test[:, 0], np.arange(100, 120))
    np.testing.assert_array_equal(raw.y, np.arange(100) % 10)
    ds = datasets.load("cifar10", data_dir=tmp_path)
    assert (ds.n, ds.d, len(ds.x_test)) == (100, 3072, 20)
    assert ds.info["input_shape"] == [3, 32, 32]


@pytest.mark.parametrize("place", ["cifar10", "cifar10/cifar-10-batches-bin", "cifar-10-batches-bin"])
@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_full_cifar_batch_wins(tmp_path, place, end):
    write_cifar_parts(tmp_path)
    write_cifar(tmp_path / place / f"data_batch_2.bin{end}", 30, offset=200, packed=bool(end))
    raw = formats.read_cifar10(tmp_path)
    assert len(raw.x) == 110
    np.testing.assert_array_equal(raw.x[20:50, 0], np.arange(200, 230))


def test_the_longer_partial_batch_wins(tmp_path):
    write_cifar_parts(tmp_path)
    write_cifar(tmp_path / "cifar10/test_batch.first100.bin", 100)
    write_cifar(tmp_path / "cifar10/test_batch.first3.bin", 3)
    write_cifar(tmp_path / "cifar10/test_batch.first999.bin.bak", 7)
    assert len(formats.read_cifar10(tmp_path).x_test) == 100


@pytest.mark.parametrize("end", ["", ".gz"])
def test_a_partial_cifar_batch_holds_what_its_name_says(tmp_path, end):
    path = tmp_path / f"data_batch_1.first9999.bin{end}"
    content = bytes(3 * 3073)
    path.write_bytes(gzip.compress(content) if end else content)
    with pytest.raises(InputError, match="expected 9999 records, as its name says, got 3"):
        formats.read_cifar_batch(path)


def test_missing_cifar_batch(tmp_path):
    write_cifar_parts(tmp_path, skip="data_batch_4")
    text = message(datasets.load, "cifar10", data_dir=tmp_path)
    assert "cifar10/data_batch_4.bin" in text
    assert "cifar-10-batches-bin/data_batch_4.bin.gz" in text
    assert "data_batch_4.first" in text


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda b: b[:-1], "multiple of 3073 bytes, got 61459"),
        (lambda b: b"", "multiple of 3073 bytes, got 0"),
        (lambda b: b[: 3073 * 4] + b"\x0b" + b[3073 * 4 + 1 :], "labels 0 to 9, got 11 in record 5"),
        (lambda b: gzip.compress(b)[:-100], "truncated or damaged"),
    ],
)
def test_damaged_cifar_files(tmp_path, change, words):
    write_cifar_parts(tmp_path)
    write_cifar(tmp_path / "cifar10/data_batch_3.bin", 20)
    rewrite(tmp_path / "cifar10/data_batch_3.bin", change)
    assert words in message(datasets.load, "cifar10", data_dir=tmp_path)


# csv tables.


def test_bike_columns(tmp_path):
    table = write_bike(tmp_path)
    raw = formats.read_bike_sharing(tmp_path)
    np.testing.assert_array_equal(raw.x, table[:, :-1])  # without instant, dteday, casual, registered
    np.testing.assert_array_equal(raw.y, table[:, -1])


def test_columns_are_found_by_name(tmp_path):
    write_bike(tmp_path)
    path = tmp_path / "Bike-Sharing/hour.csv"
    before = formats.read_bike_sharing(tmp_path)
    lines = [line.split(",") for line in path.read_text().split()]
    path.write_text("\n".join(",".join(reversed(line)) for line in lines))
    after = formats.read_bike_sharing(tmp_path)
    np.testing.assert_array_equal(before.x, after.x)
    np.testing.assert_array_equal(before.y, after.y)


@pytest.mark.parametrize("packed", [False, True])
def test_sgemm_target_is_the_mean_of_the_runs(tmp_path, packed):
    table = np.random.default_rng(0).integers(1, 100, (20, 18))
    text = ",".join((*formats.SGEMM_FEATURES, *formats.SGEMM_RUNS)) + "\n"
    text += "".join(",".join(map(str, row)) + "\n" for row in table)
    (tmp_path / "sgemm_product").mkdir()
    if packed:
        (tmp_path / "sgemm_product/sgemm_product.csv.gz").write_bytes(gzip.compress(text.encode()))
    else:
        (tmp_path / "sgemm_product/sgemm_product.csv").write_text(text)
    raw = formats.read_sgemm_product(tmp_path)
    np.testing.assert_array_equal(raw.x, table[:, :14])
    np.testing.assert_allclose(raw.y, table[:, 14:].sum(axis=1) / 4)


def set_cell(row: int, column: str, text: str):
    """An edit of hour.csv: `text` into one cell (row 0 is the header)."""

    def change(content: bytes) -> bytes:
        lines = [line.split(",") for line in content.decode().split("\r\n") if line]
        lines[row][lines[0].index(column)] = text
        return "\r\n".join(",".join(line) for line in lines).encode()

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (set_cell(0, "hum", "humidity"), "missing: hum"),
        (lambda b: b.replace(b"season", b"x", 1).replace(b",cnt", b",count", 1), "missing: season, cnt"),
        (set_cell(3, "temp", "warm"), "row 3 below the header, column 'temp': expected a finite number, got 'warm'"),
        (set_cell(7, "cnt", ""), "row 7 below the header, column 'cnt': expected a finite number, got an empty or NaN"),
        (set_cell(50, "hr", "NaN"), "row 50 below the header, column 'hr'"),
        (set_cell(2, "yr", "inf"), "row 2 below the header, column 'yr': expected a finite number, got 'inf'"),
        (lambda b: b.split(b"\r\n")[0] + b"\r\n", "at least one row"),
        (lambda b: b"", "expected a comma-separated table"),
        (lambda b: b"\xff\xfe\x80" + b, "expected"),
        (lambda b: b + b"1,2,3" + b",4" * 30 + b"\r\n", "expected a comma-separated table"),
        (lambda b: b.replace(b"\r\n", b",1,1\r\n").replace(b",1,1", b"", 1), "17 fields in each row"),
        (lambda b: b[: len(b) // 2].rsplit(b",", 3)[0], "expected a finite number, got an empty or NaN"),
        (lambda b: gzip.compress(b)[:-20], "truncated or damaged"),
    ],
)
def test_damaged_csv(tmp_path, change, words):
    write_bike(tmp_path)
    rewrite(tmp_path / "Bike-Sharing/hour.csv", change)
    assert words in message(datasets.load, "bike_sharing", data_dir=tmp_path)


# The Matlab file.


def write_faces(folder: Path, do_compression: bool = False, **variables) -> Path:
    (folder / "olivetti").mkdir(exist_ok=True)
    scipy.io.savemat(folder / "olivetti/olivettifaces.mat", variables, do_compression=do_compression)
    return folder / "olivetti/olivettifaces.mat"


def test_faces_are_upright(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (400, 64, 64)).astype(np.uint8)
    write_faces(tmp_path, faces=np.stack([image.T.ravel() for image in images], axis=1))  # column by column
    raw = formats.read_olivetti(tmp_path)
    np.testing.assert_array_equal(raw.x.reshape(400, 64, 64), images)
    np.testing.assert_array_equal(raw.y, np.repeat(np.arange(40), 10))
    ds = datasets.load("olivetti", 40, n_test=360, data_dir=tmp_path)
    assert sorted(raw_targets(ds)) == list(range(40))  # one of each person
    np.testing.assert_array_equal(np.bincount(raw_targets(ds, "y_test")), 9)


def test_faces_in_single_precision_are_widened_first(tmp_path):
    faces = np.random.default_rng(0).random((4096, 400)).astype(np.float32)
    write_faces(tmp_path, faces=faces)
    ds = datasets.load("olivetti", 400, n_test=0, data_dir=tmp_path)
    assert abs(ds.x.mean()) < 1e-12
    assert ds.x.std() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"images": np.zeros((4096, 400), np.uint8)}, "variable `faces`"),
        ({"faces": np.zeros((400, 4096), np.uint8)}, "shape (4096, 400), got uint8 (400, 4096)"),
        ({"faces": "text"}, "shape (4096, 400)"),
    ],
)
def test_wrong_matlab_variable(tmp_path, variables, words):
    write_faces(tmp_path, **variables)
    assert words in message(datasets.load, "olivetti", data_dir=tmp_path)


@pytest.mark.parametrize("change", [lambda b: b[:-1000], lambda b: b[:50], lambda b: b"", lambda b: b"text" * 1000])
def test_damaged_matlab_file(tmp_path, change):
    rewrite(write_faces(tmp_path, faces=np.zeros((4096, 400), np.uint8)), change)
    assert "expected" in message(datasets.load, "olivetti", data_dir=tmp_path)


def test_compressed_faces_are_checked_to_their_end(tmp_path):
    faces = np.random.default_rng(0).integers(0, 256, (4096, 400)).astype(np.uint8)
    path = write_faces(tmp_path, do_compression=True, faces=faces)
    np.testing.assert_array_equal(
        formats.read_olivetti(tmp_path).x.reshape(400, 64, 64).transpose(0, 2, 1).reshape(400, 4096), faces.T
    )
    whole = path.read_bytes()
    matrix = bytearray(zlib.decompress(whole[136:]))
    matrix[-1] ^= 1
    packer = zlib.compressobj()
    for stream in (packer.compress(matrix) + packer.flush(zlib.Z_SYNC_FLUSH), zlib.compress(matrix + bytes(9))):
        path.write_bytes(whole[:132] + struct.pack("<I", len(stream)) + stream)  # SciPy takes one without its checksum
        assert "expected a Matlab 5 file" in message(datasets.load, "olivetti", data_dir=tmp_path)


def test_what_scipy_warns_of_in_a_matlab_file_is_one_line(tmp_path):
    write_faces(tmp_path, faces=np.zeros((4096, 400), np.uint8)).write_bytes(
        struct.pack("<5i", 2000, 1, 1, 0, 6) + b"faces\0" + bytes(8)  # level 4, in the VAX's byte order
    )
    with warnings.catch_warnings(record=True, action="always") as warned:
        assert "expected a Matlab 5 file" in message(datasets.load, "olivetti", data_dir=tmp_path)
    assert not warned


# The real files against the facts published with them.


def test_real_mnist(real):
    need(real, "mnist/train-images-idx3-ubyte.gz")
    raw = formats.read_mnist(real)
    assert raw.x.shape == (60000, 784)
    assert raw.x_test.shape == (10000, 784)
    assert raw.y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert raw.y_test[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]
    assert np.bincount(raw.y).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(raw.y_test).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    levels = np.bincount(raw.x.ravel(), minlength=256) / raw.x.size
    mean = levels @ np.arange(256) / 255
    std = np.sqrt(levels @ (np.arange(256) / 255 - mean) ** 2)
    assert mean == pytest.approx(0.13066, abs=5e-6)
    assert std == pytest.approx(0.30811, abs=5e-6)


def test_real_cifar10(real):
    need(real, "cifar10/test_batch.first1017.bin.gz")
    first = {1: [6, 9, 9, 4, 1, 1, 2, 7, 8, 3], 2: [1, 6, 6, 8, 8, 3, 4, 6, 0, 6], 3: [8, 5, 0, 6, 9, 2, 8, 3, 6, 2]}
    first |= {4: [0, 6, 0, 2, 7, 2, 1, 2, 4, 1], 5: [1, 8, 5, 1, 5, 7, 4, 3, 8, 2]}
    for k, labels in first.items():
        records = formats.read_cifar_batch(formats.find_cifar_batch(real, f"data_batch_{k}"))
        assert records[:10, 0].tolist() == labels
    test = formats.read_cifar_batch(need(real, "cifar10/test_batch.first1017.bin.gz"))
    assert test[:10, 0].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    assert np.bincount(test[:, 0]).tolist() == [105, 93, 100, 104, 92, 87, 114, 102, 110, 110]
    ds = datasets.load("cifar10", 50, data_dir=real)
    assert np.bincount(raw_targets(ds)).tolist() == [5] * 10


def test_real_olivetti(real):
    need(real, "olivetti/olivettifaces.mat")
    raw = formats.read_olivetti(real)
    as_stored = raw.x.reshape(400, 64, 64).transpose(0, 2, 1).tobytes()
    assert hashlib.sha256(as_stored).hexdigest() == "b119468c2f13775df12d3950e7c96644811647a6e10d30617777f245bf9b2f8b"
    assert (raw.x.min(), raw.x.max()) == (0, 242)
    assert (raw.x / 242).mean() == pytest.approx(0.547042, abs=1e-6)
    mean_face = raw.x.reshape(400, 64, 64).mean(axis=0)  # upright: alike left and right, not above and below
    assert np.std(mean_face - mean_face[:, ::-1]) < 0.5 * np.std(mean_face - mean_face[::-1])


def test_real_bike_sharing(real):
    need(real, "Bike-Sharing/hour.csv")
    raw = formats.read_bike_sharing(real)
    assert raw.x.shape == (17379, 12)
    assert raw.y.sum() == 3292679
    assert raw.x[0].tolist() == [1, 0, 1, 0, 0, 6, 0, 1, 0.24, 0.2879, 0.81, 0]
    assert raw.x[-1].tolist() == [1, 1, 12, 23, 0, 1, 1, 1, 0.26, 0.2727, 0.65, 0.1343]
    assert (raw.y[0], raw.y[-1]) == (16, 49)


def test_real_sgemm_product(real):
    need(real, "sgemm_product/sgemm_product.csv")
    raw = formats.read_sgemm_product(real)
    assert raw.x.shape == (241600, 14)
    assert raw.x[-1].tolist() == [128, 128, 32, 32, 32, 32, 32, 8, 4, 4, 1, 1, 1, 1]
    assert raw.y.mean() == pytest.approx(217.57195, abs=5e-6)
    assert raw.y[0] == pytest.approx((115.26 + 115.87 + 118.55 + 115.8) / 4)


@pytest.mark.parametrize("name", datasets.NAMES)
def test_real_load(real, name):
    if name != "digits" and not any(row["present"] for row in datasets.status(name, real)):
        pytest.skip(f"needs {name} under SGDSIM_DATA")
    ds = datasets.load(name, 200, seed=1, n_test=77, data_dir=real)
    assert (ds.n, len(ds.x_test), ds.d) == (200, 77, int(np.prod(ds.info["input_shape"])))
    assert ds.info["kind"] == ("images" if name in IMAGES else "table")
    assert abs(ds.y.mean()) < 1e-12
    assert np.abs(ds.x.mean() if name in IMAGES else ds.x.mean(axis=0)).max() < 1e-12
    if name in SINGLE_FILE:
        assert ds.info["n_available"] == SINGLE_FILE[name]
        assert str(SINGLE_FILE[name]) in message(datasets.load, name, SINGLE_FILE[name] + 1, data_dir=real)
        rows = {row.tobytes() for row in ds.x}
        if name == "sgemm_product":  # the only table without repeated rows
            assert not rows & {row.tobytes() for row in ds.x_test}
