"""What is stopped: `python -m kills.target [cli WORDS… | sweep NAME EXECUTOR [fresh]]`, with small chunks.

Where the folder holds a file `wait`, it says `ready` by a file of its own and begins when `wait` is gone: so two are
started together.
"""

import concurrent.futures
import contextlib
import multiprocessing
import os
import sys
import time
from pathlib import Path
from unittest import mock

POWER = "--dataset power_law --nu 1.5 --kappa 3 --n 12 --replicates 6"
DIGITS = "--dataset digits --n 40 --width 16 --replicates 3"
# lr 0.6 at batch 1: some replicates diverge, also the first, while others go on.
COMMANDS = {
    "landscape": f"landscape {POWER} --lr 0.3 0.6 0.62 50 --momentum 0 0.3 --batch-size 1 --n-steps 10000 "
    "--regime sampled averaged diagonal",
    "compare": f"compare {POWER} --lr 0.6 0.61 0.62 50 --momentum 0 0.1 --batch-size 1 --n-steps 50000 --resume",
    "network": f"compare {DIGITS} --n-test 10 --lr 0.3 0.8 20 --momentum 0 0.5 --batch-size 2 --n-steps 150 --resume",
    "maps": f"landscape {DIGITS} --lr 0.3 0.8 20 --momentum 0 0.5 --batch-size 2 --n-steps 150 "
    "--regime diagonal network averaged",
}


def sweep(name: str, executor, seed: int, resume: bool) -> None:
    """The sweep `name` by the library, into r.nc."""
    import sgdsim as ss

    if name == "power":
        problem = ss.QuadraticProblem.power_law(12, 1.5, 3.0)
        grid = ss.Grid.product(lr=[0.3, 0.6, 0.61, 0.62, 50.0], momentum=[0.0, 0.1], batch_size=[1])
        regimes, n_steps, replicates = [ss.SampledLinearized(), ss.BatchAveraged(), ss.SpectralDiagonal()], 30_000, 6
    else:
        data = ss.datasets.load("digits", 40, 0, n_test=10)
        problem = ss.NetworkProblem(ss.networks.MLP(width=16, seed=0), data, device="cpu")
        grid = ss.Grid.product(lr=[0.3, 0.8, 20.0], momentum=[0.0, 0.5], batch_size=[2])
        regimes, n_steps, replicates = [ss.RealNetwork(), ss.SampledLinearized()], 150, 3
    with pool(executor) as used:
        ss.sweep(
            problem, grid, regimes, n_steps, replicates=replicates, seed=seed, path="r.nc", resume=resume,
            executor=used, log_file="log",
        )  # fmt: skip


def pool(executor):
    """What `sweep` takes for an executor, as a context."""
    if not isinstance(executor, str):
        return contextlib.nullcontext(executor)
    if executor == "processes":
        return concurrent.futures.ProcessPoolExecutor(2, multiprocessing.get_context("spawn"))
    if executor == "own-threads":
        return concurrent.futures.ThreadPoolExecutor(4)
    if executor.startswith("client"):  # of one worker with so many threads
        return client(1, int(executor[6:]))
    return contextlib.nullcontext(executor)


@contextlib.contextmanager
def client(workers: int, threads: int):
    """A client of a Dask cluster of its own, on this machine."""
    import distributed

    with (
        distributed.LocalCluster(
            n_workers=workers, threads_per_worker=threads, host="127.0.0.1", dashboard_address=None, silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as made,
    ):
        yield made


@contextlib.contextmanager
def small_chunks(cells: int = 2):
    """Chunks of one or two cells, so that there are some to lose."""
    from sgdsim.runs import chunks

    with (
        mock.patch.object(chunks, "_LARGEST", cells),
        mock.patch.object(chunks, "_CHUNK_SECONDS", 0.05),
    ):
        yield


def main(kind: str, *words: str) -> int:
    if os.path.exists("wait"):
        import sgdsim.runs.sweeps  # noqa: F401 — slow

        Path(f"ready{os.getpid()}").touch()
        while os.path.exists("wait"):
            time.sleep(0.001)
    with small_chunks():
        return cli(list(words)) if kind == "cli" else script(*words)


def cli(words: list[str]) -> int:
    """As the console script does, to the interpreter's end."""
    from sgdsim.__main__ import entry

    sys.argv = ["sgdsim", *words]
    entry()


def script(name: str, executor: str, seed: str, *words: str) -> int:
    from sgdsim.common.checks import InputError

    try:
        sweep(name, executor, int(seed), "fresh" not in words)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
