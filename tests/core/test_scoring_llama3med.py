"""The published rules, every slip of theirs, on cases worked by hand from the description of the scripts."""

import random
import sys

import pytest

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.scoring import llama3med
from medvlm_cli.core.scoring.bleu import bleu
from medvlm_cli.core.scoring.candidates import Candidates
from medvlm_cli.core.scoring.items import Item
from medvlm_cli.core.scoring.published_words import normalise

WORDS = ["lung", "liver", "left", "right", "node", "of", "lobe"]


def item(answer_type, gold, name="q"):
    return Item(
        name, "image", "closed" if "CLOSED" in answer_type.upper() else "open", "?", (gold,), (), "", answer_type
    )


def score(answer_type, gold, answer, candidates=None, gate=True):
    return llama3med.published([item(answer_type, gold)], {"q": answer}, candidates, gate=gate).rows["q"]


@pytest.mark.parametrize(
    ("text", "normalised"),
    [
        ("the right lung", "right lung"),
        ("x-ray", "x ray"),  # a mark inside words: a blank in its place
        ("x-ray of a t-shirt - old", "xray of tshirt old"),  # it touches a blank somewhere: all of it goes
        ("a/b, c", "b c"),  # each mark by itself: "," touches a blank, "/" does not, and "a" is an article
        ("1,000 x-rays", "1000 xrays"),  # a comma between digits: every mark goes, touching a blank or not
        ("1,000/2", "10002"),
        ("what?", "what"),
        ("(left)", "left"),
        ("a.b. 1.5 .5 5.", "ab 1.5 .5 5"),  # a period stays before a digit alone; behind one it was meant to
        ("." * 40, "." * 8),  # 32 go, and no more
        ("none or zero of ten", "0 or 0 of 10"),
        ("nonesuch", "nonesuch"),
        ("dont cant wont", "don't can't won't"),
        ("somebody'd", "somebodyd"),
        ("im ive", "im ive"),  # the table has these in capitals, and every text comes in lower case
        ("it's 50% & t1: #3*", "it's 50% & t1: #3*"),  # marks that stay
        ("left\u2013right \u201clung\u201d", "left\u2013right \u201clung\u201d"),
        ("left\u00a0lung", "left lung"),  # a no-break space parts words
        ("left\u200blung", "left\u200blung"),  # a zero-width one does not
        ("a\u00a0- b", "b"),  # no ASCII blank before "-", but one behind it
        ("a\u00a0-\u00a0b", "b"),
        ("one;two", "1 2"),
        ("x-y -z", "xy z"),
        ("x;-y p-q", "x y p q"),  # the blank that ";" leaves is not one that "-" touches
        (" lung\n", "lung"),
        ("the", ""),
        ("", ""),
    ],
)
def test_texts_are_spelt_as_the_published_script_spells_them(text, normalised):
    assert normalise(text) == normalised


def test_the_tables_are_those_of_the_vqa_evaluation():
    assert (
        normalise("couldn'tve shed've yall'd've oclock ow's'at twas")
        == "couldn't've she'd've y'all'd've o'clock 'ow's'at 'twas"
    )
    assert normalise("hadnt've somethingll whatre youve") == "hadn't've something'll what're you've"


