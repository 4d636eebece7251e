"""Arrays, objects, functions and folders of one's own, and what `Dataset` takes."""

import copy
import pickle
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import sgdsim as ss
from sgdsim import datasets
from sgdsim.common.checks import InputError

RNG = np.random.default_rng(0)
X = RNG.standard_normal((20, 3))
Y = X[:, 0] + 0.1 * X[:, 1]
IMAGES = RNG.integers(0, 256, (20, 3, 4, 5)).astype(np.uint8)
LABELS = np.arange(20) % 4


def message(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def plain(source, n=20, **options):
    """All rows as they are, in the order of their first input."""
    data = datasets.load_file(source, n, n_test=0, standardise=False, **options)
    return data, np.lexsort((data.x.reshape(data.n, -1)[:, 0],))


# What `Dataset` takes.


def test_inputs_of_any_shape_and_several_targets():
    data = ss.Dataset(torch.tensor(IMAGES), torch.tensor(X, requires_grad=True), "own", IMAGES[:2], X[:2])
    assert (data.n, data.d, data.n_outputs) == (20, 60, 3)
    assert data.x.shape == (20, 3, 4, 5)
    assert data.x.dtype == data.y.dtype == np.float64
    np.testing.assert_array_equal(data.y, X)
    assert repr(data) == "Dataset('own', n=20, d=60, n_test=2, n_outputs=3)"
    for again in (data, copy.deepcopy(data), pickle.loads(pickle.dumps(data))):
        for values in (again.x, again.y, again.x_test, again.y_test):
            assert not values.flags.writeable
    column = ss.Dataset(X, Y[:, None], "own", X[:2], Y[:2])
    assert (column.y.shape, column.n_outputs) == ((20,), 1)


def test_data_are_copied_at_the_boundary():
    x, y = X.copy(), torch.tensor(Y)
    data = ss.Dataset(x, y, "own")
    x[:] = 0
    y.zero_()
    np.testing.assert_array_equal(data.x, X)
    np.testing.assert_array_equal(data.y, Y)


def test_tokens_stay_integers():
    tokens = torch.randint(0, 9, (6, 4))
    data = ss.Dataset(tokens, range(6), "words", tokens[:2], [0, 1], tokens=True)
    assert data.x.dtype == data.x_test.dtype == np.int64
    assert not data.x.flags.writeable
    assert pickle.loads(pickle.dumps(data)).tokens
    assert ss.Dataset(tokens, range(6), "counts").x.dtype == np.float64
    embedding = torch.nn.Sequential(torch.nn.Embedding(9, 3), torch.nn.Flatten(), torch.nn.Linear(12, 1))
    assert ss.ntk.evaluate(embedding, data.x).shape == (6,)


@pytest.mark.parametrize("frame", [pd.DataFrame(X, columns=list("abc")), pd.DataFrame(X)])
def test_frames_and_masked_arrays_without_a_mask(frame):
    np.testing.assert_array_equal(ss.Dataset(frame, pd.Series(Y), "own").x, X)
    np.testing.assert_array_equal(ss.Dataset(np.ma.array(X), pd.DataFrame(Y), "own").y, Y)


def test_polars_frames():
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"a": X[:, 0], "b": X[:, 1], "y": Y, "t": ["u", "v"] * 10})
    data = ss.Dataset(frame[["a", "b"]], frame["y"], "own")
    np.testing.assert_array_equal(data.x, X[:, :2])
    assert datasets.load_file(frame, 20, target="y", n_test=0).info["columns"] == ["a", "b", "t=u", "t=v"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"x": Y}, "x: expected 2 dimensions or more, (n, …), got shape (20,)"),
        ({"x": np.ma.masked_greater(X, 1.5)}, "x: expected no masked values, got some in"),
        ({"y": np.ma.array(Y, mask=[0] * 3 + [1] + [0] * 16)}, "got some in 1 of 20 rows (from 0): 3;"),
        ({"x": pd.DataFrame({"a": Y, "b": ["u"] * 20})}, "columns of numbers with none missing, got others in 'b'"),
        ({"x": pd.DataFrame({"a": pd.array([1, None] * 10, dtype="Int64"), "b": Y})}, "got others in 'a'"),
        ({"y": X[:, :2], "x_test": X, "y_test": Y}, "y_test: expected (2,) for each row as in y, got shape (20,)"),
        ({"x_test": X, "y_test": X}, "y_test: expected one output for each row"),
        ({"x": IMAGES, "x_test": IMAGES[:, :2], "y_test": Y}, "x_test: expected shape (any, 3, 4, 5), got (20"),
        ({"x": IMAGES, "x_test": X, "y_test": Y}, "x_test: expected rows of shape (3, 4, 5) as in x"),
        ({"tokens": True}, "x: expected integers with tokens=True, got float64"),
        ({"x": [[1, 2], [3]]}, "x: expected an array of real numbers, got list"),
        ({"y": X[:19]}, "y: expected shape (20, any), got (19, 3)"),
    ],
)  # fmt: skip
def test_what_a_dataset_refuses(change, words):
    assert words in message(ss.Dataset, **{"x": X, "y": Y, "name": "own"} | change)


