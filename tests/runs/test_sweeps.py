"""Sweeps: grids over anything, executors, resuming, shards, failures; the numbers are the same however they come."""

import concurrent.futures
import json
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import sgdsim as ss
from sgdsim import cli, results
from sgdsim.common.checks import InputError
from sgdsim.regimes import _sampled_plain
from sgdsim.runs import chunks, clusters, parts, sweeps
from sgdsim.studies import comparison

SGDSIM = Path(sys.executable).with_name("sgdsim")
REGIMES = [ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()]
GRID = ss.Grid.product(lr=[0.2, 0.5, 0.9, 50.0], momentum=[0.0, 0.4], batch_size=[3])


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def problem() -> ss.QuadraticProblem:
    return ss.QuadraticProblem.power_law(30, 1.5, 3.0)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of one or two cells, so that there are some to lose."""
    monkeypatch.setattr(chunks, "_LARGEST", 2)


def run(problem, **options):
    return ss.sweep(problem, GRID, REGIMES, 200, record=50, replicates=3, seed=4, **options)


def assert_same(one: xr.Dataset, other: xr.Dataset) -> None:
    """To the last bit, but for how long it took."""
    assert one.drop_vars("seconds").drop_attrs().equals(other.drop_vars("seconds").drop_attrs())


# The same numbers whoever computes them.


@pytest.mark.parametrize("executor", ["threads", "processes", "own threads"])
def test_executors_give_the_same_numbers(problem, small_chunks, executor):
    whole = run(problem, executor="serial")
    pools = {
        "threads": lambda: "threads",
        "processes": lambda: concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")),
        "own threads": lambda: concurrent.futures.ThreadPoolExecutor(2),
    }
    pool = pools[executor]()
    try:
        assert_same(run(problem, executor=pool), whole)
    finally:
        if not isinstance(pool, str):
            pool.shutdown()


def test_cells_together_equal_cells_alone(problem):
    """The diagonal regime takes many cells at once by contour."""
    grid = ss.Grid.product(lr=np.linspace(0.05, 1.5, 7), momentum=[-0.3, 0.0, 0.6], batch_size=[1, 7, 30])
    together = ss.sweep(problem, grid, ss.SpectralDiagonal(), 10_000, record=[50, 9000])
    for index, sgd in grid.cells():
        alone = ss.simulate(problem, sgd, ss.SpectralDiagonal(), 10_000, record=[50, 9000])
        np.testing.assert_array_equal(together["loss"].values[index].ravel(), alone["loss"].values.ravel())
        assert together["outcome"].values[index].item() == alone["outcome"].values.item()


def test_unknown_executors_are_refused(problem):
    with pytest.raises(InputError, match="executor: expected"):
        run(problem, executor="cloud")


# Grids.


def test_axes_of_the_problem_and_of_the_closure():
    grid = ss.Grid.product(nu=[1.2, 1.6], n=[10, 20], lr=[0.3], tau=[0.0, 1.0], kappa=2.0)
    result = ss.sweep(ss.QuadraticProblem.power_law, grid, ss.SpectralDiagonal(), 30)
    assert dict(result.sizes) | {"nu": 2, "n": 2, "lr": 1, "tau": 2, "kappa": 1} == dict(result.sizes)
    for nu in (1.2, 1.6):
        for n in (10, 20):
            for tau in (0.0, 1.0):
                alone = ss.simulate(
                    ss.QuadraticProblem.power_law(n, nu, 2.0), ss.SGD(0.3), ss.SpectralDiagonal(tau), 30
                )
                found = result["loss"].sel(nu=nu, n=n, tau=tau).values
                np.testing.assert_array_equal(found.ravel(), alone["loss"].values.ravel())


def test_axes_of_a_schedule(problem):
    grid = ss.Grid.product(**{"lr": ss.schedules.Power(1.0, 0.5), "lr.exponent": [0.0, 0.4], "batch_size": 5})
    result = ss.sweep(problem, grid, ss.SpectralDiagonal(), 30)
    for exponent in (0.0, 0.4):
        alone = ss.simulate(problem, ss.SGD(ss.schedules.Power(1.0, exponent), 0.0, 5), ss.SpectralDiagonal(), 30)
        found = result["loss"].sel({"lr.exponent": exponent}).values
        np.testing.assert_array_equal(found.ravel(), alone["loss"].values.ravel())


def test_cells_from_a_table(problem, here):
    (here / "cells.csv").write_text("lr,momentum,batch_size\n0.2,0,3\n0.4,-0.1,5\npower:start=1,exponent=0.5,0,3\n")
    with pytest.raises(InputError, match="line 4"):  # the comma belongs in quotes
        ss.Grid.from_table("cells.csv")
    (here / "cells.csv").write_text('lr,momentum,batch_size\n0.2,0,3\n0.4,-0.1,5\n"power:start=1,exponent=0.5",0,3\n')
    grid = ss.Grid.from_table("cells.csv")
    assert [sgd for _, sgd in grid.cells()] == [
        ss.SGD(0.2, 0, 3), ss.SGD(0.4, -0.1, 5), ss.SGD(ss.schedules.Power(1.0, 0.5), 0, 3),
    ]  # fmt: skip
    frame = pd.DataFrame({"lr": [0.2, 0.4], "momentum": [0.0, -0.1], "batch_size": [3, 5]})
    by_frame = ss.sweep(problem, ss.Grid.from_table(frame), ss.SpectralDiagonal(), 20)
    assert by_frame["lr"].values.tolist() == [0.2, 0.4]
    assert by_frame["loss"].dims[0] == "cell"
    with pytest.raises(InputError, match=r"none\.csv"):
        ss.Grid.from_table("none.csv")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: ss.sweep(p, ss.Grid.product(lr=1, nu=[1, 2]), REGIMES, 5), "need a function"),
        (lambda p: ss.sweep(ss.QuadraticProblem.power_law, ss.Grid.product(lr=1), REGIMES, 5), "got none"),
        (lambda p: ss.sweep(p, ss.Grid.product(lr=1, tau=[0, 1]), REGIMES, 5), "tau: expected the diagonal regime"),
        (lambda p: ss.Grid.product(**{"lr": 1.0, "lr.exponent": [1]}), "lr.exponent: expected a parameter of"),
        (lambda p: ss.Grid.product(**{"lr": ss.schedules.Power(1, 1), "lr.speed": [1]}), "got speed"),
        (lambda p: ss.sweep(p, GRID, REGIMES, 5, shard=(1, 2)), "shard: expected a path"),
        (lambda p: ss.sweep(p, GRID, REGIMES, 5, shard=(3, 2), path="x.nc"), "shard"),
        (lambda p: ss.sweep(p, GRID, REGIMES, 5, log_file="none/x"), "none/x"),
    ],
)
def test_bad_sweeps_are_refused(problem, here, call, message):
    with pytest.raises(InputError, match=message):
        call(problem)
    assert not any(path.suffix == ".nc" for path in here.iterdir())


# Resuming.


def test_an_interrupted_sweep_goes_on(problem, here, small_chunks, monkeypatch):
    whole = run(problem)
    original, calls = _sampled_plain.HeavyBall.advance, []

    def stop(*args):
        calls.append(1)
        if len(calls) == 12:
            raise KeyboardInterrupt
        original(*args)

    with monkeypatch.context() as patched:
        patched.setattr(_sampled_plain.HeavyBall, "advance", stop)
        with pytest.warns(RuntimeWarning, match="interrupted"):
            partial = run(problem, path="r.nc", executor="serial")
    assert 0 < partial["done"].values.sum() < partial["done"].size
    before, follow = int(partial["done"].values.sum()), chunks.follow
    followed = []
    monkeypatch.setattr(chunks, "follow", lambda *args: followed.append(1) or follow(*args))
    again = run(problem, path="r.nc", executor="serial")
    assert partial["done"].size - before <= len(followed) < partial["done"].size
    assert_same(again, whole)
    assert_same(ss.load("r.nc"), whole)
    assert [path.name for path in here.iterdir()] == ["r.nc"]
    followed.clear()
    assert_same(run(problem, path="r.nc"), whole)
    assert not followed  # it was all there


def test_another_sweep_at_the_same_path_is_refused(problem, here):
    run(problem, path="r.nc")
    before = Path("r.nc").read_bytes()
    with pytest.raises(InputError, match=r"r\.nc: expected the same sweep .*seed: \"4\" there, \"5\" here"):
        ss.sweep(problem, GRID, REGIMES, 200, record=50, replicates=3, seed=5, path="r.nc")
    with pytest.raises(InputError, match="n_steps: 200 there, 300 here"):
        ss.sweep(problem, GRID, REGIMES, 300, record=50, replicates=3, seed=4, path="r.nc")
    with pytest.raises(InputError, match="problem: "):
        run(ss.QuadraticProblem.power_law(30, 1.4, 3.0), path="r.nc")
    assert Path("r.nc").read_bytes() == before
    ss.sweep(problem, GRID, REGIMES, 10, path="r.nc", resume=False)
    assert ss.load("r.nc").step.values[-1] == 10


SCRIPT = """
    import os, sys, time
    import sgdsim as ss
    from sgdsim.runs import chunks, executors
    chunks._LARGEST = 2
    stream = executors.stream
    def held(*args):  # while there is a file "hold", no more than three chunks are done
        for number, found in enumerate(stream(*args)):
            if number == 3 and os.path.exists("hold"):
                open("held", "w").close()
            while number == 3 and os.path.exists("hold"):
                time.sleep(0.01)
            yield found
    executors.stream = held
    if __name__ == "__main__":
        problem = ss.QuadraticProblem.power_law(30, 1.5, 3.0)
        grid = ss.Grid.product(lr=[0.01 * i for i in range(1, 25)], batch_size=[3])
        ss.sweep(problem, grid, [ss.SampledLinearized(), ss.SpectralDiagonal()], 4000, record=[100], replicates=4,
                 path="r.nc", executor=sys.argv[1], log_file="log")