@pytest.mark.parametrize(
    ("gold", "answer", "exact", "f1", "precision", "recall"),
    [
        ("right lung", "The right lung.", 1, 1, 1, 1),
        ("right lung", "right", 1, 2 / 3, 1, 1 / 2),
        ("right lung", "right right right right", 1 / 4, 8 / 9, 1, 4 / 5),  # repetition pays
        ("right lung", "in the right lung", 2 / 3, 4 / 5, 2 / 3, 1),
        ("lung and lung", "lung", 1, 2 / 3, 1, 1 / 2),
        ("lung lung", "lung", 1, 1, 1, 1),  # how often the gold holds a word found does not count
        ("liver", "lung", 0, 0, 0, 0),
        ("liver", "", 0, 0, 0, 0),
        ("the", "the liver", 0, 0, 0, 0),  # nothing is left of the gold
        ("Left Lung", "LEFT LUNG", 1, 1, 1, 1),
        ("0", "None", 1, 1, 1, 1),
        ("." * 32 + "lung", "lung", 1, 1, 1, 1),
        ("." * 60 + "lung", "lung", 0, 1, 1, 1),  # for F1 normalised twice, 64 periods go; for the "exact match" 32
        ("lung", "." * 60 + "lung", 0, 1, 1, 1),
        ("." * 65 + "lung", "lung", 0, 0, 0, 0),
    ],
)
def test_an_open_answer_scores_by_counts_of_its_own_words(gold, answer, exact, f1, precision, recall):
    scores = score("OPEN", gold, answer)
    got = [scores[name] for name in ("exact_match", "f1", "precision", "recall")]
    assert got == pytest.approx([exact, f1, precision, recall])


@pytest.mark.parametrize(
    ("gold", "answer", "gated", "batch"),
    [
        ("Yes", "Yes, it is.", 1, 1),
        ("yes", "yes or no", 1, 1),
        ("no", "yes or no", 1, 1),
        ("no", "normal", 1, 1),
        ("no", "I am not sure", 1, 1),
        ("no", "none", 0, 0),  # becomes 0
        ("yes", "eyes", 1, 1),
        ("yes", "It is.", 0, 0),
        ("CT", "CT", 0, 1),  # right, but neither yes nor no
        ("CT", "ct, not mri", 1, 1),
        ("ct", "a fracture, not a fissure", 1, 1),  # ct inside fracture, no inside not
        ("left", "Right.", 0, 0),
        ("the", "no", 1, 1),  # an empty gold is in everything
        ("the", "right", 0, 1),
        ("x-ray", "Yes, an x-ray", 1, 1),
        ("x-ray", "Yes - an x-ray", 0, 0),  # a hyphen touches a blank: "xray"
    ],
)
def test_a_closed_answer_hits_by_substrings(gold, answer, gated, batch):
    assert score("CLOSED", gold, answer)["accuracy"] == gated
    assert score("CLOSED", gold, answer, gate=False)["accuracy"] == batch


def test_without_the_gate_open_accuracy_is_the_gold_as_a_substring_and_closed_answers_have_a_recall():
    assert score("OPEN", "right lung", "the upright lungs", gate=False)["open_accuracy"] == 1
    assert score("OPEN", "right lung", "lung, right", ["right lung"], gate=False)["open_accuracy"] == 0
    assert score("CLOSED", "right lung", "right right", gate=False)["recall_closed"] == pytest.approx(2 / 3)
    assert "recall_closed" not in score("CLOSED", "right lung", "right right")
    assert "open_accuracy" not in score("OPEN", "right lung", "right")


@pytest.mark.parametrize(
    ("candidates", "answer", "gold", "hit"),
    [
        (["Left lung", "The lung.", "liver"], "in the lung", "lung", 1),
        (["lung", "left lung"], "left lung", "left lung", 0),  # both have all their words: the first wins
        (["left lung", "lung"], "left lung", "left lung", 1),
        (["liver", "lung"], "heart", "liver", 1),  # none has a word: the first wins
        (["the", "lung"], "lung", "lung", 1),
        (["lung lung node", "node lobe"], "lung", "lung lung node", 1),  # 2 of 3 words
    ],
)
def test_open_accuracy_asks_whether_the_candidate_most_held_is_the_gold(candidates, answer, gold, hit):
    assert score("OPEN", gold, answer, candidates)["open_accuracy"] == hit


def phrase(draw):
    return " ".join(draw.choices(WORDS, k=draw.randint(0, 4)))


def naive_nearest(candidates, said):
    shares = [sum(word in said.split() for word in one.split()) / (len(one.split()) or 1) for one in candidates]
    return candidates[shares.index(max(shares))]


