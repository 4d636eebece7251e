"""A sweep on disk while it goes on: a folder with what was asked and a file for each chunk that is done.

`PATH.parts/sweep.json` says what was asked, `PATH.parts/empty.nc` is the result without numbers, and each
`PATH.parts/NUMBER-IDENTITY.chunk` holds a chunk: a line with the identity of the sweep that it belongs to and the
checksum of the rest, and the arrays as NumPy's `savez` writes them. A chunk of another sweep, or one that is not what
was written, counts as missing.

A file is complete or not there: it is written under another name, flushed and renamed. So any process may die at any
moment. One sweep at a time works on a path, or several shards of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import xarray as xr

from sgdsim.common import files
from sgdsim.common.checks import InputError
from sgdsim.common.ownership import owned
from sgdsim.runs import results
from sgdsim.runs.chunks import Done

Asked = Mapping[str, object]

_ASKED, _EMPTY, _CHUNKS = "sweep.json", "empty.nc", "*.chunk"
_MAGIC = b"sgdsim chunk 1"
_REMOVED = (_CHUNKS, "[0-9]*.npz", f".{_EMPTY}.*", f".{_ASKED}.*", ".*.chunk")  # .npz: chunks of sgdsim 0.1 and before


def folder(path: str | os.PathLike) -> Path:
    """Where the parts of the sweep at `path` are."""
    return Path(f"{os.fspath(path)}.parts")


def unfinished(path: str | os.PathLike) -> bool:
    """Whether there are parts of a sweep at `path`."""
    return (folder(path) / _ASKED).exists()


class Parts:
    """The parts of the one sweep that was `asked` for at `path`; made by `opened`."""

    def __init__(self, path: str, asked: Asked) -> None:
        self.path, self.asked, self.home, self.identity = path, asked, folder(path), _identity(asked)

    def check(self) -> None:
        """InputError if the folder holds another sweep."""
        if (self.home / _ASKED).exists():
            stored = read_asked(self.home / _ASKED)
            check_same(self.path, stored, self.asked)
            self.identity = _identity(stored)  # of equal ones, where 1 may stand for 1.0

    def begin(self, empty: xr.Dataset) -> None:
        """Say whose the folder is; `empty`: the result without numbers. InputError as `check`, or if that fails."""
        stored = self.home / _ASKED
        new = not stored.exists()
        if new:
            with files.replacing(stored, first=True) as temporary:  # of several shards one is the first
                temporary.write_text(json.dumps(self.asked), encoding="utf-8")
        self.check()
        try:
            if new or not _is_whole(self.home / _EMPTY):
                results.save(empty, self.home / _EMPTY)
        except InputError:
            if new:
                stored.unlink(missing_ok=True)
            raise

    def finished(self) -> Iterator[Done]:
        """The chunks that are there."""
        return _chunks(self.home, self.identity)

    def write(self, number: int, done: Done) -> None:
        """Keep a chunk; InputError where that fails."""
        content = _packed(done)
        name = f"{number}-{self.identity[:12]}.chunk"
        with files.replacing(self.home / name) as temporary, temporary.open("wb") as file:
            file.write(_header(self.identity, content) + content)
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Remove all that this module writes, and what a kill left of it and of the result: the description, which
        would be trusted, last. Raises InputError where that fails."""
        target = Path(os.path.realpath(self.path))
        left = [target.parent.glob(files.temporary_names(target)), *map(self.home.glob, _REMOVED)]
        try:
            for file in itertools.chain(*left, [self.home / _EMPTY, self.home / _ASKED]):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise InputError(f"{self.home}: could not be removed: {error.strerror or error}") from error


@contextlib.contextmanager
def opened(path: str | os.PathLike, asked: Asked, *, alone: bool) -> Iterator[Parts]:
    """The parts of the sweep `asked` for at `path`, held for it `alone` or together with other shards.

    Raises
    ------
    InputError : somebody else works on them, or the folder cannot be written.
    """
    parts = Parts(os.fspath(path), asked)
    with owned(parts.home, parts.path, alone=alone):
        yield parts


def read_asked(stored: Path) -> dict[str, object]:
    """What `sweep.json` says; InputError if it cannot be read."""
    try:
        asked = json.loads(stored.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{stored}: expected a sweep's description, got one that cannot be read: {error}") from error
    if not isinstance(asked, dict):
        raise InputError(f"{stored}: expected a sweep's description, got {_short(asked)}; remove it to begin anew")
    return asked


def check_same(path: str, stored: Asked, asked: Asked) -> None:
    """InputError, with what differs, unless the sweep at `path` is the one that is asked for."""
    asked = json.loads(json.dumps(asked))
    if stored.get("schema") != asked["schema"]:
        raise InputError(
            f"{path}: expected a sweep of schema {asked['schema']} to continue, got one of "
            f"{stored.get('schema', 'an older sgdsim')}, which did not tell problems apart by all that matters; it can "
            "be read and drawn, but not continued: give another path"
        )
    differing = [key for key in {**stored, **asked} if stored.get(key) != asked.get(key)]
    if differing:
        shown = "; ".join(f"{key}: {_short(stored.get(key))} there, {_short(asked.get(key))} here" for key in differing)
        raise InputError(f"{path}: expected the same sweep to continue, got another ({shown}); give another path")


def read(home: Path) -> tuple[xr.Dataset, Asked, Iterator[Done]]:
    """The empty result, what was asked, and the chunks in a folder of parts; InputError if it is none."""
    if not (home / _ASKED).exists():
        raise InputError(f"{home}: expected the parts of a sweep, found none")
    asked = read_asked(home / _ASKED)
    empty = results.load(home / _EMPTY)
    check_same(os.fspath(home), asked, results.asked_of(empty, home / _EMPTY))  # that file has a checksum
    return empty, asked, _chunks(home, _identity(asked))


def _identity(asked: Asked) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _is_whole(file: Path) -> bool:
    try:
        results.load(file)
    except InputError:
        return False
    return True


def _header(identity: str, content: bytes) -> bytes:
    checksum = hashlib.sha256(identity.encode() + content).hexdigest()
    return b" ".join([_MAGIC, identity.encode(), checksum.encode()]) + b"\n"


def _chunks(home: Path, identity: str) -> Iterator[Done]:
    for file in home.glob(_CHUNKS):
        try:
            header, _, content = file.read_bytes().partition(b"\n")
        except OSError:
            continue
        if header + b"\n" == _header(identity, content):
            yield _unpacked(content)


def _packed(done: Done) -> bytes:
    arrays = {
        "regime": np.array(done.regime, np.int64),
        "cells": done.cells,
        "outcome": done.outcome,
        "diverged_at": done.diverged_at,
        "seconds": done.seconds,
        "errors": np.array(done.errors, dtype=np.str_),
    }
    arrays |= {f"values.{name}": array for name, array in done.values.items()}
    arrays |= {f"report.{name}": array for name, array in done.report.items()}
    packed = io.BytesIO()
    np.savez(packed, **arrays)  # type: ignore[arg-type]  # NumPy's types take each name for an option
    return packed.getvalue()


def _unpacked(content: bytes) -> Done:
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        arrays = {name: stored[name] for name in stored.files}
    plain = {f.name: arrays[f.name] for f in fields(Done) if f.name in arrays}
    plain |= {"regime": int(arrays["regime"]), "errors": [str(text) for text in arrays["errors"]]}
    for group in ("values", "report"):
        names = [name for name in arrays if name.startswith(f"{group}.")]
        plain[group] = {name.partition(".")[2]: arrays[name] for name in names}
    return Done(**plain)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "..."
