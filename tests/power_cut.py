"""A machine that loses its power: at the n-th operation the process dies, and what no fsync had made durable is lost.

A killed process alone loses nothing that it wrote, the kernel has it; so a missing fsync would never be seen.  This
stands in for ``failpoint.reached`` in a process that is forked for the purpose, follows what each operation leaves
unsettled, and when its turn comes takes that back, as the disk of a machine may.
"""

import os
import signal
from pathlib import Path

MODES = ("killed", "lost", "torn")
"""What becomes of the unsettled: all of it is there; none of it is; names are there, and of contents a half."""


class PowerCut:
    """To be called before every operation, as ``failpoint.reached`` is."""

    def __init__(self, at, mode):
        self.at, self.mode, self.count = at, mode, 0
        self.contents = {}  # file -> bytes of it that are durable
        self.names = []  # (folder, what undoes a change of its names), the oldest first

    def __call__(self, operation, path, to=None):
        self.count += 1
        if self.count == self.at:
            self._cut()
        path = Path(path)
        getattr(self, operation)(path, *([Path(to)] if to else []))

    def open(self, path):
        if not path.exists():
            self.names.append((path.parent, lambda: path.unlink(missing_ok=True)))
            self.contents.setdefault(path, 0)

    def write(self, path):
        self.contents.setdefault(path, path.stat().st_size)

    def fsync(self, path):
        if path.is_dir():
            self.names = [(folder, undo) for folder, undo in self.names if folder != path]
        else:
            self.contents.pop(path, None)

    def rename(self, old, new):
        there = new.read_bytes() if new.is_file() else None

        def undo():
            new.replace(old)
            if there is not None:
                new.write_bytes(there)

        self.names.append((new.parent, undo))
        for path in [path for path in self.contents if path == old or old in path.parents]:
            self.contents[new / path.relative_to(old) if path != old else new] = self.contents.pop(path)

    def unlink(self, path):
        self.contents.pop(path, None)
        if path.is_file():
            there = path.read_bytes()
            self.names.append((path.parent, lambda: path.parent.is_dir() and path.write_bytes(there)))

    def close(self, path):
        """Closing settles nothing."""

    def _cut(self):
        if self.mode != "killed":
            for path, durable in self.contents.items():
                if path.exists():
                    size = path.stat().st_size
                    os.truncate(path, durable if self.mode == "lost" else durable + max(0, size - durable) // 2)
        if self.mode == "lost":
            for _, undo in reversed(self.names):
                undo()
        os.kill(os.getpid(), signal.SIGKILL)
