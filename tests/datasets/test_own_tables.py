"""Tables of one's own: what a person would read in a csv file, and one clear line where nobody could."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sgdsim import datasets
from sgdsim.common.checks import InputError
from sgdsim.datasets import tables

PLAIN = "area,rooms,price\n1,2,10\n3,4,20\n5,7,40\n"


def write(folder: Path, content: str | bytes, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def whole(path: Path, target="price", **options) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Column names, inputs and targets of all rows in the order of the targets, as they are in the file."""
    rows = sum(bool(line.strip(" ,\r")) for line in read_lines(path)) - 1
    data = datasets.load_file(path, options.pop("n", rows), target=target, n_test=0, standardise=False, **options)
    order = np.argsort(data.y if data.y.ndim == 1 else data.y.argmax(axis=1), kind="stable")
    return data.info["columns"], data.x[order], data.y[order]


def read_lines(path: Path) -> list[str]:
    content = path.read_bytes()
    text = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return (
        text.decode("utf-16" if text[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1").replace("\r", "\n").split("\n")
    )


def message(path, **options) -> str:
    options = {"target": "price", "n_test": 0} | options
    with pytest.raises(InputError) as caught:
        datasets.load_file(path, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        b"\xef\xbb\xbf" + PLAIN.encode(),
        PLAIN.encode("utf-16"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\r"),
        gzip.compress(PLAIN.encode()),
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace(",", " , "),
        "sep=;\n" + PLAIN.replace(",", ";"),
        '"area", "rooms", "price"\n"1", "2", "10"\n3,"4",20\n5,7,40.0',
        "\n\n" + PLAIN.replace("\n", "\n\n  \n,,\n"),
        PLAIN.replace("\n", ",\n"),  # a comma after each row
        ",area,rooms,price\n0,1,2,10\n1,3,4,20\n2,5,7,40\n",  # row numbers, as pandas writes them
        "area;rooms;price\n1,0;2;1,0e1\n3,00;4;20\n5;7;40\n",
        "area;rooms;price\n1;2;10,\n3;4;+20\n5;7;40\n",
    ],
)
def test_one_table_in_many_forms(tmp_path, content):
    columns, x, y = whole(write(tmp_path, content), n=3)
    assert columns == ["area", "rooms"]
    assert x.tolist() == [[1, 2], [3, 4], [5, 7]]
    assert y.tolist() == [10, 20, 40]


def test_a_file_with_every_quirk(tmp_path):
    """Line by line what stands there: a mark between thousands, decimal commas, quotes and a line end within a cell,
    umlauts of the western code page, separators in quoted cells, true and false."""
    text = (
        '"Fläche, m²" ;Ort;Lift;"Preis ""netto"""\r\n'
        '1,5;"Köln; Süd";TRUE;1.000,5\r\n'
        "\r\n"
        '-2,25;"Bonn";false;2.000,0\r\n'
        '12;" Köln; Süd";False;3000\r\n'
        '1.234,75;"zwei\r\nZeilen";true;12.345.678,25\r\n'
    )
    path = write(tmp_path, text.encode("cp1252"))
    columns, x, y = whole(path, 'Preis "netto"', n=4)
    assert columns == ["Fläche, m²", "Ort=Bonn", "Ort=Köln; Süd", "Ort=zwei\r\nZeilen", "Lift"]
    assert x.tolist() == [[1.5, 0, 1, 0, 1], [-2.25, 1, 0, 0, 0], [12, 0, 1, 0, 0], [1234.75, 0, 0, 1, 1]]
    assert y.tolist() == [1000.5, 2000, 3000, 12345678.25]
    assert tables.read_csv(path).places.tolist() == [2, 4, 5, 6]  # where an editor shows the rows


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ('a,price\n"1,234.5",1\n"12,000",2\n7,3\n', [1234.5, 12000, 7]),
        ("a;price\n1,234;1\n2,500;2\n", [1.234, 2.5]),  # semicolons: a decimal comma
        ("a;price\n1,234.5;1\n2;2\n", [1234.5, 2]),
        ("a;b;price\n1.234;1,5;1\n2;2,5;2\n", [1234, 2]),  # as other columns have decimal commas
        ("a;b;price\n1.234;1,500;1\n2;2,500;2\n", [1.234, 2]),  # no sign of them
        ("a;b;price\n0.125;1,5;1\n2.5;2,5;2\n", [0.125, 2.5]),
        ("a;price\n1.234;1\n2.5;2\n", [1.234, 2.5]),
        ("a,price\n.5,1\n-1E-3,2\n+4.,3\n", [0.5, -0.001, 4]),
    ],
)
def test_numbers_as_people_write_them(tmp_path, text, numbers):
    assert whole(write(tmp_path, text), n=len(numbers), features=["a"])[1][:, 0].tolist() == numbers


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "t.csv: expected a table, got an empty file"),
        (" \n\n", "got an empty file"),
        ("a,price\n", "at least one row below the header"),
        ("a,price\n1,2\n", "at least 2 rows without missing values, got 1"),
        ("price\n1\n2\n", "at least one column of t.csv beside the target"),
        ("1,2,3\n4,5,6\n", "a line of column names first, got 1, 2, 3"),
        ("a,price\n1,2\n\n2,3,4\n", "line 4: expected 2 fields as in the header, got 3"),
        ("a,b,price\n1,2,3\n2,3\n", "line 3: expected 3 fields as in the header, got 2"),
        ("a,a,price\n1,2,3\n2,3,4\n", "different column names, got 'a' more than once"),
        ("a,price\n1,2\nwarm,3\n3,4\n", "line 3, column 'a': expected a number as in most of the column, got 'warm'"),
        ("a,price\n1,2\n-inf,3\n", "line 3, column 'a': expected a finite number, got '-inf'"),
        ("a,price\n1,2\n1e999,3\n", "line 3, column 'a': expected a number that float64 holds, got '1e999'"),
        ("a,price\n1_000,2\n2,3\n", "line 2, column 'a': expected a number as in most of the column, got '1_000'"),
        ("a,price\n45%,2\n50%,3\n", "line 2, column 'a': expected a plain number or text, got '45%'"),
        ('a,price\n"1,5",2\n"2,5",3\n', "line 2, column 'a': expected a plain number or text, got '1,5'"),
        ("a\tb\tprice\n1.234\t1,5\t1\n2.345\t2,5\t2\n", "line 2, column 'a': '1.234' may be 1.234 or 1234;"),
        ("a\tprice\n1,234\t1\n2\t2\n", "'1,234' may be 1.234 or 1234;"),
        ("a;price\n1.5;1\n2,5;2\n", "line 2, column 'a': expected numbers with one kind of decimal mark"),
        ('a,price\n"1,2\n3,4\n', "line 2: expected fields that a csv reader can tell apart, got: unexpected end"),
        ("a,price\n1,2\n1,3\n", "t.csv: expected inputs that differ"),
        ("a,price\n1,2\n3,2\n", "t.csv: expected targets that differ"),
        ("a,price\n1\0,2\n", "expected a table of text"),
        (b"\x89PNG\r\n\x1a\n\0\0", "expected a table of text"),
        (bytes(range(256)), "expected a table of text"),
        (gzip.compress(PLAIN.encode())[:-9], "truncated or damaged"),
        ("a,cost\n1,2\n", "t.csv: expected a column 'price', got none; the columns are a, cost"),
        (
            "id,price\n" + "".join(f"u{i},{i}\n" for i in range(120)),
            "at most 100 categories, got 120 texts such as 'u0'",
        ),
    ],
)
def test_what_nobody_could_read_is_one_line(tmp_path, content, words):
    assert words in message(write(tmp_path, content))


