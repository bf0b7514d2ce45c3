"""A file system of its own for a test: small, or read-only."""

import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def mounted(folder, options):
    """A tmpfs at ``folder``, which is made, until the end; the test is skipped where none may be mounted.

    Args:
        folder: where.
        options: of mount, for example ``size=256k`` or ``ro``.
    """
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "none", folder]
    if (done := subprocess.run(command, capture_output=True, text=True)).returncode:
        pytest.skip(f"no file system may be mounted here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def remount(folder, options):
    """Give it other options: room, or none to write."""
    subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)
