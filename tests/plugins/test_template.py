"""The template teacher: what it asks is answered by the text it was given, whatever that text looks like."""

import pytest

from medvlm_cli.core.arrow import Reject
from medvlm_cli.core.schemas import CONVERSATIONS
from medvlm_cli.teachers import template

REAL = (
    "Fig. 2. (A) Axial contrast-enhanced CT scan of a 54-year-old man shows a mass in the left kidney (arrow). "
    "(B) No lymphadenopathy is seen. The lesion was not malignant. Scale bar, 5 µm; P < 0.05 vs. control."
)


def figure(caption, *mentions, figure_id="PMC1/fig1"):
    told = [{"text": text, "panel": None} for text in mentions]
    return {"figure_id": figure_id, "caption": caption, "mentions": told, "license": "CC-BY-4.0"}


def pairs(row):
    texts = [turn["text"].removeprefix("<image>\n") for turn in row["turns"]]
    return list(zip(texts[::2], texts[1::2], strict=True))


def answers(caption, *mentions):
    row = template.instruct(figure(caption, *mentions))
    return {question.rstrip("?").lower(): answer for question, answer in pairs(row)}


@pytest.mark.parametrize(
    ("caption", "subject", "answer"),
    [
        ("The opacity is on the left.", "the opacity", "left"),
        ("A mass is seen in the right lung.", "the mass", "right"),
        ("There was a fracture on the left side.", "the fracture", "left"),
    ],
)
def test_a_side_that_is_told_is_asked_for(caption, subject, answer):
    asked = {question: said for question, said in answers(caption).items() if "side" in question or "left" in question}
    assert [said for question, said in asked.items() if subject in question] == [answer]


@pytest.mark.parametrize(
    ("caption", "subject", "answer"),
    [
        ("There is no effusion.", "an effusion", "no"),
        ("No evidence of metastasis was found.", "a metastasis", "no"),
        ("There is an effusion on the left.", "an effusion", "yes"),
        ("A fracture is visible.", "a fracture", "yes"),
    ],
)
def test_presence_and_absence_become_yes_and_no(caption, subject, answer):
    asked = answers(caption)
    assert [asked.get(f"is there {subject}", asked.get(f"is {subject} seen"))] == [answer]


@pytest.mark.parametrize("caption", ["The nodule is smooth.", "There is a smooth nodule.", "A smooth nodule is seen."])
@pytest.mark.parametrize("number", range(6))
def test_a_quality_is_asked_for_against_its_opposite_and_answered_from_the_text(caption, number):
    row = template.instruct(figure(caption, figure_id=f"PMC{number}/fig1"))
    asked = [(question, answer) for question, answer in pairs(row) if "nodule" in question and "there" not in question]
    expected = {"Is the nodule smooth?": "yes", "Is the nodule speckled?": "no"}
    assert len(asked) == 1
    assert asked[0][1] == expected.get(asked[0][0], "smooth")


def test_a_negated_quality_is_answered_no_and_its_opposite_is_not_claimed():
    asked = answers("The lesion was not malignant.")
    assert asked.pop("is the lesion malignant") == "no"
    assert list(asked.values()) == ["The lesion was not malignant."]  # what is shown, the only other question


@pytest.mark.parametrize("caption", ["No opacity is seen.", "There is no opacity.", "Figure 3 shows no opacity."])
def test_an_absence_is_asked_for_once_and_in_good_grammar(caption):
    asked = [question for question in answers(caption) if "opacity" in question]
    assert asked in (["is there an opacity"], ["is an opacity seen"])


def test_a_word_that_means_no_in_english_alone_is_not_taken_for_it():
    assert list(answers("Valores médios no gráfico, em dias.").values()) == ["Valores médios no gráfico, em dias."]


@pytest.mark.parametrize(
    ("caption", "name"),
    [
        ("Axial CT of the chest.", "CT"),
        ("Magnetic resonance imaging of the knee.", "MRI"),
        ("Chest radiograph at admission.", "X-ray"),
        ("Hematoxylin and eosin, x 40.", "histology"),
        ("Gross specimen of the colon.", "gross photograph"),
    ],
)
def test_the_kind_of_image_is_named_where_the_text_names_it(caption, name):
    assert name in answers(caption).values()


def test_a_mention_is_used_without_the_words_that_cite_the_figure():
    asked = answers("Axial CT of the chest.", "As shown in Figure 2, the small lesion was speckled.")
    assert {"speckled", "yes", "no"} & {answer for question, answer in asked.items() if "small lesion" in question}
    assert not [question for question in asked if "figure" in question]


def test_what_caption_and_mention_both_say_is_asked_once():
    row = template.instruct(figure("The opacity is on the left.", "The opacity was on the left (Figure 3)."))
    questions = [question for question, _ in pairs(row)]
    assert len(questions) == len(set(questions))
    assert sum("left or on the right" in question or "which side" in question for question in questions) == 1


@pytest.mark.parametrize("make", [template.caption, template.instruct])
@pytest.mark.parametrize("told", ["", "Figure 1.", "  \n", "<image>", "3.2 ± 0.1"])
def test_a_caption_without_words_is_a_reject_with_its_id(make, told):
    reject = make(figure(told, "The opacity is on the left (Fig. 1)."))
    assert isinstance(reject, Reject)
    assert (reject.id, reject.reason) == ("PMC1/fig1", "no_caption_text")


@pytest.mark.parametrize("make", [template.caption, template.instruct])
@pytest.mark.parametrize(
    "told", [REAL, "x <image> y yes", "Überblick über die Lunge, 漢字", "word " * 3000, "Is it? (((", "ab"]
)
def test_any_text_gives_alternating_turns_with_one_image_mark(make, told):
    row = make(figure(told, told))
    assert sorted(row) == sorted(CONVERSATIONS.names)
    assert [turn["role"] for turn in row["turns"]] == ["user", "assistant"] * (len(row["turns"]) // 2)
    assert row["turns"][0]["text"].startswith("<image>\n")
    assert sum(turn["text"].count("<image>") for turn in row["turns"]) == 1
    assert all(turn["text"].strip() for turn in row["turns"])


def test_the_caption_conversation_answers_with_the_caption():
    assert [answer for _, answer in pairs(template.caption(figure(REAL)))] == [REAL]


def test_every_question_avoids_the_words_caption_and_figure():
    wordings = [*template.DESCRIBE, *sum(template.QUESTIONS.values(), ())]
    assert not [wording for wording in wordings if "caption" in wording.lower() or "figure" in wording.lower()]


def test_the_same_figure_gives_the_same_conversation():
    assert template.instruct(figure(REAL)) == template.instruct(figure(REAL))


def test_about_one_figure_in_fifty_is_kept_from_training():
    rows = [template.caption(figure("Axial CT.", figure_id=f"PMC{number}/fig1")) for number in range(2000)]
    assert 20 <= sum(row["split"] == "val" for row in rows) <= 60


def test_both_conversations_of_a_figure_are_in_the_same_split():
    rows = [figure("Axial CT.", figure_id=f"PMC{number}/fig1") for number in range(200)]
    assert [template.caption(row)["split"] for row in rows] == [template.instruct(row)["split"] for row in rows]


def test_the_work_is_labelled_as_the_templates():
    row = template.instruct(figure(REAL))
    assert (row["teacher"], row["teacher_planned"], row["cost_usd"]) == ("template", "template", None)
    assert row["prompt_id"] == template.PROMPT_ID
    assert len(template.PROMPT_ID) == 12
