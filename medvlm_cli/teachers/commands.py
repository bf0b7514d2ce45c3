"""V9: a source that speaks to whoever writes about it, which no caption of a figure does.

A teacher may obey such a source, and no pattern knows the answer that did.  So a conversation about a source that
plainly gives commands is a reject as a whole; of one that only seems to, what it puts in quotation marks may not come
again.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

_QUOTED = re.compile(r"\"([^\"]{2,200})\"|“([^”]{2,200})”|„([^“”]{2,200})[“”]|«([^»]{2,200})»|‘([^’]{2,200})’")
_WORD = re.compile(r"\w+")


class CommandPatterns:
    """What commands look like: ``commands``, ``roles`` and ``addressed`` of ``rules.yaml``, and its ``injection``."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self.commands = _any(table["commands"] + table["injection"], re.IGNORECASE)
        self.roles = _any(table["roles"])
        self.addressed = _any(table["addressed"], re.IGNORECASE)


class Commands:
    """The commands of one source.

    Args:
        source: caption and sentences.
        patterns: of the rules.
    """

    def __init__(self, source: str, patterns: CommandPatterns) -> None:
        if not source.isprintable():  # a command may be cut by characters that nobody sees
            source = "".join(one for one in source if unicodedata.category(one) != "Cf")
        self.given = bool(patterns.commands.search(source) or patterns.roles.search(source))
        """The source plainly speaks to a writer, or plays a conversation."""
        quoted = _QUOTED.findall(source) if patterns.addressed.search(source) else []
        self._quoted = [words for groups in quoted for group in groups if (words := _bare(group)).strip()]

    def obeyed_by(self, text: str) -> bool:
        """Whether a text says what the source puts in quotation marks, where it seems to speak to a writer."""
        return bool(self._quoted) and any(words in _bare(text) for words in self._quoted)


def _bare(text: str) -> str:
    """The words of a text in small letters, a space around each."""
    return f" {' '.join(_WORD.findall(text.lower()))} "


def _any(patterns: Sequence[str], flags: int = 0) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in patterns), flags)
