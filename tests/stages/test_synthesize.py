"""``synthesize``: every figure gets a conversation of each kind, and nothing is taken from two places at once."""

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FetchConfig, SynthesizeConfig
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES
from medvlm_cli.stages.fetch import fetch
from medvlm_cli.stages.synthesize import synthesize


def quiet(what, done, total):
    pass


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    out = tmp_path_factory.mktemp("phantom")
    fetch("phantom", out / "figures", FetchConfig(n=40), quiet)
    return out / "figures"


@pytest.mark.parametrize(("name", "kind"), [("captions", "caption"), ("instruct", "instruct")])
def test_every_figure_gets_one_conversation_of_each_kind(figures, tmp_path, name, kind):
    synthesize([figures], tmp_path, SynthesizeConfig(teacher="template"), quiet)
    rows = list(open_dataset(tmp_path / name, CONVERSATIONS).rows())
    assert sorted(row["figure_id"] for row in rows) == sorted(open_dataset(figures, FIGURES).ids)
    assert {(row["kind"], row["teacher"]) for row in rows} == {(kind, "template")}
    assert {row["turns"][0]["text"].count("<image>") for row in rows} == {1}


def test_a_figure_in_two_datasets_is_refused_with_both_places(figures, tmp_path):
    fetch("phantom", tmp_path / "again", FetchConfig(n=40), quiet)
    with pytest.raises(DataError, match=r"figure phantom-0-\d+ is in .*figures and in .*again"):
        synthesize([figures, tmp_path / "again"], tmp_path / "out", SynthesizeConfig(teacher="template"), quiet)


def test_an_unknown_teacher_is_refused(figures, tmp_path):
    with pytest.raises(ConfigError, match="no teacher 'gpt'; there are claude, llama, template"):
        synthesize([figures], tmp_path, SynthesizeConfig(teacher="gpt"), quiet)