GAPS = "a,b,price\n1,NA,10\n,x,20\n3,,30\n4,y,40\n5,y,60\n"


def test_how_numbers_were_read_is_said(tmp_path):
    data = datasets.load_file(write(tmp_path, "a;b;price\n7;1,5;1.000\n2;2,5;2.000\n"), 2, target="price", n_test=0)
    assert "; in price 1.000 is 1000;" in datasets.sentence(data)


def test_missing_values_are_named(tmp_path):
    text = message(write(tmp_path, GAPS))
    assert "got 1 in 'a' (line 3); 2 in 'b' (lines 2, 4); --missing drop leaves 3 of 5 rows out" in text
    assert "column 'a': expected values, got none at all" in message(write(tmp_path, "a,b,price\n,1,2\n?,2,3\n"))


def test_rows_with_missing_values_are_dropped(tmp_path):
    columns, x, y = whole(write(tmp_path, GAPS), missing="drop", n=2)
    assert (columns, x.tolist(), y.tolist()) == (["a", "b=y"], [[4, 1], [5, 1]], [40, 60])


def test_missing_values_become_the_mean_of_the_training_rows(tmp_path):
    """A missing category becomes how often each of the others comes."""
    path = write(tmp_path, GAPS)
    columns, x, _ = whole(path, missing="mean")
    assert columns == ["a", "b=x", "b=y"]
    assert x.tolist() == [[1, 1 / 3, 2 / 3], [3.25, 1, 0], [3, 1 / 3, 2 / 3], [4, 0, 1], [5, 0, 1]]
    for seed in range(5):  # what lies in the test rows has no part in it
        data = datasets.load_file(path, 4, seed, target="price", missing="mean", n_test=1, standardise=False)
        known = {10: 1, 30: 3, 40: 4, 60: 5}
        train = [known[y] for y in data.y if y in known]
        filled = [*data.x[data.y == 20, 0], *data.x_test[data.y_test == 20, 0]]
        assert filled == [pytest.approx(np.mean(train))]
    assert "missing targets, got 1 in 'price' (line 4)" in message(
        write(tmp_path, GAPS.replace("30", "")), missing="mean"
    )


