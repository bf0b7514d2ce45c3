"""Before anybody is asked: who gets which figure, what need not be asked, and what it will cost."""

import json
import random

import pytest

from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.teachers.asks import Composer, families
from medvlm_cli.teachers.plan import plan, refuse
from medvlm_cli.teachers.prices import dollars, price_of
from medvlm_cli.teachers.prompt import load
from medvlm_cli.teachers.replies import Usage
from medvlm_cli.teachers.survey import chosen, dumped, loaded, survey
from tests import synthesis

ROWS = [synthesis.figure(number).rows[0] for number in range(200)]
FIGURES = [(row["figure_id"], row["modality"]) for row in ROWS]


def surveyed(rows=ROWS, hit=lambda text: None, **settings):
    config = SynthesizeConfig(**settings)
    asks = []
    composer = Composer(prompt=load(), seed=config.seed)
    figures = chosen(((row["figure_id"], row["modality"]) for row in rows), config)
    found = survey(figures, rows, config, composer, hit, asks.append, families(config))
    return found, asks, composer


def test_every_figure_is_asked_about_once_or_is_a_reject():
    found, asks, _ = surveyed()
    assert {ask.figure_id for ask in asks} == {figure_id for figure_id, _ in FIGURES}
    assert len({ask.key for ask in asks}) == 200
    assert {ask.figure_id: ask.teacher for ask in asks} == found.teacher


def test_the_requests_do_not_hang_on_the_order_of_the_figures():
    first, second = surveyed()[1], surveyed(random.Random(1).sample(ROWS, 200))[1]
    assert sorted(first) == sorted(second)


def test_figures_of_one_caption_and_the_same_sentences_are_asked_about_once_whatever_the_order():
    copies = [ROWS[0] | {"figure_id": f"PMC9{number}/fig1"} for number in range(3)]
    rows = [*ROWS[1:10], ROWS[0] | {"caption": ROWS[0]["caption"].upper()}, *copies]
    kept = set()
    for seed in range(4):
        found, asks, _ = surveyed(random.Random(seed).sample(rows, len(rows)))
        assert [reject.reason for reject in found.rejects.values()] == ["duplicate_source"] * 3
        kept.add(frozenset(ask.figure_id for ask in asks))
    assert len(kept) == 1


def test_the_same_caption_with_other_sentences_is_another_source():
    other = ROWS[0] | {"figure_id": "PMC999/fig1", "mentions": [{"text": "Another sentence.", "panel": None}]}
    assert surveyed([ROWS[0], other])[0].rejects == {}


@pytest.mark.parametrize("caption", ["", "12", "Fig. 3", "A.", "— … —"])
def test_a_caption_without_words_costs_nothing(caption):
    found, asks, _ = surveyed([*ROWS[:3], ROWS[3] | {"caption": caption}])
    assert (len(asks), [reject.reason for reject in found.rejects.values()]) in ((3, ["no_caption_text"]), (4, []))
    assert ("Fig" in caption) == (len(asks) == 4)


def test_a_caption_of_a_benchmark_costs_nothing():
    found, asks, _ = surveyed(hit=lambda text: "vqa-rad" if text == ROWS[5]["caption"] else None)
    (reject,) = found.rejects.values()
    assert (reject.id, reject.reason, "vqa-rad" in reject.message) == (
        ROWS[5]["figure_id"],
        "contaminated_source",
        True,
    )
    assert len(asks) == 199


def test_a_limit_takes_the_same_figures_whatever_else_is_there():
    config = SynthesizeConfig(limit=50)
    few = set(chosen(FIGURES, config))
    assert len(few) == 50
    assert few == set(chosen(FIGURES[::-1], config))
    assert len(few & set(chosen(FIGURES[:150], config))) > 30


def test_a_survey_that_was_written_down_is_the_same_again():
    config = SynthesizeConfig()
    found, _, _ = surveyed([*ROWS, ROWS[0] | {"figure_id": "PMC999/fig1"}])
    figures = sorted((*FIGURES, ("PMC999/fig1", "ct")))
    assert loaded(dumped(found), figures, config) == found


def test_another_prompt_model_or_parameter_is_another_request():
    keys = {surveyed(**settings)[1][0].key for settings in ({}, {"seed": 1}, {"llama_max_tokens": 1000, "claude_max_tokens": 99},  # noqa: E501
                                                            {"format": "json"}, {"claude_model": "x", "llama_model": "x"})}  # fmt: skip  # noqa: E501
    assert len(keys) == 5


