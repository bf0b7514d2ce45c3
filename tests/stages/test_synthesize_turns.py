"""Runs of ``synthesize`` that take turns in one folder: each finds its answers again, and none is paid for twice."""

import shutil

import pytest

from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.stages.synthesize import synthesize
from medvlm_cli.teachers.status import status
from tests import synthesis
from tests.anthropic_server import serving


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "test-key")
    with serving(batch_seconds=0.05) as server:
        yield server


def run(figures, out, server, **settings):
    """One run, after which another may write into the same folder."""
    for name in ("captions", "instruct", "replies"):
        shutil.rmtree(out / name, ignore_errors=True)
    asked = {"teacher": "claude", "claude_url": server.url, "accept_terms": ("claude",), "max_cost": 50.0}
    config = SynthesizeConfig(**asked, pause=0.01, poll=0.02, settle=0.1, batch_rows=10, **settings)
    synthesize([figures], out, config, lambda *told: None)
    return [(row["figure_id"], row["raw_response"]) for row in synthesis.rows(out)]


def test_a_run_that_comes_back_after_a_larger_one_finds_its_answers_again(tmp_path, server):
    few = synthesis.write_figures(tmp_path / "few", 12)
    more = synthesis.write_figures(tmp_path / "more", 20)
    first = run(few, tmp_path / "out", server)
    assert len(run(more, tmp_path / "out", server)) == 20
    assert run(few, tmp_path / "out", server) == first
    assert (len(first), len(server.billed), server.billed_twice()) == (12, 20, {})
    assert status(tmp_path / "out" / ".instruct.state")["requests"] == {"claude": {"answered": 12}}


def test_one_by_one_after_batches_asks_nothing_again(tmp_path, server):
    figures = synthesis.write_figures(tmp_path / "figures", 12)
    first = run(figures, tmp_path / "out", server)
    assert run(figures, tmp_path / "out", server, claude_mode="sync") == first
    assert len(server.billed) == 12
