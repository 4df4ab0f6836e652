"""One run per folder: a lock that the system releases when its process ends, however it ends."""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from snntorch_smixer.errors import SettingError

LOCK = ".lock"

_HELD_BY_ANOTHER = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
"""What a file system without locks answers; there, the file itself is the lock, and a killed run leaves it."""

if sys.platform == "win32":
    import msvcrt

    _ELSEWHERE = 1 << 20
    """A locked byte cannot be read by others, so it is one behind the text."""

    def _take(file: int) -> None:
        os.lseek(file, _ELSEWHERE, os.SEEK_SET)
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        os.lseek(file, 0, os.SEEK_SET)

else:
    import fcntl

    def _take(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


_held: set[int] = set()


def _close_held() -> None:
    for file in _held:
        os.close(file)
    _held.clear()


if hasattr(os, "register_at_fork"):
    # A reading process that outlives a killed run must not keep the lock.
    os.register_at_fork(after_in_child=_close_held)


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, which exists.

    Raises:
        SettingError: another run holds it.
        OSError: the folder cannot be written.
    """
    path = folder / LOCK
    file = _open(path)
    _held.add(file)
    try:
        yield
    finally:
        _held.discard(file)
        # Removed while it is held, so that nobody locks a file that is about to go. Windows refuses; there it stays.
        with suppress(OSError):
            path.unlink()
        os.close(file)


def _open(path: Path) -> int:
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _lock(file, path)
            if _is(file, path):
                os.ftruncate(file, 0)
                os.write(file, f"process {os.getpid()} on {socket.gethostname()}".encode())
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)


def _is(file: int, path: Path) -> bool:
    """Whether the open file is still that of the path: the run before may have removed it in the meantime."""
    try:
        return os.path.samestat(os.fstat(file), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: int, path: Path) -> None:
    try:
        _take(file)
    except OSError as error:
        if error.errno not in (*_HELD_BY_ANOTHER, *_NO_LOCKS):
            raise
        locks, written = error.errno not in _NO_LOCKS, os.fstat(file).st_size
        if not locks and not written:
            return
        holder = os.read(file, 200).decode(errors="replace") if written else "another run"
        advice = "Wait for its end, or pass another folder."
        if not locks:
            advice = f"This file system has no locks: if that run has ended, delete {path}."
        raise SettingError(
            f"fit: {path.parent} is in use by {holder}, expected one run per folder. {advice}"
        ) from error
