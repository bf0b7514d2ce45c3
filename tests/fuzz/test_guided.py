"""A million inputs that a fuzzer finds by what they make the readers do; where there are wheels of atheris."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
RUNS = 150_000
"""Of each target; slower ones get what their time allows."""
SECONDS = 60

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        not importlib.util.find_spec("atheris"), reason="atheris has no wheel for this Python or system"
    ),
]


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_the_fuzzer_finds_no_input_that_makes_a_reader_fail(target, tmp_path):
    command = [sys.executable, "-m", "tests.fuzz.guided", target.__name__, tmp_path / "fuzz"]
    options = [f"-runs={RUNS}", f"-max_total_time={SECONDS}", "-seed=1", "-verbosity=1"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run([*command, *options], cwd=ROOT, env=environment, capture_output=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:].decode(errors="backslashreplace")
    runs = int(re.search(rb"Done (\d+) runs", done.stderr)[1])
    print(f"{target.__name__}: {runs} runs")
    assert runs >= 1000
