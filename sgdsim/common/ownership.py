"""Who works on a folder: a lock that the system takes back from a process however it ends, so that none is ever stale.

It is an advisory lock (`flock`) on a file in the folder. Linux hands it on to the server of a network file system (NFS;
Lustre and others where they are mounted with locks), so that processes on other machines see it. Where a file system
has no locks, a warning says so, and what the files themselves say of whose they are has to do.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path

from sgdsim.common.checks import InputError

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]

_LOCK = "lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


@contextlib.contextmanager
def owned(home: Path, path: str, *, alone: bool) -> Iterator[None]:
    """Hold the folder `home`, made where it is not there: alone, or beside others that do not hold it alone either.

    A folder with nothing but the lock in it goes with the block. `path` is what messages call the folder's purpose.

    Raises
    ------
    InputError : somebody else holds it, or it cannot be made.
    """
    handle = _locked(home, path, alone)
    try:
        yield
    finally:
        try:
            _leave(home, handle)
        finally:
            with contextlib.suppress(OSError):  # all is saved by now
                os.close(handle)
                home.rmdir()  # after the lock is closed: NFS keeps a removed file until then


def _locked(home: Path, path: str, alone: bool) -> int:
    """A descriptor of the lock file, locked."""
    while True:
        try:
            home.mkdir(exist_ok=True)
            handle = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        except FileNotFoundError:  # its last owner removed the folder just now
            if not home.parent.is_dir():
                raise InputError(f"{home}: expected a folder that can be written, found none") from None
            continue
        except OSError as error:
            raise InputError(f"{home}: could not be made: {error.strerror or error}") from error
        try:
            _lock(handle, home, path, alone)
            if os.path.samestat(os.fstat(handle), os.stat(home / _LOCK)):
                _sign(handle)
                return handle
        except FileNotFoundError:
            pass  # it was removed with the folder before we had it: begin again
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def _lock(handle: int, home: Path, path: str, alone: bool) -> None:
    """Take the lock; InputError, with who has it, where it is taken."""
    try:
        if fcntl is None:
            raise OSError(errno.ENOSYS, "no flock")
        fcntl.flock(handle, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"{path}: expected a path that nobody else works on, got one in use by {_signed(handle)}; wait for that, "
            "or give another path"
        ) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise InputError(f"{home / _LOCK}: could not be locked: {error.strerror or error}") from error
        warnings.warn(
            f"{home}: this file system has no locks, so take care that no two programs work on {path} at once",
            RuntimeWarning,
            stacklevel=2,
        )


def _sign(handle: int) -> None:
    since = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    words = json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": since})
    with contextlib.suppress(OSError):  # a full disk: only the message of others lacks the name
        os.ftruncate(handle, 0)
        os.pwrite(handle, words.encode(), 0)


def _signed(handle: int) -> str:
    try:
        owner = json.loads(os.pread(handle, 1000, 0))
        return f"process {owner['process']} on {owner['host']} since {owner['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"


def _leave(home: Path, handle: int) -> None:
    """Remove the lock's file unless somebody else holds it; who waits for this one sees that it is gone."""
    try:
        if fcntl is not None:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    except OSError:
        pass  # no locks here
    with contextlib.suppress(OSError):
        (home / _LOCK).unlink()
