"""Durable writes: the one module through which anything that must outlive the process reaches the disk.

A file appears under its own name in one step and is never changed after it: ``*.tmp``, fsync, close, rename, fsync of
the folder.  A process may be killed between any two of these; what has its own name is whole.  A folder that a library
fills (a model, a training state) is made under another name, settled as a whole, and then renamed.  What grows, a
journal or a log, grows at its end only.  Before every step stands a point at which ``failpoint`` can kill the process.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medvlm_cli.core import failpoint
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
        self.closed = False
        """Whether ``settle`` or ``discard`` was called.  No property: pyarrow, which asks, takes an exception for yes,
        and what a signal raises in ours would be lost."""
        with refusals(path.parent):
            failpoint.reached("open", self.tmp)
            self._file = self.tmp.open("wb", buffering=0)

    def write(self, data: bytes) -> int:
        """Write all of ``data`` (anything with the buffer protocol); what pyarrow calls."""
        view = memoryview(data).cast("B")
        done = 0
        failpoint.reached("write", self.tmp)
        while done < len(view):  # a nearly full disk takes a part and refuses the rest
            done += self._file.write(view[done:]) or 0
        self._sha256.update(view)
        self.bytes += len(view)
        return len(view)

    def flush(self) -> None:
        """Nothing to do: writes are not buffered."""

    @property
    def sha256(self) -> str:
        """SHA-256 of everything written, in hex."""
        return self._sha256.hexdigest()

    def settle(self) -> None:
        """Make the bytes durable, still under the temporary name."""
        with refusals(self.path.parent):
            _sync(self._file.fileno(), self.tmp)
            failpoint.reached("close", self.tmp)
            self._file.close()
            self.closed = True

    def publish(self) -> None:
        """Give the settled file its own name."""
        rename(self.tmp, self.path)

    def discard(self) -> None:
        """Remove what was written so far."""
        self._file.close()
        self.closed = True
        failpoint.reached("unlink", self.tmp)
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


class Growing:
    """A file that grows at its end; a record that the disk did not take whole is taken back.

    A kill in between leaves at most a last record without its end, which readers drop.
    """

    def __init__(self, path: Path, *, new: bool = False) -> None:
        """Open it.

        Args:
            path: where it is.
            new: refuse one that is there.

        Raises:
            ResourceError: the disk refuses.
        """
        self.path = path
        with refusals(path.parent):
            made = new or not path.exists()
            failpoint.reached("open", path)
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | (os.O_EXCL if new else os.O_APPEND), 0o666)
            self.end = os.fstat(self._file).st_size
            """Where the next record begins, in bytes."""
            if made:
                sync_folder(path.parent)

    def append(self, *parts: bytes) -> None:
        """Write a record; it reaches the kernel, and with ``sync`` the disk."""
        size = sum(map(len, parts))
        with refusals(self.path.parent):
            failpoint.reached("write", self.path)
            try:
                written = os.writev(self._file, parts)
                while written < size:  # a nearly full disk takes a part and refuses the rest
                    written += os.write(self._file, b"".join(parts)[written:])
            except OSError:
                os.ftruncate(self._file, self.end)  # a torn record would hide those behind it, and so would a hole
                os.lseek(self._file, self.end, os.SEEK_SET)
                raise
        self.end += size

    def sync(self) -> None:
        """Have what was written outlive the machine too."""
        with refusals(self.path.parent):
            _sync(self._file, self.path)

    def close(self) -> None:
        """Let go of the file."""
        failpoint.reached("close", self.path)
        os.close(self._file)


def append_line(path: Path, line: str) -> None:
    """Append one line durably."""
    file = Growing(path)
    try:
        file.append(line.encode() + b"\n")
        file.sync()
    finally:
        file.close()


def make_folder(path: Path) -> None:
    """Make a folder and its parents, durably: with the name of a folder goes what was made durable in it."""
    with refusals(path):
        for missing in reversed([one for one in (path, *path.parents) if not one.exists()]):
            failpoint.reached("open", missing)
            missing.mkdir(exist_ok=True)  # another process may be making it too
            sync_folder(missing.parent)
        path.mkdir(exist_ok=True)  # complains of a file of that name


def remove(path: Path) -> None:
    """Remove a file of an unfinished run."""
    with refusals(path.parent):
        failpoint.reached("unlink", path)
        path.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Remove a folder with everything in it, where there is one; a link to one is removed, not followed."""
    with refusals(folder.parent):
        if folder.is_symlink() or folder.is_file():
            return remove(folder)
        for here, folders, files in os.walk(folder, topdown=False):
            for name in files:
                remove(Path(here, name))
            for name in folders:
                below = Path(here, name)
                below.unlink() if below.is_symlink() else below.rmdir()
        if folder.exists():
            folder.rmdir()


def rename(old: Path, new: Path) -> None:
    """Give a settled file or folder another name, durably; a file of that name is replaced."""
    with refusals(new.parent):
        failpoint.reached("rename", old, new)
        old.replace(new)
        sync_folder(new.parent)


def settle_folder(folder: Path) -> dict[str, dict[str, Any]]:
    """Make durable what a library wrote into a folder.

    Returns:
        Of every file, by its path in the folder, ``bytes`` and ``sha256``.
    """
    with refusals(folder):
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        with ThreadPoolExecutor(8) as pool:  # hashing lets go of the interpreter: 8 files at a time
            facts = dict(zip(files, pool.map(_settled, files.values()), strict=True))
        for one in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
            sync_folder(one)
    return facts


def _settled(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        _sync(file.fileno(), path)
    return {"bytes": path.stat().st_size, "sha256": sha256_of(path)}


def sync_folder(folder: Path) -> None:
    """Make durable which names a folder holds: files made, renamed or removed in it."""
    file = os.open(folder, os.O_RDONLY)
    try:
        _sync(file, folder)
    finally:
        os.close(file)


def _sync(file: int, path: Path) -> None:
    failpoint.reached("fsync", path)
    os.fsync(file)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hex, read with an ordinary descriptor: nothing of it stays in this process's memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _name(pid: int | str) -> str:
    return f"process {pid}@{socket.gethostname()}"


def _has_ended(holder: str) -> bool:
    """True of a process of this machine that is gone: it was killed, and another has its lock now."""
    pid = holder.removeprefix("process ").partition("@")[0]
    if not pid.isdecimal() or holder != _name(pid):
        return False
    try:
        os.kill(int(pid), 0)
    except PermissionError:  # it is another user's
        return False
    except (ProcessLookupError, OverflowError):
        return True
    return False


class Lock:
    """One writer a folder: ``flock`` on ``<folder>/.lock``, which the kernel lets go when the process dies.

    The file holds ``pid@host`` of the holder; it is removed at the end.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / ".lock"
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock or fail at once; within a second, where the one that has it has not written its name yet.

        Raises:
            LockedError: another process has it; the message names it.
            ResourceError: the folder takes no lock file.
        """
        until = time.monotonic() + 1
        with refusals(self._path.parent):
            while self._file is None:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if self._is_ours(file):
                        self._file, file = file, -1
                except BlockingIOError:
                    holder = os.pread(file, 200, 0).decode("utf-8", "replace")
                    if (holder and not _has_ended(holder)) or time.monotonic() > until:
                        fix = "wait for it, end it, or give another folder with -o"
                        what = f"{self._path.parent} is being written by {holder or 'another process'}"
                        raise LockedError(what, fix) from None
                    time.sleep(0.01)  # it has just taken the lock, and writes its name next
                finally:
                    if file >= 0:
                        os.close(file)
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, _name(os.getpid()).encode(), 0)

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
