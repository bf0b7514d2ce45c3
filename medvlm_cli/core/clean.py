"""Untrusted text made printable: captions, model answers and file names never reach a terminal raw.

Rich passes ESC through unchanged, even from ``Text`` and ``escape``, so a caption could set the window's title or
clear the screen.  Everything that goes to a terminal or a log goes through ``clean`` first.
"""

import unicodedata

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode categories a terminal obeys instead of showing: controls (C0, DEL, C1), format characters (bidirectional
overrides, zero-width characters, tags), surrogates, line and paragraph separators."""


class _Visible(dict[int, str | int]):
    """What ``str.translate`` asks for each character; learned one character at a time, so importing costs nothing."""

    def __missing__(self, code: int) -> str | int:
        hidden = unicodedata.category(chr(code)) in _HIDDEN and chr(code) not in "\n\t"
        self[code] = (f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}") if hidden else code
        return self[code]


_VISIBLE = _Visible()


def clean(text: str) -> str:
    r"""``text`` with every character that could steer a terminal written out, ESC as ``\u001b``.

    New lines and tabs stay.  Each character is judged alone, so ``clean(a + b) == clean(a) + clean(b)``: a stream is
    cleaned piece by piece, and a control sequence cut between two pieces is as harmless as a whole one.
    """
    return text.translate(_VISIBLE)


def clean_json(text: str) -> str:
    r"""JSON as ``clean`` makes any text, but with JSON's own escapes, so that it still says the same.

    Args:
        text: what ``json.dumps`` gave; without ``ensure_ascii`` it leaves DEL, C1 and lone surrogates as they are.
    """
    if clean(text) == text:
        return text
    return "".join(one if clean(one) == one else _escaped(one) for one in text)


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
