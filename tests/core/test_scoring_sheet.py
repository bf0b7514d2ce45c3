"""Score sheets: every protocol from one set of answers, beside what needs no eyes and what the paper reports."""

import json
import os
from pathlib import Path

import pytest

from medvlm_cli.benchmarks import BENCHMARKS
from medvlm_cli.benchmarks.files import index
from medvlm_cli.benchmarks.official import _questions
from medvlm_cli.core.plugins import resolve
from medvlm_cli.core.scoring import llama3med, published_rows
from medvlm_cli.core.scoring.baselines import ALWAYS_NO, BEST_CONSTANT, TRAIN_PRIOR, baselines
from medvlm_cli.core.scoring.items import Item
from medvlm_cli.core.scoring.sheet import scores_document, sheet, tables

FOLDER = os.environ.get("MEDVLM_BENCHMARKS", "")

ITEMS = [
    Item("c1", "i1", "closed", "Is it big?", ("yes",), ("yes", "no"), "size", "CLOSED"),
    Item("c2", "i1", "closed", "Is it red?", ("no",), ("yes", "no"), "colour", "CLOSED"),
    Item("c3", "i2", "closed", "CT or MRI?", ("CT",), ("CT", "MRI"), "kind", "CLOSED"),
    Item("o1", "i2", "open", "Where is it?", ("left lung",), (), "place", "OPEN"),
    Item("o2", "i3", "open", "What is it?", ("a nodule",), (), "kind", "OPEN"),
]
SAID = {"c1": "Yes, it is big.", "c2": "abnormal", "c3": "CT", "o1": "left left", "o2": "a mass"}
DRAWS = 200


def values(cells):
    return {name: cell and round(cell["value"], 4) for name, cell in cells.items()}


def made(answers=SAID, items=ITEMS):
    return sheet(items, answers, draws=DRAWS)


def padded(open_, closed):
    """Items with as many questions as a published test split; one image each."""
    kinds = ["open"] * open_ + ["closed"] * closed
    return [Item(f"{n}", f"{n}", kind, "Is it?", ("yes",), (), "", kind.upper()) for n, kind in enumerate(kinds)]


def test_the_published_protocol_scores_by_substrings():
    published = values(made()["llama3med"])
    assert published["accuracy"] == round(2 / 3, 4)  # "abnormal" holds "no"; "CT" holds neither yes nor no
    assert published["recall"] == round((2 / 3 + 0) / 2, 4)  # "left left" of "left lung": repetition pays
    assert values(made()["llavamed-batch"])["accuracy"] == 1.0


def test_the_strict_protocol_scores_by_words():
    assert values(made()["strict"]) == {
        "accuracy": 0.6667, "unparsed": 0.3333, "said_yes": 0.5, "recall": 0.25, "f1": 0.25, "exact_match": 0.0,
        "words": 1.5, "balanced_accuracy": 0.5,
    }  # fmt: skip


def test_every_number_has_an_interval_over_images_and_says_what_it_is_of():
    one = made()
    cell = one["strict"]["accuracy"]
    assert (cell["rows"], cell["images"]) == (3, 2)
    assert cell["low"] <= cell["value"] <= cell["high"]
    assert one["counts"] == {"rows": 5, "images": 3, "open": 2, "closed": 3}
    assert one["interval"]["draws"] == DRAWS
    assert made() == one


def test_a_category_has_the_scores_of_its_questions_alone():
    categories = made()["categories"]
    assert {name: part["rows"] for name, part in categories.items()} == {"colour": 1, "kind": 2, "place": 1, "size": 1}
    assert values(categories["kind"]["strict"]) == {"recall": 0.0, "accuracy": 1.0}
    assert values(categories["place"]["llama3med"]) == {"recall": 0.6667, "accuracy": None}


def test_a_category_of_any_name_keeps_to_itself():
    items = [Item("o1", "i", "open", "?", ("a nodule",), (), "strict/recall\nllama3med/f1", "OPEN")]
    one = made({"o1": "nodule"}, items)
    assert values(one["strict"])["recall"] == 1.0
    assert set(one["llama3med"]) == {"exact_match", "f1", "precision", "recall", "bleu"}


