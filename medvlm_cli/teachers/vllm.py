"""Llama on servers of one's own: vLLM, or any other that speaks OpenAI's ``/v1/chat/completions``.

Several servers are replicas of one model.  A request goes to the one with the fewest under way; one that keeps failing
rests while the others serve.  What a server answers as is compared with what it was asked for, so that no fallback of
a gateway puts another model's words into the data unseen.

Source: vLLM's OpenAI-compatible server, docs.vllm.ai, and its source code, version 0.32.
"""

import asyncio
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import aiohttp

from medvlm_cli import __version__
from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.hosts import is_private, shown
from medvlm_cli.core.offline import refuse
from medvlm_cli.core.pace import retry_after
from medvlm_cli.teachers.replies import AgainError, Reply, RowError, Usage, is_too_long

KEY = "VLLM_API_KEY"
"""Environment variable of the key; ``vllm serve`` reads the same one."""

FAILURES = 5
"""A server rests after so many failures in a row ..."""
REST = 10.0
"""... for so many seconds; then one request tries it."""

_CONNECT = 10.0
_KEEP_ALIVE = 3.0
"""Seconds; vLLM closes an idle connection after 5, and a request that meets the closing is lost."""
_LONGEST = 8 << 20
"""Bytes of an answer that are read; a thousand times what a conversation takes."""
_BUSY = {429, 529}
_AGAIN = {408, 409, 425, *_BUSY}
_LATE = {408, 504}
_FORBIDDEN = {401, 403}
_ROW = {400, 413, 422}
_STOPS = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal", "tool_calls": "tool_use"}
_GIVEN_UP = {"abort", "error"}


@dataclass(eq=False)
class _Server:
    """One server, and how it fares."""

    url: str
    """Ends in ``/v1``."""
    proxy: str | None
    roots: dict[str, str | None] | None = None
    """What it serves: names, and the weights behind each where it says; None until it was asked."""
    under_way: int = 0
    asked: int = 0
    failures: int = 0
    """In a row."""
    rests_until: float = 0.0
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def able(self, now: float) -> bool:
        """Whether it may be asked; after a rest, by one request at a time until one is answered."""
        return self.failures < FAILURES or (now >= self.rests_until and not self.under_way)

    def failed(self) -> None:
        self.failures += 1
        if self.failures >= FAILURES:
            self.rests_until = time.monotonic() + REST

    def is_same(self, asked: str, served: str) -> bool:
        """Whether two names mean the same weights: a server of several names answers as the first of them."""
        roots = self.roots or {}
        return served in ("", asked) or (roots.get(asked) is not None and roots.get(asked) == roots.get(served))


