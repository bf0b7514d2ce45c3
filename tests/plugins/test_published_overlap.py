"""What the real benchmarks share between their splits: set ``MEDVLM_BENCHMARKS`` as for ``test_published_counts``.

The questions are the published ones; for every image a picture of its own is drawn, so images are the same where their
names are.
"""

import io
import json
import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.overlap import overlap
from medvlm_cli.core.schemas import QUESTIONS
from medvlm_cli.stages.fetch import fetch

FOLDER = os.environ.get("MEDVLM_BENCHMARKS", "")
NAMES = {
    "vqa-rad": lambda entry: entry["image_name"],
    "slake": lambda entry: entry["img_name"],
    "pathvqa": lambda entry: f"{entry['img_id']}.png",
}
"""The file of an image, of an entry of the published questions."""


def quiet(what, done, total):
    """Progress that nobody hears."""


@pytest.fixture
def shared(tmp_path):
    """What the test split of a benchmark shares, by the name of the other split."""

    def compare(name):
        made = tmp_path / "published"
        made.mkdir()
        files = sorted((Path(FOLDER) / name).glob("*.json"))
        entries = [entry for path in files for entry in json.loads(path.read_text())]
        for path in files:
            shutil.copy(path, made)
        with zipfile.ZipFile(made / "images.zip", "w") as archive:
            for seed, image in enumerate(sorted({NAMES[name](entry) for entry in entries})):
                out = io.BytesIO()
                noise = np.random.default_rng(seed).integers(0, 256, (16, 16), dtype=np.uint8)
                Image.fromarray(noise).save(out, "PNG")
                archive.writestr(image, out.getvalue())
        questions = tmp_path / "questions" / name
        fetch(name, questions, FetchConfig(mirror=(str(made),)), quiet)
        told = overlap(open_dataset(questions, QUESTIONS), "test", [], tmp_path / "hashes", quiet)
        return {source["name"]: source for source in told["sources"]}, told["lines"]

    return compare


def numbers(source):
    """Images by file, by look and by name, and questions, pairs and triples."""
    images = [source["images"][name] for name in ("exact", "near", "names")]
    return [share["count"] for share in (*images, source["questions"], source["pairs"], source["triples"])]


needs_files = pytest.mark.skipif(not FOLDER, reason="MEDVLM_BENCHMARKS names no folder with the published files")


@needs_files
def test_nearly_every_test_image_of_vqa_rad_is_in_its_train_split(shared):
    sources, lines = shared("vqa-rad")
    assert numbers(sources["vqa-rad train"]) == [202, 0, 202, 79, 53, 1]
    assert lines == [
        "202 of 203 test images are also in vqa-rad train; 79 of 451 test questions (17.5 %) are asked there too, "
        "53 (11.8 %) with the same answer, 1 of them about the same image"
    ]


@needs_files
def test_slake_shares_its_words_and_in_chinese_its_images(shared):
    sources, lines = shared("slake")
    assert numbers(sources["slake train"]) == [0, 0, 0, 997, 936, 0]
    assert sources["slake zh train"]["images"]["names"]["count"] == 72
    assert any("997 of 1,061 test questions (94.0 %) are asked there too, 936 (88.2 %)" in line for line in lines)
    assert "72 of 96 test images are also in slake zh train by their names" in lines


@needs_files
@pytest.mark.slow
def test_pathvqa_shares_words_and_no_image(shared):
    sources, lines = shared("pathvqa")
    assert numbers(sources["pathvqa train"]) == [0, 0, 0, 4543, 4056, 0]
    assert lines[0] == (
        "0 of 858 test images are in pathvqa train; 4,543 of 6,761 test questions (67.2 %) are asked there too, "
        "4,056 (60.0 %) with the same answer"
    )
