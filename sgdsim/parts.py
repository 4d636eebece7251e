"""A sweep on disk while it goes on: a folder with what was asked and a file for each chunk that is done.

`PATH.parts/sweep.json` says what was asked, `PATH.parts/empty.nc` is the result without numbers, and each
`PATH.parts/NUMBER.npz` holds a chunk. A file is complete or not there: it is written under another name, flushed and
renamed. So several processes (shards) may write side by side, and any of them may die at any moment.
"""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from sgdsim import results
from sgdsim.checks import InputError
from sgdsim.chunks import Done

_ASKED, _EMPTY = "sweep.json", "empty.nc"


def folder(path: str | os.PathLike) -> Path:
    """Where the parts of the sweep at `path` are."""
    return Path(f"{os.fspath(path)}.parts")


class Parts:
    """The parts of one sweep. Raises InputError where the folder holds another sweep or cannot be written."""

    def __init__(self, path: str | os.PathLike, asked: dict[str, Any], empty: xr.Dataset) -> None:
        self.path, self.folder = os.fspath(path), folder(path)
        stored = self.folder / _ASKED
        if stored.exists():
            check_same(self.path, read_asked(stored), asked)
            return
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: could not be made: {error.strerror or error}") from error
        results.save(empty, self.folder / _EMPTY)
        with results.replacing(stored) as temporary:  # last: its presence says that the folder is complete
            temporary.write_text(json.dumps(asked), encoding="utf-8")

    def finished(self) -> Iterator[Done]:
        """The chunks that are there; one that cannot be read counts as missing."""
        yield from _chunks(self.folder)

    def write(self, number: int, done: Done) -> None:
        """Keep a chunk; InputError where that fails."""
        arrays: dict[str, Any] = {
            "regime": np.int64(done.regime), "cells": done.cells, "outcome": done.outcome,
            "diverged_at": done.diverged_at, "seconds": done.seconds, "errors": np.array(done.errors, dtype=np.str_),
        }  # fmt: skip
        arrays |= {f"values.{name}": array for name, array in done.values.items()}
        arrays |= {f"report.{name}": array for name, array in done.report.items()}
        packed = io.BytesIO()
        np.savez(packed, **arrays)
        with results.replacing(self.folder / f"{number}.npz") as temporary, temporary.open("wb") as file:
            file.write(packed.getbuffer())
            file.flush()
            os.fsync(file.fileno())

    def remove(self, numbers: set[int]) -> None:
        """Remove the chunks `numbers`, and the folder if nothing else is in it."""
        for number in numbers:
            (self.folder / f"{number}.npz").unlink(missing_ok=True)
        if not any(_numbered(self.folder)):
            discard(self.path)


def discard(path: str | os.PathLike) -> None:
    """Remove the parts of an earlier sweep at `path`, if there are any."""
    home = folder(path)
    if (home / _ASKED).exists():
        (home / _ASKED).unlink()
        for file in [home / _EMPTY, *home.glob("*.npz")]:  # also what a kill left half-written
            file.unlink(missing_ok=True)
        if not any(home.iterdir()):
            home.rmdir()


def read_asked(stored: Path) -> dict[str, Any]:
    """What `sweep.json` says; InputError if it cannot be read."""
    try:
        return json.loads(stored.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{stored}: expected a sweep's description, got one that cannot be read: {error}") from error


def check_same(path: str, stored: dict[str, Any], asked: dict[str, Any]) -> None:
    """InputError, with what differs, unless the sweep at `path` is the one that is asked for."""
    asked = json.loads(json.dumps(asked))
    differing = [key for key in {**stored, **asked} if stored.get(key) != asked.get(key)]
    if differing:
        shown = "; ".join(f"{key}: {_short(stored.get(key))} there, {_short(asked.get(key))} here" for key in differing)
        raise InputError(f"{path}: expected the same sweep to continue, got another ({shown}); give another path")


def read(home: Path) -> tuple[xr.Dataset, dict[str, Any], list[Done]]:
    """The empty result, what was asked, and the chunks in a folder of parts; InputError if it is none."""
    if not (home / _ASKED).exists():
        raise InputError(f"{home}: expected the parts of a sweep, found none")
    return results.load(home / _EMPTY), read_asked(home / _ASKED), list(_chunks(home))


def _numbered(home: Path) -> Iterator[Path]:
    return (file for file in home.glob("*.npz") if file.stem.isdigit())


def _chunks(home: Path) -> Iterator[Done]:
    for file in _numbered(home):
        try:
            with np.load(file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            plain = {f.name: arrays[f.name] for f in fields(Done) if f.name in arrays}
            plain |= {"regime": int(arrays["regime"]), "errors": [str(text) for text in arrays["errors"]]}
            for group in ("values", "report"):
                names = [name for name in arrays if name.startswith(f"{group}.")]
                plain[group] = {name.partition(".")[2]: arrays[name] for name in names}
            yield Done(**plain)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
            continue


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
