"""Tables of hostile cells, drawn three ways and read back: every cell arrives whole, and none acts."""

import re
import shutil
import subprocess

import pytest

from medvlm_cli.teachers.sheets import Sheet, as_latex, as_markdown, as_text
from medvlm_cli.teachers.statistics import tabulate
from tests.plugins.test_statistics import ENTRIES, MIX

HOSTILE = [
    "a|b", "a \\| b", "back\\slash", "\\", "$x^2$", "100 %", "% a comment", "<script>alert(1)</script>", "<b>&amp;</b>",
    "two\nlines", "line\r\nend\n| --- |", "tab\tstop", "größer 测试 ελ 🫀", "`code`", "**bold** _it_ ~~no~~",
    "[link](javascript:alert(1))", "![x](https://evil.example)", "# heading", "&", "#1", "{", "}", "}}{{", "~", "^",
    "\\end{tabular}", "\\input{/etc/passwd}", "\\write18{id}", "\\begin{verbatim}", '"quoted"', "'", "[1em]", "*",
    "--- :", "", " ", "\x1b[31mred", "\u202eover", "^^5cinput{x}", "-", "=1+1", "a&b\\\\", "$$", "x" * 300,
]  # fmt: skip


def sheet(cells=tuple(HOSTILE)):
    """A table whose names are the cells, with a number beside each."""
    return Sheet("A title", ("name", "count"), [(cell, f"{number:,}") for number, cell in enumerate(cells)])


def shown(cell):
    """What of a cell is to be seen: one line of at most 80 characters, nothing that steers."""
    flat = " ".join(cell.split())[:80]
    return flat.replace("\x1b", "\\u001b").replace("\u202e", "\\u202e")


def plain_markdown(text):
    """A cell as a reader of GitHub's Markdown shows it: a backslash before punctuation shows what follows."""
    return re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", text)


def split_markdown(line):
    """The cells of a line of a table, cut at every bar that no backslash stands before."""
    return [cell.strip() for cell in re.findall(r"((?:\\.|[^\\|])*)\|", line)[1:]]


TOKENS = re.compile(r"\\[a-zA-Z]+\*?|\\.|[{}&$%#_^~]|[^\\{}&$%#_^~]+", re.DOTALL)
SAYS = {
    r"\textbackslash": "\\", r"\textasciitilde": "~", r"\textasciicircum": "^", r"\textless": "<", r"\textgreater": ">",
    r"\textbar": "|", r"\&": "&", r"\%": "%", r"\$": "$", r"\#": "#", r"\_": "_", r"\{": "{", r"\}": "}",
}  # fmt: skip


def read_latex(cell):
    """A cell of LaTeX as it is set; fails where a character acts, a command is not known, or braces do not match."""
    said, depth = [], 0
    for token in TOKENS.findall(cell):
        depth += {"{": 1, "}": -1}.get(token, 0)
        assert depth >= 0, cell
        assert token not in set("&$%#_^~"), cell
        assert not token.startswith("\\") or token in SAYS, cell
        said.append("" if token in "{}" else SAYS.get(token, token))
    assert depth == 0, cell
    return "".join(said)


def latex_rows(text):
    """The cells of the table of a float."""
    body = text.split("\\hline\n", 1)[1].split("\n\\end{tabular}")[0]
    return [line.removesuffix(r" \\").split(" & ") for line in body.split("\n") if line != r"\hline"]


def test_every_cell_of_the_markdown_comes_back_whole_and_on_its_line():
    table = as_markdown(sheet()).split("\n\n")[1].strip().split("\n")
    read = [split_markdown(line) for line in table]
    assert read[:2] == [["name", "count"], ["---", "---:"]]
    assert [[plain_markdown(cell) for cell in line] for line in read[2:]] == [
        [shown(cell).strip(), str(number)] for number, cell in enumerate(HOSTILE)
    ]


def test_nothing_in_a_cell_of_the_markdown_begins_markup():
    cells = [split_markdown(line)[0] for line in as_markdown(sheet()).split("\n\n")[1].strip().split("\n")[2:]]
    assert len(cells) == len(HOSTILE)
    unescaped = [re.sub(r"\\[!-/:-@\[-`{-~]", "", cell) for cell in cells]
    assert [cell for cell in unescaped if re.search(r"[\\|`*_<>\[\]#&!~$]", cell)] == []


def test_every_cell_of_the_latex_comes_back_and_no_character_acts():
    rows = latex_rows(as_latex(sheet()))
    assert rows[0] == ["name", "count"]
    assert len(rows) == 1 + len(HOSTILE)
    expected = [re.sub(r"[^ -~]", lambda one: f"U+{ord(one[0]):04X}", shown(cell)).replace('"', "''") for cell in HOSTILE]  # fmt: skip # noqa: E501
    assert [read_latex(cell) for cell, _ in rows[1:]] == expected


def test_latex_is_ascii_and_no_line_of_it_begins_an_option_of_the_line_before():
    text = as_latex(sheet())
    assert text.isascii()
    assert [line for line in text.split("\n") if line.startswith(("[", "*"))] == []


def test_the_environments_of_the_latex_match_whatever_the_cells_say():
    text = as_latex(sheet())
    assert re.findall(r"(?<!\\)\\(?:begin|end)\{\w+\}", text) == [
        r"\begin{table}", r"\begin{tabular}", r"\end{tabular}", r"\end{table}"
    ]  # fmt: skip
    assert text.count("\\hline") == 3


def test_the_text_has_a_line_a_row_and_nothing_that_steers_a_terminal():
    lines = as_text(sheet()).split("\n")
    assert len(lines) == 3 + len(HOSTILE) + 1
    assert [line.rsplit(None, 1) for line in lines[3:-1]] == [
        [*filter(None, [shown(cell).strip()]), str(number)] for number, cell in enumerate(HOSTILE)
    ]
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", "".join(lines)) is None


def test_numbers_of_the_text_end_in_one_column_and_names_begin_in_one():
    lines = as_text(Sheet("T", ("name", "n", "m"), [("a", "1", "2"), ("longer", "1,000", "20")])).split("\n")
    assert lines == [
        "T",
        "name        n   m",
        "-" * 17,
        "a           1   2",
        "longer  1,000  20",
        "",
    ]


def test_a_note_stands_below_the_table():
    made = Sheet("T", ("a", "b"), [("x", "1")], note="100 % of it.")
    assert as_text(made).endswith("\n100 % of it.\n")
    assert as_markdown(made).endswith("\n\n100 % of it.\n")
    assert "\\par\\smallskip 100 \\% of it.\n" in as_latex(made)


def test_a_cell_is_cut_at_80_characters():
    assert "x" * 80 in as_text(sheet()) and "x" * 81 not in as_text(sheet())


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_takes_it(tmp_path):
    body = as_latex(sheet()) + tabulate(ENTRIES, MIX).latex()
    text = f"\\documentclass{{article}}\\begin{{document}}\n{body}\n\\end{{document}}\n"
    (tmp_path / "t.tex").write_text(text)
    done = subprocess.run(["pdflatex", "-halt-on-error", "-interaction=batchmode", "t.tex"], cwd=tmp_path, timeout=60)
    assert done.returncode == 0
