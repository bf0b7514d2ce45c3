"""``chat``: a conversation about images with a trained model.  Importing this loads no model code."""

import dataclasses
import difflib
import functools
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvlm_cli.core.config import ChatConfig
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.sources.opening import Opened
from medvlm_cli.sources.saved_image import facts_of, figure_of, opened_again

if TYPE_CHECKING:
    import numpy as np

    from medvlm_cli.core.dialogue import Reply
    from medvlm_cli.core.transcript import Transcript

NOTICE = "research use only, not a medical device"
_KINDS = {"temperature": float, "max_new_tokens": int, "seed": int}
"""What may be changed while a conversation goes on."""


class ChatSession:
    """One conversation: the images, the turns so far, and the model that answers.

    The placeholders of all images stand in the first turn, as in training; each image is encoded once a session, and
    what the model has read is read again only where it has changed.  Images are numbered from 1.
    """

    def __init__(
        self,
        checkpoint: str | Path,
        config: ChatConfig,
        images: Sequence[Opened] = (),
        seed: int = 0,
        system: str = "",
    ) -> None:
        """Load the model.

        Args:
            checkpoint: folder or hub id of a trained model.
            config: settings; ``temperature`` 0 answers greedily.
            images: what ``open_image`` gave.
            seed: of the sampling, where ``temperature`` is above 0.
            system: what the model is told before the conversation.

        Raises:
            ConfigError: the seed is no seed.
            DataError: the checkpoint is missing or unfinished.
        """
        self._config, self._seed = config, _seed(seed)
        from medvlm_cli.core.dialogue import Dialogue  # torch loads here
        from medvlm_cli.core.generate import Generator

        self._generator = Generator(checkpoint, config.precision)
        self._dialogue = Dialogue(self._generator)
        self._system = system.strip()
        self.images: list[Opened] = list(images)
        self.turns: list[dict[str, str]] = []
        self._answered: list[tuple[str, tuple[str, ...]]] = []  # how each answer ended, and which images it is about
        self._last: tuple[Reply, str, float, int] | None = None  # reply, finish, seconds to its first token, seed
        self._shown: list[Opened] = []  # the images of the last answer
        self._hints: list[str] = []
        self._warned = False
        self._warn_of_several()

    @property
    def model(self) -> str:
        """Name of the checkpoint."""
        return self._generator.name

    @property
    def scales(self) -> tuple[int, ...]:
        """Pixels of an image's side at each scale that the model looks at, the smallest first."""
        return self._generator.scales

    @property
    def side_and_fit(self) -> tuple[int, str]:
        """Side in pixels of the square that an image becomes, and how; as ``core.images.prepare`` takes them."""
        return self._generator.square

    @property
    def system(self) -> str:
        """What the model is told before the conversation; a new text holds from the next question on."""
        return self._system

    @system.setter
    def system(self, text: str) -> None:
        self._system = text.strip()

    def hints(self) -> list[str]:
        """What the user should know, a line each, since this was last called: an answer that was cut, for example."""
        told, self._hints = self._hints, []
        return told

    def ask(self, question: str) -> Iterator[str]:
        """Answer, piece by piece as it is generated, and remember question and answer.

        The pieces are the model's own words: clean them before they reach a terminal.  Closing the iterator early, or
        Ctrl-C while it runs, keeps the conversation with the answer as far as it came.

        Raises:
            ConfigError: the question is empty.
            DataError: the conversation is longer than the model can read; it stays as it was.
            ResourceError: it does not fit the memory of the device.
        """
        return self._answer(len(self.turns), question)

    def retry(self) -> Iterator[str]:
        """Answer the last question again, in place of the answer it has; a sampled one with the next seed.

        Raises:
            ConfigError: nothing was asked; else as ``ask``.
        """
        question = self._last_question()
        if self._config.temperature > 0:
            self._seed = _seed(self._seed + 1)
        else:
            self._hints.append("temperature is 0, so the answer is the same: /set temperature 0.7 lets it vary")
        return self._answer(len(self.turns) - 2, question)

    def edit(self, question: str) -> Iterator[str]:
        """Ask this in place of the last question, and answer it.

        Raises:
            ConfigError: nothing was asked; else as ``ask``.
        """
        self._last_question()
        return self._answer(len(self.turns) - 2, question)

    def _last_question(self) -> str:
        if not self.turns:
            raise ConfigError("nothing was asked yet", "ask a question first")
        return self.turns[-2]["text"]

    def _answer(self, kept: int, question: str) -> Iterator[str]:
        """Answer a question behind the first turns; those that it replaces go when the answer has begun."""
        if not question.strip():
            raise ConfigError("the question is empty", "type one")
        return self._stream([*self.turns[:kept], {"role": "user", "text": question.strip()}])

    def _stream(self, asked: list[dict[str, str]]) -> Iterator[str]:
        from medvlm_cli.core.generate import Picture, Request

        pictures = [functools.partial(Picture, image.data, image.name) for image in self.images]
        request = Request([*self._told(), *asked], pictures, "the conversation")
        config, seed, first, shown, reply, whole = self._config, self._seed, 0.0, "", None, False
        self._shown = list(self.images)
        try:
            for reply in self._dialogue.stream(request, config.max_new_tokens, config.temperature, seed):
                first = first or reply.seconds
                piece, shown = reply.text[len(shown) :], reply.text
                if piece:
                    yield piece
            whole = True
        finally:
            if reply is not None:
                self._last = reply, reply.finish if whole else "interrupted", first, seed
                self._remember(asked)

    def _told(self) -> list[dict[str, str]]:
        return [{"role": "system", "text": self._system}] if self._system else []

    def _remember(self, asked: list[dict[str, str]]) -> None:
        """Keep the last answer behind what was asked."""
        assert self._last is not None
        reply, finish, _, _ = self._last
        text = reply.text.strip()
        if text:  # a turn without words would teach the model to say nothing
            self.turns = [*asked, {"role": "assistant", "text": text}]
            images = tuple(image.sha256 for image in self._shown)
            self._answered = [*self._answered[: len(asked) // 2], (finish, images)]
        elif finish != "interrupted":
            self._hints.append("the model said nothing: the question is not kept")
        if finish == "length" and reply.tokens < self._config.max_new_tokens:
            context = f"{self._generator.context:,} tokens"
            self._hints.append(f"the answer was cut where the {context} that the model reads end: /reset starts over")
        elif finish == "length":
            more = f"/set max_new_tokens {2 * reply.tokens} (--set for one with -p) allows more"
            self._hints.append(f"the answer was cut at max_new_tokens={reply.tokens}: {more}")

    def add(self, image: Opened) -> None:
        """Add an image to the conversation, from the next question on."""
        self.images.append(image)
        self._warn_of_change()

    def drop(self, number: int) -> Opened:
        """Take an image out of the conversation; the turns stay.

        Raises:
            ConfigError: there is no such image.
        """
        dropped = self.images.pop(self._place(number))
        self._warn_of_change()
        return dropped

    def replace(self, number: int, image: Opened) -> None:
        """Put another image, or another view of it, in the place of one; the turns stay.

        Raises:
            ConfigError: there is no such image.
        """
        self.images[self._place(number)] = image
        self._warn_of_change()

    def _place(self, number: int) -> int:
        if not 1 <= number <= len(self.images):
            has = f"{len(self.images)} image{'s'[: len(self.images) != 1]}"
            raise ConfigError(f"there is no image {number}: the conversation has {has}", "/images lists them")
        return number - 1

    def _warn_of_change(self) -> None:
        if self.turns:
            self._hints.append("the images changed: the answers so far are about the old ones; /reset forgets them")
        self._warn_of_several()

    def _warn_of_several(self) -> None:
        if len(self.images) > 1 and not self._warned:
            self._warned = True
            self._hints.append("the model was trained on one image a conversation: expect less of several")

    def reset(self) -> None:
        """Forget the turns; the images, the system prompt and the settings stay."""
        self.turns, self._answered = [], []

    def set(self, name: str, value: str | float) -> None:
        """Change a setting for the answers to come.

        Args:
            name: one of ``settings()``.
            value: as a person writes it, or as it is.

        Raises:
            ConfigError: there is no such setting, or it cannot have this value.
        """
        if name not in _KINDS:
            near = difflib.get_close_matches(name, _KINDS, 1)
            fix = f"did you mean '{near[0]}'?" if near else f"settings: {', '.join(_KINDS)}"
            raise ConfigError(f"no setting {name!r} can be changed in a conversation", fix)
        try:
            new = _KINDS[name](value)
        except (TypeError, ValueError, OverflowError) as error:
            raise ConfigError(f"{name} must be {_KINDS[name].__name__}, not {value!r}") from error
        if name == "seed":
            self._seed = _seed(int(new))
        else:
            self._config = dataclasses.replace(self._config, **{name: new})

    def settings(self) -> dict[str, Any]:
        """What ``set`` can change, as it is now."""
        return {name: self._seed if name == "seed" else getattr(self._config, name) for name in _KINDS}

    def features(self, number: int) -> "np.ndarray":
        """What the tower sees in an image: float32 ``(T, K * C)``, the channels of the scales one after the other.

        Raises:
            ConfigError: there is no such image.
        """
        from medvlm_cli.core.generate import Picture

        image = self.images[self._place(number)]
        encoded = self._generator.encode([functools.partial(Picture, image.data, image.name)])
        assert encoded is not None
        return encoded[0].float().cpu().numpy()

    def stats(self) -> dict[str, Any]:
        """Counts and times of the last answer, and how much room is left.

        ``tokens_known`` are those of ``tokens_in`` that the model had read before; seconds are of the wall clock.
        """
        told: dict[str, Any] = {"model": self.model, "device": str(self._generator.device)}
        told |= {"images": len(self.images), "questions": len(self.turns) // 2}
        if self._last:
            reply, _, first, _ = self._last
            later = reply.seconds - first
            told |= {
                "tokens_in": reply.prompt_tokens,
                "tokens_known": reply.known_tokens,
                "tokens_out": reply.tokens,
                "ttft_s": round(first, 4),
                "seconds": round(reply.seconds, 4),
                "tokens_per_second": round((reply.tokens - 1) / later, 1) if reply.tokens > 1 and later > 0 else None,
            }
        used, context = self._generator.length([*self._told(), *self.turns], len(self.images)), self._generator.context
        told |= {"cached_tokens": self._dialogue.cached_tokens, "context": context}
        return told | {"context_left": max(0, context - used)}

    def summary(self) -> dict[str, Any]:
        """The last answer with what it was given and how long it took, for ``--json``; empty before the first.

        ``prompt`` is the exact text of the whole conversation as the model read it, with one placeholder an image;
        ``tokens_in`` counts all of its tokens, those of the images too.  ``finish_reason`` is ``stop``, ``length``
        (cut by ``max_new_tokens`` or the context) or ``interrupted``; ``ttft_s`` is the time to the first token.
        """
        if self._last is None:
            return {}
        reply, finish, first, seed = self._last
        return {
            "model": self.model,
            "revision": self._generator.revision,
            "image": [facts_of(image) for image in self._shown],
            "prompt": reply.prompt,
            "answer": reply.text.strip(),
            "finish_reason": finish,
            "tokens_in": reply.prompt_tokens,
            "tokens_out": reply.tokens,
            "ttft_s": round(first, 4),
            "seconds": round(reply.seconds, 4),
            "seed": seed,
            "notice": NOTICE,
        }

    def save(self, folder: Path | None = None) -> Path:
        """Write the conversation: datasets for ``finetune``, Markdown for people, and what ``loaded`` reads.

        ``medvlm finetune FOLDER/conversations --figures FOLDER/figures`` learns from it, where it is about one image.

        Args:
            folder: to make; None: ``chat-<date>-<time>`` in the current folder.

        Returns:
            The folder.

        Raises:
            BusyError: there is something of this name.
            ResourceError: the disk refuses.
        """
        from medvlm_cli.core.transcript import Answered, Transcript, save_transcript  # pyarrow loads here
        from medvlm_cli.teachers.terms import tag_of

        transcript = Transcript(
            model=self.model,
            license_tag=tag_of(getattr(self._generator.model.config, "base_llm", "")),
            system=self._system,
            turns=self.turns,
            answered=[Answered(finish, images) for finish, images in self._answered],
            figures=[figure_of(image) for image in self.images],
            settings=self.settings(),
        )
        if reason := transcript.not_learnable():
            self._hints.append(f"`medvlm finetune` cannot learn from this conversation: {reason}")
        return save_transcript(transcript, folder or Path(time.strftime("chat-%Y%m%d-%H%M%S")))

    @classmethod
    def loaded(cls, place: Path, checkpoint: str | Path, config: ChatConfig) -> "ChatSession":
        """Take up a conversation that was saved, with its images, its system prompt and its settings.

        Args:
            place: folder that ``save`` made, or a file in it.
            checkpoint: as of ``__init__``; may be another one than that which answered.
            config: for what is not saved.

        Raises:
            ConfigError: a setting is not what it may be.
            DataError: there is no saved conversation, or it is damaged; or as of ``__init__``.
        """
        from medvlm_cli.core.transcript import read_transcript

        transcript = read_transcript(place)  # before the model loads
        session = cls(checkpoint, config)
        session._take_up(transcript)
        return session

    def load(self, place: Path) -> None:
        """As ``loaded``, in the place of this conversation, which is forgotten; the model stays.

        Raises:
            ConfigError: as of ``loaded``, like all that follows.
            DataError: this conversation then stays as it was.
        """
        from medvlm_cli.core.transcript import read_transcript

        self._take_up(read_transcript(place))

    def _take_up(self, transcript: "Transcript") -> None:
        images = [opened_again(figure) for figure in transcript.figures]
        before = self._config, self._seed
        try:
            for name, value in transcript.settings.items():
                self.set(name, value)
        except ConfigError:
            self._config, self._seed = before
            raise
        self.images, self._system, self._last = images, transcript.system, None
        self.turns = [dict(turn) for turn in transcript.turns]
        self._answered = [(one.finish, one.images) for one in transcript.answered]
        self._warn_of_several()
        if self.turns and self.model != transcript.model:
            self._hints.append(f"the answers so far are by {transcript.model}, those to come by {self.model}")


def _seed(number: int) -> int:
    if not 0 <= number < 1 << 63:
        raise ConfigError(f"seed is {number}", "give a number from 0 to 9223372036854775807")
    return number