"""


def begin(here: Path, executor: str) -> subprocess.Popen:
    """The sweep of `SCRIPT` in a process of its own, with three chunks done; it waits there for what comes.

    Only once it waits: a signal that comes before is heard by the sweep, and the chunk that this then gives would wait.
    """
    (here / "script.py").write_text(textwrap.dedent(SCRIPT))
    (here / "hold").touch()
    process = subprocess.Popen(
        [sys.executable, "script.py", executor], cwd=here, stderr=subprocess.PIPE, text=True,
        # Where the tests run in the background of a script, Ctrl-C is ignored, and so it would be here.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    deadline = time.monotonic() + 900
    while not (here / "held").exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


def finish(here: Path) -> xr.Dataset:
    """The same sweep in a fresh process, to its end."""
    for name in ("hold", "held"):
        (here / name).unlink(missing_ok=True)
    subprocess.run([sys.executable, "script.py", "serial"], cwd=here, check=True, timeout=900)
    return ss.load(here / "r.nc")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> xr.Dataset:
    home = tmp_path_factory.mktemp("whole")
    (home / "script.py").write_text(textwrap.dedent(SCRIPT))
    return finish(home)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_sweep_goes_on(here, uninterrupted, number):
    process = begin(here, "threads")
    process.send_signal(number)
    _, told = process.communicate(timeout=900)
    if number == signal.SIGKILL:
        assert not (here / "r.nc").exists()
        there = len(list(here.glob("r.nc.parts/*.chunk")))
    else:
        assert process.returncode == (0 if number == signal.SIGINT else -signal.SIGTERM), told
        assert ("interrupted" in told) == (number == signal.SIGINT)
        partial = ss.load(here / "r.nc")
        there = int(partial["done"].values.sum())
        assert partial.attrs["interrupted"] == 1
        assert not (here / "r.nc.parts").exists()
    assert there >= 3
    logged = len((here / "log").read_text().splitlines())
    assert_same(finish(here), uninterrupted)
    assert sorted(path.name for path in here.iterdir()) == ["log", "r.nc", "script.py"]
    lines = [json.loads(line) for line in (here / "log").read_text().splitlines()]
    assert len(lines) > logged
    assert {"time", "regime", "cells", "seconds", "diverged", "failed"} <= set(lines[-1])


def test_sigterm_ends_a_script_but_not_its_own_handler(here):
    """What comes after the sweep is not run; who handles SIGTERM is asked in place of the default."""
    script = """
        import signal, sys
        import sgdsim as ss
        if sys.argv[1] == "own":
            signal.signal(signal.SIGTERM, lambda *_: print("handled"))

        from sgdsim.regimes.averaged.exact import Exact
        advance = Exact.advance

        def stopped(run, start, stop):  # in the middle of a run
            if start == 0:
                signal.raise_signal(signal.SIGTERM)
            advance(run, start, stop)

        Exact.advance = stopped
        ss.simulate(ss.QuadraticProblem.power_law(30, 1.5, 1.0), ss.SGD(0.3), ss.BatchAveraged(), 300)
        print("after")
    """
    (here / "script.py").write_text(textwrap.dedent(script))
    run = {
        kind: subprocess.run([sys.executable, "script.py", kind], cwd=here, capture_output=True, text=True, timeout=900)
        for kind in ("default", "own")
    }
    assert (run["default"].returncode, run["default"].stdout) == (-signal.SIGTERM, "")
    assert (run["own"].returncode, run["own"].stdout) == (0, "handled\nafter\n")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_while_dask_workers_start_waits_until_they_can_be_closed(here, name):
    """It came in the middle of the cluster's start, which then told of it in tracebacks."""
    script = """
        import os, signal, sys
        import distributed
        import sgdsim as ss

        if __name__ == "__main__":
            signal.signal(signal.SIGINT, signal.default_int_handler)
            number, start = getattr(signal, sys.argv[1]), distributed.Nanny.start_unsafe

            async def interrupted(self):
                os.kill(os.getpid(), number)
                return await start(self)

            distributed.Nanny.start_unsafe = interrupted
            problem, grid = ss.QuadraticProblem.power_law(30, 1.5, 1.0), ss.Grid.product(lr=[0.3, 0.4])
            ss.sweep(problem, grid, [ss.SpectralDiagonal()], 20, executor="dask", path="r.nc")
    """
    (here / "script.py").write_text(textwrap.dedent(script))
    (here / "slow.py").write_text("import time; time.sleep(5)")
    run = subprocess.run(
        [sys.executable, "script.py", name], cwd=here, capture_output=True, text=True, timeout=900,
        env={**os.environ, "DASK_DISTRIBUTED__WORKER__PRELOAD": "['slow.py']"},
    )  # fmt: skip
    assert "Traceback" not in run.stderr
    assert "Task exception" not in run.stderr
    assert run.returncode == (-signal.SIGTERM if name == "SIGTERM" else 0), run.stderr
    assert ss.load(here / "r.nc").attrs["interrupted"] == 1


