"""Ctrl-C and full disks: what was done is kept, older files are never damaged, nothing temporary stays."""

import errno
import fcntl
import json
import os
import pty
import resource
import select
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

import sgdsim as ss
from sgdsim import cli, datasets
from sgdsim.cli.registry import COMMANDS
from sgdsim.common.checks import InputError
from sgdsim.recurrence import diagonal
from sgdsim.regimes import _sampled_plain
from sgdsim.regimes.averaged import exact
from sgdsim.runs import progress

SGDSIM = Path(sys.executable).with_name("sgdsim")
POWER = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "3", "--n", "30", "--replicates", "2"]
OLD = b"an older file"
NOT_RUN, COMPLETED, DIVERGED, INTERRUPTED = range(4)
LAST_RESORT = 900  # seconds until a program is taken to hang: a busy machine may compile for minutes


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def problem() -> ss.QuadraticProblem:
    return ss.QuadraticProblem.power_law(30, 1.5, 3.0)


def stop_at(monkeypatch, owner: type, method: str, call_number: int) -> None:
    """Ctrl-C in the given call (from 1) of `owner.method`, before it does anything."""
    original, calls = getattr(owner, method), []

    def replacement(*args, **kwargs):
        calls.append(1)
        if len(calls) == call_number:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, method, replacement)


