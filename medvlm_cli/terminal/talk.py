"""A conversation under way: the session, its images, and where things are shown.

Answers go to stdout and nothing else does; images, notices and times go to stderr.
"""

import dataclasses
import functools
import io
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from medvlm_cli import render
from medvlm_cli.core.clean import clean
from medvlm_cli.core.config import ChatConfig
from medvlm_cli.core.errors import BusyError, DataError
from medvlm_cli.sources.opening import Opened, View, open_place
from medvlm_cli.stages.chat import NOTICE, ChatSession
from medvlm_cli.terminal.answer import show
from medvlm_cli.terminal.preview import COLUMNS, preview, way_to_show


@dataclass(frozen=True)
class Wishes:
    """What the command line asks for."""

    checkpoint: str
    config: ChatConfig
    seed: int | None = None
    system: str = ""
    preview: str = "auto"
    view: View = dataclasses.field(default_factory=View)
    allow_url: bool = False
    resume: Path | None = None
    save: Path | None = None
    quiet: bool = False
    json: bool = False


def open_session(wishes: Wishes, images: Sequence[Opened]) -> ChatSession:
    """Load the model, and take up the conversation that is resumed, if any.

    Raises:
        MedVLMError: as ``ChatSession``.
    """
    if wishes.resume is None:
        return ChatSession(wishes.checkpoint, wishes.config, images, wishes.seed or 0, readable(wishes.system))
    session = ChatSession.loaded(wishes.resume, wishes.checkpoint, wishes.config)
    if wishes.seed is not None:
        session.set("seed", wishes.seed)
    session.system = readable(wishes.system) or session.system
    for image in images:
        session.add(image)
    return session


class Talk:
    """What the commands of a conversation act on."""

    def __init__(self, wishes: Wishes, session: Callable[[], ChatSession], out: Console, err: Console) -> None:
        """Begin.

        Args:
            wishes: what the command line asks for.
            session: gives the session, once the model is loaded.
            out: of stdout, for answers.
            err: of stderr, for all else.

        Raises:
            ConfigError: there is no such way to show images.
        """
        self.wishes = wishes
        self.out, self.err = out, err
        self._session = session
        self._way = way_to_show(wishes.preview, err, os.environ)
        self._side = largest_scale(wishes.checkpoint)
        self._imageless_told = False
        self.interactive = False

    @property
    def session(self) -> ChatSession:
        """The session; waits for the model.

        Raises:
            MedVLMError: the model cannot be loaded.
        """
        session = self._session()
        self._side = max(session.scales)
        return session

    def say(self, text: str, style: str = "") -> None:
        """A line for the person; nothing with ``--quiet``."""
        if not self.wishes.quiet:
            self.tell(text, style)

    def tell(self, text: str, style: str = "") -> None:
        """A line that the person asked for; a terminal breaks it between words, and nothing else breaks it."""
        self.err.print(Text(clean(text), style=style), soft_wrap=not self.err.is_terminal)

    def open(self, place: str, view: View | None = None) -> Opened:
        """Open a file or an address, as the command line says images are looked at.

        Raises:
            MedVLMError: as ``open_place``.
        """
        return open_place(place, view or self.wishes.view, allow_url=self.wishes.allow_url)

    def show_image(self, image: Opened, *, added: bool = True) -> None:
        """Preview of an image, how it is read, and what is odd about it."""
        self.picture(image.data, image.name)
        self.say(("Added " if added else "") + image_line(image, self._side))
        for warning in image.warnings:
            self.say(f"{image.name}: {warning}", "yellow")

    def picture(self, data: bytes, name: str, columns: int = COLUMNS) -> None:
        """An image in the terminal, if it can show one."""
        if self._way != "none" and not self.wishes.quiet:
            from medvlm_cli.core.images import decode

            preview(decode(data, name), self._way, self.err, columns)

    def answer(self, pieces: Iterator[str]) -> bool:
        """Show an answer while it comes, then what is to be said of it; returns whether Ctrl-C ended it."""
        session = self.session
        if not session.images and not self._imageless_told:
            self._imageless_told = True
            how = ": /image PATH adds one" if self.interactive else ""
            self.say(f"no image is given, so the model answers from the words alone{how}", "yellow")
        stopped = show(pieces, self.out, silent=self.wishes.json)
        self.out.file.flush()
        if stopped:
            self.say("stopped" + ("; the conversation goes on" if self.interactive else ""))
        self.hints()
        if self.err.is_terminal:
            self.say(timing_line(session.summary()), "dim")
        return stopped

    def hints(self) -> None:
        """What the session has to tell by now."""
        for hint in self.session.hints():
            self.say(hint, "yellow")