# Arrays and what functions return.


class Points(torch.utils.data.Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, i):
        return torch.tensor(X[i], requires_grad=True), Y[i]


def forms(folder: Path) -> dict[str, tuple[object, dict[str, str]]]:
    """X and Y in every form, each with the options that say what is what."""
    np.savez(folder / "xy.npz", x=X, y=Y)
    np.savez(folder / "named.npz", inputs=X, outputs=Y[:, None])
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    np.save(folder / "all.npy", np.column_stack([X, Y]))
    torch.save({"x": torch.tensor(X), "y": torch.tensor(Y)}, folder / "xy.pt")
    pairs = torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y))
    dicts = [{"a": a, "b": b, "c": c, "y": y} for (a, b, c), y in zip(X.tolist(), Y, strict=True)]
    return {
        "npz": (folder / "xy.npz", {}),
        "named npz": (folder / "named.npz", {"features": ["inputs"], "target": "outputs"}),
        "npy": (folder / "x.npy", {"target": str(folder / "y.npy")}),
        "columns of npy": (folder / "all.npy", {"target": "3"}),
        "torch file": (folder / "xy.pt", {}),
        "tuple": ((X, Y), {}),
        "tensors": ((torch.tensor(X, requires_grad=True), torch.tensor(Y)), {}),
        "mapping": ({"x": X, "y": Y.tolist()}, {}),
        "frame": (pd.DataFrame(X, columns=list("abc")).assign(y=Y), {"target": "y"}),
        "torch data": (pairs, {}),
        "own torch data": (Points(), {}),
        "dicts": (dicts, {"features": ["a", "b", "c"], "target": "y"}),
        "dicts with label": ([{"x": x, "label": y} for x, y in zip(X, Y, strict=True)], {}),
        "data set": (ss.Dataset(X, Y, "own"), {}),
    }


def test_one_set_in_many_forms(tmp_path):
    expected = X[np.argsort(X[:, 0])]
    for name, (source, options) in forms(tmp_path).items():
        data, order = plain(source, **options)
        np.testing.assert_array_equal(data.x[order], expected, err_msg=name)
        np.testing.assert_array_equal(data.y[order], expected[:, 0] + 0.1 * expected[:, 1], err_msg=name)
        assert data.info["targets"] == "number"


def test_official_test_parts_and_splits():
    data = datasets.load_file((X, Y, X[:5], Y[:5]), standardise=False)
    assert (data.n, len(data.x_test)) == (20, 5)
    assert {row.tobytes() for row in data.x_test} == {row.tobytes() for row in X[:5]}
    parts = {"train": list(zip(X, Y, strict=True)), "test": list(zip(X[:5], Y[:5], strict=True))}
    again = datasets.load_file(parts, standardise=False)
    np.testing.assert_array_equal(again.x_test, data.x_test)
    split = datasets.load_file((X, Y), standardise=False)
    assert (split.n, len(split.x_test)) == (16, 4)
    assert {row.tobytes() for row in (*split.x, *split.x_test)} == {row.tobytes() for row in X}
    assert datasets.load_file((X, Y), n_at_most=7).n == 7


def test_images_keep_their_shape_and_are_standardised_as_one():
    data = datasets.load_file((IMAGES, LABELS), 12, targets="one-hot", n_test=8)
    assert data.x.shape == (12, 3, 4, 5)
    assert data.x.mean() == pytest.approx(0, abs=1e-12)
    assert data.x.std() == pytest.approx(1)
    np.testing.assert_array_equal(data.y.sum(axis=0), 3)  # each class keeps its share
    flat = datasets.load_file((IMAGES, LABELS), 12, targets="one-hot", n_test=8, flat=True)
    np.testing.assert_array_equal(flat.x, data.x.reshape(12, 60))


def test_tokens_of_a_sequence():
    tokens = np.arange(60).reshape(20, 3)
    data, order = plain((tokens, Y), tokens=True)
    np.testing.assert_array_equal(data.x[order], tokens)
    assert data.x.dtype == np.int64
    assert "expected integers as tokens" in message(datasets.load_file, (X, Y), tokens=True)


