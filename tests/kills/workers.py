"""Dask workers killed at random moments of a sweep: the others do their work, to the last bit."""

from __future__ import annotations

import contextlib
import os
import random
import threading
import time
from pathlib import Path
from signal import SIGKILL

from kills import oracle, target
from kills.processes import lines

_MOST = 3  # deaths that a chunk survives


def workers(draw: random.Random, home: Path) -> tuple[int, list[str]]:
    """Two workers of one thread, or one of four."""
    name, size = draw.choice(["power", "network"]), draw.choice([(2, 1), (1, 4)])
    expected = oracle.reference(*oracle.script(name, "serial"))
    moments = sorted(draw.randint(1, 10) for _ in range(draw.randint(1, _MOST)))
    delays, picks = [draw.uniform(0, 0.3) for _ in moments], [draw.random() for _ in moments]
    killed, over = [], threading.Event()
    with target.small_chunks(), contextlib.chdir(home), target.client(*size) as client:

        def kill() -> None:
            for moment, delay, pick in zip(moments, delays, picks, strict=True):
                while lines(home) < moment and not over.is_set():
                    time.sleep(0.005)
                time.sleep(delay)
                if over.is_set():
                    return
                pids = [pid for pid in client.run(os.getpid, on_error="ignore").values() if isinstance(pid, int)]
                if pids:
                    killed.append(pids[int(pick * len(pids))])
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(killed[-1], SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            target.sweep(name, client, 0, True)
        finally:
            over.set()
            killer.join()
    story = f"{name} on {size[0]} workers of {size[1]} threads, {len(killed)} killed at {moments}"
    try:
        oracle.assert_whole(home, expected)
    except (AssertionError, ValueError) as error:
        raise AssertionError(f"{story}\n{error}") from error
    return len(killed), [story]
