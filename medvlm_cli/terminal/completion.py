"""What Tab completes: commands, paths, and the words that a command takes."""

from collections.abc import Iterator

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from medvlm_cli.core.clean import clean
from medvlm_cli.terminal.commands import COMMANDS


class ChatCompleter(Completer):
    """Completes what stands before the cursor."""

    def __init__(self) -> None:
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterator[Completion]:
        """Each way in which the text before the cursor may go on."""
        text = document.text_before_cursor
        name, space, argument = text.partition(" ")
        command = COMMANDS.get(name)
        if command is not None and space:
            yield from self._argument(argument.lstrip(), command.words, command.paths, complete_event)
        elif name.startswith("/") and not space:
            yield from (
                Completion(known, -len(name), display_meta=COMMANDS[known].does)
                for known in COMMANDS
                if known.startswith(name)
            )
            if name.count("/") > 1:  # a path, and no command
                yield from self._path(name, complete_event)
        elif text.rpartition(" ")[2].startswith(("./", "../", "~/", "/")):
            yield from self._path(text.rpartition(" ")[2], complete_event)

    def _argument(
        self, argument: str, words: tuple[str, ...], paths: bool, event: CompleteEvent
    ) -> Iterator[Completion]:
        for word in words:
            if word.startswith(argument):
                yield Completion(word, -len(argument))
        if paths:
            quote = argument[:1] if argument[:1] in ("'", '"') else ""
            yield from self._path(argument[len(quote) :], event)

    def _path(self, typed: str, event: CompleteEvent) -> Iterator[Completion]:
        """Files and folders; a name that would steer the terminal is not offered."""
        found = self._paths.get_completions(Document(typed, len(typed)), event)
        yield from (completion for completion in found if clean(completion.text) == completion.text)