def test_a_damaged_part_is_computed_again(here, uninterrupted):
    process = begin(here, "serial")
    process.kill()
    process.communicate()
    victim, *_ = sorted(here.glob("r.nc.parts/*.chunk"))
    victim.write_bytes(victim.read_bytes()[:-100])
    (here / "r.nc.parts" / ".0.npz.abc.npz").write_bytes(b"left behind by a kill")
    assert_same(finish(here), uninterrupted)


def test_a_full_disk(here, uninterrupted):
    """The limit on file sizes stands for it: parts fit, the result does not."""
    (here / "script.py").write_text(textwrap.dedent(SCRIPT))
    size = max(len(results.save(uninterrupted, here / "whole.nc").read_bytes()) - 1, 1)
    found = subprocess.run(
        [sys.executable, "script.py", "serial"], cwd=here, capture_output=True, text=True, timeout=900,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2)),
    )  # fmt: skip
    assert "File too large" in found.stderr
    assert not (here / "r.nc").exists()
    (here / "whole.nc").unlink()
    assert_same(finish(here), uninterrupted)


# Shards.


def test_shards_merged_are_the_whole(problem, here, small_chunks):
    whole = run(problem)
    for i in (2, 1, 3):
        with_part = run(problem, path="r.nc", shard=(i, 3))
        assert not Path("r.nc").exists()
    assert with_part["done"].values.all()  # the last one finds the others' work
    assert_same(sweeps.merge("r.nc"), whole)
    assert_same(ss.load("r.nc"), whole)


