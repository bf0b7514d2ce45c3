"""What reaches a terminal is what a person can see."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_cli.core.clean import clean, clean_json

ANY_TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates too
CONTROLS = st.text(st.sampled_from([chr(code) for code in (*range(0xA0), 0x202E, 0x200B, 0xFEFF, 0xD83D)]))


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("\x1b]0;owned\x07", "\\u001b]0;owned\\u0007"),  # sets the title of the window
        ("\x9b2J", "\\u009b2J"),  # clears the screen, in one C1 character
        ("a\x7f\rb", "a\\u007f\\u000db"),
        ("gnp.\u202egpj", "gnp.\\u202egpj"),  # reads as a file name backwards
        ("no\u200bdule\ufeff", "no\\u200bdule\\ufeff"),
        ("\ud83d", "\\ud83d"),
        ("a\u2028b\u2029c", "a\\u2028b\\u2029c"),
        ("\U000e0041", "\\U000e0041"),  # a tag, invisible
    ],
)
def test_a_character_that_steers_a_terminal_is_written_out(raw, shown):
    assert clean(raw) == shown


@pytest.mark.parametrize("text", ["Figure 1.\n\tT2 \u2013 5 \u00b5m, \u03b2-blocker \u65e5\u672c [/b] \\u001b", ""])
def test_ordinary_text_stays_as_it_is(text):
    assert clean(text) == text


@given(ANY_TEXT | CONTROLS)
def test_nothing_invisible_is_left(text):
    shown = clean(text).replace("\n", "").replace("\t", "")
    assert {unicodedata.category(character) for character in shown}.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})
    shown.encode()  # a surrogate would raise


@given(ANY_TEXT | CONTROLS, ANY_TEXT | CONTROLS)
def test_a_stream_may_be_cleaned_piece_by_piece(first, second):
    assert clean(first) + clean(second) == clean(first + second)


@given(ANY_TEXT | CONTROLS)
def test_cleaning_twice_changes_nothing(text):
    assert clean(clean(text)) == clean(text)


@given(st.lists(ANY_TEXT | CONTROLS), st.booleans())
def test_cleaned_json_says_the_same_and_steers_nothing(texts, ascii_only):
    shown = clean_json(json.dumps(texts, ensure_ascii=ascii_only))
    assert clean(shown) == shown
    assert json.loads(shown) == json.loads(json.dumps(texts))