def test_standardisation_is_that_of_the_training_rows_and_can_be_left_out(tmp_path):
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{'uv'[i % 2]},7,{3 * a + 5:.3f}" for i, a in enumerate(rng.standard_normal(30))]
    path = write(tmp_path, "a,kind,same,price\n" + "\n".join(rows))
    data = datasets.load_file(path, 20, target="price", n_test=10)
    raw = datasets.load_file(path, 20, target="price", n_test=10, standardise=False)
    assert data.info["columns"] == raw.info["columns"] == ["a", "kind=u", "kind=v", "same"]
    np.testing.assert_allclose(data.x[:, 0], (raw.x[:, 0] - raw.x[:, 0].mean()) / raw.x[:, 0].std(), rtol=1e-12)
    np.testing.assert_allclose(data.y_test, (raw.y_test - raw.y.mean()) / raw.y.std(), rtol=1e-12)
    np.testing.assert_array_equal(data.x[:, 1:3], raw.x[:, 1:3])  # 0 and 1 stay
    assert (data.x[:, 3] == 0).all()
    assert (raw.x[:, 3] == 7).all()
    mean, std = np.array(data.info["input_mean"]), np.array(data.info["input_std"])
    np.testing.assert_allclose(data.x_test[:, :3] * std[:3] + mean[:3], raw.x_test[:, :3], atol=1e-12)
    assert "constant and so 0: same" in datasets.sentence(data)
    assert "numbers as they are" in datasets.sentence(raw)
    assert {row.tobytes() for row in raw.x}.isdisjoint(row.tobytes() for row in raw.x_test)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": None}, "target: expected the name of a column of t.csv, got none; the columns are area, rooms"),
        ({"features": ["zone"]}, "expected a column 'zone', got none"),
        ({"features": ["area", "price"]}, "no target among them, got 'price'"),
        ({"features": ["area", "area"]}, "each column once"),
        ({"features": []}, "at least one column"),
        ({"missing": "guess"}, "missing: expected one of refuse, drop, mean"),
        ({"n": 4}, "n: expected at most 3"),
        ({"targets": "three"}, "targets: expected number, one-hot or class:A,B, got 'three'"),
    ],
)
def test_options_that_do_not_fit(tmp_path, options, words):
    assert words in message(write(tmp_path, PLAIN), **options)


