"""Completion in a real bash, by the script that the command prints."""

import builtins
import shutil
import subprocess

import pytest

from sgdsim.cli.registry import COMMANDS

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    pytest.importorskip("shtab")
    from sgdsim.cli import completion
    from sgdsim.cli.parser import build_parser

    path = tmp_path_factory.mktemp("completion") / "sgdsim.bash"
    path.write_text(completion.script(build_parser(), "bash"))
    return path


def completed(script, line: str) -> list[str]:
    """What bash offers for the last word of the line."""
    words = [word or "''" for word in line.split(" ")]
    lines = [
        f"source {script}",
        f"COMP_WORDS=({' '.join(words)})",
        f"COMP_CWORD={len(words) - 1}",
        "$(complete -p sgdsim | sed 's/.*-F \\([^ ]*\\) .*/\\1/')",
        'printf "%s\\n" "${COMPREPLY[@]}"',
    ]
    run = subprocess.run(["bash", "-c", "\n".join(lines)], capture_output=True, text=True, cwd=script.parent)
    assert run.returncode == 0, run.stderr
    return run.stdout.split()


@bash
def test_bash_reads_the_script(script):
    assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0


@bash
@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("sgdsim rec", ["recommend"]),
        ("sgdsim recommend --batch", ["--batch-size"]),
        ("sgdsim compare --n 100 --rec", ["--record-every"]),
        ("sgdsim compare --lr 0.5 1 --batch", ["--batch-size"]),
        ("sgdsim compare --dataset dig", ["digits"]),
        ("sgdsim theory der", ["derive"]),
        ("sgdsim simulate --out sgdsim.b", ["sgdsim.bash"]),
        ("sgdsim --print", ["--print-completion"]),
        ("sgdsim simulate --method ad", ["adam", "adamw"]),
        ("sgdsim compare --method nesterov cor", ["corner"]),
        ("sgdsim compare --regime sampled averaged dia", ["diagonal"]),
        ("sgdsim compare --regime sampled --method heavy-ball nest", ["nesterov"]),
        ("sgdsim compare --observe moments dist", ["distance"]),
    ],
)
def test_words_are_completed(script, line, words):
    assert completed(script, line) == words


@bash
def test_every_command_is_offered_and_no_old_option(script):
    assert set(COMMANDS) <= set(completed(script, "sgdsim "))
    assert completed(script, "sgdsim compare --regi") == ["--regime"]


@pytest.mark.parametrize(("shell", "words"), [("bash", "complete -o bashdefault -F"), ("zsh", "#compdef sgdsim")])
def test_the_command_prints_it(run, shell, words):
    pytest.importorskip("shtab")
    assert words in run("--print-completion", shell)


def test_without_the_package_one_line_says_so(run, monkeypatch):
    original = builtins.__import__

    def absent(name, *rest):
        if name == "shtab":
            raise ImportError(name)
        return original(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    assert "pip install 'sgdsim[completion]'" in run("--print-completion", "bash", code=2)


def test_other_shells_are_refused(run):
    assert "invalid choice" in run("--print-completion", "ksh", code=2)
