"""Ctrl-C, and SIGTERM as schedulers send it before they kill: once; and signals that have to wait."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType

Handler = Callable[[int, FrameType | None], object] | int
_BOTH = (signal.SIGINT, signal.SIGTERM)
_heard: list[int] = []  # signals that raised KeyboardInterrupt, as long as their handler is in place


def hear_once() -> tuple[list[int], dict[int, Handler]]:
    """From now on the first SIGINT (Ctrl-C) or SIGTERM raises KeyboardInterrupt, and the second is ignored, as what was
    done is saved meanwhile; from the third on they interrupt that too.

    Returns a list that will hold the SIGTERMs, and the handlers that were there before. Nothing is done outside the
    main thread, nor where SIGTERM would not have ended the process: who handles it already goes on to.
    """
    terminated: list[int] = []
    if not _in_main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return terminated, {}
    count = 0
    _heard.clear()

    def stop(number: int, _: FrameType | None) -> None:
        nonlocal count
        count += 1
        if number == signal.SIGTERM:
            terminated.append(number)
        if count != 2:
            _heard.append(number)
            raise KeyboardInterrupt

    before: dict[int, Handler] = {signal.SIGTERM: signal.SIG_DFL}
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        before[signal.SIGINT] = signal.default_int_handler
    for number in before:
        signal.signal(number, stop)
    return terminated, before


def raise_again() -> None:
    """KeyboardInterrupt where one was raised and lost, as in a callback of the garbage collector: Python prints and
    forgets it there. For loops that an interruption would have ended."""
    if _heard:
        raise KeyboardInterrupt


@contextlib.contextmanager
def one_interruption() -> Iterator[list[int]]:
    """`hear_once` for a block; gives the list. Where the interruption leaves it after a SIGTERM, the process ends
    as SIGTERM ends it."""
    terminated, before = hear_once()
    try:
        yield terminated
    except KeyboardInterrupt:
        if terminated:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if before:
            _heard.clear()


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Within this, Ctrl-C and SIGTERM wait, then they are raised: for what takes moments and must not be left half
    done, as writing and removing files, or taking Python's locks, which an exception at the wrong place leaves locked.

    Only in the main thread, where alone Python hears them.
    """
    if not _in_main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _BOTH}
    handled = {number: handler for number, handler in before.items() if callable(handler)}
    waiting = _Waiting(handled)
    try:
        for number in handled:
            signal.signal(number, waiting)
        yield
    finally:
        waiting.over = True  # from here on one that comes goes on to who was there before
        try:
            for late in sorted(waiting.came, reverse=True):  # SIGTERM first: after an exception no other is raised
                signal.raise_signal(late)
        finally:
            for number, handler in handled.items():
                signal.signal(number, handler)


class _Waiting:
    """A handler that keeps the signals until it is over."""

    def __init__(self, before: Mapping[signal.Signals, Callable[[int, FrameType | None], object]]) -> None:
        self.before, self.came, self.over = before, list[int](), False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if self.over:
            self.before[signal.Signals(number)](number, frame)
        else:
            self.came.append(number)


@contextlib.contextmanager
def not_for_children() -> Iterator[None]:
    """Processes and threads that are started within this never see a Ctrl-C, which a terminal sends to all processes of
    a program: the one that started them ends them. One that comes meanwhile is heard afterwards."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignore_all() -> None:
    """From now on no Ctrl-C or SIGTERM is heard: when all is done and said."""
    for number in _BOTH:
        signal.signal(number, signal.SIG_IGN)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