def test_several_targets(tmp_path):
    data = datasets.load_file(write(tmp_path, PLAIN), 3, target=["rooms", "price"], n_test=0)
    assert data.y.shape == (3, 2)
    np.testing.assert_allclose(data.y.std(axis=0), 1)
    raw = data.y * data.info["target_std"] + data.info["target_mean"]
    assert sorted(raw.round(9).tolist()) == [[2, 10], [4, 20], [7, 40]]


CLASSES = "a,animal,code\n1,cat,3\n2,dog,8\n3,cow,5\n4,dog,8\n5,cat,3\n6,cow,5\n"


@pytest.mark.parametrize(
    ("target", "targets", "kind", "classes", "y"),
    [
        ("animal", None, "one-hot", ["cat", "cow", "dog"], [0, 2, 1, 2, 0, 1]),
        ("code", "one-hot", "one-hot", ["3", "5", "8"], [0, 2, 1, 2, 0, 1]),
        ("code", None, "number", None, [3, 8, 5, 8, 3, 5]),
        ("animal", "class:dog,cat", "class:dog,cat", ["dog", "cat"], [1, -1, None, -1, 1, None]),
        ("code", "class:3,8", "class:3,8", ["3", "8"], [-1, 1, None, 1, -1, None]),
    ],
)
def test_targets(tmp_path, target, targets, kind, classes, y):
    n = sum(value is not None for value in y)
    path = write(tmp_path, CLASSES)
    data = datasets.load_file(path, n, target=target, features=["a"], targets=targets, n_test=0, standardise=False)
    assert (data.info["targets"], data.info.get("classes")) == (kind, classes)
    expected = [np.eye(3)[value].tolist() if kind == "one-hot" else value for value in y if value is not None]
    order = np.argsort(data.x[:, 0])
    assert data.y[order].tolist() == expected
    assert data.x[order, 0].tolist() == [row for row, value in enumerate(y, 1) if value is not None]
    assert data.n_outputs == (3 if kind == "one-hot" else 1)


def test_targets_that_are_no_classes(tmp_path):
    path = write(tmp_path, CLASSES)
    assert "whose targets are text" in message(path, target="animal", targets="number")
    assert "two of the classes of t.csv (cat, cow, dog)" in message(path, target="animal", targets="class:cat,emu")
    assert "2 to 1000 classes" in message(
        write(tmp_path, "a,price\n" + "".join(f"{i},{i}\n" for i in range(1100))), targets="one-hot"
    )
    assert "no class labels" in message(write(tmp_path, "a,price\n1,2.5\n2,3\n"), targets="one-hot")


def test_parquet_and_frames_are_as_csv(tmp_path):
    frame = pd.DataFrame(
        {"a": [1.5, 2, 3, 4], "n": pd.array([1, None, 3, 4], dtype="Int64"), "town": ["x", "y", None, "x"],
         "yes": [True, False, True, True], "price": [10, 20, 30, 40]}
    )  # fmt: skip
    frame.to_csv(tmp_path / "t.csv", index=False)
    options = {"target": "price", "missing": "mean", "n_test": 0, "n": 4}
    sets = [datasets.load_file(tmp_path / "t.csv", **options), datasets.load_file(frame, **options)]
    pytest.importorskip("pyarrow", reason="parquet needs pyarrow")
    frame.to_parquet(tmp_path / "t.parquet")
    sets.append(datasets.load_file(tmp_path / "t.parquet", **options))
    for data in sets:
        np.testing.assert_array_equal(data.x, sets[0].x)
        np.testing.assert_array_equal(data.y, sets[0].y)
        assert data.info["columns"] == ["a", "n", "town=x", "town=y", "yes"]
    frame["day"] = pd.Timestamp("2020-01-01")
    assert "column 'day': expected numbers or text, got datetime64" in message(frame)
    assert "1 in 'n' (row 2)" in message(frame, features=["n"])
    write(tmp_path, b"PAR1xxxxPAR1", "bad.parquet")
    assert "expected a readable parquet file" in message(tmp_path / "bad.parquet")


