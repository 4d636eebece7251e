"""Columns of numbers that are categories."""

import numpy as np
import pandas as pd
import pytest

from sgdsim.cli import main
from sgdsim.common.checks import InputError
from sgdsim.datasets import load_file

CODES = [10115, 2134, 80331, 2134, 10115, 80331, 2134, 80331]


@pytest.fixture
def table(tmp_path, monkeypatch) -> pd.DataFrame:
    monkeypatch.chdir(tmp_path)
    frame = pd.DataFrame({"zip": CODES, "rooms": [1, 2.5, 3, 1, 2, 4, 3, 2], "rent": np.arange(8.0) ** 2})
    frame.to_csv("flats.csv", index=False)
    frame.assign(zip=[f"z{code}" for code in CODES]).to_csv("texts.csv", index=False)
    return frame


def test_they_are_as_columns_of_text_are(table):
    options = {"n": 6, "n_test": 2, "target": "rent"}
    as_text = load_file("texts.csv", **options)
    for source in ("flats.csv", table):
        found = load_file(source, **options, categorical=["zip"])
        np.testing.assert_array_equal(found.x, as_text.x)
        np.testing.assert_array_equal(found.x_test, as_text.x_test)
        assert found.info["one_hot"] == {"zip": ["10115", "2134", "80331"]}
        assert found.info["columns"] == ["zip=10115", "zip=2134", "zip=80331", "rooms"]
    assert load_file("flats.csv", **options).x.shape == (6, 2)  # numbers, unless it is said


def test_missing_ones_and_numbers_with_digits(table):
    frame = table.assign(zip=[0.5, np.nan, 0.5, 1e9 + 1, 1e9 + 2, 0.5, 1e9 + 1, 0.5])
    found = load_file(frame, 6, target="rent", categorical=["zip"], missing="drop", n_test=1)
    assert found.info["one_hot"] == {"zip": ["0.5", "1000000001", "1000000002"]}
    assert found.info["rows_dropped"] == 1


@pytest.mark.parametrize(
    ("source", "columns", "words"),
    [
        ("flats.csv", ["street"], r"categorical: expected columns among the inputs \(zip, rooms\), got 'street'"),
        ("flats.csv", ["rent"], "categorical: expected columns among the inputs"),
        ((np.eye(4), np.arange(4.0)), ["0"], "categorical: expected none for tuple, which is no table"),
    ],
)
def test_what_is_no_input_of_a_table_is_refused(table, source, columns, words):
    with pytest.raises(InputError, match=words):
        load_file(source, target="rent" if isinstance(source, str) else None, categorical=columns, n_test=0)


def test_command(table, capsys):
    words = ["spectrum", "--data", "flats.csv", "--target", "rent", "--n", "6", "--width", "4", "--json"]
    assert main([*words, "--categorical", "zip"]) == 0
    assert "4 input columns, of them zip one-hot" in capsys.readouterr().err
    assert main(["spectrum", "--n", "6", "--categorical", "zip"]) == 2
    assert "--categorical: expected only with --data" in capsys.readouterr().err