def test_how_it_is_sent_does_not_change_what_is_asked():
    first = surveyed(claude_mode="batch", caching="off", connections=3)[1]
    assert first == surveyed(claude_mode="sync", caching="on", max_cost=9.0, tries=2)[1]


@pytest.mark.parametrize("caching", ["", "5m", "1h"])
@pytest.mark.parametrize(
    "row", [ROWS[0], ROWS[1] | {"caption": "肝臓の軸位断CT。" * 40}, ROWS[2] | {"caption": "é" * 500}]
)
def test_no_bill_is_above_the_worst_case(row, caching):
    """Every byte is a token, the prefix is written anew, and the answer is as long as it may be."""
    config = SynthesizeConfig()
    composer = Composer(prompt=load(), seed=0, caching=caching)
    family, price = families(config)["claude"], price_of("claude-opus-5-5")
    user = composer.user(row)
    prefix = len(json.dumps(composer.body(family, ""), ensure_ascii=False).encode())
    usage = {"cache_write_1h" if caching else "input_tokens": prefix}
    usage["input_tokens"] = usage.get("input_tokens", 0) + len(user.encode())
    most = price.cost(Usage(**usage, output_tokens=config.claude_max_tokens), batch=True)
    assert most <= composer.worst(family, user, price, batch=True) <= 1.1 * most


def test_the_plan_counts_rows_tokens_and_dollars_by_the_table():
    found, asks, composer = surveyed()
    config = SynthesizeConfig()
    told = plan(found, config, composer, families(config), {})
    claude = told["teachers"]["claude"]
    assert claude["rows"] == sum(ask.teacher == "claude" for ask in asks)
    assert claude["tokens out"] == 450 * claude["rows"]
    alone = 1 + 1 / claude["rows"]  # the first request goes alone, and costs twice what it would in a batch
    by_hand = (claude["tokens in"] * 4 + claude["tokens out"] * 20) / 1e6 / 2 * alone
    assert told["expected_usd"] == pytest.approx(by_hand, rel=0.001)
    assert told["teachers"]["llama"]["expected USD"] == 0
    assert told["expected_usd"] < told["worst_usd"]
    assert dollars(int(claude["worst USD"] * 1e9)) == pytest.approx(told["worst_usd"])


def test_what_is_answered_already_is_not_planned_again():
    found, _, composer = surveyed()
    config = SynthesizeConfig()
    rows = found.rows["claude"]
    told = plan(found, config, composer, families(config), {"claude": (rows, 300.0)})
    assert told["expected_usd"] == 0
    assert told["teachers"]["claude"]["answered"] == rows


@pytest.mark.parametrize(
    ("key", "settings", "said"),
    [
        ("", {}, "no key for Claude .* and no endpoint for Llama"),
        ("", {"llama_endpoint": ("http://h:1",)}, "nobody to ask: no key for Claude"),
        ("k", {}, "nobody to ask: no endpoint for Llama"),
        ("k", {"llama_endpoint": ("http://h:1",)}, "terms not accepted"),
        ("k", {"llama_endpoint": ("http://h:1",), "accept_terms": ("claude", "llama3")}, "no cap"),
        ("k", {"teacher": "claude", "accept_terms": ("claude",)}, "no cap"),
        ("k", {"teacher": "llama", "judge": "claude", "llama_endpoint": ("http://h:1",), "accept_terms": ("claude", "llama3")},  # noqa: E501
         "no cap"),
    ],
)  # fmt: skip
def test_what_only_the_user_can_give_is_asked_for_before_anybody_is(monkeypatch, key, settings, said):
    monkeypatch.setenv("ANTHROPIC_API_KEY", key)
    found, _, _ = surveyed(**settings)
    config = SynthesizeConfig(**settings)
    with pytest.raises(ConfigError, match=said):
        refuse(found, config, families(config))


def test_with_everything_given_nothing_is_refused(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    given = {"llama_endpoint": ("http://h:1",), "accept_terms": ("claude", "llama3"), "max_cost": 1.0}
    found, _, _ = surveyed(**given)
    refuse(found, SynthesizeConfig(**given), families(SynthesizeConfig(**given)))


def test_the_three_ways_on_are_named(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    found, _, _ = surveyed()
    with pytest.raises(ConfigError) as caught:
        refuse(found, SynthesizeConfig(), families(SynthesizeConfig()))
    assert all(way in caught.value.fix for way in ("--llama-endpoint", "--launch", "replay:", "--teacher template"))
