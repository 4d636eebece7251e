"""Standard output and error that are closed, full or of a poor encoding, and settings of matplotlib: the numbers come
all the same, and the exit code says what did not."""

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sgdsim import cli
from sgdsim.cli import streams

SGDSIM = Path(sys.executable).with_name("sgdsim")
PROBLEM = "--dataset power_law --nu 1.5 --kappa 3 --n 20"
WORDS = ["simulate", *PROBLEM.split(" "), "--n-steps", "5", "--out", "r.nc"]
FULL = Path("/dev/full")
posix = pytest.mark.skipif(os.name != "posix", reason="closing a standard stream is the shell's")


def shell(folder: Path, redirection: str, *words: str, **environment: str) -> subprocess.CompletedProcess:
    """Run the program through a shell that redirects its streams."""
    line = " ".join([f"'{SGDSIM}'", *(words or WORDS), redirection])
    given = {**os.environ, **environment}
    return subprocess.run(["sh", "-c", line], cwd=folder, env=given, capture_output=True, timeout=900)


@pytest.mark.parametrize(("encoding", "nu"), [("ascii", "nu"), ("latin-1", "nu"), ("utf-8", "ν")])
def test_letters_that_the_encoding_lacks_are_spelled(tmp_path, encoding, nu):
    run = shell(tmp_path, "", PYTHONIOENCODING=encoding, PYTHONUTF8="0")
    assert (run.returncode, run.stderr) == (0, b"")
    text = run.stdout.decode(encoding)
    assert text.startswith(f"power law {nu} = 1.5")
    assert "final training loss" in text


def test_json_is_ascii_in_every_encoding(tmp_path):
    run = shell(tmp_path, "", *WORDS, "--json", PYTHONIOENCODING="ascii")
    assert json.loads(run.stdout)["problem"]["title"].startswith("power law ν = 1.5")


@pytest.mark.parametrize("letter", "αλΣ×±−²ᵀ₁½éŨ漢")
def test_spelling_is_ascii(letter):
    spelled = letter.encode("ascii", "sgdsim.spelled").decode()
    expected = {"α": "alpha", "λ": "lambda", "Σ": "sum", "×": "x", "±": "+-", "−": "-", "²": "^2", "ᵀ": "^T"}
    expected |= {"₁": "_1", "½": "1/2", "é": "e", "Ũ": "U", "漢": "?"}
    assert spelled == expected[letter]


@posix
def test_bytes_of_a_file_name_come_back_as_they_were(tmp_path):
    words = [*(word.encode() for word in WORDS[:-1]), b"r\xff.nc"]
    run = subprocess.run([bytes(SGDSIM), *words], cwd=tmp_path, capture_output=True, timeout=900)
    assert (run.returncode, run.stderr) == (0, b"")
    assert run.stdout.endswith(b"wrote r\xff.nc\n")


@posix
@pytest.mark.parametrize(
    ("redirection", "code", "said"),
    [
        (">&-", 1, os.strerror(errno.EBADF)),
        ("2>&-", 0, ""),
        (">&- 2>&-", 1, ""),
        ("<&- >&- 2>&-", 1, ""),
        pytest.param(
            ">/dev/full", 1, os.strerror(errno.ENOSPC), marks=pytest.mark.skipif(not FULL.exists(), reason="")
        ),
    ],
)
def test_files_are_written_where_a_stream_cannot_be(tmp_path, redirection, code, said):
    run = shell(tmp_path, redirection)
    assert run.returncode == code
    assert (tmp_path / "r.nc").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == ["r.nc"]
    assert run.stderr.decode() == (f"sgdsim: error: output: {said}\n" if said else "").replace(
        "sgdsim:", "sgdsim simulate:"
    )
    assert (b"final training loss" in run.stdout) == (code == 0)


@posix
@pytest.mark.parametrize("redirection", ["2>&-", *(["2>/dev/full"] if FULL.exists() else [])])
@pytest.mark.parametrize("words", [["simulate", "--lr", "0"], ["simulate", "--bad"]], ids=["value", "word"])
def test_the_exit_code_alone_tells_where_standard_error_cannot(tmp_path, redirection, words):
    run = shell(tmp_path, redirection, *words)
    assert (run.returncode, run.stdout, run.stderr) == (2, b"", b"")


@posix
@pytest.mark.parametrize("redirection", [">&-", *([">/dev/full"] if FULL.exists() else [])])
def test_help_that_nobody_gets_is_no_success(tmp_path, redirection):
    assert shell(tmp_path, redirection, "compare", "--help").returncode == 1


@posix
def test_a_working_folder_that_is_gone(tmp_path):
    run = shell(tmp_path, "", "--version; mkdir gone; cd gone; rmdir ../gone;", str(SGDSIM), *WORDS)
    assert run.returncode == 2
    assert run.stderr == b"sgdsim simulate: error: expected a working folder, got one that was removed; cd to another\n"


def test_the_callers_streams_are_left_as_they_were(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors="strict")
    monkeypatch.setattr(sys, "stdout", output)
    assert cli.main(["--version"]) == 0
    assert output.errors == "strict"
    with streams.usable():
        assert output.errors == "sgdsim.spelled"


@pytest.mark.parametrize("backend", ["nonsense", "qtagg"])
def test_pictures_need_no_backend(tmp_path, backend):
    run = shell(tmp_path, "", *WORDS, "--plot", "r.png", MPLBACKEND=backend)
    assert (run.returncode, run.stderr) == (0, b"")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("backend", "kept"), [("nonsense", False), ("svg", True)])
def test_a_backend_that_exists_is_taken(backend, kept):
    code = (
        "import sgdsim, os; sgdsim.plot; import matplotlib; print(matplotlib.get_backend(), os.environ['MPLBACKEND'])"
    )
    environment = {**os.environ, "MPLBACKEND": backend}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=900)
    assert run.stderr == ""
    found, setting = run.stdout.split()
    assert setting == backend
    assert (found == backend) is kept
