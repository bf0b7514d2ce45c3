"""What the dataset card says of where figures come from."""

import pytest

from medvlm_cli.core.card import card
from tests.core.report_cases import article, dataset


def test_the_card_of_figures_from_pmc_acknowledges_the_library(tmp_path):
    dataset(tmp_path / "d", [article("f", source="pmc"), article("g", source="folder")])
    text = (tmp_path / "d" / "README.md").read_text()
    assert "courtesy of the U.S. National Library of Medicine" in text
    assert "may have updated its data since the day that `run.json` states" in text
    assert "does not endorse" in text


def test_the_card_of_other_figures_does_not(tmp_path):
    dataset(tmp_path / "d", [article("f", source="folder")])
    assert "National Library" not in (tmp_path / "d" / "README.md").read_text()


NOTES = [
    ("Prompt `paper-v1` (abc).", "Prompt `paper-v1` (abc)."),
    ("`a_b*c` and a_b*c", r"`a_b*c` and a\_b\*c"),
    ("<script>alert(1)</script>", r"\<script\>alert(1)\</script\>"),
    ("`x` <b> `y`", r"`x` \<b\> `y`"),
    ("odd ` <b>", r"odd \` \<b\>"),
    ("`<i>``` x", r"\`\<i\>\`\`\` x"),
    ("``<i>``", r"\`\`\<i\>\`\`"),
    ("[a](javascript:x) ![b](https://e.example)", r"\[a\](javascript:x) \!\[b\](https://e.example)"),
    ("two\nlines\n\n# head", r"two lines \# head"),
    ("# head", r"\# head"),
    ("- item", r"\- item"),
    ("12. item", r"12\. item"),
    ("~~~ fence", r"\~\~\~ fence"),
    ("| a | b |", r"\| a \| b \|"),
    ("a & b &lt;", r"a \& b \&lt;"),
    ("back\\slash", r"back\\slash"),
]


@pytest.mark.parametrize(("note", "line"), NOTES)
def test_a_note_is_one_line_in_which_only_code_in_backticks_is_markup(note, line):
    run = {"stage": "synthesize", "counts": {"in": 0, "out": 0, "rejected": 0, "reasons": {}}}
    text = card("d", "conversations/1", [], run | {"notes": ["first", note, "last"]})
    section = text.split("## How it was written\n\n")[1].split("\n\n")[0]
    assert section.split("\n") == ["- first", f"- {line}", "- last"]


def test_a_card_without_notes_does_not_speak_of_them(tmp_path):
    dataset(tmp_path / "d", [article("f")])
    assert "How it was written" not in (tmp_path / "d" / "README.md").read_text()
