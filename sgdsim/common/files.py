"""Files written all or nothing: beside their place first, then moved onto it."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from sgdsim.common.checks import InputError
from sgdsim.common.signals import held_back


@contextlib.contextmanager
def replacing(path: Path, *, first: bool = False) -> Iterator[Path]:
    """A temporary path beside `path`, moved onto it when the block succeeds and removed when it does not. Ctrl-C waits.

    `first`: only where nothing is there; what somebody else put there meanwhile stays.
    """
    with held_back():
        temporary = _temporary(path)
        try:
            yield temporary
            mask = os.umask(0)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)  # mkstemp's files are private; a result is an ordinary file
            (_put_first if first else os.replace)(temporary, os.path.realpath(path))
        except OSError as error:
            raise InputError(f"{path}: could not be written: {error.strerror or error}") from error
        finally:
            _drop(temporary)


def _put_first(temporary: Path, path: str) -> None:
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        os.replace(temporary, path)  # a file system without hard links


def _drop(temporary: Path) -> None:
    with contextlib.suppress(OSError):  # what stays goes with the next sweep there that ends well
        temporary.unlink(missing_ok=True)


def check_writable(path: str | os.PathLike) -> None:
    """InputError now, before the work, if `save` could not write there later."""
    with held_back():
        _drop(_temporary(path))


def _temporary(path: str | os.PathLike) -> Path:
    """A new empty file in the folder of `path` (of what it links to); InputError if `path` cannot be replaced by it."""
    try:
        target = Path(os.path.realpath(as_path(path)))
    except ValueError as error:  # a null byte
        raise InputError(f"{path!r}: expected a file name, got an error: {error}") from error
    if os.path.exists(target) and not os.path.isfile(target):
        kind = "a folder" if os.path.isdir(target) else "a device or pipe"
        raise InputError(f"{path}: expected a file to write, got {kind}")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=target.suffix, dir=target.parent)
        os.close(handle)
    except OSError as error:
        raise InputError(f"{path}: expected a folder that can be written; {error.strerror}: {target.parent}") from error
    return Path(name)


def temporary_names(target: Path) -> str:
    """A glob pattern for what `_temporary` makes for `target`, in its folder."""
    return f".{glob.escape(target.name)}.{'?' * 8}{glob.escape(target.suffix)}"


def as_path(path: str | os.PathLike) -> Path:
    try:
        return Path(path)
    except TypeError:
        raise InputError(f"path: expected a file name, got {path!r}"[:300]) from None