def until_seen(terminal: int, words: str, times: int = 1) -> str:
    """What a terminal shows until `words` appear, so many times."""
    text, deadline = "", time.monotonic() + LAST_RESORT
    while text.count(words) < times:
        ready, _, _ = select.select([terminal], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            raise AssertionError(f"no {words!r} within {LAST_RESORT} s in: {text}")
        text += os.read(terminal, 4096).decode(errors="replace")
    return text


def test_ctrl_c_in_a_terminal(here):
    """Cells of lr 50 diverge at once; the first of lr 0.5 would take years: stop when the progress bar names it."""
    (here / "r.nc").write_bytes(OLD)
    words = [
        "compare",
        *POWER,
        "--lr",
        "50",
        "0.5",
        "--momentum",
        "0",
        "0.5",
        "--n-steps",
        "1e14",
        "--json",
        "--executor",
        "serial",
    ]
    terminal, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 120, 0, 0))
    process = subprocess.Popen(
        [SGDSIM, *words, "--out", "r.nc", "--plot", "r.png", "--force"], cwd=here, text=True,
        stdout=subprocess.PIPE, stderr=theirs,
        # Where the tests run in the background of a script, Ctrl-C is ignored, and so it would be here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    os.close(theirs)
    try:
        # The bar says so when the third cell begins, at most three times; then only when steps of it have been made.
        until_seen(terminal, "sampled 2 of 4, averaged 2 of 4", times=6)
        assert (here / "r.nc").read_bytes() == OLD
        process.send_signal(signal.SIGINT)
        # The rest of the terminal: read on, or the program would wait for us.
        text = until_seen(terminal, "interrupted: the result holds what was done until then")
        out, _ = process.communicate(timeout=LAST_RESORT)
    finally:
        process.kill()
        process.wait()
        os.close(terminal)
    assert process.returncode == 130
    assert "Traceback" not in text
    assert sorted(path.name for path in here.iterdir()) == ["r.nc", "r.png"]

    result = ss.load("r.nc")
    assert result.attrs["interrupted"] == 1
    assert result.regime.values.tolist() == ["sampled", "averaged", "diagonal:tau=1"]
    done, outcome = result.done.values[:, :, 0, 0], result.outcome.values[:, :, 0, 0]  # (lr, momentum, regime[, …])
    assert done[0].all()
    assert done[..., 2].all()  # the diagonal regime takes the four cells together, before
    assert not done[1, :, :2].any()
    assert (outcome[0, :, 0] == DIVERGED).all()
    assert (outcome[0, :, 1:, 0] == DIVERGED).all()
    assert (outcome[1, 0, 0] == INTERRUPTED).all()
    assert (outcome[1, 0, 1] == NOT_RUN).all()
    assert (outcome[1, 1, :2] == NOT_RUN).all()
    loss = result.loss.values[:, :, 0, 0]
    assert not np.isnan(loss[0, :, :, 0]).any()
    assert np.isfinite(loss[1, 0, 0, :, 0]).all()  # it had begun
    assert np.isnan(loss[1, 0, 0, :, -1]).all()
    assert np.isnan(loss[1, 0, 1]).all()
    assert np.isnan(loss[1, 1, :2]).all()

    told = json.loads(out)
    assert told["interrupted"] is True
    assert [[numbers["done"] for numbers in row["regimes"].values()] for row in told["rows"]] == [
        [True] * 3, [True] * 3, [False, False, True], [False, False, True],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("regime", "run"),
    [
        (ss.SampledLinearized, _sampled_plain.HeavyBall),
        (ss.BatchAveraged, exact.Exact),
        (ss.SpectralDiagonal, diagonal.Plain),
    ],
)
def test_an_interrupted_sweep_keeps_what_was_done(problem, here, monkeypatch, regime, run):
    grid = ss.Grid.product(lr=[0.1, 0.2, 0.3], batch_size=[3])
    whole = ss.sweep(problem, grid, [regime()], 200, record=50, replicates=2)
    # Each cell takes 50 + 50 + 50 + 50 steps in one call each: the sixth call is the second of the second cell.
    stop_at(monkeypatch, run, "advance", 6)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        partial = ss.sweep(problem, grid, [regime()], 200, record=50, replicates=2, path="r.nc")
    monkeypatch.undo()
    for result in (partial, ss.load(here / "r.nc")):
        assert result.attrs["interrupted"] == 1
        assert result.done.values.ravel().tolist() == [True, False, False]
        first = result.isel(lr=0).drop_vars("seconds").drop_attrs()
        assert first.equals(whole.isel(lr=0).drop_vars("seconds").drop_attrs())
        ran = slice(0, 2 if regime.stochastic else 1)
        loss, expected = result.loss.values[1, 0, 0, ran], whole.loss.values[1, 0, 0, ran]
        assert np.array_equal(loss[:, :2], expected[:, :2])
        assert np.isnan(loss[:, 2:]).all()
        assert np.isnan(result.loss.values[2]).all()
        outcomes = result.outcome.values[:, 0, 0, ran]
        assert outcomes.tolist() == [[k] * outcomes.shape[1] for k in (COMPLETED, INTERRUPTED, NOT_RUN)]
    assert [path.name for path in here.iterdir()] == ["r.nc"]


def test_interrupted_between_two_cells(problem, here, monkeypatch):
    stop_at(monkeypatch, progress.Bar, "describe", 2)
    with pytest.warns(RuntimeWarning, match="interrupted"):
        ss.sweep(problem, ss.Grid.product(lr=[0.1, 0.2]), ss.BatchAveraged(), 20, path="r.nc")
    result = ss.load("r.nc")
    assert result.attrs["interrupted"] == 1
    assert result.done.values.ravel().tolist() == [True, False]
    assert result.outcome.values.ravel().tolist() == [COMPLETED, NOT_RUN]
    assert np.isfinite(result.loss.values[0]).all()
    assert np.isnan(result.loss.values[1]).all()


@pytest.mark.parametrize(
    ("owner", "function", "executor"),
    [("diagonal.Plain", "advance", "None"), ("executors", "some_done", "ThreadPoolExecutor(1)")],
)
def test_an_interruption_that_the_garbage_collector_loses(owner, function, executor):
    """Python prints and forgets what is raised in its callbacks; the sweep ends all the same, before it is done."""
    script = f"""
        import gc, signal
        from concurrent.futures import ThreadPoolExecutor
        import sgdsim as ss
        from sgdsim.recurrence import diagonal
        from sgdsim.runs import chunks, executors

        def send(*_):
            gc.callbacks.remove(send)
            signal.raise_signal(signal.SIGINT)

        original, calls = {owner}.{function}, []

        def replacement(*arguments):
            calls.append(None)
            if len(calls) == 2:
                gc.callbacks.append(send)
                gc.collect()
                print("lost", flush=True)
            return original(*arguments)

        {owner}.{function} = replacement
        chunks._LARGEST = 1
        problem, regime = ss.QuadraticProblem.power_law(30, 1.5, 3.0), ss.SpectralDiagonal(method="recurrence")
        grid = ss.Grid.product(lr=[0.01 * i for i in range(1, 31)])
        result = ss.sweep(problem, grid, regime, 10_000, record=1000, executor={executor})
        print(result.attrs["interrupted"], bool(result.done.all()))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert done.stdout == "lost\n1 False\n", done.stderr


def test_not_interrupted(problem, here):
    result = ss.sweep(problem, ss.Grid.product(lr=[0.1, 0.2]), ss.SpectralDiagonal(), 20, path="r.nc")
    assert result.attrs["interrupted"] == ss.load("r.nc").attrs["interrupted"] == 0
    assert result.done.values.all()


@pytest.mark.parametrize("call", [1, 2])
def test_interrupted_with_a_picture_and_a_table(here, monkeypatch, capsys, call):
    """Also at the first call, when nothing but step 0 is known."""
    stop_at(monkeypatch, diagonal.Plain, "advance", call)
    assert cli.main(["simulate", *POWER, "--n-steps", "20", "--out", "r.nc", "--plot", "r.png"]) == 130
    out, err = capsys.readouterr()
    assert err == "sgdsim: interrupted: the result holds what was done until then\n"
    result = ss.load("r.nc").isel(regime=0).squeeze()
    last = int(np.flatnonzero(np.isfinite(result.loss))[-1])
    assert f"not finished: {float(result.loss[last]):.4g} at step {int(result.step[last])}\n" in out
    assert "Interrupted: the rest was not run." in out
    assert ss.load("r.nc").outcome.values.ravel().tolist() == [INTERRUPTED]
    assert "wrote r.png" in out
    assert (here / "r.png").read_bytes().startswith(b"\x89PNG")


def test_interrupted_before_the_first_step(here, monkeypatch, capsys):
    (here / "r.nc").write_bytes(OLD)
    stop_at(monkeypatch, datasets, "load", 1)
    assert cli.main(["compare", "--n", "30", "--out", "r.nc", "--force", "--json"]) == 130
    assert capsys.readouterr() == ("", "sgdsim compare: interrupted\n")
    assert (here / "r.nc").read_bytes() == OLD
    assert [path.name for path in here.iterdir()] == ["r.nc"]


def test_interrupted_while_saving(problem, here, monkeypatch):
    (here / "r.nc").write_bytes(OLD)
    result = ss.simulate(problem, ss.SGD(0.5), ss.SpectralDiagonal(), 20)
    stop_at(monkeypatch, os, "replace", 1)
    with pytest.raises(KeyboardInterrupt):
        ss.save(result, "r.nc")
    assert (here / "r.nc").read_bytes() == OLD
    assert [path.name for path in here.iterdir()] == ["r.nc"]


# A disk without room.


def test_a_save_that_fails_leaves_the_older_file(problem, here, monkeypatch):
    result = ss.simulate(problem, ss.SGD(0.5), ss.SpectralDiagonal(), 20)
    before = ss.save(result, "r.nc").read_bytes()

    def no_room(*args, **kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(xr.Dataset, "to_netcdf", no_room)
    with pytest.raises(InputError, match=r"r\.nc: could not be written: No space left on device"):
        ss.save(result, "r.nc")
    assert (here / "r.nc").read_bytes() == before
    assert [path.name for path in here.iterdir()] == ["r.nc"]


def without_room(words, here, name):
    """The JSON that a command tells where no file may have more than 3000 bytes, which stands for a full disk."""
    done = subprocess.run(
        [SGDSIM, *words, "--json"], cwd=here, capture_output=True, text=True, timeout=LAST_RESORT,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000)),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == f"sgdsim {words[0]}: error: {name}: could not be written: File too large\n"
    return json.loads(done.stdout)


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_no_room_for_the_file(here, option):
    """The numbers are printed all the same."""
    name = {"--out": "r.nc", "--plot": "r.png"}[option]
    (here / name).write_bytes(OLD)
    words = ["simulate", *POWER, "--n-steps", "200", "--record-every", "1", option, name, "--force"]
    told = without_room(words, here, name)
    assert told["rows"][0]["regimes"]["diagonal:tau=1"]["done"] is True
    assert told[option.removeprefix("--")] is None
    assert (here / name).read_bytes() == OLD
    assert [path.name for path in here.iterdir()] == [name]


@pytest.mark.parametrize("option", ["--out", "--plot"])
def test_no_room_for_the_file_of_a_spectrum(here, option):
    name = {"--out": "s.nc", "--plot": "s.png"}[option]
    problem = ["--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "500"]
    told = without_room(["spectrum", *problem, option, name], here, name)
    assert len(told["eigenvalues"]) == 500
    assert told[option.removeprefix("--")] is None
    assert list(here.iterdir()) == []


def test_ctrl_c_as_compiled_code_returns(monkeypatch, capsys):
    """Python then finds a result and an exception, and wraps the exception."""

    def command(_):
        raise SystemError("returned a result with an exception set") from KeyboardInterrupt()

    monkeypatch.setitem(COMMANDS, "data", COMMANDS["data"]._replace(run=command))
    assert cli.main(["data", "list"]) == 130
    assert capsys.readouterr().err == "sgdsim data: interrupted\n"

    def broken(_):
        raise SystemError("another one")

    monkeypatch.setitem(COMMANDS, "data", COMMANDS["data"]._replace(run=broken))
    with pytest.raises(SystemError):
        cli.main(["data", "list"])


@pytest.mark.parametrize("moment", ["loading", "after"])
def test_ctrl_c_before_and_after_the_command_ends_quietly(here, moment):
    """While modules load, and when all is said: no traceback."""
    script = """
        import signal, sys
        class Stop:
            def find_spec(self, name, *_):
                if name == "sgdsim.cli":
                    signal.raise_signal(signal.SIGINT)
        if sys.argv[1] == "loading":
            sys.meta_path.insert(0, Stop())
        else:
            import atexit
            atexit.register(lambda: signal.raise_signal(signal.SIGINT))
        sys.argv[1:] = ["--version"]
        from sgdsim.__main__ import entry
        entry()
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script), moment], capture_output=True, text=True)
    assert ended.returncode == (130 if moment == "loading" else 0)
    assert ended.stderr == ("sgdsim: interrupted\n" if moment == "loading" else "")