def test_parquet_without_its_reader_says_what_to_install(tmp_path, monkeypatch):
    def none(path):
        raise ImportError("no engine")

    monkeypatch.setattr(pd, "read_parquet", none)
    assert "pip install pyarrow" in message(write(tmp_path, b"PAR1", "t.parquet"))


def test_the_csv_of_a_built_in_set_gives_that_set(tmp_path):
    """The same rows are drawn, whether it is read as a table of one's own or by its name."""
    rng = np.random.default_rng(2)
    header = ["instant", "dteday", *datasets.formats.BIKE_FEATURES, "casual", "registered", "cnt"]
    rows = [[i, "2011-01-01", *rng.integers(0, 99, 15)] for i in range(60)]
    (tmp_path / "Bike-Sharing").mkdir()
    text = "\r\n".join(",".join(map(str, row)) for row in (header, *rows))
    path = write(tmp_path, text, "Bike-Sharing/hour.csv")
    own = datasets.load_file(path, 40, 3, target="cnt", features=datasets.formats.BIKE_FEATURES, n_test=15)
    known = datasets.load("bike_sharing", 40, 3, n_test=15, data_dir=tmp_path)
    for name in ("x", "y", "x_test", "y_test"):
        np.testing.assert_array_equal(getattr(own, name), getattr(known, name))


@pytest.mark.parametrize("targets", ["one-hot", "class:3,8"])
def test_classes_of_a_built_in_set(targets):
    number = datasets.load("digits", 200, 1, n_test=50)
    labels = np.rint(number.y * number.info["target_std"] + number.info["target_mean"]).astype(int)
    data = datasets.load("digits", 200, 1, n_test=50, targets=targets)
    if targets == "one-hot":  # the same rows
        np.testing.assert_array_equal(data.x, number.x)
        np.testing.assert_array_equal(data.y, np.eye(10)[labels])
        assert data.y_test.shape == (50, 10)
        assert data.info["classes"] == [str(k) for k in range(10)]
    else:
        raw = datasets.formats.READERS["digits"](None)
        mean, std = data.info["input_mean"], data.info["input_std"]
        stored = {row.tobytes(): label for row, label in zip(raw.x, raw.y, strict=True)}
        for x, y in ((data.x, data.y), (data.x_test, data.y_test)):
            rows = np.rint((x * std + mean) * 16)
            assert [{3: -1, 8: 1}[stored[row.tobytes()]] for row in rows] == y.tolist()
    assert data.info["targets"] == targets
    with pytest.raises(InputError, match="class:A,B with two of the classes of digits"):
        datasets.load("digits", 10, targets="class:3,12")


@pytest.mark.parametrize(
    "content", ["1,2\n3,4.5\n", "1;2\n3;4,5\n", "a,b\n1,2\n3,4.5\n", ",a,b\n0,1,2\n1,3,4.5\n", "1\t2\n3\t4.5\n"]
)
def test_a_matrix(tmp_path, content):
    assert tables.read_matrix(write(tmp_path, content)).tolist() == [[1, 2], [3, 4.5]]
    assert tables.read_matrix(write(tmp_path, "y\n1\n-1\n")).tolist() == [1, -1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("1,2\n3\n", "line 2: expected 2 numbers, got 1"),
        ("1,2\n3,\n", "got an empty cell in column 2"),
        ("a,b\n1,u\n2,v\n", "got text in column b"),
        ("1,2\n3,x\n", "line 2, column 2: expected a number as in most of the column, got 'x'"),
    ],
)
def test_what_is_no_matrix(tmp_path, content, words):
    with pytest.raises(InputError) as caught:
        tables.read_matrix(write(tmp_path, content))
    assert words in str(caught.value)
