"""An image in the terminal: half blocks anywhere, or the pixels by kitty's graphics protocol or by sixel.

The terminal is never asked what it can do: its answer arrives as if it were typed.  ``auto`` goes by what the terminal
says of itself in the environment.
"""

import base64
import io
import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.color import Color
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from medvlm_cli.core.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

WAYS = ("auto", "kitty", "sixel", "half", "none")
COLUMNS = 48
"""Widest preview of an image, in columns of the terminal."""
CELL = 10, 20
"""Pixels of a character, width and height, as most terminals draw it: what sixel is sized by."""
COLOURS = 128
"""Most colours of a sixel picture."""
_CHUNK = 4096
_KITTY_PROGRAMS = ("ghostty", "WezTerm")
_SIXEL_TERMINALS = ("foot", "mlterm", "contour", "yaft", "sixel")


def way_to_show(asked: str, console: Console, environment: Mapping[str, str]) -> str:
    """How to show images on a console.

    Args:
        asked: one of ``WAYS``; any but ``auto`` is taken as it is, on a terminal.
        console: where it will be shown.
        environment: of the process.

    Returns:
        ``kitty``, ``sixel``, ``half`` or ``none``; off a terminal ``none``.

    Raises:
        ConfigError: ``asked`` is none of ``WAYS``.
    """
    if asked not in WAYS:
        raise ConfigError(f"--preview {asked}", f"give one of {', '.join(WAYS)}")
    if not console.is_terminal or console.is_dumb_terminal:
        return "none"
    if asked != "auto":
        return asked
    terminal, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    multiplexed = environment.get("TMUX") or environment.get("STY") or terminal.startswith(("tmux", "screen"))
    if not multiplexed:
        if "kitty" in terminal or "ghostty" in terminal or program in _KITTY_PROGRAMS:
            return "kitty"
        if terminal.startswith(_SIXEL_TERMINALS):
            return "sixel"
    return "none" if console.no_color or console.color_system is None else "half"


def preview(image: "Image.Image", way: str, console: Console, columns: int = COLUMNS) -> None:
    """Show an image, as large as the console lets it be.

    Args:
        image: RGB.
        way: ``kitty``, ``sixel``, ``half`` or ``none``.
        console: where to.
        columns: widest that it may be, in characters.
    """
    if way == "none":
        return
    columns, rows = fitted(image.size, min(columns, console.width - 1), max(console.height * 2 // 3, 4))
    if way == "half":
        console.print(HalfBlocks(image, columns, rows), end="")
        return
    code = kitty(image, columns, rows) if way == "kitty" else sixel(image, columns * CELL[0], rows * CELL[1])
    console.file.write(code + "\n")
    console.file.flush()


def fitted(size: tuple[int, int], columns: int, rows: int) -> tuple[int, int]:
    """Columns and rows that an image takes of those there are, if a character is twice as high as it is wide."""
    width, height = size
    scale = min(columns / width, 2 * rows / height)
    return max(1, round(width * scale)), max(1, round(height * scale / 2))


class HalfBlocks:
    """An image as lines of upper half blocks: each character shows two pixels, one above the other."""

    def __init__(self, image: "Image.Image", columns: int, rows: int) -> None:
        self._small = image.convert("RGB").resize((columns, 2 * rows))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """A segment a character; Rich lowers the colours to what the terminal has."""
        width, height = self._small.size
        pixels = self._small.tobytes()
        colours = [Color.from_rgb(*pixels[start : start + 3]) for start in range(0, len(pixels), 3)]
        for row in range(0, height, 2):
            for column in range(width):
                above, below = colours[row * width + column], colours[(row + 1) * width + column]
                yield Segment("\u2580", Style(color=above, bgcolor=below))
            yield Segment.line()


def kitty(image: "Image.Image", columns: int, rows: int) -> str:
    """The codes that show an image by kitty's graphics protocol, scaled by the terminal to so many characters.

    Source: the protocol's description, "Terminal graphics protocol" of kitty: PNG in base64, 4,096 characters a piece.
    ``q=2``: the terminal does not answer.
    """
    shown = image.convert("RGB")
    shown.thumbnail((2 * columns * CELL[0], 2 * rows * CELL[1]))
    png = io.BytesIO()
    shown.info.clear()
    shown.save(png, "PNG")
    text = base64.standard_b64encode(png.getvalue()).decode("ascii")
    chunks = [text[start : start + _CHUNK] for start in range(0, len(text), _CHUNK)]
    keys = [f"a=T,f=100,q=2,c={columns},r={rows},", *[""] * (len(chunks) - 1)]
    more = [*[1] * (len(chunks) - 1), 0]
    return "".join(f"\x1b_G{key}m={m};{chunk}\x1b\\" for key, m, chunk in zip(keys, more, chunks, strict=True))


def sixel(image: "Image.Image", width: int, height: int) -> str:
    """The codes that show an image as sixels: colours by number, and bands of six rows, a pass a colour.

    Source: DEC's "VT330/VT340 Programmer Reference Manual", volume 2, chapter 14.
    """
    import numpy as np

    small = image.convert("RGB").resize((width, height)).quantize(COLOURS)
    palette = small.getpalette() or []
    pixels = np.asarray(small)
    used = np.unique(pixels).tolist()
    shares = [[round(value * 100 / 255) for value in palette[3 * number : 3 * number + 3]] for number in used]
    colours = "".join(f"#{number};2;{r};{g};{b}" for number, (r, g, b) in zip(used, shares, strict=True))
    bands = (_band(pixels[top : top + 6]) for top in range(0, height, 6))
    return f'\x1bP0;1;0q"1;1;{width};{height}{colours}{"-".join(bands)}\x1b\\'


def _band(rows: "np.ndarray") -> str:
    """Six rows, ``(6, width)`` or fewer: for each colour the sixels it fills, runs of more than three counted."""
    import numpy as np

    weights = (1 << np.arange(len(rows), dtype=np.uint8))[:, None]
    passes = []
    for number in np.unique(rows).tolist():
        bits = ((rows == number) * weights).sum(axis=0)
        ends = int(np.flatnonzero(bits)[-1]) + 1
        runs = ((chr(63 + value), len(list(run))) for value, run in itertools.groupby(bits[:ends].tolist()))
        passes.append(f"#{number}" + "".join(f"!{count}{sign}" if count > 3 else sign * count for sign, count in runs))
    return "$".join(passes)
