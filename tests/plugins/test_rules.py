"""``rules.yaml``: its patterns compile and are hinted at, and every code says what it means."""

from importlib.resources import files

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlm_cli.teachers.leaks import _LEAKY
from medvlm_cli.teachers.validate import MEANINGS, Hints, Source, faults, filled, hint_words

TABLE = filled(yaml.safe_load(files("medvlm_cli.teachers").joinpath("rules.yaml").read_text("utf-8")))
HINTED = [(name, pattern) for name in TABLE["hints"] for pattern in TABLE[name]]
LETTERS = st.characters(codec="ascii", exclude_categories=("Cc",))


def test_every_table_that_is_hinted_at_is_there():
    assert {name for name, _ in HINTED} == {
        "banned", "no_access", "advice", "treatments", "injection", "certain", "professional", "kinds",
    }  # fmt: skip
    assert len(HINTED) >= 50


@pytest.mark.parametrize(("name", "pattern"), HINTED, ids=lambda value: str(value)[:40])
def test_no_text_that_a_pattern_matches_is_without_a_hint(name, pattern):
    found = Hints(TABLE["hints"][name])

    @settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.from_regex(pattern.replace("(?:^|[.;:!?]", "(?:[.;:!?]"), fullmatch=True, alphabet=LETTERS))
    def hints(text):
        assert found(hint_words(text)), text

    hints()


@pytest.mark.parametrize("pattern", TABLE["leaks"])
@settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_no_leak_is_without_what_all_leaks_have(pattern, data):
    assert _LEAKY.search(data.draw(st.from_regex(pattern, fullmatch=True, alphabet=LETTERS)))


@pytest.mark.parametrize("pattern", TABLE["markup"])
@settings(max_examples=60, database=None, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_markup_is_found_wherever_it_stands(pattern, data):
    text = data.draw(st.from_regex(pattern.removeprefix("(?m)^"), fullmatch=True, alphabet=LETTERS))
    assert "V9_markup" in faults("What is seen?", f"It is dark.\n{text} and so on", Source("A view."))


@pytest.mark.parametrize(
    ("hints", "words", "is_found"),
    [
        (["whole"], ["a", "whole", "b"], True),
        (["whole"], ["wholesale", "unwhole"], False),
        (["begin*"], ["beginning"], True),
        (["begin*"], ["rebegin"], False),
        (["*ending"], ["blending"], True),
        (["*ending"], ["endings"], False),
        (["whole", "begin*", "*ending"], [], False),
    ],
)
def test_a_hint_is_a_word_a_beginning_or_an_ending(hints, words, is_found):
    assert Hints(hints)(set(words)) is is_found


def test_codes_that_rules_give_have_a_meaning():
    assert all(meaning and not meaning.endswith(".") for meaning in MEANINGS.values())
    assert {code.partition("_")[0] for code in MEANINGS} == {f"V{n}" for n in (1, 2, 3, 4, 5, 6, 7, 8, 9, 11)}
