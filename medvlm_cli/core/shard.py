"""One shard on its way to disk: rows in, checked batches out, a new file where the last one is full."""

from pathlib import Path

import pyarrow as pa

from medvlm_cli.core.commit import DurableFile, refusals
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.rows import read_ids, size_of, to_batch

BATCH_ROWS = 100
BATCH_BYTES = 16 << 20
"""A batch is closed before it grows past either; one row that is larger is a batch of its own."""
SHARD_BYTES = 500_000_000
"""A file is closed before it grows past this; the shard goes on in ``part-00000-1.arrow``."""

_OPTIONS = pa.ipc.IpcWriteOptions(metadata_version=pa.ipc.MetadataVersion.V5, compression=None, use_threads=False)


class Shard:
    """The files of one shard, still under temporary names.

    ``add`` rows, then ``settle`` and ``publish``; or ``discard``.  Nothing is written before the first full batch.
    """

    def __init__(self, folder: Path, stem: str, schema: pa.Schema) -> None:
        self.rows = 0
        self.path = folder / f"{stem}.arrow"
        self._folder = folder
        self._stem = stem  # "data/part-00003"
        self._schema = schema
        self._waiting: list[dict] = []
        self._waiting_bytes = 0
        self._files: list[DurableFile] = []
        self._file_rows: list[int] = []
        self._arrow: pa.ipc.RecordBatchFileWriter  # writes into the last of the files

    def add(self, row: dict) -> None:
        """Take one row; it is checked when its batch is full.

        Raises:
            DataError: a row of the batch is not what the schema says.
            ResourceError: the disk refuses.
        """
        size = size_of(row)
        if self._waiting and (len(self._waiting) == BATCH_ROWS or self._waiting_bytes + size > BATCH_BYTES):
            self._flush()
        self._waiting.append(row)
        self._waiting_bytes += size

    @property
    def taken(self) -> int:
        """Rows taken so far, written or waiting."""
        return self.rows + len(self._waiting)

    def _flush(self) -> None:
        start, rows = self.rows, self._waiting
        first = self._schema.names[0]

        def where(position: int) -> str:
            return row_name(self.path, start + position, rows[position].get(first))

        batch = to_batch(rows, self._schema, where)
        if self._files and self._files[-1].bytes + batch.nbytes > SHARD_BYTES and self._file_rows[-1]:
            self._close()
            self._open()
        elif not self._files:
            self._open()
        with refusals(self._folder):
            self._arrow.write_batch(batch)
        self._file_rows[-1] += len(rows)
        self.rows += len(rows)
        self._waiting, self._waiting_bytes = [], 0

    def _open(self) -> None:
        suffix = f"-{len(self._files)}" if self._files else ""
        self._files.append(DurableFile(self._folder / f"{self._stem}{suffix}.arrow"))
        self._file_rows.append(0)
        with refusals(self._folder):
            sink = pa.PythonFile(self._files[-1], mode="w")
            self._arrow = pa.ipc.new_file(sink, self._schema, options=_OPTIONS)

    def _close(self) -> None:
        with refusals(self._folder):
            self._arrow.close()
        self._files[-1].settle()

    def settle(self) -> dict[str, dict]:
        """Write the rest, make all files durable and read their footers back.

        Returns:
            ``{"data/part-00003.arrow": {"rows": ..., "bytes": ..., "sha256": ...}}``.

        Raises:
            DataError: a row of the last batch is not what the schema says.
            ResourceError: the disk refuses.
        """
        if self._waiting:
            self._flush()
        if not self._files:
            self._open()  # an empty shard is a file too: readers of the folder see every shard
        self._close()
        facts = {}
        for file, rows in zip(self._files, self._file_rows, strict=True):
            with pa.OSFile(str(file.tmp)) as source:
                _, batches = read_ids(source, self._schema.names[0], file.tmp)
            assert sum(batches) == rows and file.tmp.stat().st_size == file.bytes, file.tmp
            name = f"{Path(self._stem).parent}/{file.path.name}"
            facts[name] = {"rows": rows, "bytes": file.bytes, "sha256": file.sha256}
        return facts

    def publish(self) -> None:
        """Give the settled files their own names."""
        for file in self._files:
            file.publish()

    def discard(self) -> None:
        """Remove what was written so far; after ``publish``, nothing."""
        for file in self._files:
            file.discard()


def row_name(path: Path, row: int, id_: object) -> str:
    """``figures/data/part-00003.arrow, row 1187 (PMC7096066/fig2)``; rows count from 0."""
    shown = str(id_).encode("utf-8", "backslashreplace").decode()
    return f"{path}, row {row} ({shown})"


def duplicate(path: Path, row: int, id_: str, name: str) -> DataError:
    """The error for an id that is there already."""
    return DataError(f"{row_name(path, row, id_)}: '{name}' is there already", "give every row an id of its own")
