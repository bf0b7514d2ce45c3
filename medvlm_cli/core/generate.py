"""Answers from a checkpoint, many at once; ``dialogue`` goes on with one of them by the same steps.

Legend: B sequences of a batch, L tokens of a prompt, V words of the vocabulary, T tokens of an image, C its channels.
"""

import dataclasses
import hashlib
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from transformers import DynamicCache, PreTrainedModel, ProcessorMixin

from medvlm_cli.core import prompts
from medvlm_cli.core.batch import Collator
from medvlm_cli.core.commit import sha256_of
from medvlm_cli.core.errors import DataError, ResourceError
from medvlm_cli.core.features import Features
from medvlm_cli.core.images import Fit, prepare
from medvlm_cli.core.model.checkpoint import load
from medvlm_cli.core.model.hub_id import owned_id, pinned
from medvlm_cli.core.model.threads import one_thread_if_small

CACHED_BYTES = 8 << 30
"""Features of images kept in memory, at most: 5.6 MB an image at 729 x 3840 in bfloat16, so 1,400 images."""
_MAKE_ONE = "run `medvlm finetune` first, or `make demo` for a small one"
_SMALL_BYTES = 2 << 30  # weights below this run in float32 on a CPU: exact, and faster than emulated bfloat16


@dataclass(frozen=True)
class Picture:
    """The bytes of an image file, and what to call it in an error."""

    data: bytes
    where: str


@dataclass(frozen=True)
class Request:
    """A conversation to go on with: its last turn is the user's.

    Each of ``pictures`` is called when the request's turn comes, so that a long list of requests holds no images.
    """

    turns: Sequence[Mapping[str, str]]
    pictures: Sequence[Callable[[], Picture]]
    where: str
    """What to call it in an error."""


@dataclass(frozen=True)
class Answer:
    """What the model said.  ``finish`` is ``stop``, or ``length`` where it was cut; ``tokens`` counts no stop token."""

    prompt: str
    text: str
    finish: str
    tokens: int
    seconds: float


Pick = Callable[[torch.Tensor], torch.Tensor]
"""Logits ``(B, V)`` in float32 to tokens ``(B,)``."""


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The token with the largest logit: greedy search."""
    return logits.argmax(dim=-1)


@dataclass(frozen=True)
class Prompt:
    """What the model reads: ``ids`` with every image's placeholders, ``text`` with one placeholder an image."""

    ids: list[int]
    text: str


class _Features:
    """Features of images by the hash of their bytes; the longest unused go when all take over ``CACHED_BYTES``."""

    def __init__(self) -> None:
        self.on_disk: Features | None = None
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._bytes = 0

    def get(self, pictures: Sequence[Picture], encode: Callable[[list[Picture]], torch.Tensor]) -> list[torch.Tensor]:
        """The features of each picture, ``(T, C)`` in main memory; ``encode`` makes those kept nowhere, in one call."""
        digests = [hashlib.sha256(picture.data).digest() for picture in pictures]
        unknown = dict(zip(digests, pictures, strict=True))
        found: dict[bytes, torch.Tensor] = {}
        for digest in list(unknown):
            features = self._known(digest)
            if features is not None:
                found[digest] = features
                del unknown[digest]
        if unknown:
            made = encode(list(unknown.values())).cpu()
            found |= {digest: features.clone() for digest, features in zip(unknown, made, strict=True)}
        for digest, features in found.items():
            self._keep(digest, features)
        return [found[digest] for digest in digests]

    def _known(self, digest: bytes) -> torch.Tensor | None:
        if digest in self._kept:
            return self._kept[digest]
        return self.on_disk.get(digest) if self.on_disk else None

    def _keep(self, digest: bytes, features: torch.Tensor) -> None:
        if digest not in self._kept:
            self._bytes += features.nbytes
        self._kept[digest] = features
        self._kept.move_to_end(digest)
        while self._bytes > CACHED_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes


@dataclass
class Growing:
    """One answer while its tokens come."""

    room: int  # tokens it may still get
    tokens: list[int] = dataclasses.field(default_factory=list)
    finish: str = ""  # empty while it grows

    def take(self, token: int, stops: frozenset[int]) -> None:
        """Append the next token, unless it is one that ends the answer."""
        if self.finish:
            return  # the batch goes on for others
        if token in stops:
            self.finish = "stop"
            return
        self.tokens.append(token)
        self.room -= 1
        self.finish = "" if self.room else "length"


