"""Where a process may be made to die: before any operation that changes what is on the disk.

``MEDVLM_CRASH_AT=n`` kills the process at the n-th of them, so that a test can walk n = 1, 2, 3 ... until a run ends
clean.  Source: SQLite's crash tests, which fail the n-th operation until none is left to fail; sqlite.org/testing.html.
"""

import os
import signal
from pathlib import Path

_AT = int(os.environ.get("MEDVLM_CRASH_AT") or 0)
_count = 0


def reached(operation: str, path: Path, to: Path | None = None) -> None:
    """Die here if it is this process's turn.

    Args:
        operation: what comes next: open, write, fsync, rename, unlink or close.
        path: the file or folder that it is done to.
        to: of ``rename``, the new name.
    """
    global _count
    if _AT:
        _count += 1
        if _count == _AT:
            os.kill(os.getpid(), signal.SIGKILL)