LOCKS = """
    import signal, sys, threading, warnings

    armed, count, at, main = False, 0, 0, threading.get_ident()

    class Condition(threading.Condition):
        def __enter__(self):
            global count
            entered = super().__enter__()
            if armed and threading.get_ident() == main:
                count += 1
                if count == at:
                    signal.raise_signal(signal.SIGINT)  # an exception here would leave the lock locked for good
            return entered

    threading.Condition = Condition

    import numpy as np
    import numba
    import sgdsim as ss
    from sgdsim.common.signals import one_interruption
    from sgdsim.recurrence import share
    from sgdsim.runs import executors

    numba.set_num_threads(2)
    executors.threads = lambda: 2
    warnings.simplefilter("ignore")
    problem = ss.QuadraticProblem.power_law(30, 1.5, 3.0)
    grid = ss.Grid.product(lr=[0.01 * i for i in range(1, 25)], batch_size=[3])

    def sweep():
        regimes = [ss.SampledLinearized(), ss.SpectralDiagonal()]
        return ss.sweep(problem, grid, regimes, 4000, record=[100], replicates=4, executor="threads")

    def shared():
        done = []
        with one_interruption():
            share.among_threads([lambda i=i: done.append(i) for i in range(50)], 2)

    full = sweep()
    interrupted = 0
    for call in (sweep, shared):
        for at in range(1, 40):
            count, armed = 0, True
            try:
                result = call()
                if call is sweep and result.attrs["interrupted"]:
                    interrupted += 1
                    done = result["done"].values
                    np.testing.assert_array_equal(result["loss"].values[done], full["loss"].values[done])
            except KeyboardInterrupt:
                interrupted += 1
            armed = False
    print("heard", interrupted)
"""


def test_an_interruption_with_a_lock_just_taken_does_not_hang(here):
    """What threads share is not left locked by Ctrl-C, at whichever of its locks that comes."""
    (here / "script.py").write_text(textwrap.dedent(LOCKS))
    run = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, timeout=LAST_RESORT,
                         env=os.environ | {"NUMBA_NUM_THREADS": "2"},
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.split()[1]) > 10
