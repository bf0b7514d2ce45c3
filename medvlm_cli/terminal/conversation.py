"""Question and answer in a terminal, until /quit or the end of the input."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from medvlm_cli import render
from medvlm_cli.core.clean import clean
from medvlm_cli.core.errors import DataError, MedVLMError
from medvlm_cli.sources.opening import Opened
from medvlm_cli.stages.chat import NOTICE, ChatSession
from medvlm_cli.terminal import commands, paths
from medvlm_cli.terminal.answer import no_echo
from medvlm_cli.terminal.loading import Loading
from medvlm_cli.terminal.prompt import Line
from medvlm_cli.terminal.talk import Talk, Wishes, open_session

HINT = "Ask a question.  /image PATH adds an image, /help lists commands, /quit ends."


def converse(wishes: Wishes, images: Sequence[Opened], out: Console, err: Console) -> int:
    """Talk until the user leaves.  The model loads meanwhile; Ctrl-C stops an answer and keeps the conversation.

    Args:
        wishes: what the command line asks for.
        images: what it names, opened.
        out: of stdout.
        err: of stderr.

    Returns:
        Exit code: 0, or 130 where Ctrl-C ended it.

    Raises:
        MedVLMError: the model cannot be loaded.
    """
    conversation = Conversation(wishes, images, out, err)
    with no_echo():
        code = conversation.run()
    conversation.loading.leave(code)
    return code


class Conversation:
    """The loop of reading and answering."""

    def __init__(self, wishes: Wishes, images: Sequence[Opened], out: Console, err: Console) -> None:
        """Show the images, and begin to load the model."""
        self._talk = Talk(wishes, self._session, out, err)
        self._talk.interactive = True
        self._talk.say(NOTICE)
        self._line = Line(self._talk.say)
        self.loading = Loading(partial(open_session, wishes, images), self._line.fail)
        self._edited: str | None = None  # the question that the next line replaces
        for image in images:
            self._talk.show_image(image)

    def run(self) -> int:
        """Read and answer until the user leaves; returns the exit code."""
        if self._talk.wishes.resume is not None:
            commands.recall(self._talk)
        self._talk.say(HINT)
        leaving = False
        while True:
            try:
                if self.loading.done and self.loading.error is None:
                    self._talk.hints()
                text = self._read()
                leaving = False
                self._take(text)
            except (EOFError, commands.QuitError):
                return self._saved(0)
            except KeyboardInterrupt:
                if leaving:
                    return self._saved(130)
                leaving = True
                self._talk.tell("Ctrl-C again, or Ctrl-D, ends")
            except MedVLMError as problem:
                if problem is self.loading.error:
                    raise
                render.error(problem.what, problem.fix, problem.exit_code)

    def _session(self) -> ChatSession:
        if not self.loading.done:
            self._talk.say("the model is loading ...", "dim")
        return self.loading.result()

    def _read(self) -> str:
        """What the user types; behind /edit it begins with the last question."""
        try:
            return self._line.read(self._edited or "")
        except (KeyboardInterrupt, EOFError):
            self._edited = None
            raise

    def _take(self, text: str) -> None:
        """Do what was typed: a command, a file to add, or a question.

        Raises:
            MedVLMError: what it meets.
        """
        edited, self._edited = self._edited, None
        if not text:
            return
        files = paths.dropped(text)
        gone = paths.missing(text)
        if files:
            if self._line.agree(f"{_named(files)}: a file, no question.  Add it as an image?"):
                commands.attach(self._talk, files)
            else:
                self._talk.say("not added, and nothing was asked")
        elif gone:
            raise DataError(f"{clean(gone)}: no such file", "nothing was asked; to ask about a name, add words to it")
        elif text.startswith("/"):
            try:
                commands.run(self._talk, text)
            except commands.EditError as edit:
                self._edited = edit.question
        else:
            self._offer(text)
            session = self._talk.session
            self._talk.answer(session.ask(text) if edited is None else session.edit(text))

    def _offer(self, question: str) -> None:
        """A file that a question names is not seen by the model unless it is added: ask."""
        files = paths.mentioned(question)
        known = {os.path.realpath(image.path) for image in self._talk.session.images} if files else set()
        new = [place for place in files if os.path.realpath(place) not in known]
        if new and self._line.agree(f"{_named(new)}: the model does not see this file.  Add it as an image first?"):
            commands.attach(self._talk, new)

    def _saved(self, code: int) -> int:
        folder = self._talk.wishes.save
        if folder is not None and self.loading.done and self.loading.error is None and self._talk.session.turns:
            self._talk.tell(f"saved in {self._talk.session.save(folder)}")
        return code


def _named(files: Sequence[str]) -> str:
    return clean(", ".join(Path(file).name for file in files))
