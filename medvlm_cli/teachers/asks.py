"""What is sent: a figure's words and the prompt become one request, the same whenever and wherever it is made."""

import functools
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.teachers.ledger import Ask
from medvlm_cli.teachers.prices import Price
from medvlm_cli.teachers.prompt import Prompt, messages, user_text
from medvlm_cli.teachers.vllm import chat_body

CHARS_PER_TOKEN = 3.5
"""Of English for the tokenizers of our day; where nobody has counted."""
OUTPUT_TOKENS = 450
"""Of three questions with their answers; where nobody has counted."""
COUNT_MARGIN = 1.25
"""What is billed may be so much more than the API's own count, which is an estimate by its own word."""
FRAME_TOKENS = 64
"""That an API may put around a message, at most."""
KEPT_FROM = 1024
"""Tokens below which a cache keeps nothing, without a word; Anthropic's for most models."""

SCHEMA = {
    "type": "object",
    "properties": {
        "turns": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"user": {"type": "string"}, "assistant": {"type": "string"}},
                "required": ["user", "assistant"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["turns"],
    "additionalProperties": False,
}
"""Of an answer in JSON.  No lengths: backends ignore them, or let control characters through where they are set."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of teacher in this run."""

    name: str
    """``claude`` or ``llama``."""
    model: str
    parameters: Mapping[str, Any]
    """All that decides the answer beside the words."""

    @property
    def label(self) -> str:
        """How rows name it."""
        return f"{'claude' if self.name == 'claude' else 'vllm'}:{self.model}"


def families(config: SynthesizeConfig) -> dict[str, Family]:
    """Both kinds of teacher, as the settings have them.

    Claude takes no temperature any more; its sampling is the provider's default.
    """
    claude = {"max_tokens": config.claude_max_tokens, "effort": config.effort, "format": config.format}
    llama = {
        "max_tokens": config.llama_max_tokens,
        "temperature": config.temperature,
        "seed": config.seed,
        "format": config.format,
    }
    return {
        "claude": Family(name="claude", model=config.claude_model, parameters=claude),
        "llama": Family(name="llama", model=config.llama_model, parameters=llama),
    }


@dataclass(kw_only=True)
class Composer:
    """Makes requests of figures, of one prompt, for one purpose.

    The words of a request are made again whenever they are needed: 100,000 of them do not fit into memory.
    """

    prompt: Prompt
    seed: int
    caching: str = ""
    """``5m`` or ``1h``: Claude is asked to keep what all requests begin with for so long; empty: it is not."""
    prefix_tokens: int | None = None
    """Of what all requests begin with, as the API counts them; None where nobody has counted."""
    chars_per_token: float = CHARS_PER_TOKEN
    _bytes: dict[str, int] = field(default_factory=dict)

    def user(self, figure: Mapping[str, Any]) -> str:
        """The user's message about a figure."""
        return user_text(figure, self.seed)[0]

    def ask(self, family: Family, figure: Mapping[str, Any]) -> Ask:
        """The request about a figure, known by its key; its words are made by ``body``."""
        return self.ask_of(family, figure["figure_id"], self.user(figure), "teach")

    def ask_of(self, family: Family, figure_id: str, user: str, purpose: str) -> Ask:
        """A request with these words."""
        parts = [purpose, family.name, family.model, dict(family.parameters), self.prompt.sha256, user]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode("utf-8", "backslashreplace"))
        return Ask(key.hexdigest(), figure_id, purpose, family.name, family.model)

    def body(self, family: Family, user: str) -> dict[str, Any]:
        """The whole request as the teacher's API takes it."""
        said = messages(self.prompt, user)
        if family.name == "claude":
            return self._for_claude(family, said)
        return self._for_llama(family, said)

    def _for_claude(self, family: Family, said: list[dict[str, Any]]) -> dict[str, Any]:
        asked = family.parameters
        output: dict[str, Any] = {"effort": asked["effort"]}
        if asked["format"] == "json":
            output["format"] = {"type": "json_schema", "schema": SCHEMA}
        if self.caching and len(said) > 1:
            kept = {"type": "ephemeral", "ttl": self.caching}
            block = {"type": "text", "text": said[-2]["content"], "cache_control": kept}
            said = [*said[:-2], {"role": said[-2]["role"], "content": [block]}, said[-1]]
        return {
            "model": family.model,
            "max_tokens": asked["max_tokens"],
            "system": self.prompt.system,
            "messages": said,
            "output_config": output,
        }

    def _for_llama(self, family: Family, said: list[dict[str, Any]]) -> dict[str, Any]:
        asked = family.parameters
        return chat_body(
            family.model, self.prompt.system, said,
            max_tokens=asked["max_tokens"], temperature=asked["temperature"], seed=asked["seed"],
            schema=SCHEMA if asked["format"] == "json" else None,
        )  # fmt: skip

    # ------------------------------------------------------------------ money

    @functools.cached_property
    def prefix_chars(self) -> int:
        """Characters that all requests begin with."""
        return len(self.prompt.system) + sum(len(one["content"]) for one in self.prompt.opening)

    @property
    def _prefix(self) -> float:
        """Tokens that all requests begin with, about."""
        return self.prefix_tokens or self.prefix_chars / CHARS_PER_TOKEN

    def _prefix_bytes(self, family: Family) -> int:
        """Bytes of a whole request but for the user's words: roles, and the schema of the answer, take tokens too."""
        if family.name not in self._bytes:
            text = json.dumps(self.body(family, ""), ensure_ascii=False)
            self._bytes[family.name] = len(text.encode("utf-8", "backslashreplace"))
        return self._bytes[family.name]

    def expected(self, family: Family, chars: float, output_tokens: float) -> tuple[float, float]:
        """Tokens in and out that a request is expected to take; ``chars`` of the user's message."""
        return self._prefix + chars / self.chars_per_token, min(output_tokens, family.parameters["max_tokens"])

    def worst(self, family: Family, user: str, price: Price, *, batch: bool) -> int:
        """The most that a request can cost, in nanodollars: tokens are a byte or longer, answers no longer than asked.

        Where the API has counted what all requests begin with, its count with a margin.  Where caching is asked for,
        that part may be written anew each time.
        """
        prefix = self._prefix_bytes(family)
        if self.prefix_tokens:
            prefix = min(prefix, math.ceil(self.prefix_tokens * COUNT_MARGIN))
        tokens_in = prefix + len(user.encode("utf-8", "backslashreplace")) + FRAME_TOKENS
        kept = prefix if self.caching else 0
        return price.most(tokens_in, family.parameters["max_tokens"], kept=kept, batch=batch)

    def price(self, family: Family, chars: float, rows: int, price: Price, *, batch: bool, output: float) -> Fraction:
        """What some requests are expected to cost, in nanodollars, without any help of a cache in batches.

        Else the first request writes what all begin with into the cache, and the others read it there.

        Args:
            family: whom to ask.
            chars: of the user's messages, on average.
            rows: requests.
            price: of the model.
            batch: whether they go in Message Batches.
            output: tokens of an answer.
        """
        tokens_in, tokens_out = self.expected(family, chars, output)
        each = Fraction(tokens_in) * price.input + Fraction(tokens_out) * price.output
        total = each * rows
        if self.caching and not batch and rows and self._prefix >= KEPT_FROM:  # batches promise no hits
            written = price.write_1h if self.caching == "1h" else price.write_5m
            total += Fraction(self._prefix) * (written + price.read * (rows - 1) - price.input * rows)
        return total * (price.batch if batch else 1)
