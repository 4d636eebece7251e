"""Parts of a sweep: whose they are, who works on them, and what becomes of damaged ones."""

import concurrent.futures
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch

import sgdsim as ss
from sgdsim import results
from sgdsim.common import ownership, signals
from sgdsim.common.checks import InputError
from sgdsim.runs import chunks, parts, sweeps

GRID = ss.Grid.product(lr=[0.2, 0.5, 0.9, 50.0], momentum=[0.0, 0.4], batch_size=[3])
REGIMES = [ss.SampledLinearized(), ss.SpectralDiagonal()]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(chunks, "_LARGEST", 2)
    return tmp_path


@pytest.fixture(scope="module")
def problem() -> ss.QuadraticProblem:
    return ss.QuadraticProblem.power_law(30, 1.5, 3.0)


def run(problem, seed=4, **options):
    return ss.sweep(problem, GRID, REGIMES, 100, record=50, replicates=3, seed=seed, **options)


def begun(problem, monkeypatch, seed=4) -> None:
    """Parts of a sweep at r.nc, as a kill leaves them: before the result is written."""
    with monkeypatch.context() as patched:
        patched.setattr(results, "save", _failing_for("r.nc", results.save))
        with pytest.raises(sweeps.NotSaved):
            run(problem, seed, path="r.nc")
    assert parts.unfinished("r.nc")


def _failing_for(name, save):
    def replacement(result, path):
        if os.fspath(path) == name:
            raise InputError("no disk")
        return save(result, path)

    return replacement


def same(one, other) -> bool:
    return one.drop_vars("seconds").drop_attrs().equals(other.drop_vars("seconds").drop_attrs())


# Whose they are.


def test_a_chunk_of_another_sweep_counts_as_missing(problem, here, monkeypatch):
    begun(problem, monkeypatch, seed=5)
    other = here / "other"
    shutil.move("r.nc.parts", other)
    begun(problem, monkeypatch)
    mine = {file.name: file for file in here.glob("r.nc.parts/*.chunk")}
    for stranger in other.glob("*.chunk"):
        shutil.copy(stranger, here / "r.nc.parts" / stranger.name)  # under its own name, and under one of ours
        number = stranger.name.partition("-")[0]
        ours = next(name for name in mine if name.startswith(f"{number}-"))
        shutil.copy(stranger, mine[ours])
    assert same(run(problem, path="r.nc"), run(problem))
    assert sorted(path.name for path in here.iterdir()) == ["other", "r.nc"]


def test_any_flipped_bit_of_a_chunk_is_seen(problem, monkeypatch):
    begun(problem, monkeypatch)
    file = next(parts.folder("r.nc").glob("*.chunk"))
    content, rng = file.read_bytes(), np.random.default_rng(0)
    identity = content.split()[3].decode()
    assert len(list(parts._chunks(parts.folder("r.nc"), identity))) > 1
    for other in parts.folder("r.nc").glob("*.chunk"):
        if other != file:
            other.unlink()
    for place in [*range(160), *rng.integers(0, len(content), 300)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        file.write_bytes(damaged)
        assert not list(parts._chunks(parts.folder("r.nc"), identity))
    file.write_bytes(content[:-1])
    assert not list(parts._chunks(parts.folder("r.nc"), identity))
    file.write_bytes(content)
    assert len(list(parts._chunks(parts.folder("r.nc"), identity))) == 1


@pytest.mark.parametrize("text", ["[]", "null", "3", "{", "\x00", "[" * 100_000])
def test_descriptions_that_are_none(problem, monkeypatch, text):
    begun(problem, monkeypatch)
    Path("r.nc.parts/sweep.json").write_text(text)
    with pytest.raises(InputError, match=r"sweep\.json: expected a sweep's description"):
        run(problem, path="r.nc")


def test_a_description_of_something_else_is_not_merged(problem, monkeypatch):
    begun(problem, monkeypatch)
    Path("r.nc.parts/sweep.json").write_text('{"grid": {}}')
    with pytest.raises(InputError, match="older sgdsim"):
        ss.merge("r.nc")


def test_older_sweeps_say_why_they_do_not_go_on(problem, monkeypatch):
    begun(problem, monkeypatch)
    asked = json.loads(Path("r.nc.parts/sweep.json").read_text())
    del asked["schema"]
    Path("r.nc.parts/sweep.json").write_text(json.dumps(asked))
    with pytest.raises(InputError, match=r"an older sgdsim.*give another path"):
        run(problem, path="r.nc")
    result = run(problem)
    result.attrs["asked"] = json.dumps(asked)
    results.save(result, "old.nc")
    assert same(results.load("old.nc"), result)
    with pytest.raises(InputError, match=r"an older sgdsim.*give another path"):
        run(problem, path="old.nc")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.drop_vars("diverged_at"), "diverged_at"),
        (lambda r: r.isel(lr=[0, 1]), "lr"),
        (lambda r: r.assign(loss=r["loss"].isel(step=0)), "loss"),
        (lambda r: r.drop_attrs(), "result"),
    ],
)
def test_a_result_of_another_shape_is_not_taken_over(problem, change, message):
    changed = change(run(problem, path="r.nc"))
    if not changed.attrs:
        changed.attrs["schema"] = results.SCHEMA
    results.save(changed, "r.nc")
    with pytest.raises(InputError, match=message):
        run(problem, path="r.nc")


