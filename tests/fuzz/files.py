"""Damaged files of every kind that sgdsim reads: each is refused in one line, or gives the answer of the whole file.

A chunk of a sweep may also count as missing: it is computed again, or `merge` says how many cells there are.

What damage can be seen depends on the format. netCDF results and spectra, chunks, .npz, .pt, .gz and compressed .mat
files carry checksums, so any damage is tried on them. In .npy and .csv files, plain IDX files and JSON documents a
flipped bit may make another valid file; there, damage is kept to what shows: the ends of the file, its header, and
bytes that no text holds. The manifest of the data sets comes with the package, like its code, and is left alone.
"""

from __future__ import annotations

import functools
import gzip
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fuzz.inputs import SWEEP, tree
from fuzz.outcome import raised, refused, run
from sgdsim import datasets, results
from sgdsim.datasets import formats

SIMULATE = "--batch-size 2 --n-steps 5 --json"
NETWORK = "--n 20 --n-test 5 --width 3 --batch-size 2 --n-steps 2 --replicates 1 --json"


@dataclass(frozen=True)
class Format:
    """Which files it is, the commands that read them, what they answer, and the damage that can be seen."""

    files: tuple[str, ...]
    lines: tuple[str, ...]
    answer: Callable[[Path, str], list]
    damage: str = "flip cut zero double append empty swap"
    header: int = 0


def printed(folder: Path, out: str) -> list:
    """The JSON document without its times."""

    def timeless(value: object) -> object:
        if isinstance(value, dict):
            return {name: timeless(inside) for name, inside in value.items() if name != "seconds"}
        return [timeless(inside) for inside in value] if isinstance(value, list) else value

    return [timeless(json.loads(out))]


def cells(name: str, folder: Path, out: str) -> list:
    """Losses and outcomes of a result, an entry for each cell and regime; None where it is not done."""
    result = results.load(folder / name)
    kept = result[["loss", "outcome", "diverged_at"]].drop_attrs()
    each = result["done"].stack(all=result["done"].dims)
    shown = [
        (kept.isel(dict(zip(result["done"].dims, at, strict=True))).to_dict() if done else None)
        for at, done in zip(np.ndindex(result["done"].shape), each.values, strict=True)
    ]
    return [result.attrs["problem"], *(None if entry is None else repr(entry) for entry in shown)]


def table(folder: Path, out: str) -> list:
    """An exported table, and all that the file it came from holds."""
    return [(folder / "new.csv").read_bytes(), repr(results.load(folder / "result.nc").to_dict())]


def problem(folder: Path, out: str) -> list:
    """A printed loss, and the problem read from the file."""
    read = results.load_problem(folder / "spectrum.nc")
    return [*printed(folder, out), read.eigenvalues.tobytes(), read.coefficients.tobytes(), read.description]


def rows(name: str, folder: Path, out: str) -> list:
    """All the rows of a data set, not those alone that a run took."""
    raw = formats.READERS[name](folder / "data")
    arrays = (raw.x, raw.y, raw.x_test, raw.y_test)
    return [*printed(folder, out), *(None if a is None else a.tobytes() for a in arrays)]


def table_of(dataset: str, file: str, **changes) -> Format:
    line = f"simulate --dataset {dataset} --data-dir data {NETWORK}"
    return Format((file,), (line,), functools.partial(rows, dataset), **changes)


TEXT = {"damage": "cut append empty swap high", "header": 8}


def all_formats(inputs: Path) -> dict[str, Format]:
    """By name; the files of a sweep that goes on are those that are there."""
    kernel = f"simulate --regime averaged --kernel kernel{{}} {SIMULATE}"
    npy = kernel.format(".npy --residual residual.npy")
    resume = functools.partial(cells, "result.nc")
    known = {
        "result": Format(("result.nc",), ("export result.nc --out new.csv --curves",), table),
        "result, resumed": Format(("result.nc",), (f"{SWEEP} --out result.nc --resume",), resume),
        "spectrum": Format(("spectrum.nc",), (f"simulate --spectrum spectrum.nc {SIMULATE}",), problem),
        "kernel.npz": Format(("kernel.npz",), (kernel.format(".npz"),), printed),
        "kernel.pt": Format(("kernel.pt",), (kernel.format(".pt"),), printed),
        "kernel.npy": Format(("kernel.npy", "residual.npy"), (npy,), printed, "cut append empty swap flip", 10),
        "table.csv": Format(("table.csv",), (f"simulate --data table.csv --target y --features a b {NETWORK}",),
                            printed, **TEXT),
        "arrays.npz": Format(("arrays.npz",), (f"simulate --data arrays.npz {NETWORK}",), printed),
        "cells.csv": Format(("cells.csv",), ("compare --cells cells.csv --dataset power_law --nu 1 --kappa 1 --n 8 "
                            "--n-steps 3 --replicates 1 --regimes diagonal --json",), printed, **TEXT),
        "validated.json": Format(("validated.json",), ("validate --read validated.json --json",), printed, **TEXT),
        "mnist": table_of("mnist", "data/mnist/*.gz"),
        "mnist, unpacked": table_of("mnist", "data/mnist/*-ubyte", damage="cut append empty swap flip", header=8),
        "cifar10": table_of("cifar10", "data/cifar10/*.gz"),
        "olivetti": table_of("olivetti", "data/olivetti/*.mat"),
        "bike_sharing": table_of("bike_sharing", "data/Bike-Sharing/hour.csv", **TEXT),
        "sgemm_product": table_of("sgemm_product", "data/sgemm_product/sgemm_product.csv", **TEXT),
    }  # fmt: skip
    for kind in sorted({path.suffix for path in inputs.glob("half.nc.parts/*")}):
        half, whole = functools.partial(cells, "half.nc"), functools.partial(cells, "whole.nc")
        known[f"parts {kind}, resumed"] = Format(
            (f"half.nc.parts/*{kind}",), (f"{SWEEP} --out half.nc --resume",), half
        )
        known[f"parts {kind}, merged"] = Format((f"whole.nc.parts/*{kind}",), ("merge whole.nc",), whole)
    return known


