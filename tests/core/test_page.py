"""What the pages share: a fair and repeatable choice, filters that count right, addresses, and words made safe."""

import random

import pytest

from medvlm_cli.core.clean import clean
from medvlm_cli.core.page import bars, cut, filters, link, made, rendered, spread, thumbnail, word
from tests.core.report_cases import png


def entries(**strata):
    """Entries of so many ids in each stratum, mixed."""
    made_up = [(name, f"{name}{number}") for name, count in strata.items() for number in range(count)]
    return random.Random(3).sample(made_up, len(made_up))


def counted(chosen, listed):
    names = [listed[position][0] for position in chosen]
    return {name: names.count(name) for name in sorted(set(names))}


@pytest.mark.parametrize(
    ("strata", "most", "shares"),
    [
        ({"a": 100, "b": 100}, 10, {"a": 5, "b": 5}),
        ({"a": 100, "b": 2, "c": 50}, 12, {"a": 5, "b": 2, "c": 5}),  # what a rare one leaves goes to the others
        ({"a": 3, "b": 4}, 20, {"a": 3, "b": 4}),
        ({"a": 1, "b": 1, "c": 1, "d": 1}, 1, {"d": 1}),
        ({}, 5, {}),
    ],
)
def test_a_choice_is_as_even_over_the_strata_as_these_allow(strata, most, shares):
    listed = entries(**strata)
    assert counted(spread(listed, most), listed) == shares


def test_a_choice_is_of_the_same_ids_in_any_order():
    listed = entries(a=60, b=9)
    chosen = {listed[position] for position in spread(listed, 14)}
    again = random.Random(8).sample(listed, len(listed))
    assert {again[position] for position in spread(again, 14)} == chosen


def test_a_choice_is_told_as_ascending_positions():
    positions = spread(entries(a=40, b=40), 30)
    assert positions == sorted(set(positions)) and len(positions) == 30


def test_filters_count_a_card_of_several_values_once_for_each():
    cards = [{"kinds": {"Kind": ("ct", "mri", "ct")}}, {"kinds": {"Kind": "ct"}}, {"kinds": {"Kind": "unknown"}}]
    (group,) = filters(cards)
    assert group.options == [("f0-0", "ct", 2), ("f0-1", "mri", 1), ("f0-2", "unknown", 1)]
    assert [card["classes"] for card in cards] == [["f0-0", "f0-1"], ["f0-0"], ["f0-2"]]


def test_a_card_of_several_rare_values_counts_once_among_the_others():
    cards = [{"kinds": {"Kind": f"common{n}"}} for n in range(11) for _ in range(2)]
    cards += [{"kinds": {"Kind": ("rare1", "rare2")}}, {"kinds": {"Kind": ("rare3", "common0")}}]
    (group,) = filters(cards)
    assert len(group.options) == 12
    assert group.options[-1] == ("f0-rest", "3 others", 2)
    assert cards[-1]["classes"] == ["f0-rest", "f0-0"]
    assert cards[-2]["classes"] == ["f0-rest"]


def test_no_cards_have_no_filters():
    assert filters([]) == []


def test_bars_are_lengths_of_the_longest_with_a_share_of_all():
    lines = bars({"a": 30, "b": 15, "c": 0}, {"b": "what b means"})
    assert [(one["value"], one["meaning"], one["count"], one["length"], one["share"]) for one in lines] == [
        ("a", "", 30, "100.0", "66.7 %"), ("b", "what b means", 15, "50.0", "33.3 %"), ("c", "", 0, "0.5", "0.0 %"),
    ]  # fmt: skip
    assert bars({}, {}) == []


@pytest.mark.parametrize(
    "url",
    [None, "", "http://a.example/", "https://", "https://a.example/ x", "https://a.example/\n", "https://u@a.example/",
     "javascript:alert(1)", "https://a.exämple/", "//a.example", "https://a.example/" + "x" * 2000,
     "https://a.example\\@b.example/", "https://a.example/<script>"],
)  # fmt: skip
def test_what_is_no_plain_https_address_is_no_link(url):
    assert link(url) == ("", "")


@pytest.mark.parametrize(
    "url", ["https://a.example", "HTTPS://A.example/x?y=1&z=[2]#f", "https://a.example:8443/(x)", "https://1.2.3.4/"]
)
def test_a_plain_https_address_is_a_link_with_its_host(url):
    assert link(url) == (url, url.split("//")[1].split("/")[0].split(":")[0])


def test_of_paths_in_a_command_only_the_last_part_is_told():
    argv = ["/usr/bin/medvlm", "synthesize", "/data/ward/figures", "-o", "~/out/", "--set", "prices=/x/y/p.yaml", "a/b"]
    told = made({"medvlm": "0.1.0", "argv": argv, "finished": "2026-11-20T10:00:00"})
    assert told["command"] == "medvlm synthesize …/figures -o …/out --set prices=…/p.yaml a/b"
    assert (told["version"], told["day"]) == ("0.1.0", "2026-11-20")
    assert made({}) == {"version": "", "command": "", "day": ""}


def test_words_are_cut_at_their_length_and_say_how_long_they_were():
    assert cut("x" * 600, 600) == "x" * 600
    assert cut("x" * 1601, 600) == "x" * 600 + "… [1,601 characters]"
    assert word(None) == "" and word(0) == "0" and word("y" * 201) == "y" * 200 + "… [201 characters]"


def test_words_hold_nothing_that_steers():
    hostile = "\x1b[31m\u202e\u200b\x00" * 100
    assert clean(cut(hostile, 50)) == cut(hostile, 50)


def test_a_thumbnail_of_what_cannot_be_decoded_is_none():
    assert thumbnail(b"junk", "x") is None
    small = thumbnail(png(size=(30, 20)), "x")
    assert (small["width"], small["height"]) == (30, 20)  # never larger than the image


def test_every_value_of_a_template_is_escaped_and_none_may_be_missing():
    cards = []
    page = rendered(
        "medvlm_cli.core", "report.html", name="<b>&\"'", rows=0, rejected=0, made=made({}), tables=[],
        filters=filters(cards), cards=cards, rejects=[],
    )  # fmt: skip
    assert "<h1>&lt;b&gt;&amp;&#34;&#39;</h1>" in page
    with pytest.raises(Exception, match="Undefined"):
        rendered("medvlm_cli.core", "report.html", name="x", filters=[])