def test_shards_on_different_disks(problem, here, small_chunks):
    whole = run(problem)
    for i in (1, 2):
        run(problem, path=f"part{i}.nc", shard=(i, 2))
    half = sweeps.merge("half.nc", ["part1.nc.parts"])
    assert half.attrs["interrupted"] == 1
    assert 0 < half["done"].values.sum() < half["done"].size
    assert_same(sweeps.merge("r.nc", ["part1.nc.parts", "part2.nc.parts"]), whole)
    ss.sweep(problem, GRID, REGIMES, 10, path="other.nc", shard=(1, 2))
    with pytest.raises(InputError, match="same sweep"):
        sweeps.merge("r.nc", ["part1.nc.parts", "other.nc.parts"])
    with pytest.raises(InputError, match="found none"):
        sweeps.merge("r.nc", ["nothing"])


# Failures.


def test_a_cell_that_raises_is_recorded(problem, here, monkeypatch):
    original = _sampled_plain.HeavyBall.advance

    def advance(cell, start, stop):
        if cell.sgd.lr == 0.5 and cell.sgd.momentum == 0.4:
            raise ZeroDivisionError("just here")
        original(cell, start, stop)

    whole = run(problem)
    with monkeypatch.context() as patched:
        patched.setattr(_sampled_plain.HeavyBall, "advance", advance)
        result = run(problem, path="r.nc")
    assert result.attrs["interrupted"] == 0
    assert result["error"].values[1, 1, 0, 0] == "ZeroDivisionError: just here"
    assert (result["error"].values != "").sum() == 1
    assert (result["outcome"].values[1, 1, 0, 0] == chunks.FAILED).all()
    assert np.isnan(result["loss"].values[1, 1, 0, 0]).all()
    assert comparison.failures(ss.load("r.nc")) == [
        {
            "cell": "lr = 0.5, momentum = 0.4, batch_size = 3",
            "regime": "sampled",
            "error": "ZeroDivisionError: just here",
        }
    ]
    assert "error" in run(problem, path="r.nc")  # not run again unless asked to
    mended = run(problem, path="r.nc", retry_failed=True)
    assert_same(mended.drop_vars("error"), whole)
    assert not comparison.failures(mended)