@pytest.mark.parametrize(
    ("source", "options", "words"),
    [
        ((np.where(X > 1.5, np.nan, X), Y), {}, "got NaN in"),
        ((X, np.where(Y > 1, np.nan, Y)), {"missing": "mean"}, "expected no missing values"),
        ((np.where(IMAGES > 250, np.nan, IMAGES), Y), {"missing": "mean"}, "expected no missing values"),
        ((np.where(X > 1, np.inf, X), Y), {}, "expected finite numbers in x, got an infinite one in row"),
        ((np.ma.masked_greater(X, 1), Y), {}, "x: expected no masked values"),
        ((X, Y[:5]), {}, "expected x (n, …) and y (n,) or (n, C), got (20, 3) and (5,)"),
        ((X + 1j, Y), {}, "expected x as an array of real numbers, got complex128"),
        ((X.astype(str), Y), {}, "expected x as an array of real numbers"),
        ((X, X), {"targets": "one-hot"}, "which has several outputs"),
        ({"a": X, "y": Y}, {}, "expected arrays x and y, got a, y"),
        ([{"a": 1, "b": 2, "c": 3}] * 3, {"target": "c"}, "keys that say what the inputs and the target are"),
        ([(X[0], 1), (X[1, :2], 2), (X[2], 3)], {}, "expected inputs of one shape, got (2,), (3,)"),
        ([], {}, "at least one point"),
        ((i for i in range(3)), {}, "got generator"),
        (3, {}, "got int"),
        ("none.csv", {}, "none.csv: expected a file, a folder or MODULE:FUNCTION, found none"),
        ("no_module_of_this_name:f", {}, "ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_taken(source, options, words):
    assert words in message(datasets.load_file, source, **options)


def test_missing_values_in_arrays():
    x = X.copy()
    x[3, 1] = x[7, 0] = np.nan
    assert "in 2 of 20 rows (from 0): 3, 7;" in message(datasets.load_file, (x, Y))
    data, _ = plain((x, Y), n=18, missing="drop")
    assert {*data.y} == {*np.delete(Y, [3, 7])}
    filled, _ = plain((x, Y), missing="mean")
    assert filled.x[filled.y == Y[3], 1] == pytest.approx(np.nanmean(x[:, 1]))


def test_functions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", ["", *__import__("sys").path])
    Path("own_test_data.py").write_text(
        "import numpy as np\nimport sgdsim as ss\nX = np.arange(24.).reshape(12, 2)\n"
        "def arrays(): return X, X[:, 0]\ndef made(): return ss.Dataset(X, X[:, 0], 'made', X[:3], X[:3, 0])\n"
        "def broken(): raise ValueError('no\\nfile')\ndef nothing(): pass\n"
    )
    assert datasets.load_file("own_test_data:arrays").name == "own_test_data:arrays"
    made = datasets.load_file("own_test_data:made")
    np.testing.assert_array_equal(made.x, np.arange(24.0).reshape(12, 2))  # as it is, in its order
    assert len(made.x_test) == 3
    assert datasets.load_file("own_test_data:made", n_test=0).x_test is None
    assert datasets.load_file("own_test_data:made", 5, n_test=2).n == 5
    assert "got ValueError: no" in message(datasets.load_file, "own_test_data:broken")
    assert "got NoneType" in message(datasets.load_file, "own_test_data:nothing")
    assert "AttributeError" in message(datasets.load_file, "own_test_data:other")


# Folders of images.


def folder_of(home: Path, mode: str = "RGB") -> Path:
    """Two classes of five images; the first pixel says which it is."""
    for c, name in enumerate(("cat", "dog")):
        (home / name).mkdir(parents=True)
        for i in range(5):
            pixels = np.full((4, 3, 3) if mode == "RGB" else (4, 3), 20 * i + 100 * c, dtype=np.uint8)
            if mode == "RGB":
                pixels[..., 1] = 255
            Image.fromarray(pixels).save(home / name / f"{i}.png")
        (home / name / "notes.txt").write_text("no image")
    return home


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_folder_of_images(tmp_path, mode):
    folder = folder_of(tmp_path / "pets", mode)
    data, order = plain(folder, 10)
    assert data.x.shape == (10, 3 if mode == "RGB" else 1, 4, 3)
    levels = np.array([20 * i + 100 * c for c in range(2) for i in range(5)])
    assert (data.x[order, 0] * 255).round().astype(int)[:, 0, 0].tolist() == sorted(levels)
    if mode == "RGB":
        assert (data.x[:, 1] == 1).all()
        assert (data.x[:, 2] == data.x[:, 0]).all()
    assert data.info["classes"] == ["cat", "dog"]
    np.testing.assert_array_equal(data.y, np.eye(2)[(data.x[:, 0, 0, 0] * 255 > 99).astype(int)])
    pair, order = plain(folder, 10, targets="class:dog,cat")
    assert pair.y[order].tolist() == [1] * 5 + [-1] * 5
    shutil.copytree(folder, tmp_path / "both/train")
    shutil.copytree(folder, tmp_path / "both/test")
    both = datasets.load_file(tmp_path / "both")
    assert (both.n, len(both.x_test), both.info["classes"]) == (10, 10, ["cat", "dog"])


def test_folders_that_cannot_be_taken(tmp_path):
    folder = folder_of(tmp_path / "pets")
    assert "targets are text" in message(datasets.load_file, folder, targets="number")
    assert "expected none for a folder" in message(datasets.load_file, folder, target="y")
    assert "expected two subfolders" in message(datasets.load_file, folder / "cat")
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "dog" / "x.png")
    whole = {"n": 11, "n_test": 0}
    assert "x.png: expected 3 x 4 pixels as in the first image, got 9 x 9" in message(
        datasets.load_file, folder, **whole
    )
    (folder / "dog" / "x.png").write_bytes(b"no image")
    assert "x.png: expected an image that Pillow reads" in message(datasets.load_file, folder, **whole)
    Image.fromarray(np.zeros((4, 3), np.uint16)).save(folder / "dog" / "x.png")
    assert "8 bits for each colour" in message(datasets.load_file, folder, **whole)
