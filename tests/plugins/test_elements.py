import gzip
import json
import re
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medvlm_cli.core.errors import DataError
from medvlm_cli.sources import elements as module
from medvlm_cli.sources.elements import bounded_lines, elements, parse, read_at

FIX = "compare its size with that of the published file, and download it again"

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
rows = st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=8)


@pytest.fixture
def narrow(monkeypatch):
    """A window so narrow that almost every element is cut by it."""
    monkeypatch.setattr(module, "_CHUNK", 7)


def write(tmp_path, text, name="rows.json"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def refused(tmp_path, text, name="rows.json"):
    path = write(tmp_path, text, name)
    with pytest.raises(DataError) as error:
        list(elements(path))
    assert error.value.fix == FIX
    return error.value.what


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(array=st.lists(values, max_size=8), indent=st.sampled_from([None, 1]), ascii_=st.booleans())
def test_an_array_gives_what_json_load_gives(tmp_path, narrow, array, indent, ascii_):
    path = write(tmp_path, json.dumps(array, indent=indent, ensure_ascii=ascii_).encode("utf-8", "replace"))
    assert [element.value for element in elements(path)] == json.loads(path.read_text())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(given_rows=rows, ascii_=st.booleans(), packed=st.booleans())
def test_where_an_element_lies_is_told_in_bytes(tmp_path, narrow, given_rows, ascii_, packed):
    text = json.dumps(given_rows, ensure_ascii=ascii_, indent=1).encode("utf-8", "replace")
    path = write(tmp_path, gzip.compress(text) if packed else text)
    found = list(elements(path))
    module.forget()
    assert [json.loads(read_at(path, start, end)) for _, start, end in found] == json.loads(text)
    if found:
        stretch = read_at(path, found[0].start, found[-1].end).decode()
        assert [value for value, _ in parse(stretch)] == json.loads(text)
        assert [json.loads(raw) for _, raw in parse(stretch)] == json.loads(text)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=50)
@given(given_rows=rows.filter(bool), ascii_=st.booleans())
def test_json_lines_give_the_same_as_an_array(tmp_path, narrow, given_rows, ascii_):
    lines = "\n".join(json.dumps(row, ensure_ascii=ascii_) for row in given_rows).encode("utf-8", "replace")
    path = write(tmp_path, b"\xef\xbb\xbf" + lines + b"\n\n", "rows.jsonl")
    found = list(elements(path))
    assert [element.value for element in found] == [json.loads(line) for line in lines.split(b"\n")]
    assert [json.loads(read_at(path, start, end)) for _, start, end in found] == [element.value for element in found]


@pytest.mark.parametrize("width", range(1, 12))
def test_a_number_that_the_window_cuts_is_one_number(tmp_path, monkeypatch, width):
    monkeypatch.setattr(module, "_CHUNK", width)
    assert [element.value for element in elements(write(tmp_path, "[1234.5e+2, 1]"))] == [123450.0, 1]


def test_a_broken_row_is_named_with_its_line_and_byte(tmp_path, narrow):
    text = '[\n {"id": "é"},\n {"id": "b" "c"}\n]'
    byte = text.encode().index(b'"c"')
    assert refused(tmp_path, text) == f"rows.json, line 3, byte {byte}: not JSON (Expecting ',' delimiter)"


def test_a_file_that_is_cut_off_is_refused(tmp_path):
    assert refused(tmp_path, '[{"id": "a"}, {"id": "b') == (
        "rows.json, line 1, byte 21: not JSON (Unterminated string starting at)"
    )
    assert refused(tmp_path, '[{"id": "a"}') == "rows.json, line 1, byte 12: the array does not end"
    assert refused(tmp_path, '[{"id": "a"},') == "rows.json, line 1, byte 13: not JSON (Expecting value)"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "line 1, byte 0: the file is empty"),
        ("  \n ", "line 2, byte 4: the file is empty"),
        ("<html>", "line 1, byte 0: neither an array of rows nor JSON Lines"),
        ("[1 2]", "line 1, byte 3: ',' or ']' must follow a row"),
        ("[1,]", "line 1, byte 3: a comma behind the last row"),
        ("[,1]", "line 1, byte 1: not JSON (Expecting value)"),
        ("[1]\n[2]", "line 2, byte 4: something follows the array"),
        ('{"a": 1}\n{"b": }', "line 2, byte 15: not JSON (Expecting value)"),
        (b'[{"a": "\xff"}]', "byte 8: not UTF-8 (invalid start byte)"),
        (b'[{"a": "\xc3', "byte 8: not UTF-8 (unexpected end of data)"),
        ("[" * 100_000, "line 1, byte 1: nested too deeply"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path, text, what):
    assert refused(tmp_path, text) == f"rows.json, {what}"


def test_a_number_without_end_is_refused(tmp_path):
    assert "line 1, byte 1: not JSON (Exceeds the limit" in refused(tmp_path, f"[{'1' * 5000}, 2]")


def test_a_row_that_is_too_large_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_BYTES", 1 << 20)
    row = json.dumps({"id": "x" * (1 << 21)})
    what = "not JSON (Unterminated string starting at), or a row of more than 1 MiB"
    assert refused(tmp_path, f"[{row}, {row}]") == f"rows.json, line 1, byte 8: {what}"
    row = json.dumps({"id": "x" * ((1 << 20) + 1)})
    assert refused(tmp_path, f"[{row}]").endswith(": a row of more than 1 MiB")
    assert refused(tmp_path, f"[{row}, 1]").endswith(": a row of more than 1 MiB")


def test_a_gzip_that_is_cut_off_or_damaged_is_refused(tmp_path):
    packed = gzip.compress(json.dumps([{"id": str(number)} for number in range(10_000)]).encode())
    assert refused(tmp_path, packed[:-20]) == "rows.json: the compressed file is cut off or damaged"
    assert refused(tmp_path, packed[:999] + b"\0\0\0\0" + packed[1003:]) == (
        "rows.json: the compressed file is cut off or damaged"
    )


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'none'} is not there")):
        list(elements(tmp_path / "none"))


def test_a_file_much_larger_than_the_window_is_never_in_memory(tmp_path):
    row = json.dumps({"id": "é" * 500, "nested": [{"brace": "}{]["}] * 5})
    path = write(tmp_path, f"[{','.join([row] * 20_000)}]")
    tracemalloc.start()
    try:
        count = sum(1 for _ in elements(path))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_000
    assert path.stat().st_size > 20_000_000
    assert peak < 10_000_000


def test_a_gzip_is_read_on_and_not_from_its_beginning_for_every_block(tmp_path, monkeypatch):
    path = write(tmp_path, gzip.compress(b"0123456789"))
    opened = []
    really = module.open_plain
    monkeypatch.setattr(module, "open_plain", lambda path: opened.append(path) or really(path))
    module.forget()
    assert [read_at(path, start, start + 2) for start in (0, 4, 8, 2)] == [b"01", b"45", b"89", b"23"]
    assert opened == [path]


def test_a_line_that_is_too_long_is_counted_and_not_held(tmp_path):
    path = write(tmp_path, b"ab\r\n" + b"x" * 5_000_000 + b"\nabcd\n\nabcde\nend")
    tracemalloc.start()
    try:
        found = list(bounded_lines(path, 4))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == [(1, b"ab"), (2, None), (3, b"abcd"), (4, b""), (5, None), (6, b"end")]
    assert peak < 4_000_000
