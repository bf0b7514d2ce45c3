"""Tables of words, drawn for a terminal, in Markdown and in LaTeX; nothing in a cell ends it or begins markup."""

import re
from dataclasses import dataclass

from medvlm_cli.core.clean import clean

_CELL = 80
"""Most characters of a cell."""


@dataclass(frozen=True)
class Sheet:
    """A table, ready to be drawn: the first ``names`` columns are text, the others numbers.

    Title and note are our own words, cells may be anybody's.
    """

    title: str
    columns: tuple[str, ...]
    lines: list[tuple[str, ...]]
    names: int = 1
    note: str = ""


def _short(text: str) -> str:
    return clean(" ".join(text.split())[:_CELL])


def as_text(sheet: Sheet) -> str:
    """Columns of one width each, for a terminal."""
    rows = [tuple(map(_short, line)) for line in (sheet.columns, *sheet.lines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            cell.ljust(width) if number < sheet.names else cell.rjust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    rule = "-" * (sum(widths) + 2 * len(widths) - 2)
    return "\n".join([sheet.title, lines[0], rule, *lines[1:], *([sheet.note] if sheet.note else []), ""])


def _in_markdown(text: str) -> str:
    return "".join(f"\\{char}" if char in r"\|`*_<>[]#&!~$" else char for char in _short(text))


def as_markdown(sheet: Sheet) -> str:
    """A heading and a table of GitHub's Markdown."""
    marks = ["---" if number < sheet.names else "---:" for number in range(len(sheet.columns))]
    rows = [[*map(_in_markdown, sheet.columns)], marks, *([*map(_in_markdown, line)] for line in sheet.lines)]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"### {sheet.title}\n\n{table}\n" + (f"\n{sheet.note}\n" if sheet.note else "")


_TEX = {char: f"\\{char}" for char in "&%$#_{}"} | {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "[": "{[}", "]": "{]}", "*": "{*}",
}  # fmt: skip
"""Also what would be an option of the line's end before it."""


def _in_latex(text: str) -> str:
    plain = re.sub(r"[^ -~]", lambda found: f"U+{ord(found[0]):04X}", text)
    return "".join(_TEX.get(char, char) for char in plain)


def as_latex(sheet: Sheet) -> str:
    """A float that asks for no package; what is not ASCII is written as its number.

    The box centres a table that is wider than the text.
    """
    rows = [" & ".join(_in_latex(_short(cell)) for cell in line) + r" \\" for line in (sheet.columns, *sheet.lines)]
    return "\n".join(
        [
            r"\begin{table}[htbp]",
            r"\centering\footnotesize\setlength{\tabcolsep}{3pt}",
            rf"\caption{{{_in_latex(sheet.title)}}}",
            r"\makebox[\textwidth]{%",
            rf"\begin{{tabular}}{{{'l' * sheet.names}{'r' * (len(sheet.columns) - sheet.names)}}}",
            *(r"\hline", rows[0], r"\hline", *rows[1:], r"\hline"),
            r"\end{tabular}}",
            *([rf"\par\smallskip {_in_latex(sheet.note)}"] if sheet.note else []),
            r"\end{table}",
            "",
        ]
    )