def damaged(rng: random.Random, content: bytes, of: Format, others: list[bytes]) -> tuple[str, bytes]:
    """What was done, and the content after it."""
    kind = rng.choice(of.damage.split())
    size = len(content)
    at, data = rng.randrange(size), bytearray(content)
    length = rng.randrange(1, max(2, size // rng.choice((4, 50))))
    if kind == "flip":
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            data[rng.randrange(of.header or size)] ^= 1 << rng.randrange(8)
    elif kind == "high":
        data[at] |= 128
    elif kind == "cut":
        del data[at % of.header if of.header == TEXT["header"] and "high" in of.damage else at :]
    elif kind == "zero":
        data[at : at + length] = bytes(len(data[at : at + length]))
    elif kind == "double":
        data[at:at] = data[at : at + length]
    elif kind == "append":
        data += rng.randbytes(rng.randrange(1, 200)) + b"\xff"
    elif kind == "empty":
        data.clear()
    else:
        data = bytearray(rng.choice(others))
    return kind, bytes(data)


def judge(name: str, seed: int, number: int, inputs: str) -> list[str]:
    """Damage the `number`-th copy of a format's files: how it ended, and what is wrong."""
    form = all_formats(Path(inputs))[name]
    rng = random.Random(f"{seed} {name} {number}")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        folder = prepared(Path(home), inputs, name)
        path = rng.choice(sorted(path for pattern in form.files for path in folder.glob(pattern)))
        others = [
            other.read_bytes() for other in sorted(folder.rglob("*"))
            if other.is_file() and (other.suffix != path.suffix or (".parts" in str(path) and other != path))
        ]  # fmt: skip
        kind, content = damaged(rng, path.read_bytes(), form, others)
        path.write_bytes(content)
        before = tree(folder)
        wrong = []
        for line in form.lines:
            code, out, err, trace = run(line.split(), folder)
            wrong += complaints(form, code, out, err, trace, folder, whole(name, inputs))
            if code == 2:
                wrong += [
                    f"exit code 2, but {at} changed" for at, data in tree(folder).items() if before.get(at) != data
                ]
        where = f"{path.relative_to(folder)}, {kind}: "
        return [str(code), *(where + text for text in wrong)]


def prepared(home: Path, inputs: str, name: str) -> Path:
    """The inputs in a folder of their own, in the form that the format needs."""
    folder = home / "here"
    shutil.copytree(inputs, folder)
    if name == "mnist, unpacked":
        for path in folder.glob("data/mnist/*.gz"):
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    datasets_forgotten()
    return folder


def datasets_forgotten() -> None:
    """Nothing that was read before may be remembered."""
    for value in vars(datasets).values():
        if hasattr(value, "cache_clear"):
            value.cache_clear()


@functools.cache
def whole(name: str, inputs: str) -> tuple:
    """What the undamaged files give."""
    form = all_formats(Path(inputs))[name]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as home:
        folder = prepared(Path(home), inputs, name)
        (line,) = form.lines
        code, out, err, trace = run(line.split(), folder)
        assert code == 0, f"{line}: {code} {err} {trace}"
        return tuple(form.answer(folder, out))


def complaints(form: Format, code: int | None, out: str, err: str, trace: str, folder: Path, right: tuple) -> list[str]:
    """What is wrong; the oracle."""
    if code is None:
        return [raised(trace)]
    if code == 2:
        return refused(out, err)
    if code not in (0, 1) or "Traceback" in err:
        return [f"exit code {code}: {err[-300:]!r}"]
    try:
        answer = form.answer(folder, out)
    except Exception as error:
        return [f"exit code {code}, but reading it again: {type(error).__name__}: {str(error)[:200]}"]
    may_miss = code == 1 and len(answer) == len(right)
    same = len(answer) == len(right) and all(
        a == b or (a is None and may_miss) for a, b in zip(answer, right, strict=True)
    )
    return [] if same and (code == 0 or None in answer) else [f"exit code {code} with another answer"]
