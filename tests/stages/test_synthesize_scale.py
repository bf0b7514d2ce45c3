"""``synthesize`` over many figures: memory stays bounded, nothing is lost, nothing is billed twice.

Its times are measured by ``tests/bench/synthesize_rows.py``, which shares the machinery.
"""

import json
from collections import Counter

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.schemas import TAUGHT
from tests import synthesis
from tests.anthropic_server import billed_in
from tests.bench.synthesize_rows import GIVEN, SETTINGS, Server, run


@pytest.mark.parametrize(
    "rows", [2_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])], ids="{:_}".format
)
def test_many_figures_fit_into_a_gigabyte_and_each_is_told_of_once(tmp_path, rows):
    figures = synthesis.write_figures(tmp_path / "figures", rows)
    server = Server(tmp_path / "server.log")
    try:
        done = run(synthesis.command(figures, tmp_path / "out", server, *GIVEN, **SETTINGS))
    finally:
        server.end()
    told = json.loads(done["out"])["instruct"]
    dataset = open_dataset(tmp_path / "out" / "instruct", TAUGHT)
    ids = Counter(dataset.ids)  # the ids of conversations
    assert told["conversations"] == len(dataset) == len(ids)
    rejects = Counter(reject["id"] for reject in dataset.rejects())
    assert len(dataset) + sum(rejects.values()) == rows and max(rejects.values()) == 1
    assert len(dataset) >= 0.95 * rows
    assert done["peak_bytes"] <= 1e9
    billed = Counter(entry["sha256"] for entry in billed_in(tmp_path / "server.log"))
    assert max(billed.values()) == 1
    assert 0.22 * rows < len(billed) < 0.28 * rows
