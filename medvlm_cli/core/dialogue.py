"""One conversation, answered token by token, whose past the model keeps: ``chat``.

The keys and values of what was read stay from turn to turn.  Of the next prompt only what differs is read: prompts are
compared token by token, and an image by the hash of its bytes, because all placeholders are alike.  So nothing has to
be told of what happened to the conversation in between: a turn that was taken back, an image that was exchanged, an
answer whose words are cut into other tokens when they are read again.

Legend: V words of the vocabulary, T tokens of an image.
"""

import hashlib
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from medvlm_cli.core.errors import ResourceError
from medvlm_cli.core.generate import Answer, Generator, Pick, Request, likeliest
from medvlm_cli.core.prompts import tokens_per_image


@dataclass(frozen=True)
class Reply(Answer):
    """An answer, and how much was read for it: tokens of the prompt, images included, and those still known of it."""

    prompt_tokens: int
    known_tokens: int


class Dialogue:
    """A conversation with a model that remembers what it has read.

    Answers are those of a model that reads every prompt from its beginning, but for the rounding of the arithmetic.
    """

    def __init__(self, generator: Generator) -> None:
        self._generator = generator
        self.forget()

    def forget(self) -> None:
        """Give back the memory of what was read; it is read again when it is needed."""
        self._cache = DynamicCache(config=self._generator.model.config.get_text_config())
        self._ids: list[int] = []
        self._images: list[bytes] = []

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values are kept."""
        return len(self._ids)

    def stream(self, request: Request, max_new_tokens: int, temperature: float, seed: int) -> Iterator[Reply]:
        """Answer one request token by token; with ``temperature`` 0, what ``Generator.answers`` says.

        It may be closed, or broken off by an exception, at any time.

        Yields:
            The answer so far, longer each time: each ``text`` begins with the one before it, and half a character (one
            of several tokens in UTF-8) is held back until it is whole.  The last one is the answer.

        Raises:
            DataError: the conversation does not fit the model's context, or an image cannot be decoded.
            ResourceError: it does not fit the memory of the device.
        """
        try:
            yield from self._stream(request, max_new_tokens, temperature, seed)
        except torch.OutOfMemoryError as error:
            self.forget()
            fix = "start over (/reset), drop an image (/drop), or close what else uses the device"
            raise ResourceError("the conversation does not fit the device's memory", fix) from error

    def _stream(self, request: Request, max_new_tokens: int, temperature: float, seed: int) -> Iterator[Reply]:
        began = time.monotonic()
        prompt = self._generator.prompt(request)
        digests = [hashlib.sha256(picture().data).digest() for picture in request.pictures]
        known, images = self._shared(prompt.ids, digests)
        if not self._keep(known):
            self.forget()
            known, images = 0, 0
        self._ids, self._images = self._ids[:known], digests
        features = self._generator.encode(request.pictures[images:])
        pick = _sampler(temperature, seed) if temperature > 0 else likeliest
        text = ""
        steps = self._generator.grow([prompt], features, pick, max_new_tokens, self._cache)
        for number, (grown,) in enumerate(steps):
            self._ids = prompt.ids + grown.tokens[:number]  # the newest is chosen, but not yet read
            now = self._generator.decode(grown.tokens)
            if grown.finish or (now.startswith(text) and not now.endswith("\ufffd")):
                text = now
            seconds = time.monotonic() - began
            yield Reply(prompt.text, text, grown.finish, len(grown.tokens), seconds, len(prompt.ids), known)

    def _shared(self, ids: Sequence[int], images: Sequence[bytes]) -> tuple[int, int]:
        """How much of a prompt is known: tokens from its beginning, and images that lie whole in them.

        At least one token is left to read: its logits are the first word of the answer.
        """
        known = _alike(self._ids, ids[:-1])
        processor = self._generator.processor
        places = [place for place in range(known) if ids[place] == processor.image_token_id]
        tokens = tokens_per_image(processor)
        whole = min(_alike(self._images, images), len(places) // tokens)
        return (known if len(places) == whole * tokens else places[whole * tokens]), whole

    def _keep(self, tokens: int) -> bool:
        """Let the cache hold the first ``tokens`` and no more; False where it cannot.

        A forward pass that was broken off may have lengthened some layers.  A sliding window has lost what lies further
        back, and is kept only where there is nothing to take away; of other kinds (linear attention) nothing is kept.
        """
        layers: list[Any] = self._cache.layers
        if not all(isinstance(layer, DynamicLayer) for layer in layers):
            return False
        if all(layer.get_seq_length() == tokens for layer in layers):
            return True
        if not tokens or any(type(layer) is not DynamicLayer for layer in layers):
            return False
        for layer in layers:
            if layer.get_seq_length() > tokens:
                layer.crop(tokens - layer.get_seq_length())
        return all(layer.keys.shape[-2] == layer.values.shape[-2] == tokens for layer in layers)


def _alike(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items two sequences have in common from their beginning."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _sampler(temperature: float, seed: int) -> Pick:
    """Draw each token by its probability at a temperature; on the CPU, so that a seed means the same on any device."""
    random = torch.Generator().manual_seed(seed)

    def pick(logits: torch.Tensor) -> torch.Tensor:
        chances = torch.softmax(logits / temperature, dim=-1).cpu()
        return torch.multinomial(chances, 1, generator=random)[:, 0].to(logits.device)

    return pick
