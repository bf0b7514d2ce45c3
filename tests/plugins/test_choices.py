"""Choices read off closed questions: right ones, or the gold answer alone."""

import pytest

from medvlm_cli.benchmarks.choices import named_choices
from medvlm_cli.core.scoring.strict import closed_hit


@pytest.mark.parametrize(
    ("question", "gold", "choices"),
    [
        ("Is this a CT or an MRI?", "MRI", ["ct", "MRI"]),
        ("Is the lesion on the left or right side of the brain?", "Left", ["Left", "right"]),
        ("Is the lesion on the patient's right or left side?", "Left side", ["right", "Left side"]),
        ("Is this a T1 weighted, T2 weighted, or FLAIR image?", "FLAIR", ["t1", "t2", "FLAIR"]),
        ("Is this a pneumonia vs. pleural effusion?", "pleural effusion", ["pneumonia", "pleural effusion"]),
        ("Which is the biggest in this image,lung,liver or heart?", "Liver", ["lung", "Liver", "heart"]),
        ("Which is bigger in this image, liver or right kidney?", "Liver", ["Liver", "right kidney"]),
        ("Is there appendix normal or abnormal in appearance?", "Normal", ["Normal", "abnormal"]),
        ("Where is the spleen in this image, right or lower right?", "Lower Right", ["right", "Lower Right"]),
    ],
)
def test_alternatives_of_an_or_are_choices(question, gold, choices):
    assert named_choices(question, gold) == choices


@pytest.mark.parametrize("gold", ["Yes", "no", " No "])
def test_a_gold_of_yes_or_no_has_these_choices(gold):
    assert named_choices("Is the heart left or right?", gold) == ["yes", "no"]


@pytest.mark.parametrize(
    ("question", "gold"),
    [
        ("Is this an infectious process?", "Maybe"),
        ("In which lobe are the lesions?", "Bilateral frontal lobes"),
        ("Which organ is abnormal, heart or lung?", "Both"),
        ("Which is bigger in this image, kidney or spleen?", "Liver"),
        ("Does this image use contrast or not?", "contrast"),
        ("Do you suspect vascular process or a genetic process?", "genetic"),
        ("Are there one or two or three nodules?", "two"),
        ("Is it in the right or right lower lobe?", "Right lower lobe"),
    ],
)
def test_what_is_not_plain_gives_the_gold_answer_alone(question, gold):
    assert named_choices(question, gold) == [gold]


def test_an_answer_that_names_both_alternatives_is_wrong():
    choices = named_choices("Is this an MRI or a CT scan?", "MRI")
    assert closed_hit("An MRI.", ["MRI"], choices)
    assert not closed_hit("It is an MRI or a CT scan.", ["MRI"], choices)
