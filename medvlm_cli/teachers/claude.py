"""Claude through Anthropic's API: one message at a time, or Message Batches.

The SDK's own retries are off: it has no idempotency key, so a repeated ``create`` whose first answer was lost makes a
second batch, billed too, and it would obey a ``Retry-After`` of days.  Bodies are read here and not by the SDK's
models, which take an HTML page for a bug and lose every line behind a malformed one.
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medvlm_cli.core import commit
from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.hosts import shown
from medvlm_cli.core.offline import refuse
from medvlm_cli.core.pace import retry_after
from medvlm_cli.teachers.replies import AgainError, Reply, RowError, Usage, is_too_long

URL = "https://api.anthropic.com"
KEY = "ANTHROPIC_API_KEY"

_CONNECT = 10.0
_BUSY = {429, 529}
_AGAIN = {408, 409, 425, *_BUSY}
_REFUSED = {401, 402, 403}
_ROW = {400, 413, 422}
_SPEND_LIMITS = {
    "enforced_spend_limit_reached",
    "contract_spend_limit_reached",
    "linked_organization_spend_limit_reached",
}
_BROKE = "credit balance is too low"
"""In the words of a 400 that is about money, and not about what was sent."""
_PORTS = {"https": 443, "http": 80}
_LIMITS = ("requests", "tokens", "input-tokens", "output-tokens")


def base_url(given: str) -> str:
    """The address to talk to: the one given, else ``ANTHROPIC_BASE_URL``, else Anthropic's."""
    return (given or os.environ.get("ANTHROPIC_BASE_URL") or URL).rstrip("/")


def has_key() -> bool:
    """Whether the environment holds a key; profiles on disk are never looked for, they may charge somebody else."""
    return bool(os.environ.get(KEY))