@pytest.mark.parametrize("seed", range(200))
def test_the_index_finds_what_comparing_with_every_candidate_finds(seed):
    draw = random.Random(seed)
    candidates, said = [phrase(draw) for _ in range(draw.randint(1, 40))], phrase(draw)
    assert Candidates(candidates).nearest(said) == naive_nearest(candidates, said)


def test_an_index_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no candidate"):
        Candidates([])


@pytest.mark.parametrize(
    ("said", "gold", "value"),
    [
        ("a b c d e", "a b c d e", 1.0),
        ("a b c d", "a b c d e", 2.718281828459045 ** (1 - 5 / 4)),
        ("a b c d x", "a b c d", (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25),
        ("a a a a", "a b c d", (1 / 4) ** 0.25 * sys.float_info.min**0.75),
        ("a", "a", sys.float_info.min**0.75),
        ("x", "a", 0.0),
        ("", "a", 0.0),
        ("a", "", 0.0),
    ],
)
def test_bleu_is_unsmoothed_and_takes_zero_for_the_smallest_float(said, gold, value):
    assert bleu(said.split(), gold.split()) == pytest.approx(value, rel=1e-9, abs=0)


def test_questions_of_other_answer_types_are_skipped_and_named():
    types = ["OPEN", "CLOSED", "CLOSED ", "open", "yes/no"]
    items = [item(one, "yes", name=one) for one in types]
    scores = llama3med.published(items, dict.fromkeys(types, "yes"))
    assert scores.skipped == ["CLOSED ", "open", "yes/no"]
    assert (list(scores.rows), scores.open, scores.closed) == (["OPEN", "CLOSED"], 1, 1)


def test_a_question_without_an_answer_type_is_of_its_kind():
    items = [Item("a", "image", "open", "?", ("lung",)), Item("b", "image", "closed", "?", ("no",))]
    scores = llama3med.published(items, {"a": "lung", "b": "no"})
    assert (scores.open, scores.closed, scores.skipped) == (1, 1, [])


def test_only_the_first_gold_answer_counts():
    items = [Item("a", "image", "open", "?", ("lung", "liver"))]
    assert llama3med.published(items, {"a": "liver"}).means()["recall"] == 0


THREE = [item("OPEN", "right lung", "a"), item("OPEN", "liver", "b"), item("CLOSED", "no", "c")]
ANSWERS = {"a": "right right right right", "b": "it is the liver", "c": "normal"}


def test_the_table_has_the_printed_digits_and_the_swapped_labels_only_as_printed():
    scores = llama3med.published(THREE, ANSWERS, ["lung", "liver"])
    assert scores.printed().splitlines() == [
        "num_open 1  num_close 2",
        "Metric             Performance",
        "exact match score  29.1667",
        "f1 score           69.4444",
        "precision          66.6667",
        "recall             90",
        "open accuracy      50",
        "bleu               1.33626e-229",
        "yes/no accuracy    100",
    ]
    assert scores.printed(as_printed=False).splitlines()[0] == "num_open 2  num_close 1"
    assert scores.protocol == "llama3med/1"
    assert llama3med.published(THREE, ANSWERS, gate=False).protocol == "llavamed-batch/1"


def test_a_file_of_closed_questions_alone_has_no_open_score():
    means = llama3med.published(THREE[2:], ANSWERS).means()
    assert (means["accuracy"], means["recall"], means["bleu"]) == (100.0, None, None)


@pytest.mark.parametrize(
    ("items", "candidates", "message"),
    [
        (
            [item("yes/no", "no"), item("open\x1b", "no", "r")],
            None,
            r"found 'open\\u001b', 'yes/no': the published rules score none",
        ),
        ([item("OPEN", "no")], [], "list of candidates is empty"),
        ([item("OPEN", "no", name="s")], None, "question s has no answer"),
        ([], None, "no question to score"),
    ],
)
def test_what_the_script_would_crash_on_is_refused_in_words(items, candidates, message):
    with pytest.raises(DataError, match=message):
        llama3med.published(items, {"q": "no", "r": "no"}, candidates)