# What stays behind.


def test_leftovers_go_with_success(problem, here, monkeypatch):
    begun(problem, monkeypatch)
    for name in (".0-abc.chunk.x7.chunk", ".sweep.json.q.json", ".empty.nc.u.nc", "7-123.chunk", "12.npz"):
        (here / "r.nc.parts" / name).write_bytes(b"left behind by a kill")
    run(problem, path="r.nc")
    assert [path.name for path in here.iterdir()] == ["r.nc"]


def test_a_failed_start_leaves_nothing(problem, here, monkeypatch):
    with pytest.raises(InputError, match="could not be written"):
        run(problem, path="r.nc", log_file="missing/log")
    assert not list(here.iterdir())

    def refuse(self, empty):
        raise InputError("no disk")

    with monkeypatch.context() as patched:
        patched.setattr(parts.Parts, "begin", refuse)
        with pytest.raises(InputError, match="no disk"):
            run(problem, path="r.nc")
    assert not list(here.iterdir())
    save = results.save
    with monkeypatch.context() as patched:
        patched.setattr(results, "save", lambda *_: (_ for _ in ()).throw(InputError("full")))
        with pytest.raises(InputError, match="full"):
            run(problem, path="r.nc")
    assert results.save is save
    assert not list(here.iterdir())


def test_a_sweep_of_one_chunk_minds_the_unfinished_one(problem, here, monkeypatch):
    begun(problem, monkeypatch)
    grid = ss.Grid.product(lr=[0.3], batch_size=[3])
    with pytest.raises(InputError, match="expected the same sweep to continue"):
        ss.sweep(problem, grid, REGIMES[:1], 100, path="r.nc")
    assert same(run(problem, path="r.nc"), run(problem))
    ss.sweep(problem, grid, REGIMES[:1], 100, path="one.nc")
    assert sorted(path.name for path in here.iterdir()) == ["one.nc", "r.nc"]


def test_the_only_shard_of_one_chunk_is_kept(problem):
    grid = ss.Grid.product(lr=[0.3], batch_size=[3])
    ss.sweep(problem, grid, REGIMES[:1], 100, path="r.nc", shard=(1, 1))
    assert same(sweeps.merge("r.nc"), ss.sweep(problem, grid, REGIMES[:1], 100))


@pytest.mark.parametrize("shard", [3, (1,), (1, 2, 3), "1/2", (0, 2), (3, 2), (1.5, 2)])
def test_bad_shards(problem, shard):
    with pytest.raises(InputError, match="shard: expected"):
        run(problem, path="r.nc", shard=shard)


def test_a_shard_does_not_begin_anew(problem):
    with pytest.raises(InputError, match="resume: expected True with a shard"):
        run(problem, path="r.nc", shard=(1, 2), resume=False)


# Who works on them.


def test_a_path_has_one_owner(problem, here):
    run(problem, path="r.nc", shard=(1, 2))
    with ownership.owned(parts.folder("r.nc"), "r.nc", alone=False):  # another shard
        run(problem, path="r.nc", shard=(2, 2))
        with pytest.raises(InputError, match=rf"r\.nc: expected a path .* in use by process {os.getpid()} on"):
            run(problem, path="r.nc")
    with (
        ownership.owned(parts.folder("r.nc"), "r.nc", alone=True),
        pytest.raises(InputError, match="in use by process"),
    ):
        run(problem, path="r.nc", shard=(2, 2))
    assert same(run(problem, path="r.nc"), run(problem))
    assert [path.name for path in here.iterdir()] == ["r.nc"]


