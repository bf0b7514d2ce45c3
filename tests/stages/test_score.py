"""Answers made elsewhere, scored without a model: from files of any form, to JSON, a table and ``scores.json``."""

import hashlib
import json
import subprocess
import sys

import pytest

from medvlm_cli.core.config import EvalConfig
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.stages.score import printed, score
from tests.stages.answers_cases import GOLDS, SAID, answers, predictions, questions, references, silent

CONFIG = EvalConfig(draws=200)
TRAIN = [(f"t{n}", "i9", "open", "Where is it?", "left lung") for n in (2, 3)]


@pytest.fixture
def files(tmp_path):
    """Answers and questions as files."""
    return predictions(tmp_path / "answers.jsonl", SAID), references(tmp_path / "test.json")


def scored(files, **options):
    return score(*files, CONFIG, tell=silent, **options)


def test_the_published_protocol_gives_what_its_script_prints(files, tmp_path):
    (tmp_path / "candidate.json").write_text('["left lung", "a nodule", "a mass"]')
    summary = scored(files, candidates=tmp_path / "candidate.json", protocol="llama3med")
    assert summary["protocol"] == "llama3med/1"
    assert summary["printed"] == {
        "exact_match": "25", "f1": "40", "precision": "50", "recall": "33.3333", "open_accuracy": "50",
        "yes_no_accuracy": "66.6667", "bleu": f"{summary['bleu']:g}",
    }  # fmt: skip
    assert {name: f"{summary[name]:g}" for name in summary["printed"]} == summary["printed"]
    assert (summary["num_open"], summary["num_closed"], summary["skipped"]) == (2, 3, 0)


def test_open_accuracy_is_unknown_without_candidates(files):
    summary = scored(files, protocol="llama3med")
    assert summary["open_accuracy"] is None
    assert "open_accuracy" not in summary["printed"]


def test_without_the_gate_a_choice_may_be_right(files):
    summary = scored(files, protocol="llavamed-batch")
    assert (summary["protocol"], summary["printed"]["yes_no_accuracy"]) == ("llavamed-batch/1", "100")


def test_the_strict_protocol_gives_its_own_numbers(files):
    summary = scored(files, protocol="strict")
    assert summary["protocol"] == "strict/1"
    assert (summary["accuracy"], summary["unparsed"], summary["recall"], summary["words"]) == (66.67, 33.33, 25.0, 1.5)
    assert "accuracy" in summary["interval_95"]


def test_all_protocols_stand_side_by_side_and_beside_what_needs_no_eyes(files):
    summary = scored(files)
    assert summary["protocols"] == "llama3med/1, llavamed-batch/1, strict/1"
    assert list(summary["headline"]) == ["model", "always no", "best constant"]  # no split to train a prior on
    assert summary["headline"]["always no"]["strict closed"] == 33.33
    assert "of the asked questions themselves" in summary["best constant"]
    assert summary["numbers"].endswith("by percentile bootstrap over images, 200 draws, seed 0")


def test_the_scripts_table_swaps_its_labels_as_it_does(files):
    table = printed(*files, CONFIG, tell=silent)
    assert table.startswith("num_open 3  num_close 2\n")
    assert "recall             33.3333" in table


@pytest.mark.parametrize("protocol", ["llama3med", "llavamed-batch", "strict", "all"])
def test_files_of_other_tools_and_our_own_datasets_score_alike(files, tmp_path, protocol):
    asked = questions(tmp_path / "small")
    ours = scored((answers(tmp_path / "answers", SAID, asked), asked), protocol=protocol)
    assert ours == scored(files, protocol=protocol)


def test_the_order_of_the_answers_makes_no_difference(files, tmp_path):
    turned = predictions(tmp_path / "turned.jsonl", dict(reversed(SAID.items())))
    assert scored((turned, files[1])) == scored(files)


@pytest.mark.parametrize(("said", "closed"), [(GOLDS, 100.0), (dict.fromkeys(GOLDS, "yes or no"), 0.0)])
def test_gold_answers_score_all_and_yes_or_no_nothing_under_the_strict_rules(files, tmp_path, said, closed):
    summary = scored((predictions(tmp_path / "said.jsonl", said), files[1]), protocol="strict")
    assert summary["accuracy"] == closed
    assert summary["recall"] == closed


def test_the_train_split_of_a_dataset_gives_the_prior(files, tmp_path):
    asked = questions(tmp_path / "small", train=[("t1", "i9", "open", "Is it red?", "No"), *TRAIN])
    summary = score(files[0], asked, CONFIG, tell=silent)
    assert "in split train to the same question" in summary["train prior"]
    assert summary["headline"]["train prior"]["strict closed"] == 33.33
    assert summary["headline"]["train prior"]["strict open"] == 50.0


def test_nothing_is_written_unless_asked(files, tmp_path):
    scored(files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.jsonl", "test.json"]


def test_the_written_scores_name_what_was_read_by_its_hash(files, tmp_path):
    summary = scored(files, out=tmp_path / "out" / "scores", protocol="strict")
    document = json.loads((tmp_path / "out" / "scores" / "scores.json").read_text())
    assert summary["scores"] == str(tmp_path / "out" / "scores" / "scores.json")
    assert document["schema"] == "scores/1"
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    assert [document[name]["sha256"] for name in ("predictions", "references")] == digests
    assert list(document["sheets"]) == ["model", "always no", "best constant"]
    assert str(tmp_path) not in json.dumps(document)


def test_the_page_has_every_answer_beside_its_gold_with_images_where_the_questions_are_a_dataset(files, tmp_path):
    asked = questions(tmp_path / "small")
    pages = {}
    for name, source in (("file", files[1]), ("dataset", asked)):
        summary = score(files[0], source, CONFIG, out=tmp_path / name, tell=silent)
        assert summary["report"] == str(tmp_path / name / "report.html")
        pages[name] = (tmp_path / name / "report.html").read_text()
    assert all(text in page for page in pages.values() for text in ("Yes, it is big.", "left left", "a nodule"))
    assert ["data:image/" in page for page in pages.values()] == [False, True]


def test_a_file_is_no_folder_for_scores(files):
    with pytest.raises(ConfigError, match="is a file"):
        scored(files, out=files[0])


def test_an_unknown_protocol_is_refused_with_those_there_are(files):
    with pytest.raises(ConfigError, match="give one of llama3med, llavamed-batch, strict, all"):
        scored(files, protocol="strickt")


def test_answers_to_other_questions_are_refused(files, tmp_path):
    other = predictions(tmp_path / "other.jsonl", {"c1": "yes", "x": "no"})
    with pytest.raises(DataError, match=r"other\.jsonl: 2 answers to 5 questions: 4 questions have no answer"):
        scored((other, files[1]))


def test_no_model_library_is_loaded(files):
    code = (
        "import sys; from pathlib import Path; from medvlm_cli.core.config import EvalConfig;"
        "from medvlm_cli.stages.score import score;"
        "score(Path(sys.argv[1]), Path(sys.argv[2]), EvalConfig(draws=9), tell=lambda *_: None);"
        "print(sorted({'torch', 'transformers', 'torchvision'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, files)], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")
