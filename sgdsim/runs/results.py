"""The result: one plain `xarray.Dataset` under one schema, kept as netCDF-4.

Dims (each with a coordinate): the grid axes (`lr`, `momentum`, `batch_size`, `sampling`; or `cell` for zipped values,
with the hyperparameters as coordinates along it), `regime`, `replicate`, `step`, `mode`.

Variables: what was observed (`sgdsim.observables`), such as `loss`, (grid…, regime, replicate, step[, mode]); `outcome`
int8 with `flag_meanings` and `diverged_at` (first recorded step at which divergence was seen, −1: never), (grid…,
regime, replicate); `done` and `seconds`, (grid…, regime); `eigenvalues` and `coefficients` of the problem, (mode), and
their `multiplicity` where modes have one. Where cells failed, `error` (grid…, regime) says why. A sweep over problems
has no modes; its `description` says what made them.

A deterministic regime fills replicate 0 and leaves NaN in the others. Of what a regime does not know, such as
accuracies where second moments are followed, all is NaN; the variable's attribute `absent` says where and why.
Divergence never raises: the loss is `inf` from there on and `outcome` says so. Attributes hold the schema and package
versions, the creation time, the call as JSON, the problem's description and fingerprint, seed, device and machine (CPU,
BLAS and threads).

Behind the netCDF data a file has a line with their SHA-256, which other readers do not see: a file that is not what was
written is refused. One that another program wrote has none and is taken as it is.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xarray as xr

from sgdsim.common import machine
from sgdsim.common.checks import InputError
from sgdsim.common.files import as_path, replacing
from sgdsim.common.rooms import listing
from sgdsim.observables import Observable
from sgdsim.problem import QuadraticProblem, TestPoints, kinds
from sgdsim.runs.follow import OUTCOMES

__dir__ = listing(__name__)

SCHEMA = 3  # 2: cells may fail; 3: fingerprints over all that matters, the machine, a checksum behind the file
_TRAILER = re.compile(rb"\nsgdsim sha256 ([0-9a-f]{64})\n")
_COMPRESSED = 10_000_000  # larger arrays are eigenvectors, which do not compress
_OFFSET = "loss_offset"
ABSENT = "absent"  # of a variable: a JSON object, by the names of regimes that do not know it, with the reason
#: What a regime may report about a run.
REPORTED = {
    "error_estimate": "estimated largest relative error of the loss; NaN: none made",
    "known_until": "last recorded step up to which the loss is known to 10%, of a problem by Lanczos quadrature; NaN: "
    "not asked",
    "exact_modes": "leading modes whose noise covariance is kept in full",
    "diagonal_modes": "further modes whose noise variance is kept",
    _OFFSET: "what the training loss counts from: the least value of a quadratic model of another loss; NaN: of none",
}
#: What coordinates are, and their units.
COORDINATES = {
    "lr": {"long_name": "learning rate α", "units": "1/λ_max(K)"},
    "momentum": {"long_name": "momentum β"},
    "batch_size": {"long_name": "batch size b", "units": "points"},
    "step": {"long_name": "SGD steps t", "units": "steps"},
    "mode": {"long_name": "mode k, eigenvalues descending"},
}


def allocate(
    axes: dict[str, np.ndarray],
    along: dict[str, tuple[str, np.ndarray]],
    regimes: list[str],
    replicates: int,
    steps: np.ndarray,
    observe: tuple[Observable, ...],
    problem: QuadraticProblem | None,
) -> xr.Dataset:
    """An empty result: every loss NaN, every outcome "not_run".

    `axes` are the grid's dims with their coordinates; `along` further coordinates as (dim, values). `problem`: whose
    modes it has; None: none.
    """
    eigenvalues = np.zeros(0) if problem is None else problem.eigenvalues
    sizes = {**{name: len(values) for name, values in axes.items()}, "regime": len(regimes)}
    sizes |= {"replicate": replicates, "step": steps.size, "mode": eigenvalues.size}
    per_regime = (*axes, "regime")
    per_replicate = (*per_regime, "replicate")

    def full(dims: tuple[str, ...], value: object, dtype: type = np.float64, **attributes: object) -> xr.Variable:
        return xr.Variable(dims, np.full([sizes[dim] for dim in dims], value, dtype), attributes)

    variables = {
        observable.variable: full((*per_replicate, "step", *observable.dims), np.nan, long_name=observable.long_name)
        for observable in observe
    }
    flags = {"flag_values": np.arange(len(OUTCOMES), dtype=np.int8), "flag_meanings": " ".join(OUTCOMES)}
    variables["outcome"] = full(per_replicate, 0, np.int8, **flags)
    seen = "first recorded step at which divergence was seen; -1: never, or not run"
    variables["diverged_at"] = full(per_replicate, -1, np.int64, long_name=seen)
    variables["done"] = full(per_regime, False, bool)
    variables["seconds"] = full(per_regime, 0.0, units="s")
    squared = problem is not None and problem.loss == "squared"
    for name, text in REPORTED.items():
        if name == _OFFSET and squared:
            continue
        variables[name] = full(per_regime, np.nan, long_name=text)
    variables |= modes(problem)
    coords = {
        **axes,
        **along,
        "regime": np.array(regimes, dtype=object),
        "replicate": np.arange(replicates),
        "step": steps,
        "mode": np.arange(1, eigenvalues.size + 1),
    }
    result = xr.Dataset(variables, coords)
    for name in COORDINATES.keys() & result.coords.keys():
        result[name].attrs.update(COORDINATES[name])
    return result


def modes(problem: QuadraticProblem | None) -> dict[str, xr.Variable]:
    """The variables of a problem, (mode)."""
    none = np.zeros(0)
    eigenvalues, coefficients = (none, none) if problem is None else (problem.eigenvalues, problem.coefficients)
    words: dict[str, object] = {"long_name": "λ_k of K̂ = Θ/λ_max(Θ)"}
    if problem is not None and problem.n_outputs > 1:
        words |= {"n_outputs": problem.n_outputs, "over_outputs": problem.spectrum.outputs}
    if problem is not None and problem.loss_offset:
        words |= {"loss_offset": problem.loss_offset}
    variables = {
        "eigenvalues": xr.Variable("mode", eigenvalues, words),
        "coefficients": xr.Variable("mode", coefficients, {"long_name": "a_k = ⟨u_k, r_0⟩"}),
    }
    if problem is not None and problem.multiplicity is not None:
        text = {"long_name": "number of eigenvalues that a mode stands for"}
        variables["multiplicity"] = xr.Variable("mode", problem.multiplicity, text)
    if problem is not None and problem.signed is not None:
        text = {"long_name": "a_ko = ⟨u_k, r_0 of output o⟩, whose squares sum to a_k²"}
        variables["signed"] = xr.Variable(("mode", "output"), problem.signed, text)
    return variables


_version = functools.cache(importlib.metadata.version)


def provenance(
    call: Mapping[str, object], description: Mapping[str, object], fingerprint: str, seed: int, device: str
) -> dict[str, str | int]:
    """The attributes that say how to make the result again."""
    versions = {name: _version(name) for name in ("numpy", "scipy", "torch", "numba", "xarray")}
    return {
        "schema": SCHEMA,
        "sgdsim_version": _version("sgdsim"),
        "versions": json.dumps({"python": platform.python_version(), **versions}),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "call": json.dumps(call),
        "problem": json.dumps(description),
        "problem_sha256": fingerprint,
        "seed": str(seed),  # as text: seeds may exceed 64 bits
        "device": device,
        "machine": json.dumps(machine.describe()),
        "interrupted": 0,
    }


def save(result: xr.Dataset, path: str | os.PathLike) -> Path:
    """Write `result` as netCDF-4, all or nothing: a reader never sees half a file.

    Raises
    ------
    InputError : `result` is no xarray.Dataset, the folder does not exist or cannot be written, or the disk is full.
    """
    if not isinstance(result, xr.Dataset):
        raise InputError(f"result: expected an xarray.Dataset, such as `sweep` returns, got {type(result).__name__}")
    path = as_path(path)
    with replacing(path) as temporary:
        encoding = {
            name: {"zlib": True, "complevel": 4}
            for name, v in result.variables.items()
            if v.dtype.kind in "fi" and v.ndim and v.size < _COMPRESSED
        }
        # In memory first: HDF5 prints pages and may crash where the disk is full, a plain write raises one error.
        with _without_cluster():
            content = bytes(result.to_netcdf(engine="h5netcdf", format="NETCDF4", encoding=encoding))
        with temporary.open("wb") as file:
            file.write(content + _trailer(content))
            file.flush()
            os.fsync(file.fileno())  # what it replaces, and a sweep's parts, are removed next
    return path


def _trailer(content: bytes) -> bytes:
    return b"\nsgdsim sha256 %s\n" % hashlib.sha256(content).hexdigest().encode()


def _without_cluster() -> contextlib.AbstractContextManager:
    """Where a Dask client is open, xarray would ask the cluster for a lock on each file."""
    dask = sys.modules.get("dask")
    return contextlib.nullcontext() if dask is None else dask.config.set(scheduler="synchronous")


def load(path: str | os.PathLike) -> xr.Dataset:
    """Read a result saved by `save`, or a spectrum that `save_problem` wrote, whole, into memory.

    Raises
    ------
    InputError : no such file, not a netCDF-4 file, or not a result of sgdsim.
    """
    return _read(as_path(path), ("loss", "coefficients"), "result")


def save_problem(problem: QuadraticProblem, path: str | os.PathLike, *, seed: int = 0, device: str = "cpu") -> Path:
    """Write a quadratic problem as netCDF-4 (eigenvalues, signed coefficients; eigenvectors, test points and
    multiplicity where it has them), so that `load_problem` gives it back to the last bit. InputError as `save`."""
    variables = modes(problem)
    if problem.spectrum.probe is not None:
        words = {"long_name": "random probe of Lanczos quadrature that a mode comes from; 0: none"}
        variables["probe"] = xr.Variable("mode", problem.spectrum.probe, words)
    if problem.spectrum.eigenvectors is not None:
        variables["eigenvectors"] = xr.Variable(("sample", "mode"), problem.spectrum.eigenvectors)
    if problem.test is not None:
        dims = ("test_sample", "output")[: problem.test.residual.ndim]
        offset = {"loss_offset": problem.test.loss_offset} if problem.test.loss_offset else {}
        variables["test_residual"] = xr.Variable(dims, problem.test.residual, offset)
        variables["transfer"] = xr.Variable(("test_sample", "mode"), problem.test.transfer)
    attributes: dict[str, object] = dict(provenance({}, problem.description, problem.fingerprint, seed, device))
    attributes["scale"] = problem.spectrum.scale
    if problem.basis_seed is not None:
        attributes["basis_seed"] = str(problem.basis_seed)
    return save(xr.Dataset(variables, {"mode": np.arange(1, problem.spectrum.n_modes + 1)}, attributes), path)


def load_problem(path: str | os.PathLike) -> QuadraticProblem:
    """The problem that `save_problem` wrote; InputError for any other file."""
    stored = _read(as_path(path), ("coefficients",), "spectrum")
    if "scale" not in stored.attrs:
        raise InputError(
            f"{path}: expected a spectrum written by sgdsim spectrum --out, got a result of another command"
        )
    vectors = stored["eigenvectors"].values if "eigenvectors" in stored else None
    counts = stored["multiplicity"].values if "multiplicity" in stored else None
    try:
        test = _test_points(stored)
        basis_seed = int(stored.attrs["basis_seed"]) if "basis_seed" in stored.attrs else None
        scale, description = float(stored.attrs["scale"]), dict(json.loads(stored.attrs["problem"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: expected a spectrum as sgdsim writes it, got other facts: {error}") from error
    return kinds.restored(
        description,
        stored["coefficients"].values,
        stored["eigenvalues"].values,
        eigenvectors=vectors,
        scale=scale,
        multiplicity=counts,
        probe=stored["probe"].values if "probe" in stored else None,
        test=test,
        basis_seed=basis_seed,
        **_words(stored),
    )


def _test_points(stored: xr.Dataset) -> TestPoints | None:
    if "transfer" not in stored:
        return None
    residual = stored["test_residual"]
    return TestPoints(residual.values, stored["transfer"].values, float(residual.attrs.get("loss_offset", 0.0)))


def problem_of(result: xr.Dataset) -> QuadraticProblem:
    """The problem of a sweep's result, without eigenvectors; InputError where the problem was on the grid."""
    if not {"eigenvalues", "coefficients"} <= {*result}:
        raise InputError("result: expected eigenvalues and coefficients of a problem, got a file without")
    if not result["eigenvalues"].size:
        raise InputError("result: expected one problem, got a sweep over problems")
    counts = result["multiplicity"].values if "multiplicity" in result else None
    try:
        description = dict(json.loads(result.attrs["problem"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"result: expected the description of its problem, got none: {error}") from error
    return kinds.restored(
        description,
        result["coefficients"].values,
        result["eigenvalues"].values,
        multiplicity=counts,
        **_words(result),
    )


def has_offset(result: xr.Dataset) -> bool:
    """Whether losses of it are those of a quadratic model, which count from its `loss_offset` and may be negative."""
    return "loss_offset" in result and bool(result["loss_offset"].notnull().any())


def absent(result: xr.Dataset, variable: str) -> dict[str, str]:
    """Why there is nothing of a variable in some regimes, by their names."""
    return dict(json.loads(result[variable].attrs.get(ABSENT, "{}")))


def check_squared(what: str, result: xr.Dataset) -> None:
    """InputError where the result `has_offset`, for `what` takes logarithms or ratios of its losses."""
    if has_offset(result):
        raise InputError(
            f"{what}: expected losses of squares, got those of the quadratic model of another loss, which may be "
            "negative; subtract the result's loss_offset"
        )


def _words(stored: xr.Dataset) -> kinds.Stored:
    """What `_modes` wrote of several outputs and of another loss."""
    words = stored["eigenvalues"].attrs
    return {
        "n_outputs": int(words.get("n_outputs", 1)),
        "over_outputs": int(words.get("over_outputs", 1)),
        "signed": stored["signed"].values if "signed" in stored else None,
        "loss_offset": float(words.get("loss_offset", 0.0)),
    }


def _read(path: Path, variables: tuple[str, ...], kind: str) -> xr.Dataset:
    """The whole file; InputError unless it is one of sgdsim's that holds one of `variables`."""
    if not path.is_file():
        raise InputError(f"{path}: expected a {kind} file, found none")
    if not _is_as_written(path):
        raise InputError(f"{path}: expected a {kind} as sgdsim wrote it, got a damaged file (its checksum differs)")
    try:
        with _without_cluster():
            stored = xr.load_dataset(path, engine="h5netcdf")
    except Exception as error:  # a damaged file makes HDF5 and xarray raise almost anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if os.path.splitext(os.fspath(path))[1].lower() in (".csv", ".parquet", ".json"):
            reason = "tables and JSON are for other programs; --out NAME.nc is read again"
        raise InputError(
            f"{path}: expected a netCDF-4 file written by sgdsim, got one that cannot be read ({reason})"
        ) from error
    if "schema" not in stored.attrs or not {*variables} & {*stored}:
        raise InputError(f"{path}: expected a {kind} written by sgdsim, got a netCDF file without its schema")
    schema = stored.attrs["schema"]
    if not isinstance(schema, (int, np.integer)) or schema > SCHEMA:
        raise InputError(f"{path}: expected schema {SCHEMA} or older, got {schema}; update sgdsim")
    return stored


def _is_as_written(path: Path) -> bool:
    """Whether the file is what `save` wrote: before HDF5 sees it, which may hang on a damaged one."""
    try:
        with path.open("rb") as file:
            length = file.seek(0, os.SEEK_END) - len(_trailer(b""))
            file.seek(max(length, 0))
            trailer = _TRAILER.fullmatch(file.read())
            if trailer is None:
                return True
            file.seek(0)
            total, left = hashlib.sha256(), length
            while left and (piece := file.read(min(left, 1 << 20))):
                total.update(piece)
                left -= len(piece)
    except OSError as error:
        raise InputError(f"{path}: could not be read: {error.strerror or error}") from error
    return total.hexdigest().encode() == trailer[1]


def curves(result: xr.Dataset) -> list[str]:
    """The variables with a number for each regime, replicate and recorded step: the loss first, then the test loss."""
    dims = {"regime", "replicate", "step"}
    over = [str(name) for name, variable in result.data_vars.items() if dims <= {*map(str, variable.dims)}]
    first = [name for name in ("loss", "test_loss") if name in over]
    return [*first, *(name for name in over if name not in first and "mode" not in result[name].dims)]


def asked_of(result: xr.Dataset, path: str | os.PathLike) -> dict[str, object]:
    """What the sweep that made `result`, read from `path`, was asked for; InputError for any other result."""
    try:
        asked = json.loads(result.attrs["asked"])
        if isinstance(asked, dict):
            return asked
    except (KeyError, TypeError, ValueError):
        pass
    raise InputError(f"{path}: expected a sweep to continue, got another result; give another path")
