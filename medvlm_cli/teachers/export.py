"""Conversations as the JSON files that LLaVA-Med and Llama3-Med train on.

A row is ``{"id", "image", "domain", "conversations": [{"from": "human" | "gpt", "value"}, ...]}``, as in
github.com/microsoft/LLaVA-Med.  LLaVA-Med's loader reads ``image`` as one name, Llama3-Med's as a list of names: it
would take a string for a list of letters (llama3med/data/dataset.py of github.com/standardmodelbio/Llama3-Med).  Both
open the names in a folder that is given to them, so the images are written into one.
"""

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from medvlm_cli.core.commit import DurableFile, durable, make_folder, refusals, write_bytes
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.tell import Tell

STYLES = ("llava-med", "llama3-med")
DOMAINS = {"chest_xray": "chest_xray", "ct_scan": "ct", "mri": "mri", "histology": "histology", "gross": "gross"}
"""What the published files call a modality, and what figures/1 does."""

_IMAGE = "<image>"
_STEM = 120
"""Most characters of a file name before its ending."""
_KINDS = (
    (rb"\xff\xd8\xff", "jpg"),
    (rb"\x89PNG\r\n\x1a\n", "png"),
    (rb"GIF8[79]a", "gif"),
    (rb"RIFF....WEBP", "webp"),
    (rb"II\*\x00|MM\x00\*|II\+\x00|MM\x00\+", "tif"),
    (rb"BM", "bmp"),
)
"""How a file of each format that ``core.images`` reads begins, and the ending of its name."""
_SPEAKERS = {"user": "human", "assistant": "gpt"}


def export(rows: Iterable[Mapping[str, Any]], image_name: Callable[[str], str], style: str, out: Path) -> int:
    """Write conversations as one JSON list, ordered by their ids: the same rows in any order give the same bytes.

    Of all rows only the ids are held in memory; the rows wait in a nameless file beside ``out``.

    Args:
        rows: of conversations/1, whatever columns they have beside.
        image_name: figure id -> the file name that the row states.
        style: ``llava-med`` (``image`` is a string), or ``llama3-med`` (a list of one, and ``teacher``).
        out: the file, replaced in one step if it is there.

    Returns:
        How many rows were written.

    Raises:
        ConfigError: there is no such style.
        DataError: an id is there twice, the turns do not alternate, or the image does not stand once in the first.
        ResourceError: the disk refuses.
    """
    known(style)
    places: dict[str, tuple[int, int]] = {}
    with refusals(out.parent), tempfile.TemporaryFile(dir=out.parent) as spool:
        end = 0
        for row in rows:
            id_ = row["conversation_id"]
            if id_ in places:
                raise DataError(
                    f"conversation {id_}: the id is there twice", "give every conversation an id of its own"
                )
            text = json.dumps(_exported(row, image_name, style), ensure_ascii=False).encode()
            places[id_] = end, len(text)
            end += spool.write(text)
        with durable(out) as file:
            _copy(spool, [places[id_] for id_ in sorted(places)], file)
    return len(places)


def known(style: str) -> None:
    """Refuse a style that there is not.

    Raises:
        ConfigError: with those that there are.
    """
    if style not in STYLES:
        raise ConfigError(f"no export style '{style}'; there are {', '.join(STYLES)}", f"give {STYLES[0]}")


def stems(figure_ids: Iterable[str]) -> dict[str, str]:
    """A file name without its ending for every figure: ``PMC7096066/fig2`` gives ``PMC7096066_fig2``.

    No two of them are the same, on a disk without upper and lower case either: where an id cannot be a name as it is,
    or several ids would give one name, a hash of the id follows.  The order does not matter.
    """
    plain = {id_: re.sub(r"[^A-Za-z0-9._-]", "_", id_.replace("/", "_")) for id_ in figure_ids}
    alike = Counter(name.casefold() for name in plain.values())
    return {id_: name if _fits(id_, name) and alike[name.casefold()] == 1 else _hashed(id_, name)
            for id_, name in plain.items()}  # fmt: skip


def _fits(id_: str, name: str) -> bool:
    """Whether a name shows its id whole: only slashes were replaced, it is not too long, and no other's with a hash."""
    return id_.replace("/", "_") == name and 0 < len(name) <= _STEM and not re.match(r"[.-]|.*-[0-9a-fA-F]{16}$", name)


def _hashed(id_: str, name: str) -> str:
    digest = hashlib.sha256(id_.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return f"{name[:_STEM].lstrip('.-') or 'image'}-{digest}"


def write_images(
    names: Mapping[str, str], image_of: Callable[[str], bytes], folder: Path, tell: Tell
) -> dict[str, str]:
    """Write the images as they were fetched; those that lie there whole are left, so a stopped export goes on.

    Args:
        names: figure id -> file name without its ending, as ``stems`` gives them.
        image_of: the bytes of a figure's image; asked once for each.
        folder: made if need be.
        tell: told how far it is.

    Returns:
        Figure id -> file name, which ends as the format asks, whatever the file was once called.

    Raises:
        DataError: an image is of no format that medvlm reads.
        ResourceError: the disk refuses.
    """
    make_folder(folder)
    written = {}
    for done, (figure_id, name) in enumerate(sorted(names.items()), 1):
        data = image_of(figure_id)
        ending = next((ending for start, ending in _KINDS if re.match(start, data, re.DOTALL)), None)
        if ending is None:
            raise DataError(f"figure {figure_id}: its image is of no format that medvlm reads", "fetch it again")
        written[figure_id] = f"{name}.{ending}"
        _write_image(folder / written[figure_id], data)
        tell("images", done, len(names))
    return written


def _write_image(path: Path, data: bytes) -> None:
    if path.is_file() and path.stat().st_size == len(data) and path.read_bytes() == data:
        return
    write_bytes(path, data)


def _copy(spool: BinaryIO, places: list[tuple[int, int]], file: DurableFile) -> None:
    """Write the texts at these places as a list."""
    before = b"[\n"
    for start, length in places:
        spool.seek(start)
        file.write(before + spool.read(length))
        before = b",\n"
    file.write(b"\n]\n" if places else b"[]\n")


def _exported(row: Mapping[str, Any], image_name: Callable[[str], str], style: str) -> dict[str, Any]:
    """A row as the published files have it."""
    name = image_name(row["figure_id"])
    modalities = row.get("modalities") or ()
    told = {
        "id": row["conversation_id"],
        "image": name if style == "llava-med" else [name],
        "domain": {domain: modality in modalities for domain, modality in DOMAINS.items()},
        "conversations": _turns(row),
    }
    return told if style == "llava-med" else told | {"teacher": row["teacher"]}


def _turns(row: Mapping[str, Any]) -> list[dict[str, str]]:
    """The turns by the published names.

    Raises:
        DataError: a loader of these files would stumble over them.
    """
    turns = row["turns"]
    where = f"conversation {row['conversation_id']}"
    if not turns or [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise DataError(f"{where}: question and answer do not take turns", "synthesize it again, or drop the row")
    places = [number for number, turn in enumerate(turns, 1) for _ in range(turn["text"].count(_IMAGE))]
    if places != [1]:
        found = f"in turn {', '.join(map(str, places[:8]))}" if places else "nowhere"
        what = f"{where}: {_IMAGE} stands {found}, not once in the first question"
        raise DataError(what, f"synthesize it again, or remove the stray {_IMAGE} from its turns")
    return [{"from": _SPEAKERS[turn["role"]], "value": turn["text"]} for turn in turns]
