"""Built-in images in the shape of images, for modules that want it."""

import json

import numpy as np
import pytest

from sgdsim import datasets
from sgdsim.cli import main
from sgdsim.common.checks import InputError

NET = """
import torch
from torch import nn

def make(*first):
    torch.manual_seed(0)
    return nn.Sequential(*first, nn.Conv2d(1, 2, 3, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(18, 1))

def reshaping():
    return make(nn.Unflatten(1, (1, 8, 8)))

def wrong():
    return nn.Linear(5, 1)

def two_outputs():
    return nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten())
"""


def test_the_same_numbers_in_another_shape():
    rows, images = (datasets.load("digits", 20, 1, n_test=5, flat=flat) for flat in (True, False))
    assert images.x.shape == (20, 1, 8, 8)
    assert images.x_test.shape == (5, 1, 8, 8)
    np.testing.assert_array_equal(images.x.reshape(20, 64), rows.x)
    np.testing.assert_array_equal(images.y_test, rows.y_test)
    assert images.info == rows.info
    assert images.as_images() is images
    np.testing.assert_array_equal(rows.as_images().x_test, images.x_test)


def test_rows_that_are_no_images():
    with pytest.raises(InputError, match="expected images, got rows of 3 numbers"):
        datasets.Dataset(np.eye(3), np.arange(3.0), "mine").as_images()


@pytest.fixture
def ask(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "convolving.py").write_text(NET)

    def call(*words, code=0):
        assert main(list(words)) == code
        return capsys.readouterr()

    return call


def test_a_module_that_takes_no_rows_gets_images(ask):
    options = ["spectrum", "--n", "20", "--top", "3", "--json", "--model"]
    given, reshaped = ask(*options, "convolving:make"), ask(*options, "convolving:reshaping")
    assert given.err == "sgdsim: digits: convolving:make does not take rows; it gets images (1, 8, 8)\n"
    assert reshaped.err == ""
    assert json.loads(given.out)["eigenvalues"] == json.loads(reshaped.out)["eigenvalues"]


def test_the_hessian_too(ask):
    look = ["--lanczos-steps", "3", "--probes", "2", "--top", "2", "--steps", "0", "3", "--lr", "0.01", "--json"]
    options = ["hessian", "--n", "20", "--batch-size", "5", *look, "--model"]
    found = [ask(*options, f"convolving:{name}") for name in ("make", "reshaping")]
    runs = [next(iter(json.loads(one.out)["runs"].values())) for one in found]
    assert runs[0]["at"] == runs[1]["at"]


def test_what_takes_neither_is_refused_as_before(ask):
    error = ask("spectrum", "--n", "20", "--model", "convolving:wrong", code=2).err
    assert "takes inputs of shape (8, 64)" in error
    error = ask("spectrum", "--n", "20", "--model", "convolving:two_outputs", code=2).err
    assert "expected one output per input" in error