def image_line(image: Opened, side: int | None) -> str:
    """An image in a line: ``ct.png 512 x 512 L -> 378 x 378, window -600,1500 (as asked)``."""
    parts = [f"{image.name} {image.width} x {image.height} {image.mode}" + (f" -> {side} x {side}" if side else "")]
    if image.frame is not None and image.frames > 1:
        parts.append(f"slice {image.frame} of 0 to {image.frames - 1}")
    if image.region is not None:
        parts.append("region " + ",".join(f"{value}" for value in image.region))
    if image.window is not None:
        center, width = image.window
        parts.append(f"window {center:g},{width:g}")
    if image.window_source:
        parts[-1] += f" ({image.window_source})"
    return ", ".join(parts)


def timing_line(summary: dict[str, Any]) -> str:
    """How long the last answer took, in a line."""
    if not summary:
        return ""
    tokens, first, seconds = summary["tokens_out"], summary["ttft_s"], summary["seconds"]
    rate = f", {(tokens - 1) / (seconds - first):.1f} tokens/s" if tokens > 1 and seconds > first else ""
    if not tokens:
        return f"0 tokens in {duration(seconds)}"
    return f"{tokens} token{'s'[: tokens != 1]}, the first after {duration(first)}{rate}"


def duration(seconds: float) -> str:
    """Seconds as people read them: ``4 ms``, ``1.2 s``."""
    return f"{seconds * 1000:.0f} ms" if seconds < 0.9995 else f"{seconds:.1f} s"


def largest_scale(checkpoint: str) -> int | None:
    """Side in pixels of the square that the model looks at, if a folder says so before the model loads."""
    try:
        config = json.loads((Path(checkpoint) / "config.json").read_text(encoding="utf-8"))
        return max(int(scale) for scale in config["vision_config"]["s2_scales"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def readable(text: str) -> str:
    """Text without halves of characters, as bytes that are no UTF-8 leave them: no tokenizer takes these."""
    return text.encode("utf-8", "replace").decode("utf-8")


def check_places(checkpoint: str, save: Path | None) -> None:
    """Say what is wrong with a place before anything loads or is said; the rest, loading and saving find.

    Raises:
        DataError: the checkpoint is neither a folder nor may be a name of the hub.
        BusyError: there is something where the conversation is to be written.
    """
    if save is not None and os.path.lexists(save):
        raise BusyError(f"{save} is there already", "give --save a folder that is not, it will be made")
    folder, fix = Path(checkpoint), "give a folder, or owner/name of the hub; `make demo` in a clone makes a small one"
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise DataError(f"{checkpoint}: not a finished checkpoint, it lacks config.json", fix)
    elif folder.is_absolute() or checkpoint.count("/") != 1 or checkpoint[0] in ".~":
        raise DataError(f"{checkpoint}: there is no checkpoint", fix)


def consoles() -> tuple[Console, Console]:
    """Consoles of stdout and stderr; what their encoding lacks is written out."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    return Console(highlight=False), Console(stderr=True, highlight=False)


def ask_once(wishes: Wishes, images: Sequence[Opened], question: str, out: Console, err: Console) -> int:
    """One answer on stdout; as JSON, where ``out`` is to hold JSON.

    Args:
        wishes: what the command line asks for.
        images: what it names, opened.
        question: what to ask.
        out: of stdout.
        err: of stderr.

    Returns:
        Exit code: 0, or 130 where Ctrl-C stopped the answer.

    Raises:
        MedVLMError: as ``ChatSession``.
    """
    talk = Talk(wishes, functools.cache(functools.partial(open_session, wishes, images)), out, err)
    talk.say(NOTICE)
    for image in images:
        talk.show_image(image)
    stopped = talk.answer(talk.session.ask(readable(question)))
    if wishes.json:
        render.result(talk.session.summary(), as_json=True)
    if wishes.save is not None:
        talk.say(f"saved in {talk.session.save(wishes.save)}")
        talk.hints()
    return 130 if stopped else 0
