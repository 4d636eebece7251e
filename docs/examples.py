"""The commands that stand in the pages, run again: `python docs/examples.py` compares, `--write` brings up to date.

A page's ```console blocks hold commands after `$ ` (continued after a backslash) and their output. They run in order,
in an empty folder for each page; `sgdsim` runs in this process, everything else in a shell. A code block with a caption
is a file in that folder. What belongs to a machine and not to the command is left out of the comparison: times, memory,
and how far below 1e-12 a residual is. Any other number may differ by one unit of its last digit or, if it has more than
ten, of its tenth: what follows is another CPU's rounding. A picture that the page shows from `pictures/` and a command
writes is copied there by `--write`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import threadpoolctl

HERE = Path(__file__).parent
_BLOCK = re.compile(r"^```console\n(?P<body>.*?)^```$", re.M | re.S)
_FILE = re.compile(r"^```\{code-block\} \w+\n:caption: (?P<name>\S+)\n\n?(?P<body>.*?)^```$", re.M | re.S)
_OF_A_MACHINE = (
    (re.compile(r"\b\d+(\.\d+)?(?= (s|GB)\b)"), "some"),
    (re.compile(r"(?<=\bresidual )\d(\.\d+)?e-(1[3-9]|2\d)\b"), "rounding"),
)
_NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


def pages(root: Path = HERE) -> list[Path]:
    """The pages that have commands, the README first."""
    found = [root.parent / "README.md"] if root == HERE else []
    found += [p for p in sorted(root.rglob("*.md")) if not {"notebooks", "_build"} & set(p.relative_to(root).parts)]
    return [page for page in found if _BLOCK.search(page.read_text(encoding="utf-8"))]


def commands(block: str) -> Iterator[tuple[str, str]]:
    """The (command as it stands, output) pairs of a console block."""
    command, output, open_ended = "", [], False
    for line in block.splitlines():
        if open_ended:
            command += "\n" + line
        elif line.startswith("$ "):
            if command:
                yield command, "\n".join(output)
            command, output = line, []
        else:
            output.append(line)
            continue
        open_ended = line.endswith("\\")
    if command:
        yield command, "\n".join(output)


def run(command: str, folder: Path) -> str:
    """What `command` prints to both streams, in `folder`, without spaces at the ends of lines."""
    text = command.removeprefix("$ ").replace("\\\n", " ")
    text, _, shell = text.partition(" | ")
    words, output = shlex.split(text, comments=True), ""
    if words[0] == "sgdsim":
        from sgdsim.cli import main

        printed = io.StringIO()
        with contextlib.chdir(folder), contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            main(words[1:])
        output = printed.getvalue()
    else:
        shell = f"{text} | {shell}" if shell else text
    if shell:
        output = subprocess.run(
            shell, shell=True, cwd=folder, text=True, input=output, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ).stdout
    return "\n".join(line.rstrip() for line in output.rstrip("\n").splitlines())


def same(stands: str, printed: str) -> bool:
    """Whether two outputs agree: the words exactly, numbers to one unit of the last digit, or the tenth, of both."""
    texts, numbers = zip(*(_taken_apart(text) for text in (stands, printed)), strict=True)
    return texts[0] == texts[1] and all(_close(a, b) for a, b in zip(*numbers, strict=True))


def _taken_apart(text: str) -> tuple[list[str], list[str]]:
    for pattern, word in _OF_A_MACHINE:
        text = pattern.sub(word, text)
    text = re.sub(r"-{4,}", "----", text)  # a rule is as wide as its table
    return _NUMBER.sub("#", text).split(), _NUMBER.findall(text)


def _close(a: str, b: str) -> bool:
    if a == b:
        return True
    units = []
    for text in (a, b):
        digits, _, power = text.partition("e")
        units.append(10.0 ** (int(power or 0) - len(digits.partition(".")[2])))
    x, y = (float(text.replace("−", "-")) for text in (a, b))
    return abs(x - y) <= max(1.01 * max(units), 1e-10 * abs(x))


def run_page(page: Path, write: bool = False, seconds: dict[str, float] | None = None) -> list[str]:
    """Run all commands of a page; the differences, a text for each command.

    `write`: put the new outputs in. `seconds`: gets the time that each command took.
    """
    text, wrong, seconds = page.read_text(encoding="utf-8"), [], {} if seconds is None else seconds
    with tempfile.TemporaryDirectory() as name, _environment():
        folder = Path(name)
        for file in _FILE.finditer(text):
            (folder / file["name"]).write_text(file["body"], encoding="utf-8")

        def again(block: re.Match) -> str:
            out = []
            for command, stands in commands(block["body"]):
                began = time.perf_counter()
                printed = run(command, folder)
                seconds[f"{page.name}: {command}"] = time.perf_counter() - began
                if not same(stands, printed):
                    wrong.append(f"{page.name}: {command}\nin the page:\n{stands}\nnow:\n{printed}")
                out.append(f"{command}\n{printed}".rstrip() + "\n")
            return "```console\n" + "".join(out) + "```"

        new = _BLOCK.sub(again, text)
        for picture in re.findall(r"pictures/([\w-]+\.png)", text):
            if write and (folder / picture).exists():
                shutil.copyfile(folder / picture, HERE / "pictures" / picture)
            elif not (folder / picture).exists():
                wrong.append(f"{page.name}: no command of the page makes {picture}")
    if write and new != text:
        page.write_text(new, encoding="utf-8")
    return wrong


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """A terminal of 100 columns, no folder of data sets, this Python's commands, and files of the page importable."""
    before, path = dict(os.environ), list(sys.path)
    os.environ["COLUMNS"] = "100"
    os.environ.pop("SGDSIM_DATA", None)
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    os.environ["OPENBLAS_NUM_THREADS"] = (
        "1"  # matrices this small gain nothing from two, and lose much on a busy machine
    )
    from sgdsim.common import progress

    shown = progress.FIRST, progress.LONG
    progress.FIRST = progress.LONG = float("inf")  # what is told on the way depends on the machine
    try:
        with threadpoolctl.threadpool_limits(1), warnings.catch_warnings():
            for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
                warnings.simplefilter("ignore", category)  # Python's own defaults, which a test runner changes
            yield
    finally:
        progress.FIRST, progress.LONG = shown
        os.environ.clear()
        os.environ.update(before)
        sys.path[:] = path


def main() -> int:
    """Compare or write; 1 where an output in a page is not what the command prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the outputs into the pages")
    parser.add_argument("pages", nargs="*", type=Path, help="only these")
    args = parser.parse_args()
    seconds: dict[str, float] = {}
    wrong = [difference for page in args.pages or pages() for difference in run_page(page, args.write, seconds)]
    for command, taken in sorted(seconds.items(), key=lambda item: -item[1])[:5]:
        print(f"{taken:.1f} s  {command}", file=sys.stderr)
    print("\n\n".join(wrong) or "every output is what its command prints")
    return int(bool(wrong) and not args.write)


if __name__ == "__main__":
    sys.exit(main())
