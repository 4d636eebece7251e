"""A pool of processes in which anything may hang or die without taking the rest with it."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import resource
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

LIMIT = 120.0  # seconds; nothing here is meant to take more than two, so this only ever ends what hangs
MEMORY = 12 << 30  # bytes of address space: a request for more fails instead of taking the machine down


class Worker:
    """A process that calls `function` ("module:name" of this package) with what it is sent."""

    def __init__(self, function: str) -> None:
        self.function, self.process = function, None

    def start(self) -> None:
        spawn = multiprocessing.get_context("spawn")  # a fork would inherit threads of torch and BLAS
        self.pipe, other = spawn.Pipe()
        self.process = spawn.Process(target=_serve, args=(self.function, other), daemon=True)
        self.process.start()
        other.close()

    def call(self, task: tuple, limit: float = LIMIT) -> list[str]:
        """What `function(*task)` returned: complaints, none if all is well."""
        if self.process is None:
            self.start()
        self.pipe.send(task)
        try:
            if self.pipe.poll(limit):
                return self.pipe.recv()
            said = f"hang: no end after {limit:g} s"
        except EOFError:
            self.process.join()
            said = f"the process died with exit code {self.process.exitcode}"
        self.stop()
        return [said]

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process = None


def run_all(function: str, tasks: Sequence[tuple], jobs: int, limit: float = LIMIT) -> Iterator[tuple[int, list[str]]]:
    """Each task's number and complaints, as they come."""
    idle: SimpleQueue[Worker] = SimpleQueue()
    workers = [Worker(function) for _ in range(jobs)]
    for worker in workers:
        idle.put(worker)
    done: SimpleQueue[tuple[int, list[str]]] = SimpleQueue()

    def work(number: int) -> None:
        worker = idle.get()
        try:
            done.put((number, worker.call(tasks[number], limit)))
        finally:
            idle.put(worker)

    try:
        with ThreadPoolExecutor(jobs) as threads:
            futures = [threads.submit(work, number) for number in range(len(tasks))]
            try:
                for _ in tasks:
                    yield done.get()
            finally:
                for future in futures:
                    future.cancel()
    finally:
        for worker in workers:
            worker.stop()


def _serve(function: str, pipe) -> None:
    module, _, name = function.partition(":")
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, resource.RLIM_INFINITY))
    os.environ.pop("SGDSIM_DATA", None)
    call = getattr(importlib.import_module(f"fuzz.{module}"), name)
    with contextlib.suppress(EOFError):
        while True:
            task = pipe.recv()
            pipe.send(call(*task))


@contextlib.contextmanager
def captured(folder: Path) -> Iterator[list[str]]:
    """Runs the block in `folder` with standard output and error redirected, the file descriptors too: the list then
    holds what came on each."""
    said: list[str] = []
    home, streams, kept = os.getcwd(), (sys.stdout, sys.stderr), [os.dup(1), os.dup(2)]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        os.chdir(folder)
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        for name, number, errors in (("stdout", 1, "strict"), ("stderr", 2, "backslashreplace")):
            setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", errors=errors, closefd=False))
        try:
            yield said
        finally:
            for new in (sys.stdout, sys.stderr):
                new.flush()
            sys.stdout, sys.stderr = streams
            for stream, old, number in ((out, kept[0], 1), (err, kept[1], 2)):
                os.dup2(old, number)
                os.close(old)
                stream.seek(0)
                said.append(stream.read().decode("utf-8", "replace"))
            os.chdir(home)