def test_a_killed_owner_is_none(problem, here, monkeypatch):
    """The system takes the lock back; nobody has to wait or to judge."""
    begun(problem, monkeypatch)
    script = """
        import pathlib, sys, time
        from sgdsim import ownership
        with ownership.owned(pathlib.Path("r.nc.parts"), "r.nc", alone=True):
            print("mine", flush=True)
            sys.stdin.read()
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "mine\n"
    with pytest.raises(InputError, match=f"process {holder.pid} on"):
        run(problem, path="r.nc")
    holder.kill()
    holder.communicate()
    assert same(run(problem, path="r.nc"), run(problem))
    assert [path.name for path in here.iterdir()] == ["r.nc"]


def test_a_file_system_without_locks_is_named(problem, here, monkeypatch):
    def none(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(ownership.fcntl, "flock", none)
    with pytest.warns(RuntimeWarning, match="no locks"):
        found = run(problem, path="r.nc")
    assert same(found, run(problem))
    assert [path.name for path in here.iterdir()] == ["r.nc"]


# Signals.


def test_a_second_sigterm_waits_for_the_first():
    """In a process of its own: the first interrupts, the second is ignored, and the process ends by SIGTERM."""
    script = """
        import signal
        from sgdsim.common.signals import held_back, one_interruption
        with one_interruption() as came:
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt:
                signal.raise_signal(signal.SIGTERM)
                print("saved", flush=True)
                raise
        print("not reached")
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGTERM, "saved\n", "")


def test_sigterm_is_not_lost_behind_a_ctrl_c():
    script = """
        import signal
        from sgdsim.common.signals import held_back, one_interruption
        with one_interruption():
            with held_back():
                signal.raise_signal(signal.SIGINT)
                signal.raise_signal(signal.SIGTERM)
        print("not reached")
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGTERM, "", "")


def test_ctrl_c_while_parts_are_set_up_gives_a_partial_result(problem, here, monkeypatch):
    begin = parts.Parts.begin

    def stopped(self, empty):
        begin(self, empty)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(parts.Parts, "begin", stopped)
        with pytest.warns(RuntimeWarning, match="interrupted"):
            found = run(problem, path="r.nc")
    assert found.attrs["interrupted"] == 1
    assert not found["done"].values.any()
    assert same(run(problem, path="r.nc"), run(problem))


def test_the_third_signal_interrupts_the_saving_too():
    seen = []

    def stopped_while_saving() -> None:
        with signals.one_interruption():
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                signal.raise_signal(signal.SIGINT)
                seen.append("saving")
                signal.raise_signal(signal.SIGINT)
                seen.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        stopped_while_saving()
    assert seen == ["saving"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_children_do_not_see_ctrl_c():
    with signals.not_for_children():
        child = subprocess.Popen(
            [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read(); print('whole')"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert child.stdout.readline() == "up\n"
    child.send_signal(signal.SIGINT)
    assert child.communicate()[0] == "whole\n"


def test_signals_wait_while_files_are_written():
    order = []

    def write() -> None:
        with signals.held_back():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            order.append("written")
        order.append("not reached")

    with pytest.raises(KeyboardInterrupt):
        write()
    assert order == ["written"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


# Threads and the network.


def test_a_pool_of_processes_gets_the_problem_once(problem, monkeypatch):
    pickled = []

    class Counted(ss.QuadraticProblem):
        def __reduce__(self):
            pickled.append(1)
            return (ss.QuadraticProblem.power_law, (30, 1.5, 3.0))

    counted = Counted(problem.spectrum, problem.coefficients, basis_seed=0)
    with concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        assert same(run(counted, executor=pool), run(problem))
    assert len(pickled) == 1


def test_threads_share_a_network(here):
    """Twice in pools of threads, and afterwards serially on the same problem: always the serial numbers."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.GELU(), torch.nn.Linear(8, 1)).double()
    rng = np.random.default_rng(0)
    data = ss.Dataset(rng.standard_normal((20, 6)), rng.standard_normal(20), "noise")
    grid = ss.Grid.product(lr=[0.1, 0.3, 0.5], momentum=[0.0, 0.5], batch_size=[2, 5])

    def losses(problem, executor):
        result = ss.sweep(problem, grid, [ss.RealNetwork()], 30, replicates=2, executor=executor)
        assert "error" not in result
        return result["loss"].values

    expected = losses(ss.NetworkProblem(module, data, device="cpu"), "serial")
    problem = ss.NetworkProblem(module, data, device="cpu")
    for _ in range(2):
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            np.testing.assert_array_equal(losses(problem, pool), expected)
    np.testing.assert_array_equal(losses(problem, "serial"), expected)


def test_a_clean_up_that_fails_does_not_lose_the_result(problem, here, monkeypatch):
    begun(problem, monkeypatch)
    (here / ".r.nc.abcd1234.nc").write_bytes(b"left behind by a kill while the result was saved")
    with monkeypatch.context() as patched:
        patched.setattr(parts.Parts, "remove", _refused)
        with pytest.warns(RuntimeWarning, match="busy"):
            found = run(problem, path="r.nc")
    assert same(found, run(problem))
    assert same(ss.load("r.nc"), found)
    run(problem, path="r.nc")
    assert [path.name for path in here.iterdir()] == ["r.nc"]


def _refused(self):
    raise InputError("r.nc.parts: could not be removed: busy")
