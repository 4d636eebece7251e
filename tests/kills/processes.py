"""A process that is watched from outside: what it shows, and signals to it."""

from __future__ import annotations

import contextlib
import os
import pty
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TESTS = Path(__file__).parents[1]
_PATIENCE = 300.0  # seconds until a process counts as hanging


class Running:
    """A target in a process group of its own; what it says on standard error is read on, from a terminal or a pipe."""

    def __init__(self, words: Sequence[str], home: Path, *, terminal: bool = False, before: Callable | None = None):
        self.home, self.words, self.terminal, self.told = home, list(words), terminal, ""
        ours, theirs = pty.openpty() if terminal else os.pipe()
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kills.target", *self.words], cwd=home, stdout=subprocess.DEVNULL, stderr=theirs,
            stdin=subprocess.DEVNULL, start_new_session=True, env=environment, preexec_fn=before,
        )  # fmt: skip
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def _read(self, ours: int) -> None:
        try:
            while text := os.read(ours, 4096):
                self.told += text.decode(errors="replace")
        except OSError:  # a terminal that nobody holds any more
            pass
        os.close(ours)

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def until(self, seen: Callable[[], bool]) -> bool:
        """Wait until `seen()`; False if the process ended before."""
        deadline = time.monotonic() + _PATIENCE
        while not seen():
            if self.ended:
                return False
            assert time.monotonic() < deadline, f"{self} hangs: {self.told[-500:]}"
            time.sleep(0.002)
        return True

    def catches_sigterm(self) -> bool:
        """Whether it handles SIGTERM by now: then it is inside the command line, or inside a sweep."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return False
        caught = next((line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")), "0")
        return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)

    def send(self, number: int, group: bool = False) -> None:
        if not self.ended:
            (os.killpg if group else os.kill)(self.process.pid, number)

    def end(self) -> int:
        """Wait for its end; the exit code. Whatever it started is ended as well."""
        try:
            code = self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} hangs: {self.told[-500:]}") from None
        finally:
            self.destroy()
        self._reader.join(10)
        return code

    def destroy(self) -> None:
        """SIGKILL to it and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def __str__(self) -> str:
        return " ".join(self.words)


def files(home: Path) -> int:
    """How many files an unfinished sweep in `home` has."""
    try:
        return len(os.listdir(home / "r.nc.parts"))
    except OSError:
        return 0


def lines(home: Path) -> int:
    """How many chunks the log counts."""
    try:
        return (home / "log").read_bytes().count(b"\n")
    except OSError:
        return 0


def moment(draw: random.Random, running: Running) -> tuple[str, Callable[[], bool]]:
    """A state of a sweep that can be seen, drawn at random, in words and as a question."""
    home, more = running.home, draw.randint(1, 8)
    files_before, lines_before = files(home), lines(home)
    moments = [
        ("at once", lambda: True),
        ("when the parts are there", lambda: (home / "r.nc.parts").exists()),
        (f"{more} files on", lambda: files(home) >= files_before + more),
        (f"{more} lines of the log on", lambda: lines(home) >= lines_before + more),
    ]
    if (home / "r.nc").exists():
        moments.append((f"{more} lines of the log on", lambda: lines(home) >= lines_before + more))
    else:
        moments.append(("when the result is there", lambda: (home / "r.nc").exists()))
    if running.terminal:  # the progress bar
        moments.append((f"{40 * more} characters on", lambda: len(running.told) >= 40 * more))
    return draw.choice(moments)
