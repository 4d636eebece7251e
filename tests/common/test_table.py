"""One table as text, Markdown and HTML."""

import types

import pytest

from sgdsim.common.table import Table

TABLE = Table(["name", "lr", "loss"], [["a", "0.5", "1"], ["long name", "1", "12.5"]], "lr")


def test_text():
    assert TABLE.text().split("\n") == [
        "name        lr  loss",
        "--------------------",
        "a          0.5     1",
        "long name    1  12.5",
    ]
    assert TABLE.text(ruled=False).split("\n") == TABLE.text().split("\n")[:1] + TABLE.text().split("\n")[2:]


def test_the_last_letter_holds_for_all_further_columns():
    rows = [["a", "b", "c"], ["aa", "bb", "cc"]]
    assert Table([], rows).text() == " a   b   c\naa  bb  cc"
    assert Table([], rows, "llr").text() == "a   b    c\naa  bb  cc"
    assert Table([], rows, "l").text() == "a   b   c\naa  bb  cc"  # nothing at the end of a line
    assert Table([], [["a"], ["aa"]], "llr").text() == "a\naa"


def test_without_rows():
    assert Table(["a", "bc"], []).text() == "a  bc\n-----"
    assert Table([], []).text() == ""


def test_markdown_escapes_bars_and_line_ends():
    assert Table(["|g|", "t"], [["a\nb", "c"]]).markdown() == "| \\|g\\| | t |\n|---|---|\n| a b | c |"


def test_a_row_of_another_length_is_an_error():
    with pytest.raises(ValueError, match="zip"):
        Table(["a", "b"], [["a"]]).text()


WIDE = Table(["batch", "lr", "network", "sampled", "averaged"], [["1", "0.5", "a" * 30, "b" * 30, "c"]], "l", keys=2)


def test_a_table_that_is_too_wide_goes_on_below_with_its_keys():
    assert WIDE.text(width=60).split("\n") == [
        "batch  lr   network",
        "------------------------------------------",
        "1      0.5  " + "a" * 30,
        "",
        "batch  lr   sampled                         averaged",
        "----------------------------------------------------",
        "1      0.5  " + "b" * 30 + "  c",
    ]
    assert WIDE.text() == WIDE.text(width=84)  # as wide as it is
    assert len(WIDE.text(width=83).split("\n\n")) == 2


@pytest.mark.parametrize(("columns", "width"), [("70", 70), ("20", 60), ("200", 100)])
def test_a_terminal_has_its_own_width(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    assert WIDE.text() == WIDE.text(width=100)  # no terminal: the same everywhere
    monkeypatch.setattr("sys.stdout", types.SimpleNamespace(isatty=lambda: True))
    assert WIDE.text() == WIDE.text(width=width)
    assert WIDE.markdown().count("batch") == 1


def test_a_single_column_may_be_wider():
    table = Table(["a", "b"], [["x" * 80, "y" * 80]])
    assert table.text().split("\n")[2] == "x" * 80 + "  " + "y" * 80


def test_without_headers_nothing_would_say_what_goes_on_below():
    assert Table([], [["x" * 60, "y" * 60, "z" * 60]]).text().count("\n") == 0
