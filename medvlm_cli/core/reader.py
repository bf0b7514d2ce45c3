"""Read a dataset folder: checked against its manifest, then row by row or at random.

Three things are bounded, however large the dataset: memory (mapped pages are given back after every row, because Linux
6.18 maps up to 2 MB at a touch), open files (``_MAPPED`` shards at a time), and what a text-only scan reads (not the
images).

The bytes of a shard are compared with the manifest's hash before rows of it are used: pyarrow crashes the process on
flipped bits.  A file that no manifest of ours vouches for is validated in full when it is opened.
"""

import bisect
import hashlib
import mmap
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medvlm_cli.core import parts
from medvlm_cli.core.commit import sha256_of
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.listing import DataFile, columns_of, how_to_make, listed, metadata_of, names_of
from medvlm_cli.core.record import JOURNAL, MANIFEST, RUN, read_json
from medvlm_cli.core.rows import damage, first_fault
from medvlm_cli.core.schemas import IMAGE, REJECTS, name_of
from medvlm_cli.core.shard import row_name

_MAPPED = 1024
"""Shards that are mapped at a time: addresses, not memory."""
_TEXTS = 64
"""Reads without an image after which what they mapped is given back: each is a few pages."""


class Dataset:
    """A finished dataset; made by ``open_dataset``.

    Rows have positions from 0 to ``len``, in the order of the shards.  It may be pickled and forked: mapped files are
    opened again by the process that needs them.  One thread at a time.
    """

    def __init__(
        self, folder: Path, manifest: dict[str, Any], sha256: str, shards: list[DataFile], ids: pa.Array
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        """What ``manifest.json`` says; for a single Arrow file, and for parts together, ``schema`` and ``rows``."""
        self.sha256 = sha256
        """SHA-256 of ``manifest.json``, in hex; for a single Arrow file, of the file; for parts, of all of theirs."""
        self.parts: list[Dataset] = []
        """The datasets that this one is made of, where it is one in parts; see ``core.parts``."""
        self._shards = shards
        self._ids = ids
        self._order: np.ndarray | None = None
        counts = [rows for shard in shards for rows in shard.batches]
        self._ends = np.cumsum(np.array(counts, np.int64))  # position after each batch
        per_shard = np.array([len(shard.batches) for shard in shards], np.int64)
        self._shard_of = np.repeat(np.arange(len(shards)), per_shard)  # shard of each batch
        self._first_batch = np.cumsum(per_shard) - per_shard  # number of each shard's first batch
        self._mapped: OrderedDict[int, tuple[mmap.mmap, pa.ipc.RecordBatchFileReader]] = OrderedDict()
        self._last: tuple[int, pa.RecordBatch] | None = None
        self._texts = 0

    def __len__(self) -> int:
        return len(self._ids)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_mapped": OrderedDict(), "_last": None}

    @property
    def ids(self) -> list[str]:
        """The id of every row, in order; a new list at every call."""
        return self._ids.to_pylist()

    @property
    def columns(self) -> list[str]:
        """Names of the columns that all files have: the schema's, and what they add to it."""
        names: dict[str, None] | None = None
        for shard in self._shards:
            found = names_of(shard.path)
            names = dict.fromkeys(name for name in (found if names is None else names) if name in found)
        return list(names or ())

    @property
    def metadata(self) -> dict[bytes, bytes]:
        """The schema's metadata, of the first file; empty for a dataset without rows."""
        return metadata_of(self._shards[0].path) if self._shards else {}

    def rows(self, columns: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Every row in order, as dicts.

        Args:
            columns: names of those to read; without the images, their bytes are not read either, and a shard not yet
                verified is checked for structure only, not against its hash.  None reads and verifies everything.

        Raises:
            DataError: a shard is not what it was, or a column is not there.
        """
        if columns is None:
            yield from (self.row_at(position) for position in range(len(self)))
            return
        for shard in self._shards:
            for batch in _selected(shard.path, list(columns), not shard.verified):
                yield from batch.to_pylist()

    def row(self, id_: str, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """The row of this id; see ``row_at``.

        Raises:
            DataError: there is none.
        """
        return self.row_at(self.position(id_), columns)

    def position(self, id_: str) -> int:
        """The position of this id.

        Raises:
            DataError: there is none.
        """
        if self._order is None:
            self._order = pc.sort_indices(self._ids).to_numpy().astype(np.uint32)
        order, ids = self._order, self._ids
        found = bisect.bisect_left(order, id_, key=lambda i: ids[int(i)].as_py())
        if found == len(order) or ids[int(order[found])].as_py() != id_:
            raise DataError(f"{self.folder}: no row with id {id_!r}", "make both datasets from one source")
        return int(order[found])

    def row_at(self, position: int, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """The row at a position, by memory map; its values are copies.

        Args:
            position: from 0 to ``len``.
            columns: names of those to read; None reads all.

        Raises:
            IndexError: the position is outside.
            DataError: the shard is not what it was.
        """
        batch, at = self._locate(position)
        names = batch.schema.names if columns is None else columns
        if "image" in names:
            self._fetch_ahead(position, batch.column("image"), at)
        row = {name: batch.column(name)[at].as_py() for name in names}
        self._texts += 1
        if "image" in names or self._texts % _TEXTS == 0:
            self._give_back(position)
        return row

    def values_at(self, position: int, column: str) -> np.ndarray:
        """The numbers of a list column at a position, as a flat copy in their own type; ``row_at`` makes objects.

        Raises:
            IndexError: the position is outside.
            DataError: the shard is not what it was.
        """
        batch, at = self._locate(position)
        values = batch.column(column)[at].values.to_numpy(zero_copy_only=False).copy()
        self._give_back(position)
        return values

    def _locate(self, position: int) -> tuple[pa.RecordBatch, int]:
        """The batch that holds a position, and the row in it."""
        if not 0 <= position < len(self):
            raise IndexError(f"{self.folder}: row {position} of {len(self)}")
        number = int(np.searchsorted(self._ends, position, side="right"))
        if self._last is None or self._last[0] != number:
            shard = int(self._shard_of[number])
            self._last = number, self._map(shard).get_batch(number - int(self._first_batch[shard]))
        batch = self._last[1]
        return batch, position - int(self._ends[number]) + batch.num_rows

    def rejects(self) -> Iterator[dict[str, Any]]:
        """The rows that did not make it, as rejects/1."""
        for part in self.parts:
            yield from part.rejects()
        if "files" in self.manifest:
            shards, ids = listed(self.folder, self.manifest, "rejects", REJECTS)
            yield from Dataset(self.folder, self.manifest, self.sha256, shards, ids).rows()

    def verify(self) -> None:
        """Compare every shard with the manifest's hash now, instead of when its first row is used.

        Raises:
            DataError: a shard is not what it was; the message names it.
        """
        for number in range(len(self._shards)):
            self._verify(number)

    def _verify(self, number: int) -> None:
        shard = self._shards[number]
        if not shard.verified and sha256_of(shard.path) != shard.sha256:
            fix = f"copy it again, or remove {self.folder} and run its command again"
            raise DataError(f"{shard.path}: damaged or changed, its sha256 is not the manifest's", fix)
        shard.verified = True

    def _map(self, number: int) -> pa.ipc.RecordBatchFileReader:
        if number in self._mapped:
            self._mapped.move_to_end(number)
            return self._mapped[number][1]
        self._verify(number)
        with self._shards[number].path.open("rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        mapped.madvise(mmap.MADV_RANDOM)
        options = pa.ipc.IpcReadOptions(use_threads=False)
        reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)), options=options)
        self._mapped[number] = mapped, reader
        if len(self._mapped) > _MAPPED:
            self._mapped.popitem(last=False)
        return reader

    def _fetch_ahead(self, position: int, images: pa.Array, at: int) -> None:
        """Have the kernel read one image at once, not page by page and not what lies around it."""
        if images.type != IMAGE:  # another program's large_binary: slower, and right
            return
        data = images.field("bytes")
        _, offsets, values = data.buffers()
        start, end = np.frombuffer(offsets, np.int32, 2, 4 * (data.offset + at)).tolist()
        mapped = self._mapping(position)
        first = values.address - np.frombuffer(mapped, np.uint8).ctypes.data + start
        aligned = first // mmap.PAGESIZE * mmap.PAGESIZE
        mapped.madvise(mmap.MADV_WILLNEED, aligned, first - aligned + end - start)

    def _give_back(self, position: int) -> None:
        """Unmap what reading this position mapped; the kernel's cache keeps it."""
        self._mapping(position).madvise(mmap.MADV_DONTNEED)

    def _mapping(self, position: int) -> mmap.mmap:
        return self._mapped[int(self._shard_of[np.searchsorted(self._ends, position, side="right")])][0]


def open_dataset(folder: Path, schema: pa.Schema) -> Dataset:
    """Open a finished dataset, or a single Arrow file of another program, as rows of ``schema``.

    Names, sizes and counts are compared with the manifest and columns with the schema, before the first row is read;
    ``large_`` and view types and further columns are taken.  A single file is validated in full, nulls and ids too.

    Args:
        folder: a dataset's folder, or an Arrow IPC file.
        schema: one of ``core.schemas``.

    Raises:
        DataError: it is not a finished dataset, holds other columns, or is not what its manifest says.
    """
    folder = Path(folder)
    if folder.is_file():
        return _open_file(folder, schema)
    manifest = read_json(folder / MANIFEST)
    if manifest is None and (pieces := parts.whole(folder, MANIFEST)):
        return _joined(folder, [open_dataset(piece, schema) for piece in pieces])
    if manifest is None:
        raise _not_finished(folder, schema)
    fix = f"remove {folder} and run its command again"
    if not isinstance(manifest.get("files"), dict) or "schema" not in manifest:
        raise DataError(f"{folder / MANIFEST}: not a manifest of medvlm", fix)
    if manifest["schema"] != name_of(schema):
        raise DataError(f"{folder} holds {manifest['schema']}, not {name_of(schema)}", how_to_make(schema))
    sha256 = sha256_of(folder / MANIFEST)
    dataset = Dataset(folder, manifest, sha256, *listed(folder, manifest, "data", schema))
    if len(dataset) != manifest.get("rows"):
        raise DataError(f"{folder}: {len(dataset):,} rows, the manifest says {manifest.get('rows')}", fix)
    return dataset


def _joined(folder: Path, pieces: list[Dataset]) -> Dataset:
    """Parts of one run as one dataset.

    Raises:
        DataError: they are not of one run, or hold a row twice.
    """
    told = [_division(piece) for piece in pieces]
    for piece, settings in zip(pieces, told, strict=True):
        if settings != told[0]:
            fix = "run the commands of all parts with the same options"
            raise DataError(f"{piece.folder} and {pieces[0].folder} are not parts of one run", fix)
    ids = pa.concat_arrays([piece._ids for piece in pieces])
    if len(pc.unique(ids)) < len(ids):
        raise DataError(f"{folder}: two parts hold the same row", "remove the parts and make them again")
    sha256 = hashlib.sha256("".join(piece.sha256 for piece in pieces).encode()).hexdigest()
    manifest = {"schema": pieces[0].manifest["schema"], "rows": len(ids)}
    joined = Dataset(folder, manifest, sha256, [shard for piece in pieces for shard in piece._shards], ids)
    joined.parts = pieces
    return joined


def _division(piece: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    """What all parts of one run share: settings and inputs."""
    run = read_json(piece.folder / RUN) or {}
    settings = {name: value for name, value in run.get("config", {}).items() if name != "shard"}
    return settings, run.get("inputs", {})


def _selected(path: Path, columns: list[str], validate: bool) -> Iterator[pa.RecordBatch]:
    """The batches of a file with some of its columns; of the others nothing is read."""
    names = names_of(path)
    if unknown := set(columns) - set(names):
        raise DataError(f"{path}: no column {sorted(unknown)[0]!r}", f"it has {', '.join(names)}")
    with pa.OSFile(str(path)) as source:
        options = pa.ipc.IpcReadOptions(included_fields=[names.index(name) for name in columns], use_threads=False)
        reader = pa.ipc.open_file(source, options=options)
        for i in range(reader.num_record_batches):
            with damage(path):
                batch = reader.get_batch(i)
                if validate:
                    batch.validate(full=True)
            yield batch.select(columns)


def _open_file(path: Path, schema: pa.Schema) -> Dataset:
    """A file that no manifest vouches for."""
    ids, batches = columns_of(path, schema)
    first = 0
    with pa.memory_map(str(path)) as source, damage(path):
        reader = pa.ipc.open_file(source)
        for i in range(reader.num_record_batches):
            batch = reader.get_batch(i)
            batch.validate(full=True)
            if fault := first_fault(batch, schema):
                where = row_name(path, first + fault[0], ids[first + fault[0]])
                raise DataError(f"{where}: {fault[1]}", "drop the row")
            first += batch.num_rows
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        raise DataError(
            f"{path}: id {twice[0]['values'].as_py()!r} is there {twice[0]['counts']} times", "drop the copies"
        )
    sha256 = sha256_of(path)
    manifest = {"schema": name_of(schema), "rows": len(ids)}
    return Dataset(path, manifest, sha256, [DataFile(path, sha256, batches, verified=True)], ids)


def _not_finished(folder: Path, schema: pa.Schema) -> DataError:
    if not folder.exists():
        return DataError(f"no dataset at {folder}", how_to_make(schema))
    if (folder / JOURNAL).exists() or (folder / RUN).exists():
        fix = "run the command that writes it again: it resumes"
        return DataError(f"{folder}: not a finished dataset, its run was interrupted", fix)
    return DataError(f"{folder}: not a finished dataset, it has no {MANIFEST}", how_to_make(schema))