@dataclass(frozen=True)
class Checkpoint:
    """A trained model as found."""

    where: str
    """From where to load it."""
    name: str
    """In a dataset."""
    run_sha256: str | None
    """Of the hub, None."""
    revision: str | None
    """What tells it from another training of this name: ``run_sha256``, or the commit on the hub."""


def find_checkpoint(where: str | Path) -> Checkpoint:
    """Find a checkpoint, without loading it.

    Args:
        where: a folder, or ``owner/name`` of the hub with or without ``@`` and a commit; only a string can be a hub id.

    Returns:
        The checkpoint; its name is the folder's with the first digits of the hash of ``run.json`` (without one, of the
        weights), or the hub's with the commit that it is now, so two trainings never share a name.

    Raises:
        DataError: there is no such folder, or it holds no finished model.
    """
    folder = Path(where)
    if not folder.is_dir():
        named = None if folder.parent.is_dir() else pinned(owned_id(where))
        if named:
            return Checkpoint(str(named), str(named), None, named.revision)
        raise DataError(f"{where}: there is no checkpoint", _MAKE_ONE)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights or not (folder / "config.json").is_file():
        raise DataError(f"{where}: not a finished checkpoint, it lacks config.json or weights", _MAKE_ONE)
    run = folder / "run.json"
    run_sha256 = sha256_of(run) if run.is_file() else None
    digest = run_sha256 or hashlib.sha256("".join(map(sha256_of, weights)).encode()).hexdigest()
    return Checkpoint(str(where), f"{folder.resolve().name}@{digest[:12]}", run_sha256, run_sha256)


