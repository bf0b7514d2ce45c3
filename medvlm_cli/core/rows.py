"""Rows against their schema: what Arrow takes without a word, and must not be taken.

pyarrow drops unknown keys, fills missing ones with null, ignores ``nullable=False``, cuts 1.5 to 1 and takes a string
for a list of its letters.  Rows are checked before they become Arrow, null values after, files of others field by
field.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.schemas import is_optional, is_required, name_of

_FIX = "fix the source, or drop the row before writing"


def to_batch(rows: Sequence[dict], schema: pa.Schema, where: Callable[[int], str]) -> pa.RecordBatch:
    """Rows as one record batch of ``schema``, every one of them checked.

    Args:
        rows: one dict a row, with exactly the schema's keys.
        schema: one of ``core.schemas``.
        where: names the row of a position in ``rows``, for messages.

    Raises:
        DataError: a missing or unknown key, a value of another type, text that is not Unicode, a null that the
            schema forbids; the message names row and column.
    """
    shape = _shape(pa.struct(list(schema)))
    for position, row in enumerate(rows):
        if problem := _shape_problem(row, shape, ""):
            raise DataError(f"{where(position)}: {problem} ({name_of(schema)})", _FIX)
    try:
        batch = pa.RecordBatch.from_pylist(list(rows), schema=schema)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise _located(rows, schema, where) or error from error
    if fault := first_fault(batch, schema):
        raise DataError(f"{where(fault[0])}: {fault[1]}", _FIX)
    return batch


class _Shape(NamedTuple):
    """What is to be looked at in the values of a type; made once for many rows."""

    type: pa.DataType
    item: "_Shape | None" = None
    """Of a list, the shape of an item; None where there is nothing to look at."""
    names: tuple[str, ...] = ()
    """Of a struct, its keys."""
    parts: "tuple[tuple[str, _Shape], ...]" = ()
    """Of a struct, the keys whose values are to be looked at."""


def _shape(type_: pa.DataType) -> _Shape | None:
    """The shape of a type; None for one whose values Arrow itself looks at closely enough."""
    if pa.types.is_integer(type_):
        return _Shape(type_)
    if pa.types.is_struct(type_):
        parts = ((field.name, _shape(field.type)) for field in type_)
        names = tuple(field.name for field in type_)
        return _Shape(type_, None, names, tuple((name, shape) for name, shape in parts if shape))
    return _Shape(type_, _shape(type_.value_type)) if pa.types.is_nested(type_) else None


def _shape_problem(value: Any, shape: _Shape | None, path: str) -> str:
    """What is wrong with the keys of a row, down into lists and structs; empty when nothing is."""
    if value is None or shape is None:
        return ""
    if shape.names:
        if not isinstance(value, dict):
            return f"'{path}' is a {type(value).__name__}, not a dict"
        if value.keys() != set(shape.names):
            return _key_problem(value, shape.names, path)
        problems = (_shape_problem(value[name], part, _join(path, name)) for name, part in shape.parts)
        return next(filter(None, problems), "")
    if pa.types.is_nested(shape.type):
        if isinstance(value, str | bytes | dict):
            return f"'{path}' is a {type(value).__name__}, not a list"
        if shape.item is None or (isinstance(value, np.ndarray) and value.dtype.kind in "iu"):
            return ""  # whole numbers, each of them: 2.8 million in one row of features
        problems = (_shape_problem(item, shape.item, f"{path}[{i}]") for i, item in enumerate(value))
        return next(filter(None, problems), "")
    if isinstance(value, float | np.floating):
        return f"'{path}' must be {shape.type}, not {value}"  # pyarrow would cut the fraction off
    return ""


def _key_problem(value: dict, names: Sequence[str], path: str) -> str:
    if missing := [name for name in names if name not in value]:
        return f"key '{_join(path, missing[0])}' is missing"
    return f"unknown key '{_join(path, next(name for name in value if name not in names))}'"


def _join(path: str, name: object) -> str:
    return f"{path}.{name}" if path else str(name)


def _located(rows: Sequence[dict], schema: pa.Schema, where: Callable[[int], str]) -> DataError | None:
    """The first value that Arrow refuses, by trying them one by one."""
    for position, row in enumerate(rows):
        for field in schema:
            try:
                pa.array([row[field.name]], type=field.type)
            except UnicodeEncodeError:
                return DataError(f"{where(position)}: '{field.name}' holds a lone surrogate, which is not text", _FIX)
            except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
                reason = str(error).splitlines()[0][:200].encode("ascii", "backslashreplace").decode()
                return DataError(f"{where(position)}: '{field.name}' must be {field.type}: {reason}", _FIX)
    return None


def first_fault(batch: pa.RecordBatch, schema: pa.Schema) -> tuple[int, str] | None:
    """Row and description of the first value that Arrow lets pass and ``schema`` does not; None when there is none.

    That is a null in a required column, down into its lists and structs except for children marked optional, and a
    hash of another length, in a file whose writer knows no fixed-size columns.
    """
    for field in schema:
        array = batch.column(field.name)
        if is_required(field) and (null := _null_in(array, field, field.name)):
            return null[0], f"'{null[1]}' is null, {name_of(schema)} requires it"
        if pa.types.is_fixed_size_binary(field.type) and array.type != field.type:
            width = field.type.byte_width
            wrong = pc.index(pc.not_equal(pc.binary_length(array.cast(pa.large_binary())), width), True).as_py()
            if wrong >= 0:
                return wrong, f"'{field.name}' is not {width} bytes long"
    return None


def _null_in(array: pa.Array, field: pa.Field, path: str) -> tuple[int, str] | None:
    if array.null_count:
        return pc.index(array.is_null(), True).as_py(), path
    if pa.types.is_struct(field.type):
        children = dict(zip((child.name for child in array.type), array.flatten(), strict=True))
        for child in field.type:
            if not is_optional(child) and (found := _null_in(children[child.name], child, _join(path, child.name))):
                return found
    elif pa.types.is_nested(field.type) and (found := _null_in(array.flatten(), field.type.value_field, f"{path}[]")):
        return pc.list_parent_indices(array)[found[0]].as_py(), found[1]
    return None


def size_of(value: Any) -> int:
    """About how many bytes a value takes in Arrow; never fewer, for text and bytes."""
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, str):
        return len(value) if value.isascii() else 4 * len(value)
    if isinstance(value, dict):
        return sum(map(size_of, value.values()))
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, list | tuple):
        return 8 * len(value) if value and isinstance(value[0], int | float) else sum(map(size_of, value))
    return 8


def differences(found: pa.Schema, wanted: pa.Schema) -> list[str]:
    """How a file's columns differ from those of a schema of ours, one line a column.

    ``large_`` and view types are as good as the plain ones, and columns of which the schema knows nothing are no
    difference.
    """
    lines = []
    for field in wanted:
        indices = found.get_all_field_indices(field.name)
        if len(indices) != 1:
            lines.append(f"'{field.name}' is {'there more than once' if indices else 'missing'}")
        elif not _alike(found.field(indices[0]).type, field.type):
            lines.append(f"'{field.name}' is {found.field(indices[0]).type}, not {field.type}")
    return lines


def _alike(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_fixed_size_binary(wanted) and _plain(found) == pa.binary():
        return True  # as polars writes it; ``first_fault`` looks at the lengths
    return _plain(found) == _plain(wanted)


def _plain(type_: pa.DataType) -> pa.DataType:
    """The type without what only says how it is stored."""
    is_ = pa.types
    if is_.is_large_string(type_) or is_.is_string_view(type_):
        return pa.string()
    if is_.is_large_binary(type_) or is_.is_binary_view(type_):
        return pa.binary()
    if is_.is_fixed_size_list(type_):
        return pa.list_(_plain(type_.value_type), type_.list_size)
    if is_.is_list(type_) or is_.is_large_list(type_) or is_.is_list_view(type_) or is_.is_large_list_view(type_):
        return pa.list_(_plain(type_.value_type))
    if is_.is_struct(type_):
        return pa.struct([pa.field(field.name, _plain(field.type)) for field in type_])
    return type_


def read_ids(source: pa.NativeFile, name: str, path: Path) -> tuple[pa.Array, list[int]]:
    """The id column of an Arrow file and the rows of each of its batches; of the other columns nothing is read.

    Args:
        source: the file, for ordinary reads.
        name: of the id column, which is there.
        path: names the file, for messages.

    Raises:
        DataError: it is not a whole Arrow file, or the column does not hold what it claims.
    """
    with damage(path):
        index = pa.ipc.open_file(source).schema.get_field_index(name)
        options = pa.ipc.IpcReadOptions(included_fields=[index], use_threads=False)
        reader = pa.ipc.open_file(source, options=options)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        for batch in batches:
            batch.validate(full=True)  # a flipped bit here crashes the process otherwise
        ids = [pa.array([], pa.string()), *(batch.column(0).cast(pa.string()) for batch in batches)]
        return pa.concat_arrays(ids), [batch.num_rows for batch in batches]


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turn what pyarrow says about a file that it cannot read into an error that names the file.

    Raises:
        DataError: the file is cut off, or bits of it are not what they were.
    """
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's, not pyarrow's
            raise
        raise DataError(f"{path}: not a whole Arrow file (cut off, or damaged)", "make or copy it again") from error