class Claude:
    """A client; an asynchronous context manager.

    Args:
        url: of the API.
        connections: open at a time.
        timeout: seconds that one answer may take.

    Raises:
        ConfigError: the environment has no key.
    """

    def __init__(self, url: str, *, connections: int, timeout: float) -> None:
        import anthropic  # 3.7 s that only a paid run should pay
        import httpx2

        key = os.environ.get(KEY)
        if not key:
            raise ConfigError(f"no key for Claude: {KEY} is not set", f"export {KEY}=...")
        refuse(url)
        self._url = url
        self._key = key
        connect = min(_CONNECT, timeout)
        self._longest = connect + timeout
        self._sdk = anthropic
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        wait = httpx2.Timeout(timeout, connect=connect)
        http = anthropic.DefaultAsyncHttpxClient(
            base_url=url, limits=limits, timeout=wait, follow_redirects=False, event_hooks={"request": [self._at_home]}
        )
        self._client = anthropic.AsyncAnthropic(
            api_key=key, base_url=url, max_retries=0, timeout=wait, http_client=http, open_telemetry=False
        )

    async def __aenter__(self) -> "Claude":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._client.close()

    async def _at_home(self, request: Any) -> None:
        """The key goes to the host that the user named, and to no other."""
        if not self._is_home(str(request.url)):
            raise RemoteError(f"{shown(str(request.url))} is not at {shown(self._url)}: not asked")

    def _is_home(self, url: str) -> bool:
        try:
            return _origin(url) == _origin(self._url)
        except ValueError:  # a port that is none
            return False

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """The answer to one message.

        Args:
            body: parameters of ``messages.create``.

        Raises:
            AgainError: this try failed; ``billed`` where the answer may only have been lost.
            RowError: the API will never answer this body.
            UnknownError: there is no such model.
            RemoteError: it refuses key or account; or a spend limit is reached.
        """
        async with self._trouble(), asyncio.timeout(self._longest):  # the client's own is for one piece of an answer
            answer = await self._client.messages.with_raw_response.create(**body)
            reply = reply_of(_object(await answer.read()), answer.headers.get("request-id") or "")
            return replace(reply, rest=rest_of(answer.headers))

    async def count(self, body: Mapping[str, Any]) -> int:
        """How many tokens a body has, by the API's own free count; raises as ``ask``."""
        counted = ("model", "messages", "system", "output_config")
        fields = {name: value for name, value in body.items() if name in counted}
        async with self._trouble(), asyncio.timeout(self._longest):
            answer = await self._client.messages.with_raw_response.count_tokens(**fields)
            return int(_object(await answer.read())["input_tokens"])

    async def create(self, requests: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch of ``{"custom_id", "params"}``; raises as ``ask``, ``billed`` where it may exist after all."""
        async with self._trouble(makes=True):
            answer = await self._client.messages.batches.with_raw_response.create(requests=requests)  # type: ignore[arg-type]
            return _batch(_object(await answer.read()))

    async def batch(self, batch_id: str) -> dict[str, Any]:
        """A batch as the API describes it; raises as ``ask``.

        Raises:
            LostError: there is no such batch.
        """
        async with self._trouble(lost=batch_id):
            answer = await self._client.messages.batches.with_raw_response.retrieve(batch_id)
            return _batch(_object(await answer.read()))

    async def batches(self, since: float) -> list[dict[str, Any]]:
        """Batches made at this time (seconds since 1970) or later, newest first; raises as ``ask``."""
        found: list[dict[str, Any]] = []
        after: dict[str, Any] = {}
        while True:
            async with self._trouble():
                answer = await self._client.messages.batches.with_raw_response.list(limit=100, **after)
                page = _object(await answer.read())
                young = [_batch(one) for one in page["data"] if created(one) >= since]
                found += young
                if not page.get("has_more") or len(young) < len(page["data"]):
                    return found
                after = {"after_id": page["data"][-1]["id"]}

    async def cancel(self, batch_id: str) -> dict[str, Any]:
        """Ask for a batch to be ended; what is already answered is billed.  Raises as ``batch``."""
        async with self._trouble(lost=batch_id):
            answer = await self._client.messages.batches.with_raw_response.cancel(batch_id)
            return _batch(_object(await answer.read()))

    async def download(self, batch: Mapping[str, Any], path: Path) -> None:
        """The results of an ended batch as a file of JSON lines, whole or not at all under this name.

        Raises:
            LostError: the results are no longer there.
            RemoteError: the results are said to lie on another host, which gets no key of ours.
        """
        url = batch.get("results_url")
        if batch.get("archived_at") or not url:
            raise LostError(f"the results of batch {batch['id']} are no longer there")
        if not self._is_home(url):
            raise RemoteError(
                f"batch {batch['id']}: its results are said to be at {shown(url)}, not at {shown(self._url)}"
            )
        async with self._trouble(lost=batch["id"]):
            results = self._client.messages.batches.with_streaming_response.results(batch["id"])
            async with results as answer:
                await _save(answer.iter_bytes(), path)

    @asynccontextmanager
    async def _trouble(self, lost: str | None = None, *, makes: bool = False) -> AsyncIterator[None]:
        """The SDK's errors, and those it lets through, as ours."""
        import httpx2

        sdk = self._sdk
        try:
            yield
        except sdk.APIStatusError as error:
            if lost and error.status_code in (404, 410):
                raise LostError(f"batch {lost} or its results are no longer there ({self._words(error)})") from error
            again = self._status(error)
            if makes and isinstance(again, AgainError) and error.status_code >= 500:  # a gateway's, or too late
                again.billed = again.billed or error.status_code not in (503, 529)
            raise again from error
        except sdk.APIConnectionError as error:
            if isinstance(error.__cause__, RemoteError):  # of the hook
                raise error.__cause__ from None
            early = isinstance(error.__cause__, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.PoolTimeout)
            what = "no answer in time" if isinstance(error, sdk.APITimeoutError) else "the connection broke"
            raise AgainError("cannot connect" if early else what, billed=not early) from error
        except httpx2.HTTPError as error:  # of a body that is read by us
            raise AgainError(f"the answer was cut off ({type(error).__name__})", billed=True) from error
        except TimeoutError as error:
            raise AgainError("no answer in time", billed=True) from error
        except (ValueError, LookupError, TypeError, AttributeError, sdk.APIError) as error:
            raise AgainError(f"an answer that is none ({type(error).__name__})", billed=True) from error
        except sdk.AnthropicError as error:  # it looks at a batch again before it fetches results
            if lost:
                raise LostError(f"the results of batch {lost} are no longer there") from error
            raise AgainError(f"the client gave up ({type(error).__name__})", billed=True) from error

    def _status(self, error: Any) -> Exception:
        """What follows from a status."""
        status, said = error.status_code, self._words(error)
        after = retry_after(error.response.headers.get("retry-after"))
        if status in _REFUSED or error.error_code in _SPEND_LIMITS or (status == 400 and _BROKE in said):
            why = {401: "the key is not accepted", 402: "a billing problem", 403: "not permitted"}
            money = "the account has no credit left" if _BROKE in said else "a spend limit is reached"
            what = f"Anthropic refuses: {why.get(status, money)} ({said})"
            return RemoteError(what, "mend it in the console; everything answered is kept, the same command goes on")
        if status == 404:
            return UnknownError(f"Anthropic has no such thing ({said})", "give another --set claude_model=NAME")
        if status in _ROW:
            return RowError("too_long" if status == 413 or is_too_long(said) else "invalid_request", said)
        if status in _AGAIN or status >= 500:
            return AgainError(f"status {status}", after, busy=status in _BUSY, billed=status in (408, 504))
        return RemoteError(f"Anthropic answers with status {status} ({said})")

    def _words(self, error: Any) -> str:
        """The API's words about an error, short; never the body, which may hold what we sent, and never the key."""
        said = (error.api_message or "").replace(self._key, "[key]")[:300]
        return f"{error.status_code} {error.error_code or error.type or ''}: {said}".strip()


class UnknownError(RemoteError):
    """404: there is no such model, or this address does not do what it is asked to."""


class LostError(Exception):
    """A batch, or its results, is no longer there: results are kept for 29 days."""


def reply_of(message: Mapping[str, Any], request_id: str = "") -> Reply:
    """A message of the API as a reply; a refusal is one without text.

    Raises:
        ValueError: it is no message.
    """
    if message.get("type") != "message":
        raise ValueError(f"type {message.get('type')!r} is no message")
    blocks = message.get("content") or []
    usage = message["usage"]
    made = usage.get("cache_creation") or {}
    written, long = usage.get("cache_creation_input_tokens") or 0, made.get("ephemeral_1h_input_tokens") or 0
    return Reply(
        text="".join(block.get("text") or "" for block in blocks if block.get("type") == "text"),
        stop_reason=str(message.get("stop_reason")),
        stop_category=(message.get("stop_details") or {}).get("category"),
        usage=Usage(
            input_tokens=int(usage.get("input_tokens") or 0),
            output_tokens=int(usage.get("output_tokens") or 0),
            cache_write_5m=max(0, written - long),
            cache_write_1h=long,
            cache_read=usage.get("cache_read_input_tokens") or 0,
            thinking_tokens=(usage.get("output_tokens_details") or {}).get("thinking_tokens") or 0,
        ),
        served_model=str(message.get("model") or ""),
        provider_id=str(message.get("id") or request_id),
    )


def rest_of(headers: Mapping[str, str]) -> float:
    """Seconds until more may be asked, by the headers of an answer: 0 while each limit has something left.

    The moment at which a limit is full again is by the host's clock, so its own ``Date`` is what it is compared with.
    """
    rest = 0.0
    for name in _LIMITS:
        if headers.get(f"anthropic-ratelimit-{name}-remaining") != "0":
            continue
        try:
            full = datetime.fromisoformat(headers.get(f"anthropic-ratelimit-{name}-reset") or "")
            date = headers.get("date")
            now = parsedate_to_datetime(date) if date else datetime.now(UTC)
            rest = max(rest, (full - now).total_seconds())
        except (ValueError, TypeError):  # no moment, or one without a zone
            continue
    return rest


def created(batch: Mapping[str, Any]) -> float:
    """When a batch was made, in seconds since 1970."""
    return datetime.fromisoformat(batch["created_at"]).timestamp()


def size(batch: Mapping[str, Any]) -> int:
    """How many requests a batch has; the sum holds in every state."""
    return sum(count for count in batch["request_counts"].values() if isinstance(count, int))


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or _PORTS.get(parts.scheme)


def _object(body: bytes) -> dict[str, Any]:
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _batch(value: dict[str, Any]) -> dict[str, Any]:
    if value.get("type") != "message_batch" or not isinstance(value.get("id"), str):
        raise ValueError("not a batch")
    return value


async def _save(pieces: AsyncIterator[bytes], path: Path) -> None:
    commit.make_folder(path.parent)
    with commit.durable(path) as file:
        async for piece in pieces:
            file.write(piece)
