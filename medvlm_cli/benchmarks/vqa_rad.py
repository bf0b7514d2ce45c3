"""VQA-RAD, Lau et al. 2018, doi:10.1038/sdata.2018.251: questions of clinicians about 314 radiographs, CTs and MRIs.

Test is what ``phrase_type`` marks as test, train the rest; there is no validation split.  Closed is the authors' own
label, which is not the same as yes or no: 21 of the 272 closed test questions are choices.  Nearly every test image is
asked about in train as well.  The Hugging Face copy has neither the labels nor all rows: it is ``vqa-rad-hf``.
"""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medvlm_cli.benchmarks import official
from medvlm_cli.benchmarks.official import Count, Official, Published, Question
from medvlm_cli.core import commit
from medvlm_cli.core.arrow import Harvest
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import RemoteError
from medvlm_cli.core.http import download

PATH = "/v1/resources/89kps/providers/osfstorage/?zip="
"""Where the Open Science Framework packs the project's files into one archive."""

_MEANT = {"PRSE": "PRES", "ATRIB": "ATTRIB"}
"""Misspelt question types."""


def keys(config: FetchConfig) -> list[str]:
    """One key an image of a split; as ``official.keys``."""
    return official.keys(BENCHMARK, config)


def harvest(key: str, config: FetchConfig) -> Harvest:
    """The questions about one image; as ``official.harvest``."""
    return official.harvest(BENCHMARK, key, config)


def _parse(content: Any, split: str) -> Iterator[Question]:
    for entry in content:
        kind = entry["answer_type"].strip().lower()  # two rows have a blank behind the label
        if kind not in ("open", "closed"):
            raise ValueError(f"answer_type {kind!r}")
        yield Question(
            id=str(entry["qid"]),
            split="test" if entry["phrase_type"].startswith("test") else "train",
            kind=kind,
            image=entry["image_name"],
            question=entry["question"].strip(),
            answer=str(entry["answer"]).strip(),  # five are numbers
            category=_category(entry["question_type"]),
        )


def _category(question_type: str) -> str:
    """One of eleven types: typing errors mended, and of a pair ("POS, PRES") the first."""
    first = question_type.split(",")[0].strip().upper()
    return _MEANT.get(first, first)


def _download(folder: Path, config: FetchConfig) -> None:
    archive = folder / "VQA-RAD.zip"
    download(config.osf.rstrip("/") + PATH, archive, limit=512 << 20)  # 20 MB as of 2026
    if not zipfile.is_zipfile(archive):  # packed while it is sent, so there is no checksum to ask for
        commit.remove(archive)
        raise RemoteError(f"{config.osf}: what came is not a whole zip archive", "run the command again")


BENCHMARK = Official(
    name="vqa-rad",
    page="https://osf.io/89kps/",
    files=(
        Published(
            names=("VQA_RAD Dataset Public.json",),
            sha256="948b7156059b864cf72344fb10669233526b175c243e5a046d20d4201d297a95",
            counts=(Count("train", 1797, 770, 1027, 313), Count("test", 451, 179, 272, 203)),
        ),
    ),
    parse=_parse,
    download=_download,
)
"""Counts: Llama3-Med, Table 2."""
