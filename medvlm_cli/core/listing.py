"""The files of a dataset: what its manifest lists, compared with what lies there, before a row of it is read."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.rows import damage, differences, read_ids
from medvlm_cli.core.schemas import name_of

_MAGIC = b"ARROW1\0\0"
_STREAM = b"\xff\xff\xff\xff"
_MAKERS = {
    "figures": "medvlm fetch",
    "conversations": "medvlm synthesize",
    "questions": "medvlm eval",
    "answers": "medvlm eval",
    "steps": "medvlm pretrain",
}


@dataclass
class DataFile:
    """A file of the dataset; ``verified`` once its bytes were found to be what the manifest says."""

    path: Path
    sha256: str
    batches: list[int]  # rows of each
    verified: bool = False


def listed(folder: Path, manifest: dict[str, Any], part: str, schema: pa.Schema) -> tuple[list[DataFile], pa.Array]:
    """The files of ``data`` or ``rejects`` as the manifest lists them, and the ids in them, in its order."""
    fix = f"remove {folder} and run its command again"
    files = {name: facts for name, facts in manifest["files"].items() if name.startswith(f"{part}/")}
    if alien := sorted({f"{part}/{path.name}" for path in folder.glob(f"{part}/*.arrow")} - set(files)):
        raise DataError(f"{folder / alien[0]}: not in the manifest", "remove it, or give it as a dataset of its own")
    shards, ids = [], [pa.array([], pa.string())]
    for name, facts in files.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: missing, the manifest lists it", fix)
        if path.stat().st_size != facts["bytes"]:
            raise DataError(f"{path}: {path.stat().st_size:,} bytes, the manifest says {facts['bytes']:,}", fix)
        found, batches = columns_of(path, schema)
        if len(found) != facts["rows"]:
            raise DataError(f"{path}: {len(found):,} rows, the manifest says {facts['rows']:,}", fix)
        shards.append(DataFile(path, facts["sha256"], batches))
        ids.append(found)
    return shards, pa.concat_arrays(ids)


def columns_of(path: Path, schema: pa.Schema) -> tuple[pa.Array, list[int]]:
    """Ids and rows of each batch of one file whose columns are the schema's."""
    with path.open("rb") as file:
        head = file.read(len(_MAGIC))
    if head.startswith(_STREAM):
        fix = "write it again with pyarrow.ipc.new_file instead of new_stream"
        raise DataError(f"{path}: Arrow's stream format, not its file format", fix)
    if head != _MAGIC:
        raise DataError(f"{path}: not an Arrow file", how_to_make(schema))
    with pa.OSFile(str(path)) as source:
        with damage(path):
            lines = differences(pa.ipc.open_file(source).schema, schema)
        if lines:
            raise DataError(f"{path} is not {name_of(schema)}: {'; '.join(lines)}", how_to_make(schema))
        return read_ids(source, schema.names[0], path)


def names_of(path: Path) -> list[str]:
    """The columns of a file; only its footer is read."""
    with pa.OSFile(str(path)) as source, damage(path):
        return pa.ipc.open_file(source).schema.names


def metadata_of(path: Path) -> dict[bytes, bytes]:
    """The metadata of a file's schema; only its footer is read.

    Raises:
        DataError: it is not an Arrow file.
    """
    with pa.OSFile(str(path)) as source, damage(path):
        return dict(pa.ipc.open_file(source).schema.metadata or {})


def how_to_make(schema: pa.Schema) -> str:
    """What to do about a dataset that is not one of this schema."""
    kind = name_of(schema).split("/")[0]
    made = f", as `{_MAKERS[kind]}` writes it" if kind in _MAKERS else ""
    return f"give a {name_of(schema)} dataset{made}, or one Arrow file with its columns"
