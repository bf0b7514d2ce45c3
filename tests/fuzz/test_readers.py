"""Twenty thousand inputs that nobody would write, for every reader of strangers' data: no fault, and the same again."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.targets import TARGETS

BOUNDED = settings(
    derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), print_blob=False
)


def spoiled(seeds, tokens):
    """Bytes: pieces in any order, or a whole input with pieces in place of some of its bytes."""
    piece = st.sampled_from([*tokens, b"\x00", b"a", b"\xc3", b" ", b"-", b"\xf0\x9f\x98\x80"])
    edit = st.tuples(st.integers(0, 999), st.integers(0, 12), piece)
    whole = st.sampled_from(seeds)
    return st.lists(piece, max_size=12).map(b"".join) | st.builds(_edited, whole, st.lists(edit, max_size=4))


def _edited(whole, edits):
    for place, length, piece in edits:
        at = place * len(whole) // 999
        whole = whole[:at] + piece + whole[at + length :]
    return whole


def test_there_are_twenty_thousand():
    assert sum(count for count, _, _ in TARGETS.values()) >= 20_000


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_no_input_makes_a_reader_fail(target, tmp_path):
    count, seeds, tokens = TARGETS[target]

    @settings(BOUNDED, max_examples=count)
    @given(spoiled(seeds, tokens))
    def read(data):
        target(data, tmp_path)

    read()