def test_problems_that_refuse_their_cells():
    grid = ss.Grid.product(n=[5, 20], nu=[1.5], kappa=[1.0, -1.0], lr=[0.3], batch_size=[10])
    result = ss.sweep(ss.QuadraticProblem.power_law, grid, [ss.SampledLinearized(), ss.SpectralDiagonal()], 20)
    errors = result["error"].values[:, 0, :, 0, 0, :]
    assert (errors[:, 1] != "").all()
    assert ["kappa" in text for text in errors[:, 1].ravel()] == [True] * 4
    assert all("batch_size" in text for text in errors[0, 0])
    assert (errors[1, 0] == "").all()
    assert np.isfinite(result["loss"].sel(n=20, kappa=1.0).values).all()


# The command line.

WORDS = ["compare", "--dataset", "power_law", "--nu", "1.5", "--kappa", "3", "--n", "30", "--replicates", "2",
         "--lr", "0.2", "0.5", "--n-steps", "50"]  # fmt: skip


def test_shards_and_tables_on_the_command_line(here, capsys):
    assert cli.main([*WORDS, "--out", "whole.nc", "--json"]) == 0
    for i in (1, 2):
        assert cli.main([*WORDS, "--out", "r.nc", "--shard", f"{i}/2"]) == 0
    assert cli.main(["merge", "r.nc"]) == 0
    out, _ = capsys.readouterr()
    assert "shard 2/2: 12 of 12 cells" in out
    assert "wrote r.nc: 12 of 12 cells" in out
    assert_same(ss.load("r.nc"), ss.load("whole.nc"))
    for name in ("t.csv", "t.parquet"):
        assert cli.main(["export", "r.nc", "--out", name]) == 0
        table = pd.read_csv(name) if name.endswith("csv") else pd.read_parquet(name)
        assert len(table) == 4 * (2 + 1 + 1)
        first = table[(table["lr"] == 0.2) & (table["momentum"] == 0.5) & (table["regime"] == "averaged")]
        expected = ss.load("r.nc")["loss"].sel(lr=0.2, momentum=0.5, regime="averaged").values[..., 0, -1].item()
        assert first["loss"].item() == pytest.approx(expected, rel=1e-12)
        assert first["outcome"].item() == "completed"
    assert cli.main(["export", "r.nc", "--out", "t.csv", "--curves", "--force"]) == 0
    assert len(pd.read_csv("t.csv")) == 4 * 4 * ss.load("r.nc").sizes["step"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shard", "3/2", "--out", "r.nc"], "--shard: expected I/K"),
        (["--shard", "1/2"], "--shard: expected together with --out"),
        (["--resume"], "--resume: expected together with --out"),
        (["--scheduler", "tcp://x:1", "--executor", "threads"], "--scheduler: expected only with"),
    ],
)
def test_bad_execution_options(here, capsys, words, message):
    assert cli.main([*WORDS, *words]) == 2
    assert message in capsys.readouterr().err


