"""A model's words as Markdown on a terminal: no word is lost, and none of them steers the terminal.

Rich's own reader of Markdown drops HTML and deep quotes, turns ``&#13;`` into a carriage return and a link into an OSC
sequence, and raises at a stray ``</kbd>``.  A model says such things.
"""

import functools
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Heading, Markdown
from rich.segment import Segment
from rich.syntax import Syntax
from rich.text import Text

from medvlm_cli.core.clean import clean

MOST_CHARACTERS = 8_000
"""Longest block that is read as Markdown: reading takes time of more than its length, at every line anew."""
MOST_LINES = 300
"""Most lines of such a block."""
_DEEP = re.compile(r"^(?:\s*(?:[>*+-]|\d+[.)])){10}", re.MULTILINE)
"""More marks of quotes and lists than the reader follows: it drops what stands behind them."""


_FENCE = re.compile(r"^\s*(?:`{3,}|~{3,}).*$", re.MULTILINE)
_ENDED = frozenset({"paragraph_open", "heading_open", "table_open", "blockquote_open", "hr"})
"""What an empty line ends; a list may go on behind one."""


@dataclass(frozen=True)
class Block:
    """A paragraph, list, table or fence; ``plain`` where it is shown as it was written."""

    text: str
    plain: bool = False


class Blocks:
    """An answer cut into blocks while it comes: the same ones, wherever the stream is cut.

    After the first block that is too long, everything is plain.
    """

    def __init__(self) -> None:
        self._whole = ""  # lines of the open block
        self._last = ""  # the line that still grows
        self.plain = False

    @property
    def open(self) -> Block:
        """What has come of the block that is not finished."""
        return Block(self._whole + self._last, self.plain)

    def feed(self, text: str) -> list[Block]:
        """Take more of the answer; returns the blocks that it finished."""
        finished: list[Block] = []
        *lines, last = text.split("\n")
        for line in lines:
            whole, self._last = self._last + line, ""
            finished += self._end_line(whole)
        self._last += last
        if not self.plain and len(self._whole) + len(self._last) > MOST_CHARACTERS:
            self.plain = True
        return [*finished, *self.close()] if self.plain else finished

    def close(self) -> list[Block]:
        """What is left at the end of the answer."""
        left = self.open
        self._whole = self._last = ""
        return [left] if (left.plain and left.text) or left.text.strip() else []

    def _end_line(self, line: str) -> list[Block]:
        self._whole += line + "\n"
        if self.plain or len(self._whole) > MOST_CHARACTERS or self._whole.count("\n") > MOST_LINES:
            self.plain = True
            return self.close()
        return [] if line.strip() else self._finished()

    def _finished(self) -> list[Block]:
        """At an empty line: the blocks that no later line can change."""
        lines = self._whole.splitlines(keepends=True)
        tops = [
            token for token in _reader().parse(self._whole) if token.map and token.level == 0 and token.nesting >= 0
        ]
        cuts = [0, *(token.map[0] for token in tops[1:] if token.map)]
        last = tops[-1] if tops else None
        if last and last.map and (last.type in _ENDED or (last.type == "fence" and last.map[1] < len(lines))):
            cuts.append(len(lines))
        self._whole = "".join(lines[cuts[-1] :])
        return [Block("".join(lines[begin:end])) for begin, end in itertools.pairwise(cuts)]


@functools.cache
def _reader() -> MarkdownIt:
    """Markdown and no more: tags, entities, pictures and link definitions stay the words that they are."""
    rules = ["html_block", "html_inline", "entity", "reference", "image", "autolink"]
    return MarkdownIt().enable(["strikethrough", "table"]).disable(rules)


class _Heading(Heading):
    LEVEL_ALIGN: ClassVar = {}  # all to the left


class _Code(CodeBlock):
    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Without the empty lines around it: those between blocks are put there already."""
        code = str(self.text).rstrip()
        yield Syntax(code, self.lexer_name, theme=self.theme, word_wrap=True, padding=(0, 1))


class _Markdown(Markdown):
    elements: ClassVar = {**Markdown.elements, "heading_open": _Heading, "fence": _Code, "code_block": _Code}

    def __init__(self, text: str) -> None:
        super().__init__("", code_theme="ansi_dark", hyperlinks=False)
        self.parsed = _reader().parse(text)


@dataclass(frozen=True)
class Shown:
    """A block as a renderable; ``rows`` shows its last lines only."""

    block: Block
    rows: int | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Its lines, harmless and without blanks at their ends."""
        lines = [list(_harmless(line)) for line in _lines(self.block, console, options)]
        while lines and not _text(lines[0]):
            del lines[0]
        while lines and not _text(lines[-1]):
            del lines[-1]
        for line in lines[-self.rows :] if self.rows else lines:
            yield from line
            yield Segment.line()


def _lines(block: Block, console: Console, options: ConsoleOptions) -> list[list[Segment]]:
    options = options.update(height=None)
    if not block.plain and not _DEEP.search(block.text):
        try:
            lines = console.render_lines(_Markdown(block.text), options, pad=False)
        except (IndexError, ValueError, RuntimeError, AssertionError, RecursionError):
            lines = []  # a reader that meets what it did not expect must not take the answer away
        if sum(_letters(_text(line)) for line in lines) >= _letters(_FENCE.sub("", block.text)):
            return lines  # else a table does not fit, or a part was not shown
    return console.render_lines(Text(block.text, overflow="fold"), options, pad=False)


def _harmless(line: list[Segment]) -> Iterator[Segment]:
    """The segments of a line without links, controls, and blanks at its end."""
    while line and not line[-1].text.strip() and not (line[-1].style and line[-1].style.bgcolor):
        line = line[:-1]
    for place, (text, style, control) in enumerate(line):
        if not control:
            last = place == len(line) - 1 and not (style and style.bgcolor)
            yield Segment(clean(text.rstrip() if last else text), style.update_link(None) if style else None)


def _text(line: list[Segment]) -> str:
    return "".join(segment.text for segment in line).strip()


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))
