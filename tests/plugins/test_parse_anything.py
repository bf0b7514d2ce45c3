"""Whatever a reply holds, parsing it raises nothing, hangs on nothing and makes nothing up."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlm_cli.teachers.parse import parse
from tests.plugins.reply_kinds import STYLES, written

PLAIN = "User: Is it large?\nAssistant: It fills half of the image."

PIECES = st.sampled_from(
    [
        *"QA:.\"'{}[],\\\n*>#-<|()1é \u200b\ufeff\ud800\x00", "\n\n", "\r\n", "**", "```json", "---", "words", "null",
        "User", "Assistant", "User:", "\nUser: ", "\nAssistant: ", "Q1:", "A1:", "Question", "Answer:", "AI", "GPT:",
        '"user"', '"assistant": "', '"role": "user", "content": "', '{"turns": [', '"}, {', "\\u12", "\\ud83d", "1e999",
        "<image>", "<think>", "</think>", "<|im_start|>user", "</user>", "Conversation 2:", "Note:",
    ]
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(st.lists(PIECES, max_size=60).map("".join), st.booleans())
def test_nothing_raises_and_what_comes_out_can_be_stored(text, truncated):
    found = parse(text, truncated)
    said = [words for pair in found.pairs for words in pair]
    assert all(words == words.strip() and any(map(str.isalnum, words)) for words in said)
    assert "".join(said).encode().decode() == "".join(said)


LINES = st.lists(st.sampled_from(["User: ", "Assistant: ", "Q: ", "A: ", "> ", "**", "- ", "\n", "\n\n", "so ", "1. "]))
MARKED = st.lists(st.tuples(LINES.map("".join), st.text("abcdefg .?!,;é", max_size=20)), max_size=12)


@settings(max_examples=120, deadline=None)
@given(MARKED, st.booleans())
def test_every_word_that_comes_out_stands_in_the_reply_in_the_same_order(parts, truncated):
    text = "".join(f"{marks}{words}" for marks, words in parts)
    rest = iter(text)
    said = "".join(words for pair in parse(text, truncated).pairs for words in pair)
    assert all(one in rest for one in said if not one.isspace())


WORDS = st.lists(
    st.sampled_from(
        ["is,", "(it):", "not", "- so", "5", "T2-weighted", "user", "assistant:", "answer", "q", "a", "é", "“x”"]
    ),
    min_size=1,
    max_size=9,
)
SENTENCES = WORDS.map(lambda words: f"The {' '.join(words)} end.")
PARAGRAPHS = st.lists(SENTENCES, min_size=1, max_size=3).map("\n\n".join)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(SENTENCES, PARAGRAPHS), min_size=1, max_size=4).map(tuple), st.sampled_from(sorted(STYLES)))
def test_sentences_come_back_as_they_were_written(pairs, style):
    assert parse(written(pairs, style)).pairs == pairs


BIG = 100_000
HOSTILE = [
    "[", "{", "[{", '{"a":', '{"user": "', '{"user": "a", "assistant": "b"}, ', '"user": "a"', '"role":"user",', '\\"',
    "User: a\n", "User:\nAssistant:\n", "User: ", "User: a Assistant: b ", "? User: ", " ", "\n", "> ", "*", "- ", "<",
    "< ", "<image>", "<image", "`", "<think>", "</think>", "<|im_start|>user\n", "a. ", "：", "\u200b", "\ud800", "1",
    "```", "Conversation ", "# ", "\\", "(User ", "\t", "\r", "=\n", "\n\nNote:", "'", "“", '" ',
]  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("piece", HOSTILE, ids=ascii)
@pytest.mark.parametrize("around", ["{}", 'User: a <[{{"\nAssistant: b\n\n{}</x>"c"}}]'])
def test_a_hundred_thousand_characters_of_the_same_do_not_hang(piece, around):
    text = around.format(piece * (BIG // len(piece)))
    assert len(parse(text).repairs) < 10


@pytest.mark.timeout(20)
def test_a_hundred_thousand_brackets_and_then_a_conversation():
    assert parse("[" * BIG + "\n" + PLAIN).pairs == (("Is it large?", "It fills half of the image."),)
