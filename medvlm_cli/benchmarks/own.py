"""A user's own questions: a folder of images with a CSV or JSONL table, one row a question.

Columns: ``image`` (relative to the folder), ``question`` and ``answer``; optional ``kind`` (``open`` or ``closed``;
else closed where the answer is yes or no, or choices are named), ``choices`` (separated by ``|``, or a list in JSONL),
``category``, ``split`` (else ``test``) and ``id``.
"""

import functools
import os
from pathlib import Path
from typing import Any

from medvlm_cli.core.arrow import Harvest, Reject
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.decoding import decode_bounded
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import read_inside
from medvlm_cli.core.table import find_table, image_folder, read_table, word

KINDS = ("open", "closed")


def keys(config: FetchConfig) -> list[str]:
    """One key a row of the table, in order.

    Raises:
        ConfigError: no folder is given.
        DataError: the folder or its table is missing, not UTF-8, malformed, or lacks a column.
    """
    _rows.cache_clear()
    return list(_rows(config.images, config.captions))


def harvest(key: str, config: FetchConfig) -> Harvest:
    """The question of one row, or why there is none: a missing value, a broken image, a kind that is none."""
    _, values, trouble = _rows(config.images, config.captions)[key]
    made = _question(key, values, trouble, config)
    return Harvest(1, [], [made]) if isinstance(made, Reject) else Harvest(1, [made], [])


@functools.lru_cache(maxsize=2)
def _rows(images: str, table: str) -> dict[str, tuple[int, dict[str, Any], tuple[str, str] | None]]:
    root = image_folder(images, "own")
    path = find_table(root, table)
    return {f"{path.name}, row {row[0]}": row for row in read_table(path, ("image", "question", "answer"))}


def _question(
    where: str, values: dict[str, Any], trouble: tuple[str, str] | None, config: FetchConfig
) -> dict | Reject:
    root = Path(config.images)
    name = word(values.get("id")) or where
    given = {column: word(values.get(column)) for column in ("image", "question", "answer", "category", "split")}
    choices = values.get("choices")
    choices = choices if isinstance(choices, list) else word(choices).split("|")
    choices = [word(choice) for choice in choices if word(choice)]
    closed = bool(choices) or given["answer"].lower() in ("yes", "no")
    kind = word(values.get("kind")).lower() or KINDS[closed]
    for column in ("image", "question", "answer"):
        if trouble is None and not given[column]:
            trouble = f"missing_{column}", f"no {column}"
    if trouble is None and kind not in KINDS:
        trouble = "bad_row", f"kind is {kind!r}, which must be open or closed"
    if trouble is not None:
        return Reject(name, trouble[0], f"{where}: {trouble[1]}", given["question"] or None)
    try:
        data = read_inside(root, root / given["image"])
        decode_bounded(data, given["image"], config.decode_seconds)
    except DataError as error:
        is_there = os.path.exists(root / given["image"])  # noqa: PTH110 - Path.exists raises for too long a name
        reason = "corrupt_image" if is_there else "missing_image"
        return Reject(name, reason, f"{where}: {error.what}", given["question"])
    return {
        "question_id": name,
        "benchmark": "own",
        "split": given["split"] or "test",
        "kind": kind,
        "image": {"bytes": data, "path": Path(given["image"]).name},
        "image_id": given["image"],
        "question": given["question"],
        "choices": choices,
        "answers": [given["answer"]],
        "category": given["category"] or None,
    }