def test_cells_from_a_table_on_the_command_line(here, capsys):
    (here / "cells.csv").write_text("lr,batch_size\n0.2,3\n0.5,5\n")
    words = [word for word in WORDS if word not in ("--lr", "0.2", "0.5")]
    assert cli.main([*words, "--cells", "cells.csv", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["lr"], row["batch_size"]) for row in rows] == [(0.2, 3), (0.5, 5)]
    (here / "cells.csv").write_text("lr,nu\n0.2,3\n")
    assert cli.main([*words, "--cells", "cells.csv"]) == 2
    assert "got nu" in capsys.readouterr().err


def test_resume_on_the_command_line(here, capsys):
    assert cli.main([*WORDS, "--out", "r.nc"]) == 0
    assert cli.main([*WORDS, "--seed", "7", "--out", "r.nc", "--resume"]) == 2
    assert 'seed: "0" there, "7" here' in capsys.readouterr().err
    assert cli.main([*WORDS, "--out", "r.nc", "--resume"]) == 0
    assert cli.main([*WORDS, "--seed", "7", "--out", "r.nc"]) == 2  # neither gone on with nor replaced
    assert "r.nc" in capsys.readouterr().err
    assert cli.main([*WORDS, "--seed", "7", "--out", "r.nc", "--force"]) == 0
    assert ss.load("r.nc").attrs["seed"] == "7"


def test_an_unfinished_sweep_is_not_thrown_away(here, capsys):
    assert cli.main([*WORDS, "--out", "r.nc", "--shard", "1/2"]) == 0
    assert cli.main([*WORDS, "--out", "r.nc"]) == 2
    assert "r.nc.parts: holds a sweep that was not finished; --resume" in capsys.readouterr().err
    assert cli.main([*WORDS, "--out", "r.nc", "--resume"]) == 0
    assert not parts.folder("r.nc").exists()
    assert ss.load("r.nc")["done"].values.all()


