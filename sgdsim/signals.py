"""SIGTERM, as schedulers send it before they kill."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """Within this, SIGTERM raises KeyboardInterrupt; the list that is given then holds its number.

    Only in the main thread, and only where SIGTERM would have ended the process: who handles it already goes on to.
    """
    came: list[int] = []
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield came
        return

    def stop(number: int, _: Any) -> None:
        came.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
