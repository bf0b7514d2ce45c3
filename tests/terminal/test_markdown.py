"""Markdown while it comes: the same blocks and the same screen wherever a stream is cut, and no word lost."""

import itertools
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlm_cli.core.clean import clean
from medvlm_cli.terminal.markdown import MOST_CHARACTERS, MOST_LINES, Block, Blocks
from tests.terminal.screens import console, shown

LINES = [
    "A nodule of **5 mm** in the `left` lung.", "# Findings", "- one", "  - within", "1. first", "2. second", "",
    "```python", "```", "print(1)", "> quoted", "| a | b |", "|---|---|", "| 1 | 2 |", "---", "===", "    code",
    "*open", "**also open", "[a](http://x/y)", "<b>", "</kbd>", "&#13;", "~~gone~~", "word  ", "\\", "\t", "- [ ] task",
]  # fmt: skip
MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

answers = st.lists(st.sampled_from(LINES), max_size=14).map("\n".join)
cuts = st.lists(st.integers(0, 400), max_size=8)


def cut(text, places):
    edges = [0, *sorted(place for place in set(places) if 0 < place < len(text)), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(edges)]


def blocks(pieces):
    stream = Blocks()
    finished = [block for piece in pieces for block in stream.feed(piece)]
    return finished + stream.close()


def written(found):
    """The words of all blocks, those that run on joined."""
    return "".join(block.text for block in found), [block.plain for block in found if not block.plain]


@MANY
@given(answers, cuts)
def test_a_stream_gives_the_same_blocks_wherever_it_is_cut(text, places):
    assert blocks(cut(text, places)) == blocks([text])


@MANY
@given(answers, cuts)
def test_the_blocks_of_a_stream_are_the_whole_of_it(text, places):
    assert "".join(block.text for block in blocks(cut(text, places))).strip() == text.strip()


@settings(MANY, max_examples=60)
@given(answers, cuts)
def test_the_screen_ends_alike_wherever_the_stream_is_cut(monkeypatch, text, places):
    assert shown(cut(text, places), monkeypatch) == shown([text], monkeypatch, frames=False)


def test_every_character_a_piece_ends_in_the_same_screen(monkeypatch):
    text = "# Findings\n\nA **nodule**.\n\n- one\n- two\n\n```\nx = 1\n\ny = 2\n```\n\n| a |\n|---|\n| 1 |\n\nEnd."
    assert shown(text, monkeypatch) == shown([text], monkeypatch, frames=False)


def test_blocks_are_drawn_as_the_whole_document_is(monkeypatch):
    whole = [
        "Findings", "", "A nodule.", "", " • one", " • two", "", " 1 first", " 2 second", "", "▌ quoted", "",
        " print(1)", "", "last",
    ]  # fmt: skip
    text = "# Findings\nA *nodule*.\n- one\n- two\n\n1. first\n2. second\n\n> quoted\n\n```python\nprint(1)\n```\nlast"
    assert shown([text], monkeypatch) == whole


def test_a_block_taller_than_the_screen_is_never_drawn_above_it(monkeypatch):
    lines = [f"- line {number}" for number in range(80)]
    found = shown([line + "\n" for line in lines], monkeypatch, height=12)
    assert found == [f" • line {number}" for number in range(80)]


def test_a_fence_with_empty_lines_stays_one_block():
    assert [block.text for block in blocks(["```\na\n\nb\n```\n\nafter"])] == ["```\na\n\nb\n```\n\n", "after"]


def test_a_list_goes_on_behind_an_empty_line():
    found = blocks(["- a\n\n- b\n\n  more of b\n\nafter\n\nend"])
    assert [block.text for block in found] == ["- a\n\n- b\n\n  more of b\n\n", "after\n\n", "end"]


@pytest.mark.parametrize("size", [1, 7, 4096])
@pytest.mark.parametrize(
    "text",
    [
        "x" * 100_000,
        "no finding. " * 9_000,
        "no\n" * 30_000,
        "- a\n" * (MOST_LINES + 50) + "\nafter",
        "```\n" + "code line\n" * 2_000 + "```\nafter",
        "short.\n\n" + "y" * (MOST_CHARACTERS + 1) + "\n\n# not a heading any more",
    ],
)
def test_what_is_too_long_runs_on_as_it_is_whatever_the_pieces(text, size):
    found = blocks([text[start : start + size] for start in range(0, len(text), size)])
    assert written(found) == written(blocks([text]))
    assert written(found)[0] == text
    assert found[-1].plain


@pytest.mark.parametrize(
    "text",
    [
        "a </kbd> b", "<lesion> of 5 mm", "> " * 300 + "deep", "- " * 300 + "deep", "&#13;&#x202e;&#x1b;[2J",
        "[text](http://x/\u202e)", "![scan](http://x/y.png)", "<http://x/y>", "[a]: http://x/y", "<!-- said --> done",
        "| a " * 400 + "\n" + "|-" * 400 + "\n", "*_" * 2000, "[" * 3000, "`" * 3000, "\u0301" * 500,
        "<div>\nheld\n</div>",
    ],
)  # fmt: skip
def test_no_word_of_an_answer_is_lost_and_none_steers(text, monkeypatch):
    words = re.findall(r"\w+", clean(text))
    seen = "".join(shown([clean(text)], monkeypatch))
    assert [word for word in words if word not in seen] == []
    assert seen == clean(seen)


def test_a_tag_stays_a_word_among_others_that_are_drawn(monkeypatch):
    assert shown(["a <b> **c** </kbd> &#13;"], monkeypatch) == ["a <b> c </kbd> &#13;"]


@pytest.mark.parametrize("width", [1, 2, 5])
def test_a_narrow_terminal_takes_no_answer_away(width, monkeypatch):
    seen = shown(["- one\n\n> two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\nx\n```\n"], monkeypatch, width=width)
    assert "o" in "".join(seen)


def test_links_are_words_and_no_sequences():
    screen = console()
    from medvlm_cli.terminal.answer import show

    show(iter(["[click](http://evil/)"]), screen)
    assert "\x1b]8" not in screen.file.getvalue()
    assert "http://evil/" in screen.file.getvalue()


def test_the_open_block_is_what_has_not_ended():
    stream = Blocks()
    assert stream.feed("one\n\ntwo") == [Block("one\n\n")]
    assert stream.open == Block("two")
