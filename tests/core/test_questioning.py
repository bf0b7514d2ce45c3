"""Prompt presets: what the user says, and the hash that tells presets apart."""

import pytest

from medvlm_cli.core.questioning import PROMPTS, told, turns


def test_the_default_asks_the_question_as_it_stands():
    assert turns("Is {question} shown?", "closed", "llama3med", "") == [
        {"role": "user", "text": "Is {question} shown?"}
    ]


def test_options_are_added_to_closed_questions_alone():
    asked = [turns("CT?", kind, "llavamed-options", "")[0]["text"] for kind in ("open", "closed")]
    assert asked == ["CT?", "CT? Please choose from the following two options: [yes, no]"]


def test_a_system_text_is_a_turn_before_the_question():
    assert turns("Where?", "open", "short", "Be brief.")[0] == {"role": "system", "text": "Be brief."}


@pytest.mark.parametrize("name", PROMPTS)
def test_every_preset_keeps_the_question(name):
    assert turns("Where?", "open", name, "")[0]["text"].startswith("Where?")


def test_no_two_prompts_share_a_hash():
    hashes = {told(name, system)["sha256"] for name in PROMPTS for system in ("", "Be brief.")}
    assert len(hashes) == 2 * len(PROMPTS)
