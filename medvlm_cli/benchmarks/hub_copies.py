"""Copies of VQA-RAD and PathVQA on the Hugging Face hub, under names of their own: they are not the benchmarks.

The copy of VQA-RAD dropped four training rows and all labels, so that closed means yes or no (251 of its 451 test
questions, not 272); that of PathVQA dropped duplicates and writes everything in lower case.  Scores on a copy and on
the original cannot be compared.  Both are parquet files with the columns image, question and answer.
"""

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from medvlm_cli.benchmarks import official, pathvqa
from medvlm_cli.benchmarks.files import ARCHIVE_BYTES, Files, Place, forget, index
from medvlm_cli.benchmarks.hub import from_hub
from medvlm_cli.benchmarks.official import Question, kind_by_answer
from medvlm_cli.core.arrow import Harvest, Reject
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import DataError, RemoteError
from medvlm_cli.core.images import find_inside

COLUMNS = ("image", "question", "answer")

_SPLITS = {"train": "train", "validation": "val", "val": "val", "test": "test"}
"""What a file, or its folder, begins with, and the split it is of."""


@dataclass(frozen=True)
class Part:
    """A row group of a parquet file: what is read at a time."""

    split: str
    place: Place
    group: int
    first: int
    """Number of its first row within the split."""
    rows: int


@dataclass(frozen=True)
class HubCopy:
    """One copy, a benchmark as ``benchmarks`` describes it."""

    benchmark: str
    repository: str
    revision: str
    counts: tuple[tuple[str, int], ...]
    """Rows of each split."""
    by_word: bool
    """Category by ``pathvqa.category``, else none."""

    def keys(self, config: FetchConfig) -> list[str]:
        """One key a row group, in order; downloads the files where no folder is given.

        Raises:
            ConfigError: what is given is not a folder.
            DataError: a file is not parquet, lacks a column, or a split has another number of rows.
            RemoteError: the download is refused.
        """
        forget()
        _parts.cache_clear()
        if not config.mirror:
            try:
                from_hub(self.repository, self.revision, ("data/*.parquet",), official.cache(self.benchmark, config))
            except RemoteError as error:
                raise RemoteError(
                    f"{self.benchmark}: {error.what}", official.by_hand(self.benchmark, self.page)
                ) from error
        return list(_parts(self, self._folder(config)))

    def harvest(self, key: str, config: FetchConfig) -> Harvest:
        """The questions of one row group; a row with a broken image or an empty cell is rejected."""
        part = _parts(self, self._folder(config))[key]
        try:
            with pq.ParquetFile(part.place.path) as file:
                values = file.read_row_group(part.group, columns=list(COLUMNS), use_threads=False).to_pylist()
        except (pa.ArrowException, OSError, ValueError) as error:
            ids = [f"{part.split}-{part.first + number}" for number in range(part.rows)]
            message = f"{part.place} cannot be read ({' '.join(str(error).split())})"
            return Harvest(part.rows, [], [Reject(id_, "corrupt_file", message) for id_ in ids])
        checked: dict[bytes, tuple[str, str] | None] = {}  # a row group holds the same image many times
        made: list[dict | Reject] = []
        for number, cells in enumerate(values):
            data = (cells["image"] or {}).get("bytes") or b""
            digest = hashlib.sha256(data).digest()
            if digest not in checked:
                where = f"{part.place}, {part.split}-{part.first + number}"
                missing = "missing_image", f"{where}: no image"
                checked[digest] = official.fault(data, where, config) if data else missing
            made.append(self._row(part, number, cells, checked[digest]))
        rejects = [one for one in made if isinstance(one, Reject)]
        return Harvest(len(made), [one for one in made if not isinstance(one, Reject)], rejects)

    @property
    def page(self) -> str:
        """Where a person downloads the files."""
        return f"https://huggingface.co/datasets/{self.repository}"

    def _folder(self, config: FetchConfig) -> Path:
        return official.given_folder(self.page, config) or official.cache(self.benchmark, config)

    def _row(self, part: Part, number: int, cells: dict[str, Any], trouble: tuple[str, str] | None) -> dict | Reject:
        id_ = f"{part.split}-{part.first + number}"
        question, answer = (str(cells[name] or "").strip() for name in COLUMNS[1:])
        for name, text in (("question", question), ("answer", answer)):
            if trouble is None and not text:
                trouble = f"empty_{name}", f"{part.place}, {id_}: no {name}"
        if trouble is not None:
            return Reject(id_, *trouble, question or None)
        image = cells["image"]
        name = hashlib.sha256(image["bytes"]).hexdigest()[:16]  # the copies have no names of images
        category = pathvqa.category(question, answer) if self.by_word else None
        asked = Question(id_, part.split, kind_by_answer(answer), name, question, answer, category)
        path = Path(image.get("path") or name).name
        return official.row(self.benchmark, asked, {"bytes": image["bytes"], "path": path})


@functools.lru_cache(maxsize=2)
def _parts(copy: HubCopy, folder: Path) -> dict[str, Part]:
    """The row groups by key, once the counts are right."""
    files = index((folder,))
    parts = {f"{part.split}-{part.first}": part for part in _read(files)}
    found = {split: 0 for split, _ in copy.counts}
    for part in parts.values():
        found[part.split] = found.get(part.split, 0) + part.rows
    if found != dict(copy.counts):
        raise DataError(
            f"{folder} is not the copy {copy.repository}: found {_told(found)}, expected {_told(dict(copy.counts))}",
            official.by_hand(copy.benchmark, copy.page),
        )
    return parts


def _read(files: Files) -> Iterator[Part]:
    seen: dict[str, int] = {}
    for place in files.ending(".parquet"):
        names = (place.path.name, place.path.parent.name)
        split = next((_SPLITS[word] for name in names for word in _SPLITS if name.lower().startswith(word)), "")
        for group, rows in enumerate(_groups(place) if split and not place.member else ()):
            first = seen.get(split, 0)
            seen[split] = first + rows
            if rows:
                yield Part(split, place, group, first, rows)


def _groups(place: Place) -> list[int]:
    """Rows of each row group of a file."""
    find_inside(place.root, place.path, ARCHIVE_BYTES)
    try:
        with pq.ParquetFile(place.path) as file:
            schema, metadata = file.schema_arrow, file.metadata
            rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{place} is not a whole parquet file ({error})", "download it again") from error
    missing = [name for name in COLUMNS if name not in schema.names]
    if missing:
        raise DataError(f"{place} has no column {missing[0]!r}; it has {', '.join(schema.names)}")
    image = schema.field("image").type
    if not pa.types.is_struct(image) or image.get_field_index("bytes") < 0:
        raise DataError(f"{place}: column 'image' is {image}, which must hold bytes and path")
    return rows


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{split} {rows:,}" for split, rows in counts.items()) + " questions"


VQA_RAD = HubCopy(
    benchmark="vqa-rad-hf",
    repository="flaviagiammarino/vqa-rad",
    revision="bcf91e7654fb9d51c8ab6a5b82cacf3fafd2fae9",
    counts=(("train", 1793), ("test", 451)),
    by_word=False,
)
PATHVQA = HubCopy(
    benchmark="pathvqa-hf",
    repository="flaviagiammarino/path-vqa",
    revision="1685832883334b5bb5beaf4e4b333fdeecaa4ad9",
    counts=(("train", 19654), ("val", 6259), ("test", 6719)),
    by_word=True,
)
