"""What a teacher says to one request, what it took, and what can go wrong on the way: the words all teachers share."""

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True, slots=True)
class Usage:
    """Tokens as the provider counted them; nothing here is ever estimated."""

    input_tokens: int = 0
    """Read at the full price: neither from a cache nor into one."""
    output_tokens: int = 0
    """Written, thinking included."""
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    thinking_tokens: int = 0
    """Of ``output_tokens``; 0 where the provider does not say."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """One answer of a teacher; a refusal is an answer too."""

    text: str
    """Word for word; empty for a refusal."""
    stop_reason: str
    """``end_turn``, ``max_tokens``, ``stop_sequence``, ``refusal`` ...: Anthropic's words, whoever answered."""
    stop_category: str | None = None
    """Of a refusal, what it was for: ``bio``; None where the provider does not say."""
    usage: Usage = field(default_factory=Usage)
    served_model: str = ""
    """The model that answered, by the provider's own word."""
    provider_id: str = ""
    """The provider's id of the answer or of the request."""
    rest: float = 0.0
    """Seconds until the provider takes more requests: this answer used up what its limits allow; 0 where not."""


class AgainError(Exception):
    """A try failed in a way that the next may not: 408, 409, 429, 5xx, 529, a timeout, a body that is none.

    Args:
        what: in words, without what is secret.
        after: seconds that the host asks to wait; 0 where it does not say.
        billed: whether the request may have been served, and billed, all the same.
        busy: the host has too much to do (429, 529): fewer requests at a time, not only later ones.
    """

    def __init__(self, what: str, after: float = 0.0, *, billed: bool = False, busy: bool = False) -> None:
        super().__init__(what)
        self.what = what
        self.after = after
        self.billed = billed
        self.busy = busy


class RowError(Exception):
    """The provider will never answer this request: 400, 413 or 422 for its content.

    Args:
        code: a short one, ``invalid_request``.
        what: the provider's words.
    """

    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code
        self.what = what


_TOO_LONG = re.compile(r"context.{0,10}length|maximum (?:model|input) length|too (?:long|many tokens)", re.IGNORECASE)


def is_too_long(said: str) -> bool:
    """Whether the words of a refusal say that the request is longer than the model can read."""
    return bool(_TOO_LONG.search(said))
