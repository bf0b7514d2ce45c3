"""What a teacher costs: the shipped table, a user's own, and sums that are never below what is billed."""

from fractions import Fraction

import pytest

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.teachers.prices import NANO, dollars, price_of
from medvlm_cli.teachers.replies import Usage

OPUS = Usage(input_tokens=3400, output_tokens=450)


def cost(model, usage, batch=False, **given):
    return price_of(model, **given).cost(usage, batch=batch)


def test_a_request_to_opus_costs_what_its_price_list_says():
    assert cost("claude-opus-5-5", OPUS) == (3400 * 4 + 450 * 20) * 1000
    assert dollars(cost("claude-opus-5-5", OPUS) * 5044) == pytest.approx(113.99, abs=0.01)


def test_a_batch_costs_half_of_everything():
    usage = Usage(input_tokens=10, output_tokens=20, cache_read=1000, cache_write_5m=100, cache_write_1h=10)
    assert cost("claude-opus-5-5", usage, batch=True) * 2 == cost("claude-opus-5-5", usage)


def test_what_a_cache_takes_and_gives_has_prices_of_its_own():
    million = 10**6
    assert cost("claude-opus-5-5", Usage(cache_read=million)) == NANO // 5
    assert cost("claude-opus-5-5", Usage(cache_write_5m=million)) == 5 * NANO
    assert cost("claude-opus-5-5", Usage(cache_write_1h=million)) == 8 * NANO
    assert cost("claude-opus-5", Usage(cache_read=million)) == NANO // 2


def test_thinking_is_part_of_the_output_and_not_counted_twice():
    assert cost("claude-opus-5-5", Usage(output_tokens=500, thinking_tokens=300)) == 500 * 20_000


def test_long_requests_to_haiku_have_other_prices():
    short, long = Usage(input_tokens=100_000), Usage(input_tokens=60_000, cache_read=40_001)
    assert cost("claude-haiku-5-5", short) == 100_000 * 100
    assert cost("claude-haiku-5-5", long) == 60_000 * 500 + 40_001 * 50


def test_fractions_of_a_nanodollar_are_rounded_up():
    assert cost("claude-haiku-5-5", Usage(cache_read=1), batch=True) == 5
    assert cost("x", Usage(input_tokens=1), given="0.0001,1") == 1


def test_a_snapshot_has_the_price_of_its_model_and_a_longer_name_has_not():
    assert price_of("claude-opus-5-20260101") == price_of("claude-opus-5")
    assert price_of("claude-3-opus-20240229").output == 75_000
    with pytest.raises(ConfigError, match=r"has no price of claude-opus-5-fast.*\n.*--set price=INPUT,OUTPUT"):
        price_of("claude-opus-5-fast")


def test_the_table_says_its_day():
    assert price_of("claude-opus-5-5").dated == "2026-11-23"


def test_a_table_of_ones_own_replaces_the_shipped_one(tmp_path):
    table = tmp_path / "prices.yaml"
    table.write_text("dated: 2027-01-01\nbatch: 0.25\nmodels:\n  claude-new: {input: 1, output: 2}\n")
    price = price_of("claude-new", table=table)
    assert (price.input, price.output, price.batch, price.dated) == (1000, 2000, Fraction(1, 4), "2027-01-01")
    with pytest.raises(ConfigError, match="known: claude-new"):
        price_of("claude-opus-5-5", table=table)


@pytest.mark.parametrize(
    "text",
    ["", "models: 3", "dated: x\nbatch: half\nmodels: {}", "a: [", "dated: 1\nbatch: 1\nmodels: {claude-x: {input: -1, output: 1}}"],  # noqa: E501
)  # fmt: skip
def test_a_table_that_is_none_is_refused_by_name(tmp_path, text):
    table = tmp_path / "mine.yaml"
    table.write_text(text)
    with pytest.raises(ConfigError, match=r"mine.yaml: not a table of prices"):
        price_of("claude-x", table=table)


@pytest.mark.parametrize("given", ["4", "4,x", "-1,2", "1,2,3"])
def test_a_price_that_is_none_is_refused(given):
    with pytest.raises(ConfigError, match="price="):
        price_of("anything", given=given)
