"""A machine that loses its power: at the n-th operation the process dies, and what no fsync had made durable is lost.

A killed process alone loses nothing that it wrote, the kernel has it; so a missing fsync would never be seen.  This
stands in for ``failpoint.reached`` and for ``os.fsync`` in a process that is forked for the purpose, follows what each
operation leaves unsettled, and when its turn comes takes that back, as the disk of a machine may.
"""

import os
import shutil
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

MODES = ("killed", "lost", "torn")
"""What becomes of the unsettled: all of it is there; none of it is; names are there, and of contents a half."""


@dataclass
class Change:
    """A change to the names in a folder, until the folder is settled."""

    path: Path
    """The name that was made, taken away, or given to ``old``."""
    old: Path | None = None
    there: bytes | None = None
    """What the file held that is gone with the change."""

    def undo(self):
        if self.old and self.path.exists():
            self.path.replace(self.old)
        elif self.there is None and self.path.is_dir():
            shutil.rmtree(self.path)
        elif self.there is None:
            self.path.unlink(missing_ok=True)
        if self.there is not None and self.path.parent.is_dir():
            self.path.write_bytes(self.there)


class PowerCut:
    """To be called before every operation, as ``failpoint.reached`` is."""

    def __init__(self, at, mode):
        self.at, self.mode, self.count = at, mode, 0
        self.contents = {}  # file -> bytes of it that are durable
        self.changes = []  # the oldest first
        self._one_by_one = threading.Lock()  # threads settle the files of a folder

    def __call__(self, operation, path, to=None):
        with self._one_by_one:
            self.count += 1
            if self.count == self.at:
                self._cut()
            getattr(self, operation)(Path(path), *([Path(to)] if to else []))

    def open(self, path):
        """A file or a folder, of which only the next operation tells which it is."""
        if not path.exists():
            self.changes.append(Change(path))
            self.contents.setdefault(path, 0)

    def write(self, path):
        self.contents.setdefault(path, path.stat().st_size if path.exists() else 0)

    def rename(self, old, new):
        _move(self.changes, old, new)
        self.changes.append(Change(new, old, new.read_bytes() if new.is_file() else None))
        self.contents = {_moved(path, old, new): durable for path, durable in self.contents.items()}

    def unlink(self, path):
        self.contents.pop(path, None)
        if path.is_file():
            self.changes.append(Change(path, there=path.read_bytes()))

    def fsync(self, path):
        """Comes next; what it settles, ``settled`` is told when it is done."""

    def close(self, path):
        """Closing settles nothing."""

    def settled(self, file):
        """Stands in for ``os.fsync``.

        Args:
            file: descriptor.
        """
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        with self._one_by_one:
            if path.is_dir():
                self.changes = [change for change in self.changes if change.path.parent != path]
            else:
                self.contents.pop(path, None)

    def _cut(self):
        if self.mode != "killed":
            for path, durable in self.contents.items():
                if path.is_file():
                    size = path.stat().st_size
                    os.truncate(path, durable if self.mode == "lost" else durable + max(0, size - durable) // 2)
        if self.mode == "lost":
            while self.changes:
                change = self.changes.pop()
                change.undo()
                if change.old:
                    _move(self.changes, change.path, change.old)
        os.kill(os.getpid(), signal.SIGKILL)


def _move(changes, old, new):
    for change in changes:
        change.path = _moved(change.path, old, new)
        change.old = change.old and _moved(change.old, old, new)


def _moved(path, old, new):
    """What a path is called once a file or folder has another name."""
    return new / path.relative_to(old) if path == old or old in path.parents else path
