"""The data files that sgdsim knows, after the list in `data/MANIFEST.toml`: which are there, and whether intact.

What counts as intact is the hash of a file's decompressed content, so a plain file and its `.gz`, packed by anyone, are
the same file.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import tomllib
import zlib
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from sgdsim.common.checks import InputError, choice
from sgdsim.common.table import Table
from sgdsim.datasets.formats import data_folder, find, open_content

CHUNK = 1 << 20
UNKNOWN_SIZE_LIMIT = 64 << 20  # most bytes accepted for a download or file whose size the manifest does not know


class Version(TypedDict, total=False):
    """One known content of a file: its size in bytes and a hash, as far as they are known."""

    size: int
    sha256: str
    md5: str


class File(TypedDict):
    """A file of a data set, as the head of `data/MANIFEST.toml` describes it."""

    path: str
    content: list[Version]
    url: NotRequired[str]
    member: NotRequired[str]
    stands_in_for: NotRequired[str]


class Archive(TypedDict):
    """The packed file that members come in."""

    url: str
    size: NotRequired[int]
    sha256: NotRequired[str]


class Entry(TypedDict):
    """A data set."""

    title: str
    homepage: str
    licence: str
    citation: str
    bundled_with: NotRequired[str]
    archive: NotRequired[Archive]
    files: NotRequired[list[File]]


class FileStatus(TypedDict):
    """What is known of a file, and where it lies; path, size and found are None where there is nothing to say."""

    dataset: str
    licence: str
    citation: str
    path: str | None
    size: int | None
    source: str
    present: bool
    found: str | None


class FileStatuses(list[FileStatus]):
    """Files one by one; a notebook shows a table of them."""

    def _repr_html_(self) -> str:
        rows = [[row["dataset"], row["path"] or "-", "yes" if row["present"] else "no", row["licence"]] for row in self]
        return Table(["dataset", "path", "present", "licence"], rows, "l")._repr_html_()


class FileCheck(TypedDict):
    """What became of checking a file; status: ok, missing, corrupt or unchecked."""

    dataset: str
    path: str | None
    status: str
    required: bool
    message: str


def manifest() -> dict[str, Entry]:
    """The manifest: one table per data set, as described at the top of `data/MANIFEST.toml`."""
    package = Path(__file__).resolve().parent
    for path in (package / "MANIFEST.toml", package.parents[1] / "data" / "MANIFEST.toml"):  # a wheel; a checkout
        if path.is_file():
            return cast(dict[str, Entry], tomllib.loads(path.read_text(encoding="utf-8")))
    raise InputError(f"expected the data manifest beside {package}, found none; install sgdsim again")


def entries(name: str | None = None) -> list[tuple[str, Entry]]:
    """The data set of that name, or all of them; InputError for an unknown name."""
    known = manifest()
    return list(known.items()) if name is None else [(name, known[choice("name", name, known)])]


def status(name: str | None = None, data_dir: str | os.PathLike[str] | None = None) -> FileStatuses:
    """What the manifest knows of each file, and whether it is there (its content is not looked at).

    `path` is under the data folder, None for what comes with a package; `size` in bytes of content, None if unknown;
    `source` the URL of the download or of the data set's page; `found` where the file lies, or None.
    """
    folder = data_folder(data_dir)
    rows = FileStatuses()
    for dataset, entry in entries(name):
        if "bundled_with" in entry:
            rows.append(_row(dataset, entry, None, None))
        rows += [_row(dataset, entry, file, find(folder, file["path"])) for file in entry.get("files", [])]
    return rows


def _row(dataset: str, entry: Entry, file: File | None, place: Path | None) -> FileStatus:
    """The status of a file that lies at `place`; `file` None: of what comes with a package."""
    if file is None:
        source = entry["bundled_with"]
    else:
        source = file.get("url") or (entry["archive"]["url"] if "member" in file else entry["homepage"])
    return {
        "dataset": dataset,
        "licence": entry["licence"],
        "citation": entry["citation"],
        "path": None if file is None else file["path"],
        "size": None if file is None else file["content"][0].get("size"),
        "source": source,
        "present": file is None or place is not None,
        "found": None if place is None else str(place),
    }


def verify(name: str | None = None, data_dir: str | os.PathLike[str] | None = None) -> list[FileCheck]:
    """The content of each file against the manifest; a damaged file is a finding, not an exception.

    A data set is usable when none of its rows is `corrupt` and none is `missing` while `required`. A partial CIFAR-10
    batch is never required, and a full batch is not required when its partial one is there: one of the two will do.
    `status` is `ok`, `missing`, `corrupt` or, of the right size where no hash is known, `unchecked`.
    """
    folder = data_folder(data_dir)
    rows: list[FileCheck] = []
    for dataset, entry in entries(name):
        files = entry.get("files", [])
        partial_of = {file["stands_in_for"]: file["path"] for file in files if "stands_in_for" in file}
        if "bundled_with" in entry:
            message = f"comes with {entry['bundled_with']}; there is no file to check"
            rows.append({"dataset": dataset, "path": None, "status": "ok", "required": False, "message": message})
        for file in files:
            place = find(folder, file["path"])
            partial = partial_of.get(file["path"])
            required = "stands_in_for" not in file and (partial is None or find(folder, partial) is None)
            if place is not None:
                state, message = judge(place, file["content"])
            elif required:
                state, message = "missing", f"not in {str(folder)!r}; run `sgdsim data fetch {dataset}`"
            else:
                state, message = "missing", f"not needed when {partial or file['stands_in_for']} is there"
            rows.append(
                {"dataset": dataset, "path": file["path"], "status": state, "required": required, "message": message}
            )
    return rows


def judge(path: Path, versions: list[Version]) -> tuple[str, str]:
    """(`ok` | `corrupt` | `unchecked`, message): the content of `path` against the known versions, read in pieces."""
    sizes = [version.get("size") for version in versions]
    known = [size for size in sizes if size is not None]
    limit = max(known) if len(known) == len(sizes) else UNKNOWN_SIZE_LIMIT
    digests = {"sha256": hashlib.sha256(), "md5": hashlib.md5(usedforsecurity=False)}
    size = 0
    try:
        with open_content(path) as stream:
            while block := stream.read(CHUNK):
                size += len(block)
                if size > limit:  # and no need to unpack the rest of what may be a bomb
                    return "corrupt", f"expected at most {limit} bytes of content, got more"
                for digest in digests.values():
                    digest.update(block)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return "corrupt", f"expected an intact gzip file, got one truncated or damaged after {size} bytes of content"
    except OSError as error:
        return "corrupt", f"expected a readable file, got {error.strerror or error}"

    same_size = [version for version in versions if version.get("size", size) == size]
    if not same_size:
        return "corrupt", f"expected {' or '.join(f'{s}' for s in sizes)} bytes of content, got {size}"
    expected, kind = [], ""
    for version in same_size:
        kind, known_hash = ("sha256", version["sha256"]) if "sha256" in version else ("md5", version.get("md5"))
        if known_hash is None:
            return "unchecked", f"{size} bytes as expected, but no hash of this file is known"
        if digests[kind].hexdigest() == known_hash:
            return "ok", f"{size} bytes, {kind} {known_hash}"
        expected.append(f"{kind} {known_hash}")
    return "corrupt", f"expected {' or '.join(expected)}, got {kind} {digests[kind].hexdigest()}"
