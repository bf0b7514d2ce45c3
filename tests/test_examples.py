"""The examples in the help texts run, all of them, in the order of the work, in a folder with a user's own input."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
from PIL import Image

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.schemas import ANSWERS, CONVERSATIONS, FIGURES, STEPS
from tests.plugins import articles

VERBS = ("fetch", "synthesize", "pretrain", "finetune", "eval", "chat")
ENVIRONMENT = os.environ | {"MEDVLM_WORKSPACE": "", "OMP_NUM_THREADS": "1"}


ARTICLE = articles.article(
    f"<sec>{articles.figure(1, '<p>Chest CT of a patient.</p>')}<p>See Fig {articles.link(1)}.</p></sec>",
    '<article-id pub-id-type="pmcid">PMC1</article-id><permissions>'
    '<license xlink:href="http://creativecommons.org/licenses/by/4.0/"/></permissions>',
)


def examples(verb):
    """The commands that the help of a verb shows."""
    done = subprocess.run([sys.executable, "-m", "medvlm_cli", verb, "-h"], capture_output=True, text=True, timeout=60)
    shown = done.stdout.partition("Examples:")[2].partition("\n\n")[0]
    return [line.strip() for line in shown.splitlines() if line.strip()]


def shell(line, folder):
    """Run one line as a person would, with a question on stdin for the one that asks for it."""
    line = re.sub(r"(^|\| )medvlm ", lambda hit: f"{hit[1]}{shlex.quote(sys.executable)} -m medvlm_cli ", line)
    return subprocess.run(
        line,
        shell=True,
        cwd=folder,
        input="What is shown?\n",
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=280,
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Every example of every verb, run in order in a folder with an image, images with a table, and an article."""
    root = tmp_path_factory.mktemp("user")
    (root / "my-images").mkdir()
    (root / "articles" / "PMC1.1").mkdir(parents=True)
    picture = Image.new("RGB", (120, 90), (200, 40, 40))
    for name in ("image.png", "my-images/a.png", "articles/PMC1.1/g1.jpg"):
        picture.save(root / name)
    (root / "my-images" / "captions.csv").write_text("image,caption\na.png,Axial CT of the chest. No nodule is seen.\n")
    (root / "articles" / "PMC1.1" / "PMC1.1.xml").write_bytes(ARTICLE)
    return root, {verb: [(line, shell(line, root)) for line in examples(verb)] for verb in VERBS}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("verb", VERBS)
def test_the_examples_of_a_verb_run(ran, verb):
    done = ran[1][verb]
    assert len(done) >= 3
    assert {line: run.stderr for line, run in done if run.returncode} == {}


@pytest.mark.parametrize(
    ("dataset", "schema", "rows"),
    [
        ("figures/phantom", FIGURES, 100),
        ("figures/folder", FIGURES, 1),
        ("figures/pmc", FIGURES, 1),
        ("conversations/captions", CONVERSATIONS, 102),
        ("conversations/instruct", CONVERSATIONS, 102),
        ("checkpoints/pretrain/steps", STEPS, 11),
        ("checkpoints/finetune/steps", STEPS, 16),
        ("answers/finetune/phantom-vqa", ANSWERS, 1400),
    ],
)
def test_what_the_examples_leave_is_a_dataset_of_its_schema(ran, dataset, schema, rows):
    found = open_dataset(ran[0] / "medvlm-workspace" / dataset, schema)
    found.verify()
    assert len(found) == rows


def test_a_trained_checkpoint_is_a_plain_hugging_face_folder(ran):
    names = {path.name for path in (ran[0] / "medvlm-workspace/checkpoints/finetune").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json", "run.json"} <= names


def test_stdout_of_chat_holds_the_answer_and_nothing_else(ran):
    line, done = ran[1]["chat"][1]
    assert "-p" in line
    assert done.stdout.strip()
    assert done.stdout.count("\n") == 1
    assert json.loads(ran[1]["chat"][2][1].stdout)["answer"]
