"""Download of the data files in `data/MANIFEST.toml`. Nothing here runs by itself: `load` never downloads."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import stat
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from sgdsim.common.checks import InputError, choice
from sgdsim.datasets.formats import data_folder, find
from sgdsim.datasets.manifest import (
    CHUNK,
    UNKNOWN_SIZE_LIMIT,
    Archive,
    File,
    entries,
    judge,
    manifest,
    status,
    verify,
)

__all__ = ["fetch", "manifest", "status", "verify"]


def fetch(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    mirror: str | None = None,
    progress: bool = False,
) -> list[Path]:
    """Download what is missing or damaged of one data set, check it, and put it in place.

    A file appears under its final name only when its content has the size and hash of the manifest; on failure
    nothing is left of it, and files finished before stay.

    Parameters
    ----------
    name : str
        A data set of the manifest.
    data_dir : path, optional
        As for `load`; it is created if need be.
    mirror : str, optional
        `http://host/folder` to download from instead: `<mirror>/<path>` for single files, `<mirror>/<archive name>`
        for packed ones. The same hashes apply.
    progress : bool
        Show a progress bar when the standard error stream is a terminal.

    Returns
    -------
    list of Path
        The files of the data set (empty for data that come with a package).

    Raises
    ------
    InputError
        Unknown name; no connection, an HTTP error, a truncated download, content other than the manifest's, a folder
        that cannot be written.
    """
    known = dict(entries())
    entry = known[choice("name", name, known)]
    if mirror is not None and not (isinstance(mirror, str) and mirror.startswith(("http://", "https://"))):
        raise InputError(f"mirror: expected an address that starts with http:// or https://, got {mirror!r}")
    folder = data_folder(data_dir)
    files = [file for file in entry.get("files", []) if "url" in file or "member" in file]
    wanted = []
    for file in files:
        place = find(folder, file["path"])
        state = "missing" if place is None else judge(place, file["content"])[0]
        if state in ("missing", "corrupt"):
            # A damaged file is replaced where it lies: elsewhere the new one might not be the one that is read. (Packed
            # or not is told from the content, so the name it has does not matter.)
            wanted.append((file, folder / file["path"] if place is None else place))
    if wanted:
        try:
            with _workspace(folder) as work:
                _download_all(wanted, entry.get("archive"), work, mirror, progress and sys.stderr.isatty())
        except OSError as error:
            raise InputError(f"{folder}: expected a folder that can be written, got {error}") from error
    return [path for path in (find(folder, file["path"]) for file in files) if path is not None]


@contextlib.contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    """A temporary folder inside `folder` (so that moving a file out of it is atomic), removed whatever happens."""
    existed = folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=".fetch-", dir=folder))
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):
                folder.rmdir()  # refuses when a file was fetched into it


def _download_all(
    wanted: list[tuple[File, Path]], archive: Archive | None, work: Path, mirror: str | None, bar: bool
) -> None:
    packed = [(file, target) for file, target in wanted if "member" in file]
    if packed:
        assert archive is not None  # a manifest with `member` has an `archive`
        url = _address(archive["url"], archive["url"].rsplit("/", 1)[-1], mirror)
        # The whole archive is checked before anything in it is parsed.
        path = _download(url, work, archive.get("size"), archive.get("sha256"), bar)
        members = {}
        for number, (file, _) in enumerate(packed):
            limit = max(version.get("size", UNKNOWN_SIZE_LIMIT) for version in file["content"])
            members[file["member"]] = (work / f"member{number}", limit)
        _unpack(path, members, url)
        for file, target in packed:
            _put_in_place(members[file["member"]][0], target, file, f"{file['member']} in {url}")
        path.unlink()
    for file, target in wanted:
        if "member" not in file:
            url = _address(file["url"], file["path"], mirror)
            # No hash here: a server may send the file packed, unpacked or packed anew. Its content is checked below.
            path = _download(url, work, None, None, bar)
            ready = work / "ready"
            shutil.copyfile(path, ready)  # a fresh file: the download's permissions are those of a temporary one
            _put_in_place(ready, target, file, url)
            path.unlink()


def _address(url: str, path: str, mirror: str | None) -> str:
    return url if mirror is None else f"{mirror.rstrip('/')}/{path}"


def _put_in_place(ready: Path, target: Path, file: File, origin: str) -> None:
    state, message = judge(ready, file["content"])
    if state == "corrupt":
        raise InputError(f"{origin}: {message}; nothing was kept")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(ready, target)


class _Limited:
    """A file that refuses to grow above `limit` bytes: what a server sends is not ours to trust."""

    def __init__(self, stream: BinaryIO, limit: int, url: str) -> None:
        self.stream, self.left, self.limit, self.url = stream, limit, limit, url
        self.flush = stream.flush

    def write(self, block: bytes) -> None:
        self.left -= len(block)
        if self.left < 0:
            raise InputError(f"{self.url}: expected at most {self.limit} bytes, got more; nothing was kept")
        self.stream.write(block)


def _download(url: str, work: Path, size: int | None, sha256: str | None, bar: bool) -> Path:
    """The file at `url` in `work`; InputError for all that can go wrong on the way."""
    import pooch
    import requests

    def download(url: str, output_file: str, _: object) -> None:
        with open(output_file, "wb") as stream:
            limited = _Limited(stream, size or UNKNOWN_SIZE_LIMIT, url)
            pooch.HTTPDownloader(progressbar=bar, chunk_size=1 << 16)(url, limited, None)

    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # pooch announces every download
    try:
        known = None if sha256 is None else f"sha256:{sha256}"
        return Path(pooch.retrieve(url, known_hash=known, fname="download", path=work, downloader=download))
    except InputError:
        raise
    except requests.HTTPError as error:
        status = "unknown" if error.response is None else error.response.status_code
        raise InputError(f"{url}: expected the file, got HTTP status {status}") from error
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
        raise InputError(f"{url}: expected the whole file, got a truncated download; nothing was kept") from error
    except requests.RequestException as error:
        kind = type(error).__name__
        raise InputError(
            f"{url}: expected an answer, got no connection ({kind}); check the network or the mirror"
        ) from error
    except ValueError as error:  # pooch's form of a wrong hash
        reason = " ".join(str(error).split()).partition(". ")[0]
        raise InputError(f"{url}: {reason}; nothing was kept") from error
    finally:
        logger.setLevel(level)


def _unpack(archive: Path, members: dict[str, tuple[Path, int]], url: str) -> None:
    """The named files of a zip or tar archive, each written to its (target, size limit).

    Only these members are read, never more than the limit of each, and the archive has no say in where they go: paths,
    links and permissions stored in it are not followed.
    """
    name = ""
    try:
        with contextlib.ExitStack() as stack:
            packed: zipfile.ZipFile | tarfile.TarFile
            if zipfile.is_zipfile(archive):
                packed = stack.enter_context(zipfile.ZipFile(archive))
            else:
                packed = stack.enter_context(tarfile.open(archive))
            for name, (target, limit) in members.items():
                if isinstance(packed, zipfile.ZipFile):
                    info = packed.getinfo(name)
                    source = None if info.is_dir() or stat.S_ISLNK(info.external_attr >> 16) else packed.open(info)
                else:
                    entry = packed.getmember(name)
                    source = packed.extractfile(entry) if entry.isreg() else None
                if source is None:
                    raise InputError(f"{url}: expected {name!r} in the archive to be a file, got a folder or link")
                with source, open(target, "wb") as stream:
                    shutil.copyfileobj(source, _Limited(stream, limit, f"{name} in {url}"), CHUNK)
    except KeyError as error:
        raise InputError(f"{url}: expected {name!r} in the archive, got one without it") from error
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"{url}: expected an intact archive, got a damaged one; nothing was kept") from error
    except RuntimeError as error:  # zipfile, for an encrypted member or an unknown compression
        raise InputError(f"{url}: expected {name!r} to be readable, got an error: {error}") from error