class Generator:
    """A model ready to answer.

    The batch mates of a question do not change its answer, beyond the rounding of the arithmetic: sequences are padded
    on the left and masked, and the tower gives an image the same features whatever else it encodes in the same call.
    Each different image is encoded once, as long as the features of all fit ``CACHED_BYTES``.
    """

    def __init__(self, checkpoint: str | Path, precision: str) -> None:
        """Load the checkpoint to the GPU where there is one, else to the CPU.

        Args:
            checkpoint: folder or hub id of a finished model.
            precision: ``bf16`` or ``fp32``; on a CPU a small model runs in fp32 whatever is asked.

        Raises:
            DataError: the checkpoint is missing or unfinished.
        """
        found = find_checkpoint(checkpoint)
        self.name = found.name
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = _dtype(Path(checkpoint), precision, self.device)
        self.model, self.processor = load(found.where, self.device, self.dtype)
        self.model.eval()
        self.revision: str | None = found.revision
        one_thread_if_small(self.model.num_parameters())
        self._stops = _stop_tokens(self.model, self.processor)
        never = self.model.generation_config.suppress_tokens or ()
        self._never = sorted({*never, self.processor.image_token_id})  # an image's placeholder is no answer
        self.context = self.model.config.get_text_config().max_position_embeddings
        self._collate = Collator(self.processor, side="left")
        self._features = _Features()

    def read_features(self, features: Features) -> None:
        """Take the features of images that ``features`` has from there, and encode only others."""
        self._features.on_disk = features

    def answers(self, requests: Sequence[Request], batch: int, max_new_tokens: int) -> Iterator[tuple[int, Answer]]:
        """Answer every request greedily, those of like length together, the longest first.

        Yields:
            The request's place in ``requests`` and its answer, a batch after the other; ``seconds`` is its share.

        Raises:
            DataError: a request does not fit the model's context, or an image cannot be decoded.
            ResourceError: a batch does not fit the memory of the device.
        """
        asked = [self.prompt(request) for request in requests]
        order = sorted(range(len(requests)), key=lambda index: -len(asked[index].ids))
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            began = time.monotonic()
            try:
                features = self.encode([picture for index in chosen for picture in requests[index].pictures])
                steps = self.grow([asked[index] for index in chosen], features, likeliest, max_new_tokens)
                growing = deque(steps, maxlen=1)[0]  # where they ended
            except torch.OutOfMemoryError as error:
                raise ResourceError(
                    f"{len(chosen)} answers at once do not fit the device's memory", "--set batch=N, with a smaller N"
                ) from error
            seconds = (time.monotonic() - began) / len(chosen)
            for index, grown in zip(chosen, growing, strict=True):
                text = self.decode(grown.tokens).strip()
                yield index, Answer(asked[index].text, text, grown.finish, len(grown.tokens), seconds)

    def grow(
        self,
        asked: Sequence[Prompt],
        features: torch.Tensor | None,
        pick: Pick,
        limit: int,
        cache: DynamicCache | None = None,
    ) -> Iterator[list[Growing]]:
        """Let the answers of a batch grow, a token a step each, until all have ended.

        Args:
            asked: what the model reads.
            features: ``(N, T, C)`` of the images that are still to be read, in the order of their placeholders.
            pick: chooses the next tokens.
            limit: tokens an answer may have.
            cache: keys and values of the first tokens of the only prompt, which are not read again; those of all that
                follows are added.  None reads from the beginning.

        Yields:
            The same list every time.
        """
        growing = [Growing(min(limit, self.context - len(prompt.ids))) for prompt in asked]
        batch = self._collate([{"input_ids": prompt.ids} for prompt in asked])
        step, mask = batch["input_ids"].to(self.device), batch["attention_mask"].to(self.device)  # (B, L)
        places = (mask.cumsum(1) - 1).clamp(min=0)  # a padded sequence counts from its own first token
        given = {} if features is None else {"image_features": features}
        cache = DynamicCache(config=self.model.config.get_text_config()) if cache is None else cache
        known = cache.get_seq_length()
        step, places = step[:, known:], places[:, known:]
        while not all(grown.finish for grown in growing):
            with torch.inference_mode():
                out = self.model(
                    input_ids=step, attention_mask=mask, position_ids=places,
                    past_key_values=cache, use_cache=True, logits_to_keep=1, **given,
                )  # fmt: skip
                logits = out.logits[:, -1].float()  # (B, V)
                logits[:, self._never] = -torch.inf
                tokens = pick(logits)
            for grown, token in zip(growing, tokens.tolist(), strict=True):
                grown.take(token, self._stops)
            yield growing
            step, places, given = tokens[:, None], places[:, -1:] + 1, {}
            mask = torch.cat([mask, mask.new_ones(len(growing), 1)], dim=1)

    def prompt(self, request: Request) -> Prompt:
        """What the model reads for a request: token ids and text.

        Raises:
            DataError: it leaves no room for an answer.
        """
        ids = prompts.generation_prompt(self.processor, request.turns, len(request.pictures), request.where)
        if len(ids) >= self.context:
            raise DataError(
                f"{request.where}: {len(ids)} tokens, and the model reads {self.context}: no room for an answer",
                "ask less at once, or start over (/reset in chat)",
            )
        return Prompt(ids, prompts.prompt_text(self.processor, request.turns, len(request.pictures), request.where))

    def encode(self, pictures: Sequence[Callable[[], Picture]]) -> torch.Tensor | None:
        """Features of some images, ``(N, T, C)`` on the device; None for none."""
        encoded = self._features.get([picture() for picture in pictures], self._encode_new)
        return torch.stack([features.to(self.device) for features in encoded]) if encoded else None

    def length(self, turns: Sequence[Mapping[str, str]], images: int) -> int:
        """Tokens of a conversation that the user goes on with, what opens the next question and its answer included."""
        asked = [*turns, {"role": "user", "text": ""}]
        return len(prompts.generation_prompt(self.processor, asked, images))

    @property
    def square(self) -> tuple[int, Fit]:
        """Side in pixels of the square that an image becomes, and how; as ``prepare`` takes them."""
        return self.processor.image_processor.crop_size["height"], cast(Fit, self.model.config.fit)

    @property
    def scales(self) -> tuple[int, ...]:
        """Pixels of an image's side at each scale, the smallest first."""
        return tuple(self.model.config.vision_config.s2_scales)

    def _encode_new(self, pictures: list[Picture]) -> torch.Tensor:
        squares = [prepare(picture.data, picture.where, *self.square) for picture in pictures]
        pixels = torch.from_numpy(np.stack(squares)).permute(0, 3, 1, 2)  # uint8, (N, 3, S, S)
        with torch.inference_mode():
            return self.model.model.vision_tower.encode(pixels.to(self.device))

    def decode(self, tokens: list[int]) -> str:
        """The text of an answer's tokens."""
        return self.processor.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def _dtype(folder: Path, precision: str, device: torch.device) -> torch.dtype:
    """bfloat16 where it is asked for and helps: on a GPU, and on a CPU for weights too large to hold in float32."""
    weights = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else _SMALL_BYTES
    small = device.type == "cpu" and weights < _SMALL_BYTES
    return torch.float32 if small or precision == "fp32" else torch.bfloat16


def _stop_tokens(model: PreTrainedModel, processor: ProcessorMixin) -> frozenset[int]:
    """Every token that ends an answer: those of the generation config, and the tokenizer's own."""
    stated = model.generation_config.eos_token_id
    stops = {stated} if isinstance(stated, int) else set(stated or ())
    return frozenset(stops | {processor.tokenizer.eos_token_id} - {None})
