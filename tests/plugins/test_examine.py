"""An answer of a teacher becomes a conversation or a reason why it is none; parsing and refusals, whatever was said."""

import pytest

from medvlm_cli.teachers.examine import MEANINGS, Found, examine, reject_of, turns_of
from medvlm_cli.teachers.ledger import Answered, Ask
from medvlm_cli.teachers.replies import Reply
from tests.plugins.labelled_replies import CORPUS

FIGURE = {
    "caption": "Axial T2-weighted MRI of the brain with a lesion in the left frontal lobe.",
    "mentions": [{"text": "The lesion is shown in Figure 2.", "panel": None}],
    "modality": "mri",
}
PAIRS = (
    ("Which part of the body is seen?", "The image shows the brain, cut across."),
    ("Does anything stand out?", "A bright area on the left side, with a blurred border."),
)
TEXT = "\n".join(f"User: {question}\nAssistant: {answer}" for question, answer in PAIRS)
CUT = f"{TEXT}\nUser: Is it round?\nAssistant: It appears to be rou"


def found(text, stop_reason="end_turn", hit=lambda question, answer: None, **about):
    return examine(Reply(text=text, stop_reason=stop_reason, **about), FIGURE, hit)


def test_a_reply_as_asked_is_a_conversation_without_repairs():
    assert found(TEXT) == Found(PAIRS, (), (), (), ("V6_image_reference",))


@pytest.mark.parametrize(("category", "note"), [("bio", "refusal_bio"), (None, "refusal_uncategorised")])
def test_a_refusal_is_its_own_reason_and_its_category_a_note(category, note):
    assert found("", "refusal", stop_category=category) == Found((), ("refusal",), (), (), (note,))


def test_words_written_before_a_refusal_do_not_count():
    assert found(TEXT, "refusal", stop_category="bio").reasons == ("refusal",)
    assert found(TEXT, "refusal", stop_category="bio").pairs == ()


@pytest.mark.parametrize("text", ["", " \n", "I'm sorry, but I cannot help with this image."])
def test_a_reply_without_a_conversation_is_empty_whatever_the_provider_calls_it(text):
    assert (found(text).pairs, found(text).reasons) == ((), ("V11_empty",))


@pytest.mark.parametrize("limit", ["max_tokens", "model_context_window_exceeded"])
def test_a_reply_that_was_cut_off_is_kept_where_two_whole_pairs_remain(limit):
    assert found(CUT, limit) == Found(PAIRS, (), ("cut_off",), (), ("V6_image_reference",))


def test_a_reply_that_was_cut_off_is_a_reject_where_one_whole_pair_remains():
    cut = found(TEXT[:-5], "max_tokens")
    assert (cut.pairs, cut.reasons, cut.repairs) == (PAIRS[:1], ("V1_few_turns",), ("cut_off",))


def test_a_reply_that_ended_by_itself_loses_nothing():
    assert found(CUT).pairs == (*PAIRS, ("Is it round?", "It appears to be rou"))


def test_json_that_was_cut_off_keeps_its_whole_pairs():
    turns = ", ".join(f'{{"user": "{question}", "assistant": "{answer}"}}' for question, answer in PAIRS)
    cut = found(f'{{"turns": [{turns}, {{"user": "Is it round?", "assistant": "It app', "max_tokens")
    assert (cut.pairs, cut.reasons) == (PAIRS, ())
    assert "cut_off" in cut.repairs


def test_what_the_parser_put_right_is_told_before_what_the_validators_did():
    advice = "User: What now?\nAssistant: You should take aspirin twice a day."
    assert found(f"Here it is:\n{advice}\n{TEXT}").repairs == ("preamble", "dropped_V7_advice")


def test_a_conversation_of_a_benchmark_is_a_reject():
    taken = found(TEXT, hit=lambda question, answer: "slake" if question == PAIRS[1][0] else None)
    assert (taken.pairs, taken.reasons) == (PAIRS, ("V10_contaminated",))


def test_the_image_opens_the_first_question_and_stands_nowhere_else():
    everywhere = TEXT.replace("User: ", "User: <image>\n").replace("Assistant: ", "Assistant: <image> ")
    assert turns_of(found(everywhere)) == [
        {"role": "user", "text": f"<image>\n{PAIRS[0][0]}"},
        {"role": "assistant", "text": PAIRS[0][1]},
        {"role": "user", "text": PAIRS[1][0]},
        {"role": "assistant", "text": PAIRS[1][1]},
    ]


def test_a_reject_says_who_refused_what_and_keeps_the_words():
    reply = Reply(text="No.", stop_reason="refusal", stop_category="bio")
    answered = Answered(
        Ask("key", "PMC1/fig1", "teach", "claude", "m"), reply, cost=0, batch=False, replied="", attempts=1
    )
    reject = reject_of(answered, examine(reply, FIGURE, lambda question, answer: None))
    assert (reject.id, reject.reason, reject.raw) == ("PMC1/fig1", "refusal", "No.")
    assert reject.message == "claude refused (bio)"


def test_what_was_found_survives_storing():
    kept = Found((("Größe?", 'It is "ground glass" – ≤ 2.\n\nSo.'),), ("V1_few_turns",), ("preamble",), ("w",), ())
    assert Found.loaded(kept.dumped()) == kept


def test_every_reply_of_the_corpus_becomes_a_conversation_or_a_reject_with_a_known_reason():
    every = [found(one.text, "max_tokens" if one.truncated else "end_turn") for one in CORPUS]
    kept = [one for one in every if not one.reasons]
    assert len(kept) > len(every) / 2, "most hold two sound pairs"
    assert all(len(one.pairs) >= 2 for one in kept)
    assert {one.reasons[0] for one in every if one.reasons} <= set(MEANINGS)
    assert all(Found.loaded(one.dumped()) == one for one in every)
    assert all(" ".join(turn["text"] for turn in turns_of(one)).count("<image>") == 1 for one in kept)
