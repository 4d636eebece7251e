"""SIGTERM, as schedulers send it before they kill, and signals that have to wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def sigterm_as_ctrl_c() -> Iterator[list[int]]:
    """Within this, the first SIGTERM raises KeyboardInterrupt; the list that is given then holds its number.

    A second one is ignored, as what the first began is saved meanwhile. Where the interruption leaves the block, the
    process ends as SIGTERM ends it. Only in the main thread, and only where SIGTERM would have ended the process: who
    handles it already goes on to.
    """
    came: list[int] = []
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield came
        return

    def stop(number: int, _: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        yield came
    except KeyboardInterrupt:
        if came:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within this, Ctrl-C and SIGTERM wait: for writing and removing files, which takes moments. Then they are raised.

    Only in the main thread, where alone Python hears them.
    """
    if not _in_main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = {number: handler for number, handler in before.items() if callable(handler)}
    for number in handled:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(came):
            signal.raise_signal(number)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
