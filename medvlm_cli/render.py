"""How progress and results look.  With ``app`` and ``terminal``, the only code that prints.

Results go to stdout, everything else to stderr.  On a terminal progress is a Rich bar; off one, a plain line every 30
seconds, because Rich prints nothing until the end there and a cluster's log would look dead for hours.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console, RenderableType
from rich.logging import RichHandler
from rich.padding import Padding
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from medvlm_cli.core.clean import clean, clean_json
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.record import redact
from medvlm_cli.core.tell import Tell

HEARTBEAT_SECONDS = 30.0
WIDTH = 160
"""Columns of a table off a terminal, where Rich would cut words to fit 80."""
COUNTED_ROWS = 12
"""Most rows of a table of counts on a terminal."""
LOSS_STYLES = {"target": "bold green", "ignored": "dim", "image": "cyan"}
"""How a conversation shows what the loss learns, what it only reads, and where images stand."""

_speak: dict[str, Any] = {"json": False}


NOISY = ("anthropic", "httpx", "httpx2", "httpcore", "urllib3", "PIL", "markdown_it", "asyncio")
"""Libraries that stay at warnings."""
SECRETS = ("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")
"""How the names of variables end whose values nobody is shown."""

said = logging.getLogger("medvlm_cli.said")
"""What a person is told; it goes to ``--log-file`` alone, because it was shown already."""
said.addHandler(logging.NullHandler())


def set_up(*, json: bool, verbose: int, log_file: Path | None = None) -> None:
    """Remember how to speak, and send the log to stderr: warnings, with ``-v`` information, with ``-vv`` everything.

    With ``log_file`` everything is appended to that file too, which is its owner's alone; and what a person is told.

    Some libraries stay at warnings: those of HTTP write whole URLs at information, API keys included; Pillow quotes
    tags of images at debug, and the reader of Markdown each of its steps.
    """
    _speak["json"] = json
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    shown = RichHandler(console=Console(stderr=True), show_path=False, markup=False)
    shown.setFormatter(Harmless("%(message)s"))
    shown.setLevel(level)
    kept: list[logging.Handler] = [_LogFile(log_file)] if log_file else []
    logging.basicConfig(level=logging.DEBUG if kept else level, handlers=[shown, *kept], force=True)
    said.handlers[:] = kept or [logging.NullHandler()]
    said.propagate = False
    said.setLevel(logging.INFO if kept else logging.CRITICAL)
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


class _LogFile(logging.StreamHandler):
    """Appends to a file that its owner alone may read.

    Raises:
        ConfigError: it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        except OSError as problem:
            what = f"--log-file {path}: {os.strerror(problem.errno or 0)}"
            raise ConfigError(what, "give a file in a folder that is there and yours") from None
        super().__init__(os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace"))
        self.setFormatter(Harmless("%(asctime)s %(levelname)s %(process)d %(name)s: %(message)s"))

    def handleError(self, record: logging.LogRecord) -> None:
        """A full disk may lose a line of a log; the work goes on."""

    def close(self) -> None:
        """Let go of the file."""
        self.stream.close()
        super().close()


class Harmless(logging.Formatter):
    """Lines of a log, tracebacks included, without secrets and without what a terminal would obey."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        return harmless(super().format(record))


def harmless(text: str) -> str:
    """``text`` without the values of secret variables, without what looks like a key, and as ``clean`` leaves it."""
    for name, value in os.environ.items():
        if len(value) > 5 and name.upper().endswith(SECRETS):
            text = text.replace(value, "***")
    return clean(redact(text))


def hint(text: str) -> None:
    """One line for the person, on stderr."""
    text = harmless(text)
    said.info("%s", text)
    print(text, file=sys.stderr)


def error(what: str, fix: str, exit_code: int) -> None:
    """An error in two plain lines on stderr; with ``--json`` as an object on stdout besides."""
    what, fix = harmless(what), harmless(fix)
    said.error("exit %d: %s; fix: %s", exit_code, what, fix)
    print(f"error: {what}", file=sys.stderr)
    if fix:
        print(f"  fix: {fix}", file=sys.stderr)
    if _speak["json"]:
        print(json.dumps({"error": {"exit": exit_code, "message": what, "hint": fix}}))


@contextmanager
def progress(*, quiet: bool) -> Iterator[Tell]:
    """Show how far a stage is: bars on a terminal, plain lines off it, nothing with ``quiet``."""
    if quiet:
        yield _Heartbeat(shown=False)
    elif sys.stderr.isatty():
        with Panel(Console(stderr=True)) as panel:
            yield panel
    else:
        yield _Heartbeat()


class Panel(Progress):
    """A bar a phase, and under them the figures of a training."""

    def __init__(self, console: Console) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars: dict[str, Any] = {}
        self._figures: dict[str, str] = {}
        self._log = _Heartbeat(shown=False)
        super().__init__(*columns, TimeRemainingColumn(), console=console, transient=True)

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """How far a phase is.  One that begins in the middle, as a resumed one does, gets no credit for its start."""
        if what not in self._bars:
            description = Text(clean(what)).plain.replace("[", r"\[")
            self._bars[what] = self.add_task(description, total=total, completed=done)
        self.update(self._bars[what], completed=done, total=total)
        self._log(what, done, total)

    def figures(self, values: Mapping[str, float | None]) -> None:
        """Show these instead of the last ones."""
        self._figures = _told(values)
        self._log.figures(values)

    def get_renderables(self) -> Iterator[RenderableType]:
        """What is drawn, several times a second."""
        yield from super().get_renderables()
        if self._figures:
            cells = [Text.assemble((f"{name} ", "dim"), value) for name, value in self._figures.items()]
            yield Columns(cells, padding=(0, 3))


class _Heartbeat:
    """``20:31:07 pretrain 1,200/2,344 3.1/s eta 6m`` at most every 30 seconds a phase, and when one begins.

    Phases may go on side by side, as two teachers do.  The figures of a training end its line.

    Args:
        shown: on stderr; else only in ``--log-file``, where there is one.
    """

    def __init__(self, *, shown: bool = True) -> None:
        self.shown = shown
        self.began: dict[str, tuple[float, int]] = {}
        self.spoke: dict[str, float] = {}
        self.told = ""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        told, self.told = self.told, ""
        if now - self.spoke.get(what, -HEARTBEAT_SECONDS) < HEARTBEAT_SECONDS:
            return
        began, first = self.began.setdefault(what, (now, done))
        self.spoke[what] = now
        rate = (done - first) / (now - began) if now > began else 0.0
        parts = [time.strftime("%H:%M:%S"), clean(what), f"{done:,}" + (f"/{total:,}" if total else "")]
        if rate:
            parts.append(f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each")
            if total:
                parts.append(f"eta {(total - done) / rate / 60:.0f}m")
        line = " ".join([*parts, told] if told else parts)
        said.info("%s", line)
        if self.shown:
            print(line, file=sys.stderr, flush=True)

    def figures(self, values: Mapping[str, float | None]) -> None:
        """Have the next line, which is of the same phase, end in these."""
        self.told = ", ".join(f"{name} {value}" for name, value in _told(values).items())


FIGURES: dict[str, tuple[str, Callable[[float], str]]] = {
    "loss": ("loss", "{:.4f}".format),
    "held_out_loss": ("held-out loss", "{:.4f}".format),
    "lr": ("lr", "{:.2e}".format),
    "grad_norm": ("gradient norm", "{:.3g}".format),
    "tokens_per_second": ("tokens/s", "{:,.0f}".format),
    "images_per_second": ("images/s", "{:,.1f}".format),
    "mfu": ("MFU", "{:.1%}".format),
    "peak_bytes": ("peak", lambda size: f"{size / 1e9:,.1f} GB"),
}
"""Figures of a training as they are shown, in this order: name, and how a value is written."""


def _told(values: Mapping[str, float | None]) -> dict[str, str]:
    known = {name: value for name, value in values.items() if value is not None}
    return {title: write(known[name]) for name, (title, write) in FIGURES.items() if name in known}


def result(summary: dict[str, Any], *, as_json: bool) -> None:
    """Print what a stage returns: JSON, or a line a value and a table for each table.

    What stands under ``tables`` is tables of counts, as ``core.summary`` makes them: side by side on a terminal, a line
    each off it.
    """
    if as_json:
        print(clean_json(json.dumps(summary, ensure_ascii=False, default=str)))
        return
    _print(_Results(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH), summary)


class _Results(Console):
    """Standard output; Rich would end the process with 1 where nobody reads it."""

    def on_broken_pipe(self) -> None:
        """Leave it to ``app``, which knows the status."""
        raise BrokenPipeError


def aside(values: dict[str, Any]) -> None:
    """What a person should see before the work begins, on stderr; as ``result`` shows it."""
    _print(Console(stderr=True, highlight=False, soft_wrap=True, width=None if sys.stderr.isatty() else WIDTH), values)


def _print(console: Console, summary: dict[str, Any]) -> None:
    for key, value in summary.items():
        if key == "tables":
            _print_counts(console, value)
        elif key == "sample":
            _print_sample(console, value)
        elif isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
            console.print(_table(key, value))
        elif isinstance(value, dict):
            shown = ", ".join(f"{name} {_number(part)}" for name, part in value.items() if part not in ("", [], None))
            console.print(Text(clean(f"{key}: {shown or 'none'}")))
        elif isinstance(value, list):
            for line in value:
                console.print(Text(clean(f"{key}: {line}")))
        else:
            console.print(Text(clean(f"{key}: {_number(value)}")))


def _print_counts(console: Console, tables: dict[str, dict[str, int]]) -> None:
    if not console.is_terminal:
        for title, counts in tables.items():
            shown = ", ".join(f"{value}={count:,}" for value, count in counts.items())  # not "panels: 1 358"
            console.print(Text(clean(f"{title}: {shown or 'none'}")))
        return
    blocks = [Padding(_counts(title, counts), (1, 3, 0, 0)) for title, counts in tables.items() if counts]
    console.print(Columns(blocks, padding=0), soft_wrap=False)


def _print_sample(console: Console, sample: dict[str, Any]) -> None:
    """A conversation as the loss sees it: in colours, or with ``[[ ]]`` around the targets where there are none."""
    coloured = console.is_terminal and console.color_system is not None and not console.no_color
    targets = "in green" if coloured else "in [[ ]]"
    console.print(Text(clean(f"sample {sample['conversation']}, targets {targets}:")))
    shown = Text()
    for piece in sample["pieces"]:
        text = clean(piece["text"])
        if piece["kind"] == "image":
            text = f"{text} x {piece['tokens']:,}"
        elif piece["kind"] == "target" and not coloured:
            text = f"[[{text}]]"
        shown.append(text, style=LOSS_STYLES[piece["kind"]] if coloured else "")
    console.print(shown)


def _counts(title: str, counts: dict[str, int]) -> Table:
    """Value, count and share, a line each."""
    from medvlm_cli.core.summary import shortened  # it loads pyarrow, which no --help should pay

    table = Table(title=Text(clean(title)), title_justify="left", box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(max_width=40, no_wrap=True, overflow="ellipsis")
    table.add_column(justify="right")
    table.add_column(justify="right")
    total = sum(counts.values())
    for value, count in shortened(title, counts, COUNTED_ROWS).items():
        table.add_row(Text(clean(value)), f"{count:,}", Text(f"{100 * count / total:.0f} %", style="dim"))
    return table


def _table(title: str, rows: dict[str, dict[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    table = Table(title=Text(clean(title.replace("_", " "))), title_justify="left")
    table.add_column("")
    for name in columns:
        table.add_column(Text(clean(name.replace("_", " "))), justify="right")
    for name, row in rows.items():
        table.add_row(Text(clean(name)), *(Text(clean(_cell(row.get(column, "")))) for column in columns))
    return table


def _cell(value: Any) -> str:
    """As ``_number``, with the two decimals in which scores are published."""
    return f"{value:,.2f}" if isinstance(value, float) and abs(value) >= 10 else _number(value)


def listed(amounts: dict[str, Any]) -> str:
    """``200 articles, 1,400 requests, 110 megabytes``."""
    return ", ".join(f"{_number(value)} {name}" for name, value in amounts.items())


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.1f}" if abs(value) >= 10 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
