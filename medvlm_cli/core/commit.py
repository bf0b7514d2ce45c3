"""Durable writes: the one module through which anything of a dataset reaches the disk.

A file appears under its own name in one step and is never changed after it: ``*.tmp``, close, fsync, rename, fsync of
the folder.  A process may be killed between any two of these; what has its own name is whole.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from medvlm_cli.core.errors import LockedError, ResourceError

TMP = ".tmp"
"""What a file's name ends in until it is whole."""

_REFUSED = {
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this process may write",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "no permission",
    errno.EPERM: "no permission",
    errno.EIO: "the disk reports an error",
    errno.ENOLCK: "the file system has no locks",
    errno.ENOTSUP: "the file system has no locks",
}


@contextmanager
def refusals(folder: Path) -> Iterator[None]:
    """Turn what a disk can refuse into an error that says which folder and how much is free.

    Raises:
        ResourceError: no space, quota, file size limit, read-only, no permission; other errors pass unchanged.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSED:
            raise
        fix = "free some space, or give another folder with -o; then run the same command again: it resumes"
        raise ResourceError(f"cannot write to {folder}: {_REFUSED[error.errno]}{_free(folder)}", fix) from error


def _free(folder: Path) -> str:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return f" ({shutil.disk_usage(folder).free:,} bytes free)"
    except OSError:
        return ""


class DurableFile:
    """A file in the making; its SHA-256 and size are those of what was written, not of what a disk may give back.

    Written front to back only: ``write`` until all is there, ``settle``, ``publish``; or ``discard``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tmp = path.with_name(path.name + TMP)
        self.bytes = 0
        self._sha256 = hashlib.sha256()
        with refusals(path.parent):
            self._file = self.tmp.open("wb", buffering=0)

    def write(self, data: bytes) -> int:
        """Write all of ``data`` (anything with the buffer protocol); what pyarrow calls."""
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):  # a nearly full disk takes a part and refuses the rest
            done += self._file.write(view[done:]) or 0
        self._sha256.update(view)
        self.bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing to do: writes are not buffered."""

    @property
    def closed(self) -> bool:
        """Whether ``settle`` or ``discard`` was called; what pyarrow asks."""
        return self._file.closed

    @property
    def sha256(self) -> str:
        """SHA-256 of everything written, in hex."""
        return self._sha256.hexdigest()

    def settle(self) -> None:
        """Make the bytes durable, still under the temporary name."""
        with refusals(self.path.parent):
            os.fsync(self._file.fileno())
            self._file.close()

    def publish(self) -> None:
        """Give the settled file its own name."""
        with refusals(self.path.parent):
            self.tmp.replace(self.path)
            sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove what was written so far."""
        self._file.close()
        self.tmp.unlink(missing_ok=True)


@contextmanager
def durable(path: Path) -> Iterator[DurableFile]:
    """A file that has its name when the ``with`` ends, whole and durable, in place of one that has it; or never."""
    file = DurableFile(path)
    try:
        with refusals(path.parent):
            yield file
        file.settle()
    except BaseException:
        file.discard()
        raise
    file.publish()


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file durably, replacing one of this name in one step."""
    with durable(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """As ``write_bytes``, for text."""
    write_bytes(path, text.encode("utf-8", "backslashreplace"))


def append_line(path: Path, line: str) -> None:
    """Append one line durably, in one write; a kill in between leaves at most a last line without its end."""
    with refusals(path.parent):
        new = not path.exists()
        file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            data = line.encode() + b"\n"
            if os.write(file, data) < len(data):
                raise OSError(errno.ENOSPC, "the journal line was cut off")
            os.fsync(file)
        finally:
            os.close(file)
        if new:
            sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make a folder and its parents."""
    with refusals(path):
        path.mkdir(parents=True, exist_ok=True)


def remove(path: Path) -> None:
    """Remove a file of an unfinished run."""
    with refusals(path.parent):
        path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make durable which names a folder holds: files made, renamed or removed in it."""
    file = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex, read with an ordinary descriptor: nothing of it stays in this process's memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Lock:
    """One writer a folder: ``flock`` on ``<folder>/.lock``, which the kernel lets go when the process dies.

    The file holds ``pid@host`` of the holder; it is removed at the end.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock or fail at once.

        Raises:
            LockedError: another process has it; the message names it.
            ResourceError: the folder takes no lock file.
        """
        with refusals(self._path.parent):
            while self._file is None:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if self._is_ours(file):
                        self._file, file = file, -1
                except BlockingIOError:
                    holder = os.pread(file, 200, 0).decode("utf-8", "replace") or "another process"
                    fix = "wait for it, end it, or give another folder with -o"
                    raise LockedError(f"{self._path.parent} is being written by {holder}", fix) from None
                finally:
                    if file >= 0:
                        os.close(file)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"process {os.getpid()}@{socket.gethostname()}".encode(), 0)

    def _is_ours(self, file: int) -> bool:
        """False when the last holder removed the file between our open and our lock."""
        try:
            return os.path.samestat(os.fstat(file), self._path.stat())
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Let go; without the lock, do nothing."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None
