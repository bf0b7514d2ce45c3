"""``chat``: a conversation about images with a trained model.  Importing this loads no model code."""

import dataclasses
import functools
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_cli.core.config import ChatConfig
from medvlm_cli.core.images import decode, read_inside

NOTICE = "research use only, not a medical device"


@dataclass(frozen=True)
class OpenedImage:
    """An image file that was read and decoded once, so that it is known to be good."""

    path: str
    data: bytes
    sha256: str
    width: int  # pixels, as a viewer shows it
    height: int


def open_images(paths: Sequence[Path]) -> list[OpenedImage]:
    """Read and decode image files, before anyone waits for a model.

    Raises:
        DataError: a file is missing, is no image, or is cut short; the message names it.
    """
    return [_open(path) for path in paths]


def _open(path: Path) -> OpenedImage:
    data = read_inside(Path(os.path.realpath(path)).parent, path)  # the user's own path may be a link to anywhere
    image = decode(data, str(path))
    return OpenedImage(str(path), data, hashlib.sha256(data).hexdigest(), image.width, image.height)


class ChatSession:
    """One conversation: the images, the turns so far, and the model that answers.

    The placeholders of all images stand in the first turn, as in training; each image is encoded once a session.
    """

    def __init__(
        self, checkpoint: str | Path, config: ChatConfig, images: Sequence[OpenedImage] = (), seed: int = 0
    ) -> None:
        """Load the model.

        Args:
            checkpoint: folder or hub id of a trained model.
            config: settings; ``temperature`` 0 answers greedily.
            images: what ``open_images`` gave.
            seed: of the sampling, where ``temperature`` is above 0.

        Raises:
            DataError: the checkpoint is missing or unfinished.
        """
        from medvlm_cli.core.generate import Generator  # torch loads here

        self._generator = Generator(checkpoint, config.precision)
        self._config = config
        self._seed = seed
        self.images = list(images)
        self.turns: list[dict[str, str]] = []
        self._summary: dict[str, Any] = {}

    def add_image(self, path: Path) -> None:
        """Add an image to the conversation, from the next question on.

        Raises:
            DataError: the file is missing or no image; the conversation stays as it was.
        """
        self.images.append(_open(path))

    def reset(self) -> None:
        """Forget the turns; the images stay."""
        self.turns = []

    def ask(self, question: str) -> Iterator[str]:
        """Answer, piece by piece as it is generated, and remember question and answer.

        The pieces are the model's own words: clean them before they reach a terminal.  Closing the iterator early, or
        Ctrl-C while it runs, keeps the conversation with the answer as far as it came.

        Raises:
            DataError: the conversation is longer than the model can read; it stays as it was.
        """
        from medvlm_cli.core.generate import Picture, Request

        asked = [*self.turns, {"role": "user", "text": question}]
        pictures = [functools.partial(Picture, image.data, image.path) for image in self.images]
        request = Request(asked, pictures, "the conversation")
        began, first, shown, answer, whole = time.monotonic(), None, "", None, False
        try:
            for answer in self._generator.stream(
                request, self._config.max_new_tokens, self._config.temperature, self._seed
            ):
                first = first if first is not None else time.monotonic() - began
                piece, shown = answer.text[len(shown) :], answer.text
                if piece:
                    yield piece
            whole = True
        finally:
            if answer is not None:
                answer = answer if whole else dataclasses.replace(answer, finish="interrupted")
                self._summary = self._summarise(answer, first)
                if answer.text.strip():  # a turn without words would teach the model to say nothing
                    self.turns = [*asked, {"role": "assistant", "text": answer.text.strip()}]

    def _summarise(self, answer: Any, first_token_seconds: float | None) -> dict[str, Any]:
        return {
            "model": self._generator.name,
            "image": [
                {"path": image.path, "sha256": image.sha256, "width": image.width, "height": image.height}
                for image in self.images
            ],
            "prompt": answer.prompt,
            "answer": answer.text.strip(),
            "finish": answer.finish,
            "tokens": answer.tokens,
            "seconds": round(answer.seconds, 4),
            "first_token_seconds": round(first_token_seconds or 0.0, 4),
            "notice": NOTICE,
        }

    def summary(self) -> dict[str, Any]:
        """The last answer with what it was given and how long it took, for ``--json``; empty before the first.

        ``prompt`` is the exact text of the whole conversation as the model read it, with one placeholder an image.
        ``finish`` is ``stop``, ``length`` (cut by ``max_new_tokens``) or ``interrupted``.
        """
        return dict(self._summary)