# A real Dask cluster of two worker processes.


@pytest.fixture(scope="module")
def cluster():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, silence_logs=50
    ) as made:
        yield made


def test_dask_gives_the_same_numbers(problem, small_chunks, cluster):
    assert_same(run(problem, executor=f"dask:{cluster.scheduler_address}"), run(problem, executor="serial"))


def test_a_dask_worker_killed_in_mid_sweep(problem, here, uninterrupted, cluster):
    """Its chunks are computed by the others, and nothing is lost."""
    import distributed

    grid = ss.Grid.product(lr=[0.01 * i for i in range(1, 25)], batch_size=[3])
    with distributed.Client(cluster) as client, pytest.MonkeyPatch.context() as patched:
        patched.setattr(chunks, "_LARGEST", 2)
        victims = list(client.run(os.getpid).values())
        killed = []
        original = sweeps.Progress.add

        def add(self, *arguments):
            original(self, *arguments)
            if not killed:
                killed.append(victims[0])
                os.kill(victims[0], signal.SIGKILL)

        patched.setattr(sweeps.Progress, "add", add)
        result = ss.sweep(
            problem, grid, [ss.SampledLinearized(), ss.SpectralDiagonal()], 4000, record=[100], replicates=4,
            executor=client, path="r.nc",
        )  # fmt: skip
    assert killed
    assert_same(result, uninterrupted)


def test_dask_workers_killed_while_the_problem_is_sent_to_them(problem, small_chunks, cluster, monkeypatch):
    """Neither the sending that fails nor a result that is lost on its way ends the sweep, or a cell of it."""
    import distributed

    with distributed.Client(cluster) as client:
        send, sent, result, asked = client.scatter, [], distributed.Future.result, []

        def scatter(*arguments, **options):
            sent.append(None)
            if len(sent) == 1:
                for pid in client.run(os.getpid).values():
                    os.kill(pid, signal.SIGKILL)
            elif len(sent) == 2:
                raise distributed.comm.CommClosedError
            return send(*arguments, **options)

        def lost(future, *arguments):
            asked.append(None)
            if len(asked) == 1:
                raise distributed.comm.CommClosedError
            return result(future, *arguments)

        monkeypatch.setattr(client, "scatter", scatter)
        monkeypatch.setattr(distributed.Future, "result", lost)
        assert_same(run(problem, executor=client), run(problem, executor="serial"))
    assert len(sent) > 2


def test_dask_failures_are_data(problem, cluster):
    grid = ss.Grid.product(n=[5, 20], nu=1.5, kappa=1.0, lr=[0.3], batch_size=[10])
    regimes = [ss.SampledLinearized(), ss.SpectralDiagonal()]
    result = ss.sweep(ss.QuadraticProblem.power_law, grid, regimes, 20, executor=f"dask:{cluster.scheduler_address}")
    assert_same(result, ss.sweep(ss.QuadraticProblem.power_law, grid, regimes, 20, executor="serial"))
    assert "error" in result


