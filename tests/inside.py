"""The command line in this process: what ``synthesis.synthesize`` does, without the start of an interpreter."""

import io
import logging
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from unittest.mock import patch

from medvlm_cli.__main__ import main
from tests import synthesis


def medvlm(*argv, **env):
    """``medvlm ARGV`` with these variables of the environment; its exit status and what it printed."""
    out, err = io.StringIO(), io.StringIO()
    words = ["medvlm", *map(str, argv)]
    environment = patch.dict(os.environ, synthesis.environment(**env), clear=True)
    root = logging.getLogger()
    before = root.handlers[:], root.level
    with environment, patch.object(sys, "argv", words), redirect_stdout(out), redirect_stderr(err):
        code = _status()
    root.handlers[:], root.level = before  # or the command's log goes on in the tests that follow
    return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())


def synthesize(figures, out, server, *options, env=None, **settings):
    """As ``synthesis.synthesize``."""
    return medvlm(*synthesis.command(figures, out, server, *options, **settings)[3:], **(env or {}))


def _status():
    try:
        main()
    except SystemExit as end:
        return end.code or 0
    return 0
