"""An answer on stdout while it comes: drawn as Markdown on a terminal, plain words anywhere else."""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Protocol

from rich.console import Console
from rich.control import Control
from rich.segment import ControlType, Segment

from medvlm_cli.core.clean import clean
from medvlm_cli.terminal.markdown import Block, Blocks, Shown

FRAME_SECONDS = 0.08
"""How often the growing block is drawn anew, at most."""


class _Screen(Protocol):
    def add(self, text: str) -> None: ...
    def end(self, whole: bool) -> None: ...


def show(pieces: Iterator[str], console: Console, *, silent: bool = False) -> bool:
    """Show an answer as it comes, without its control sequences; Ctrl-C ends it.

    Args:
        pieces: the answer, piece by piece; closed when it is stopped.
        console: of stdout.
        silent: make the answer, and show nothing of it.

    Returns:
        Whether Ctrl-C ended it.
    """
    screen: _Screen = _Silent() if silent else _Drawn(console) if drawable(console) else _Plain(console)
    whole = False
    with _interruptible() as stopped:
        try:
            for piece in pieces:
                screen.add(clean(piece))
                if stopped():
                    break
            whole = True
        finally:
            screen.end(whole)
            with suppress(AttributeError):
                pieces.close()  # type: ignore[attr-defined]  # a list's iterator has nothing to close
    return stopped()


def drawable(console: Console) -> bool:
    """Whether lines can be drawn anew on a console: a terminal that knows how to move its cursor."""
    return console.is_terminal and not console.is_dumb_terminal


class _Silent:
    def add(self, text: str) -> None:
        pass

    def end(self, whole: bool) -> None:
        pass


class _Plain:
    """Words only; blanks at both ends are left out, so that stdout holds the answer and one line end."""

    def __init__(self, console: Console) -> None:
        self._file = console.file
        self._held = ""
        self._begun = False

    def add(self, text: str) -> None:
        text = self._held + (text if self._begun else text.lstrip())
        body = text.rstrip()
        self._held = text[len(body) :]
        if body:
            self._begun = True
            self._file.write(body)
            self._file.flush()

    def end(self, whole: bool) -> None:
        if self._begun or whole:  # what fails before its first word leaves stdout empty
            self._file.write("\n")
            self._file.flush()


class _Drawn:
    """Finished blocks are printed for good; the growing one is drawn anew in place, its last lines if it is tall."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._blocks = Blocks()
        self._begun = False
        self._ends_line = True
        self._plain_before = False
        self._drawn: list[int] = []  # columns of the lines of the growing block, as it is drawn now
        self._when = 0.0  # seconds, of the last frame
        console.show_cursor(False)

    def add(self, text: str) -> None:
        for block in self._blocks.feed(text):
            self._print(block)
        growing = self._blocks.open
        if not growing.plain and growing.text.strip() and time.monotonic() - self._when >= FRAME_SECONDS:
            self._draw(Shown(growing, rows=max(self._console.height - 3, 1)))

    def end(self, whole: bool) -> None:
        for block in self._blocks.close():
            self._print(block)
        if not self._ends_line or (whole and not self._begun):
            self._write("\n")
        self._console.show_cursor(True)

    def _draw(self, growing: Shown) -> None:
        self._when = time.monotonic()
        lines = self._console.render_lines(growing, pad=False)
        with self._console:  # one write, or it flickers
            self._erase()
            if self._begun:
                self._console.line()
            self._console.print(growing)
        self._drawn = [0] * self._begun + [Segment.get_line_length(line) for line in lines]

    def _erase(self) -> None:
        """Take the growing block away; a terminal that has become narrower has broken its lines into more rows."""
        rows = sum(max(1, -(-columns // self._console.width)) for columns in self._drawn)
        if rows:
            up: tuple[Any, ...] = ((ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2))
            self._console.control(Control(ControlType.CARRIAGE_RETURN, *up * rows))
        self._drawn = []

    def _print(self, block: Block) -> None:
        with self._console:
            self._erase()
            if self._begun and self._ends_line and not self._plain_before:
                self._console.line()
            if not block.plain:
                self._console.print(Shown(block))
        if block.plain:  # too long to be drawn: it runs on as it is
            self._write(block.text)
        self._begun, self._plain_before = True, block.plain
        self._ends_line = not block.plain or block.text.endswith("\n")

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Note the first Ctrl-C, so that it cuts no step of the model and no line in half; a second one raises."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if noted:
            raise KeyboardInterrupt
        noted.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: bool(noted)
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(noted)
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def no_echo() -> Iterator[None]:
    """Keep what is typed from the screen while no line is edited: it would stand among what is drawn, and again later.

    The line editor shows what it reads itself.  For a conversation alone: a process in the background that touches the
    terminal is stopped.
    """
    try:
        import termios  # not on Windows
    except ImportError:
        termios = None  # type: ignore[assignment]
    if termios is None or not sys.stdin.isatty():
        yield
        return
    state: list[Any] = termios.tcgetattr(sys.stdin)
    termios.tcsetattr(sys.stdin, termios.TCSANOW, [*state[:3], state[3] & ~termios.ECHO, *state[4:]])
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSANOW, state)
