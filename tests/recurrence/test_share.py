"""Work shared among threads: the same bits however divided, few sharings, and no waiting for who has not begun."""

import concurrent.futures
import subprocess
import sys
import threading

import numba
import numpy as np
import pytest

import sgdsim as ss
from sgdsim.recurrence import contour, share
from sgdsim.theory import optimal, stability

LARGE = ss.QuadraticProblem.power_law(100_000, 1.5, 1.0)
TIMES = np.unique(np.geomspace(1, 1e9, 120).astype(int))
two_threads = pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="one thread only")


@pytest.fixture
def shared(monkeypatch):
    """The numbers of pieces in each sharing of threads."""
    counts, among = [], share.among_threads
    monkeypatch.setattr(share, "among_threads", lambda todo, n: (counts.append(len(todo)), among(todo, n))[1])
    return counts


def everything():
    """All that is shared: contours of noisy and full batches, both recurrences, thresholds; as bytes."""
    small = ss.QuadraticProblem.power_law(300, 1.5, 1.0)
    cells = {"lr": np.array([[0.1], [0.4], [0.9]]), "momentum": np.array([0.0, 0.5, 0.97])}
    found = [contour.loss_at(small, np.arange(0, 9000, 300), noise=noise, **cells) for noise in (0.0, 0.3)]
    used = set(np.concatenate([f.method.ravel() for f in found]))
    assert used == set(range(len(contour.USED)))
    numbers = [array for f in found for array in (f.log_loss, f.error)]
    numbers.append(contour.rate(ss.QuadraticProblem(small.spectrum, np.eye(300)[7]), noise=[0.0, 0.1, 0.0], lr=0.3))
    numbers.append(stability.diagonal_max_lr(small, momentum=np.linspace(-0.9, 0.9, 7), noise=0.2))
    numbers.append(stability.max_lr(ss.QuadraticProblem.power_law(60, 1.5, 1.0), ss.SGD(1.0, 0.5, 4), "exact"))
    return [np.asarray(n).tobytes() for n in numbers]


@two_threads
def test_same_bits_for_any_number_of_threads_and_any_division(monkeypatch, shared):
    monkeypatch.setattr(share, "_PIECE", 1e12)
    expected = everything()
    assert not shared  # what is little work is done alone
    for terms in (1.0, 300.0, 7e4):
        monkeypatch.setattr(share, "_PIECE", terms)
        assert everything() == expected
        assert shared
        shared.clear()
        before = numba.get_num_threads()
        numba.set_num_threads(1)
        try:
            assert everything() == expected
        finally:
            numba.set_num_threads(before)
        assert not shared


@two_threads
def test_one_sharing_a_curve(shared):
    """Not one for each time, nor for each contour, nor for the early times by the recurrence."""
    found = contour.loss_at(LARGE, TIMES, lr=0.5, momentum=0.9, batch_size=10, compress=False)
    assert set(found.method) == {contour.USED.index("recurrence"), contour.USED.index("contour")}
    assert len(shared) == 1
    assert shared[0] > 2 * (found.method == contour.USED.index("contour")).sum()  # small pieces: each a time
    shared.clear()
    contour.loss_at(LARGE, TIMES, lr=np.array([0.1, 0.2, 0.3]), momentum=0.9, batch_size=10, compress=False)
    assert len(shared) <= 2  # and the rates of the cells, before
    shared.clear()
    optimal.best(ss.QuadraticProblem.power_law(1000, 1.5, 1.0), noise=0.1, horizon=1000)
    assert len(shared) < 10  # of about a thousand small pieces of work


def test_all_pieces_are_done_once():
    done = []
    for n_items, terms in ((0, 1.0), (1, 1e9), (1000, 1e3), (1000, 1e4), (7, 0.0)):
        work = share.pieces(lambda name, low, high: done.extend(range(low, high)), ("name",), n_items, terms)
        assert sum(t for t, _ in work) == n_items * terms
        assert all(t <= share._PIECE or t == terms for t, _ in work)
        share.run(work)
        assert sorted(done) == list(range(n_items))
        done.clear()
        share.among_threads([piece for _, piece in work], 3)
        assert sorted(done) == list(range(n_items))
        done.clear()


def test_a_thread_that_has_not_begun_is_not_waited_for(monkeypatch):
    """As beside many busy processes: the other thread gets no turn at all."""
    release = threading.Event()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(share, "_pool", lambda: pool)
        pool.submit(release.wait, 60)
        done = []
        share.among_threads([lambda i=i: done.append(i) for i in range(5)], 1)
        assert not release.is_set()
        assert done == list(range(5))
        release.set()


def test_a_thread_that_holds_a_piece_holds_up_that_piece_alone(monkeypatch):
    """The other pieces are done meanwhile, and what it began is waited for."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(share, "_pool", lambda: pool)
        all_others, begun, done = threading.Event(), threading.Event(), []

        def slow():
            if threading.current_thread() is threading.main_thread():
                assert begun.wait(60)
                done.append("here")
            else:
                begun.set()
                assert all_others.wait(60)
                done.append("there")

        def last():
            all_others.set()
            done.append("last")

        share.among_threads([slow, slow, *[lambda: done.append("quick")] * 5, last], 1)
    assert sorted(done) == sorted(["here", "there", *["quick"] * 5, "last"])
    assert done[-1] == "there"


def test_errors_come_back_and_nothing_more_is_begun(monkeypatch):
    done = []

    def wrong():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        share.among_threads([wrong, *[wrong] * 3], 2)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(share, "_pool", lambda: pool)
        release = threading.Event()
        pool.submit(release.wait, 60)
        with pytest.raises(ZeroDivisionError):
            share.among_threads([wrong, lambda: done.append(1)], 1)
        release.set()
    assert not done


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_child_has_threads_of_its_own():
    code = (
        "import os, sys, threading\n"
        "from sgdsim.recurrence import share\n"
        "def both():\n"
        "    meet = threading.Barrier(2)\n"
        "    share.among_threads([lambda: meet.wait(60)] * 2, 1)\n"
        "both()\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    both()\n"
        "    os._exit(7)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=900)
    assert (done.returncode, done.stderr) == (7, "")
