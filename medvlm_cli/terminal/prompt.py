"""The line that a person types into."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from prompt_toolkit import PromptSession
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import InMemoryHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.output import create_output
from prompt_toolkit.patch_stdout import patch_stdout

from medvlm_cli.terminal.completion import ChatCompleter
from medvlm_cli.terminal.history import history
from medvlm_cli.terminal.talk import readable

FENCE = '"""'


class Line:
    """Reads questions and commands: several lines between ``\"\"\"``, or by Alt-Enter."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._error: BaseException | None = None  # what the next reading ends with
        kept, why_not = history(os.environ)
        if why_not:
            tell(why_not)
        # stdout holds answers only, so the prompt goes to stderr, if that is where the person looks
        output = create_output(sys.stderr if sys.stderr.isatty() else sys.stdout)
        self._session: PromptSession[str] = PromptSession(
            history=kept,
            output=output,
            completer=ChatCompleter(),
            complete_while_typing=False,
            key_bindings=_keys(),
            multiline=Condition(self._in_fence),
            prompt_continuation="  ",
            enable_open_in_editor=True,
        )
        self._asking: PromptSession[str] = PromptSession(history=InMemoryHistory(), output=output)

    def read(self, default: str = "") -> str:
        """What was typed, without its fence.

        Raises:
            EOFError: Ctrl-D.
            KeyboardInterrupt: Ctrl-C in an empty line.
        """
        with patch_stdout(raw=True):  # what the loading thread logs goes above the line
            return unfenced(readable(self._session.prompt("> ", default=default, pre_run=self._give_up)))

    def agree(self, question: str) -> bool:
        """Whether the person says yes, or just Enter."""
        return self._asking.prompt(f"{question} [Y/n] ").strip().lower() in ("", "y", "yes")

    def fail(self, error: BaseException) -> None:
        """From another thread: end this reading with an error, or the next."""
        self._error = error
        loop = self._session.app.loop
        if loop is not None:
            with suppress(RuntimeError):  # the loop has just closed: the next reading begins with the error
                loop.call_soon_threadsafe(self._give_up)

    def _give_up(self) -> None:
        app: Any = self._session.app
        if self._error is not None and app.future is not None and not app.future.done():
            app.exit(exception=self._error)

    def _in_fence(self) -> bool:
        return fence_open(self._session.default_buffer.text)


def fence_open(text: str) -> bool:
    """Whether a text began with three quotes and has not ended with them."""
    text = text.strip()
    return text.startswith(FENCE) and not (len(text) >= 2 * len(FENCE) and text.endswith(FENCE))


def unfenced(text: str) -> str:
    """A text without the three quotes around it, and without blanks at its ends."""
    text = text.strip()
    if text.startswith(FENCE):
        text = text.removeprefix(FENCE).removesuffix(FENCE).strip()
    return text


def _keys() -> KeyBindings:
    keys = KeyBindings()

    @keys.add("escape", "enter")
    def _new_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def _clear(event: KeyPressEvent) -> None:
        if event.current_buffer.text:
            event.current_buffer.reset()
        else:
            event.app.exit(exception=KeyboardInterrupt(), style="class:aborting")

    return keys