def test_no_scheduler_there(problem, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr(clusters, "_PATIENCE", 0.5)
    with pytest.raises(InputError, match="scheduler: expected a Dask scheduler at tcp"):
        run(problem, executor="dask:tcp://127.0.0.1:1")


@pytest.mark.parametrize("executor", ["serial", "threads"])
def test_an_exception_may_end_the_sweep_instead(executor):
    grid = ss.Grid.product(n=[10, -3, 20], nu=[1.5], kappa=[2.0], lr=[0.3])
    with pytest.raises(InputError, match=r"^n: expected"):
        ss.sweep(ss.QuadraticProblem.power_law, grid, ss.SpectralDiagonal(), 30, on_error="raise", executor=executor)
    recorded = ss.sweep(ss.QuadraticProblem.power_law, grid, ss.SpectralDiagonal(), 30, executor=executor)
    assert recorded["error"].values.ravel()[1].startswith("n: expected")
    with pytest.raises(InputError, match="on_error: expected record or raise"):
        ss.sweep(ss.QuadraticProblem.power_law, grid, ss.SpectralDiagonal(), 30, on_error="ignore")


def test_pools_that_fork_are_refused(problem):
    with (
        concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as pool,
        pytest.raises(InputError, match=r"executor: expected processes that start afresh, got a pool that forks"),
    ):
        run(problem, executor=pool)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"regimes": "diagonal"}, "regimes: expected regimes, such as SpectralDiagonal(), got 'diagonal'"),
        ({"regimes": ss.SpectralDiagonal}, "regimes: expected regimes, such as SpectralDiagonal(), got <class"),
        ({"grid": {"lr": [0.1]}}, "grid: expected a Grid, got {'lr': [0.1]}"),
        ({"problem": 3}, "problem: expected a problem, or a function that makes one, got 3"),
        ({"record": "all"}, "record: expected None, an integer or a list of steps, got 'all'"),
    ],
)
def test_things_of_another_kind_are_refused(problem, arguments, words):
    given = {"problem": problem, "grid": GRID, "regimes": REGIMES, "n_steps": 10, **arguments}
    with pytest.raises(InputError) as error:
        ss.sweep(**given)
    assert str(error.value).startswith(words)


def test_simulate_takes_an_algorithm_and_a_regime(problem):
    with pytest.raises(InputError, match=r"sgd: expected an SGD"):
        ss.simulate(problem, {"lr": 0.1}, ss.SpectralDiagonal(), 3)
    with pytest.raises(InputError, match=r"regime: expected one, such as SpectralDiagonal"):
        ss.simulate(problem, ss.SGD(0.1), ss.SpectralDiagonal, 3)


def test_misspelt_axes_are_refused_and_failures_told():
    axes = {"lr": [0.1], "nu": [1.5], "n": 10}
    with pytest.raises(InputError, match=r"grid: expected axes that the problem's function takes, got: .*'kappa'"):
        ss.sweep(ss.QuadraticProblem.power_law, ss.Grid.product(**axes, kapa=1.0), ss.SpectralDiagonal(), 10)
    grid = ss.Grid.product(lr=[0.1], nu=[1.5, -1.0], kappa=1.0, n=10)
    with pytest.warns(RuntimeWarning, match=r"1 of 2 runs of cells failed, the first with: nu: expected"):
        ss.sweep(ss.QuadraticProblem.power_law, grid, ss.SpectralDiagonal(), 10)


def test_options_beside_a_table_of_cells(here, capsys):
    (here / "cells.csv").write_text("lr\n0.2\n0.4\n")
    words = ["compare", "--dataset", "power_law", "--nu", "1.5", "--kappa", "1", "--n", "20", "--regimes", "diagonal"]
    words += ["--n-steps", "5", "--json", "--cells", "cells.csv"]
    assert cli.main([*words, "--momentum", "0.3"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["lr"], row["momentum"], row["batch_size"]) for row in rows] == [(0.2, 0.3, 10), (0.4, 0.3, 10)]
    assert cli.main([*words, "--lr", "1"]) == 2
    assert "--lr: expected one value for all cells and no such column" in capsys.readouterr().err


def test_a_saved_map_is_drawn_again(here):
    """But for what is surely stable, drawn up to N = 2000: a result has no eigenvectors to tell it by."""
    words = "--dataset power_law --nu 1.5 --kappa 1 --n 2001 --lr 0.2 0.4 --momentum 0 0.5 --batch-size 2 --n-steps 20"
    assert cli.main(["landscape", *words.split(), "--out", "m.nc", "--plot", "one.png"]) == 0
    assert cli.main(["plot", "landscape", "m.nc", "--out", "two.png"]) == 0
    assert (here / "one.png").read_bytes() == (here / "two.png").read_bytes()