def test_candidates_give_the_published_open_accuracy():
    one = sheet(ITEMS, SAID, candidates=["left lung", "a nodule"], draws=DRAWS)
    assert one["llama3med"]["open_accuracy"]["value"] == 0.5


def test_questions_that_the_published_script_passes_over_are_counted_and_scored_strictly():
    items = [
        *ITEMS[:2],
        Item("c3", "i2", "closed", "CT or MRI?", ("CT",), ("CT", "MRI"), "kind", "CLOSED "),
        *ITEMS[3:],
    ]
    one = made(items=items)
    assert one["skipped"] == 1
    assert one["llama3med"]["accuracy"]["rows"] == 2
    assert one["strict"]["accuracy"]["rows"] == 3


def test_balanced_accuracy_of_a_constant_is_one_half():
    one = made(dict.fromkeys(SAID, "no"))
    assert one["strict"]["balanced_accuracy"]["value"] == 0.5
    assert one["strict"]["said_yes"]["value"] == 0.0


def test_always_no_answers_every_question_with_no():
    assert set(baselines(ITEMS, [])[ALWAYS_NO].answers.values()) == {"no"}


@pytest.mark.parametrize(
    ("question", "guess"),
    [
        ("where is   IT?", "left"),  # the same words: twice left, once right
        ("Where is the mass?", "left"),  # the same first two words
        ("Which kind is it?", "ct"),  # and not those that begin with the same word alone
        ("Who did this?", "ct"),  # the commonest of all, in the alphabet before "no"
    ],
)
def test_the_train_prior_guesses_by_the_words_of_the_question(question, guess):
    said = [
        "Where is it? Left", "Where is it? left", "Where is it? right", "Is it big? no", "Is it red? no",
        "Which kind? CT", "Which side? zone", "Which side? zone", "What kind? ct",
    ]  # fmt: skip
    train = [
        Item(f"t{n}", "i", "open", text.rsplit(" ", 1)[0], (text.rsplit(" ", 1)[1],)) for n, text in enumerate(said)
    ]
    baseline = baselines([Item("q", "i", "open", question, ("?",))], train)[TRAIN_PRIOR]
    assert baseline.answers == {"q": guess}
    assert "split train" in baseline.source


def test_without_training_the_prior_is_the_best_constant_of_each_category():
    items = [
        Item("a", "i", "closed", "One?", ("left",), (), "side"),
        Item("b", "i", "closed", "Two?", ("left",), (), "side"),
        Item("c", "i", "closed", "Three?", ("right",), (), "side"),
        Item("d", "i", "open", "Four?", ("lung",), (), "side"),
    ]
    baseline = baselines(items, [])[BEST_CONSTANT]
    assert baseline.answers == {"a": "left", "b": "left", "c": "left", "d": "lung"}
    assert "the best constant there is" in baseline.source


def test_table_3_has_the_means_that_the_paper_prints():
    means = {system: sum(row[:6]) / 6 for system, row in published_rows.TABLE3.items()}
    off = {system: mean - published_rows.TABLE3[system][6] for system, mean in means.items()}
    assert len(off) == 11
    assert max(map(abs, off.values())) <= 0.0051


def test_closed_scores_of_table_3_are_whole_questions():
    counts = [closed for _, closed in published_rows.COUNTS.values()]
    scores = [(row[2 * n + 1], count) for row in published_rows.TABLE3.values() for n, count in enumerate(counts)]
    assert [score for score, count in scores if round(100 * round(score * count / 100) / count, 2) != score] == []


@pytest.mark.parametrize(
    ("counts", "recall", "accuracy"),
    [((179, 272), 31.20, 62.87), ((645, 416), 44.34, 61.06), ((3370, 3391), 12.88, 64.97)],
)
def test_our_numbers_stand_beside_the_papers_where_the_questions_are_its(counts, recall, accuracy):
    items = padded(*counts)
    rows = published_rows.beside(sheet(items, {item.question_id: "yes" for item in items}, draws=2))
    assert rows["Llama3-Med 8B"] == {"open recall": recall, "closed accuracy": accuracy}
    spans = dict.fromkeys(("open 95 %", "closed 95 %"), "100.00 to 100.00")
    assert rows["this model"] == {"open recall": 100.0, "closed accuracy": 100.0} | spans


