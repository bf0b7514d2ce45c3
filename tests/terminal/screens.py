"""A terminal's screen in a few lines: what is left to see after all that was drawn."""

import io
import re

from rich.console import Console

from medvlm_cli.terminal import answer

CODE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])")


def console(height=24, width=60, **options):
    """A console that believes it is a terminal of 256 colours."""
    given = {"force_terminal": True, "color_system": "256", "width": width, "height": height, "highlight": False}
    return Console(file=io.StringIO(), **given | options)


def left_to_see(written, height=10**9):
    """The lines that stand on the screen, blanks at their ends left out; fails where more is erased than is seen."""
    lines, row, column, place = [""], 0, 0, 0
    while place < len(written):
        code = CODE.match(written, place)
        if code:
            place = code.end()
            if code[2] == "A":
                row -= int(code[1] or 1)
                assert row >= max(0, len(lines) - height), "the cursor cannot go above the screen"
            elif code[2] == "K":
                lines[row] = ""
            continue
        sign = written[place]
        place += 1
        if sign == "\n":
            row, column = row + 1, 0
            lines += [""] * (row == len(lines))
        elif sign == "\r":
            column = 0
        else:
            lines[row] = lines[row][:column].ljust(column) + sign + lines[row][column + 1 :]
            column += 1
    while lines and not lines[-1].strip():
        del lines[-1]
    return [line.rstrip() for line in lines]


def shown(pieces, monkeypatch, frames=True, **options):
    """What is left to see of an answer, every piece a frame, or none."""
    monkeypatch.setattr(answer, "FRAME_SECONDS", -1.0 if frames else 1e9)
    screen = console(**options)
    answer.show(iter(pieces), screen)
    return left_to_see(screen.file.getvalue(), screen.height)