class Servers:
    """A client of one or more servers that all serve the same model; an asynchronous context manager.

    Args:
        urls: addresses, with or without ``/v1``.
        model: the name that they serve it under.
        connections: requests under way at a time, over all servers.
        timeout: seconds that one answer may take.

    Raises:
        ConfigError: there is no address, or one is none.
    """

    def __init__(self, urls: Sequence[str], model: str, *, connections: int, timeout: float) -> None:
        bases = dict.fromkeys(map(_base, urls))
        if not bases:
            raise ConfigError("no server to ask for Llama", "give one with --llama-endpoint URL")
        refuse(*bases)
        self._servers = [_Server(base, _proxy(base)) for base in bases]
        self._model = model
        self._timeout = timeout
        self._key = os.environ.get(KEY, "").strip()
        self._slots = asyncio.Semaphore(connections)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "Servers":
        headers = {
            "User-Agent": f"medvlm/{__version__}",
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
        }
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE, ttl_dns_cache=300),
            timeout=aiohttp.ClientTimeout(total=self._timeout, sock_connect=_CONNECT),
            headers=headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._session is not None
        await self._session.close()

    async def check(self) -> None:
        """Ask every server what it serves.

        Raises:
            ConfigError: a server does not serve the model, or is none of this kind.
            RemoteError: a server cannot be reached, or refuses the key.
        """
        looks = await asyncio.gather(*map(self._look, self._servers), return_exceptions=True)
        for server, error in zip(self._servers, looks, strict=True):
            if isinstance(error, AgainError):
                fix = "is it running? start it, or give another address with --llama-endpoint URL"
                raise RemoteError(error.what, fix) from error
            if error is not None:
                raise error
            names = list(server.roots or {})
            if self._model not in names:
                what = f"{shown(server.url)} serves {', '.join(map(repr, names)) or 'nothing'}, not {self._model!r}"
                fix = f"--set llama_model={names[0]}, or give another address with --llama-endpoint" if names else ""
                raise ConfigError(what, fix)

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """The answer to one request.

        Args:
            body: parameters of ``/v1/chat/completions``, as ``chat_body`` makes them.

        Raises:
            AgainError: this try failed: no connection, no answer in time, 408, 409, 425, 429, 5xx, or no answer at all.
            RowError: ``too_long`` for the model, or ``invalid_request``.
            RemoteError: the server refuses the key, or redirects.
            ConfigError: it does not serve the model, or answers as another one.
        """
        model, data = body.get("model", self._model), json.dumps(body).encode()
        async with self._slots:
            server = self._least_loaded()
            server.under_way += 1
            server.asked += 1
            try:
                if server.roots is None:
                    await self._look(server)
                reply = await self._post(server, data)
            except AgainError:
                server.failed()
                raise
            except RowError:
                server.failures = 0
                raise
            finally:
                server.under_way -= 1
        server.failures = 0
        if not server.is_same(model, reply.served_model):
            what = f"{shown(server.url)} was asked for {model!r} and answered as {reply.served_model!r}"
            raise ConfigError(
                what, "turn off its fallbacks, or name the model that shall answer: --set llama_model=NAME"
            )
        return reply

    def _least_loaded(self) -> _Server:
        """The server with the fewest requests under way; where all rest, one that rests."""
        now = time.monotonic()
        able = [server for server in self._servers if server.able(now)] or self._servers
        return min(able, key=lambda server: (server.under_way, server.asked))

    async def _look(self, server: _Server) -> None:
        """Learn what a server serves."""
        async with server.looking:
            if server.roots is not None:
                return
            status, headers, said = await self._exchange("GET", server, "/models")
            if status == 404:
                what = f"{shown(server.url)}/models is not there: it is no OpenAI-compatible server"
                raise ConfigError(what, "give the address that ends in /v1, or the one before that")
            if status != 200:
                error = self._refusal(server, status, headers, said)
                raise RemoteError(f"{shown(server.url)}/models: {error}") if isinstance(error, RowError) else error
            try:
                server.roots = {str(one["id"]): one.get("root") for one in json.loads(said)["data"]}
            except (ValueError, KeyError, TypeError, AttributeError) as fault:
                raise AgainError(f"{shown(server.url)}/models: an answer that is none") from fault

    async def _post(self, server: _Server, data: bytes) -> Reply:
        status, headers, said = await self._exchange("POST", server, "/chat/completions", data)
        if status != 200:
            raise self._refusal(server, status, headers, said)
        try:
            return reply_of(json.loads(said))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            kind = type(error).__name__
            raise AgainError(f"{shown(server.url)}: an answer that is none ({kind})", billed=True) from error

    async def _exchange(
        self, method: str, server: _Server, path: str, data: bytes | None = None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body of what comes back."""
        assert self._session is not None
        where = shown(server.url)
        try:
            async with self._session.request(
                method, server.url + path, data=data, allow_redirects=False, proxy=server.proxy
            ) as response:
                pieces, size = [], 0
                while piece := await response.content.readany():
                    pieces.append(piece)
                    size += len(piece)
                    if size > _LONGEST:
                        raise AgainError(f"{where}: an answer of more than {_LONGEST:,} bytes", billed=True)
                return response.status, response.headers, b"".join(pieces)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise AgainError(f"{where}: cannot connect ({_why(error)})") from error
        except TimeoutError as error:
            raise AgainError(f"{where}: no answer in {self._timeout:g} s", billed=True) from error
        except (aiohttp.ClientError, OSError) as error:
            raise AgainError(f"{where}: the connection broke ({type(error).__name__})", billed=True) from error

    def _refusal(self, server: _Server, status: int, headers: Mapping[str, str], body: bytes) -> Exception:
        """What follows from a status that is not 200."""
        where, (code, said) = shown(server.url), _words(body)
        if self._key:
            said = said.replace(self._key, "[key]")
        told = f"{where}: status {status}{f' ({said})' if said else ''}"
        if status in _FORBIDDEN:
            why = f"the key in {KEY} is not accepted" if self._key else f"it asks for a key, and {KEY} is not set"
            return RemoteError(f"{told}; {why}", f"export {KEY}=...")
        if status == 404:
            return ConfigError(told, "does it serve the model under this name? --set llama_model=NAME")
        if status in _ROW:
            long = status == 413 or code == "context_length_exceeded" or is_too_long(said)
            return RowError("too_long" if long else "invalid_request", said or f"status {status}")
        if status in _AGAIN or status >= 500:
            after = retry_after(headers.get("Retry-After"))
            return AgainError(told, after, busy=status in _BUSY, billed=status in _LATE)
        if 300 <= status < 400:
            target = shown(headers.get("Location", ""))
            return RemoteError(f"{where} redirects to {target}, which is not followed", "give the address it leads to")
        return RemoteError(told)


def chat_body(
    model: str,
    system: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    schema: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The parameters of one request.

    Args:
        model: the name that it is served under.
        system: the system prompt; empty for none.
        messages: turns of user and assistant, the last one of the user.
        max_tokens: longest answer.
        temperature: 0 takes the likeliest token each time.
        seed: of the sampling.
        schema: JSON schema that the answer must satisfy.  vLLM ignores ``guided_json`` without a word since 0.12, so
            it goes as ``response_format``.
    """
    opening = [{"role": "system", "content": system}] if system else []
    body: dict[str, Any] = {
        "model": model,
        "messages": [*opening, *messages],
        "max_tokens": max_tokens,
        "temperature": temperature,
        "seed": seed,
    }
    if schema is not None:
        named = {"name": "conversation", "schema": schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    return body


def reply_of(answer: Mapping[str, Any]) -> Reply:
    """An answer of ``/v1/chat/completions`` as a reply.

    Raises:
        ValueError: it is none, or the server gave the request up; other lookup errors where parts are missing.
    """
    choice = answer["choices"][0]
    message, usage = choice["message"], answer.get("usage") or {}
    stop, text = stop_reason(choice.get("finish_reason")), message.get("content") or ""
    if message.get("refusal"):
        stop = "refusal"
    if not isinstance(text, str):
        raise ValueError("an answer that is not text")
    read, cached = int(usage.get("prompt_tokens") or 0), _detail(usage, "prompt_tokens_details", "cached_tokens")
    return Reply(
        text="" if stop == "refusal" else text,
        stop_reason=stop,
        usage=Usage(
            input_tokens=max(0, read - cached),
            output_tokens=int(usage.get("completion_tokens") or 0),
            cache_read=cached,
            thinking_tokens=_detail(usage, "completion_tokens_details", "reasoning_tokens"),
        ),
        served_model=str(answer.get("model") or ""),
        provider_id=str(answer.get("id") or ""),
    )


def stop_reason(finish: str | None) -> str:
    """OpenAI's ``finish_reason`` in Anthropic's words; raises ``ValueError`` where the server gave up half-way."""
    if finish in _GIVEN_UP:
        raise ValueError(f"finish_reason is {finish}")
    return _STOPS.get(finish or "", finish or "unknown")


def _detail(usage: Mapping[str, Any], group: str, name: str) -> int:
    return int((usage.get(group) or {}).get(name) or 0)


def _base(url: str) -> str:
    """The address of the API, which ends in ``/v1``."""
    parts = urlsplit(url.strip())
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"no address of a server: {shown(url)!r}", "give one such as http://host:8000")
    if parts.username or parts.password or parts.query or parts.fragment:
        what = f"{shown(url)}: an address with a user, a password, a query or a fragment"
        raise ConfigError(what, f"give the bare address, and the key as {KEY} in the environment")
    path = parts.path.rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else f'{path}/v1'}"


def _proxy(base: str) -> str | None:
    """The proxy that the environment names for a server; a server beside us needs none."""
    parts = urlsplit(base)
    host = parts.hostname or ""
    return None if is_private(host) or proxy_bypass(host) else getproxies().get(parts.scheme)


def _words(body: bytes) -> tuple[str, str]:
    """An error's code and its words, short; nothing of a page that is no JSON."""
    try:
        told = json.loads(body)
        error = told.get("error", told)
        error = error if isinstance(error, dict) else {"message": error}
        said = error.get("message") or error.get("detail") or ""
    except (ValueError, AttributeError):
        return "", ""
    return str(error.get("code") or ""), " ".join(str(said).split())[:300]


def _why(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        code = error.os_error.errno
        return os.strerror(code) if code and code > 0 else str(error.os_error)
    return "no answer in time"