@pytest.mark.parametrize(("benchmark", "open_"), [("vqa-rad", 178), ("slake", 179), ("vqa-rad-hf", 179)])
def test_other_questions_get_no_rows_of_the_paper(benchmark, open_):
    items = padded(open_, 272)
    one = sheet(items, {item.question_id: "yes" for item in items}, draws=2)
    assert published_rows.beside(one, benchmark) == {}


def test_the_mean_of_six_needs_all_three_benchmarks():
    sheets = {}
    for name, counts in published_rows.COUNTS.items():
        items = padded(*counts)
        said = "yes" if name == "slake" else "no"
        sheets[name] = sheet(items, {item.question_id: said for item in items}, draws=2)
    rows = published_rows.beside_all(sheets)
    assert rows["this model"]["mean"] == pytest.approx(100 / 3, abs=0.01)
    assert rows["this model"]["slake closed"] == 100.0
    assert rows["Llama3-Med 8B"]["pathvqa closed"] == 64.97
    del sheets["pathvqa"]
    assert published_rows.beside_all(sheets)["this model"]["mean"] is None
    assert "pathvqa closed" not in published_rows.beside_all(sheets)["Llama3-Med 8B"]


def test_the_document_names_schema_protocols_and_versions():
    document = scores_document({"model": made()}, {"benchmark": "small", "versions": {"torch": "2.15"}})
    assert document["schema"] == "scores/1"
    assert document["protocols"] == {
        "llama3med": "llama3med/1", "llavamed-batch": "llavamed-batch/1", "strict": "strict/1",
    }  # fmt: skip
    assert set(document["versions"]) == {"medvlm", "python", "numpy", "torch"}
    assert document["interval"] == {
        "level": 0.95, "method": "percentile bootstrap over images", "draws": DRAWS, "seed": 0,
    }  # fmt: skip
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_the_tables_show_both_protocols_beside_the_baselines():
    document = scores_document({"model": made(), "always no": made(dict.fromkeys(SAID, "no"))}, {})
    shown = tables(document)
    assert shown["headline"]["model"] == {
        "llama3med open": 33.33, "llama3med closed": 66.67, "strict open": 25.0, "strict closed": 66.67,
        "balanced accuracy": 50.0, "unparsed": 33.33, "said yes": 50.0, "words": 1.5,
    }  # fmt: skip
    assert list(shown["headline"]) == ["model", "always no"]
    assert shown["interval_95"]["model"]["strict closed"].count(" to ") == 1
    assert shown["categories"]["kind, closed"]["always no"] == 0.0
    assert list(shown["categories"]) == ["colour, closed", "kind, open", "kind, closed", "place, open", "size, closed"]
    assert "paper" not in shown


def test_a_sheet_without_open_questions_has_none_in_their_place():
    one = made({"c1": "yes", "c2": "no"}, ITEMS[:2])
    shown = tables(scores_document({"model": one}, {}))
    assert shown["headline"]["model"]["strict open"] is None
    assert shown["headline"]["model"]["words"] is None


@pytest.mark.skipif(not FOLDER, reason="MEDVLM_BENCHMARKS names no folder with the published files")
@pytest.mark.parametrize(
    ("name", "recall", "accuracy"),
    [("vqa-rad", 15.69, 51.10), ("slake", 52.57, 60.34), ("pathvqa", 14.64, 81.80)],
)
def test_the_train_prior_of_the_published_files_scores_without_an_image(name, recall, accuracy):
    benchmark, folder = resolve(name, BENCHMARKS, "benchmark").BENCHMARK, Path(FOLDER) / name
    asked = [q for file in benchmark.files for q in _questions(benchmark, file, index((folder,)), folder)]
    items = {
        split: [
            Item(q.id, q.image, q.kind, q.question, (q.answer,), (), "", q.kind.upper())
            for q in asked
            if q.split == split
        ]
        for split in ("train", "test")
    }
    prior = baselines(items["test"], items["train"])[TRAIN_PRIOR].answers
    means = llama3med.published(items["test"], prior).means()
    assert (round(means["recall"], 2), round(means["accuracy"], 2)) == (recall, accuracy)
