"""Anthropic's API on loopback, and a vLLM server's on the same port: batches, bills and errors, and faults on demand.

It remembers every request, and of every answer what it cost.  ``python -m tests.anthropic_server --log FILE`` prints
its address and serves until its stdin is closed.  Shapes are those of the SDK, anthropic 2.12, and of vLLM 0.32.

    with serving(batch_seconds=0.1, faults={"529": 0.1, "drop after accept": (0.5, "batches$")}) as server:
        client = anthropic.AsyncAnthropic(api_key=server.key, base_url=server.url, max_retries=0)
        ...
        assert server.billed_usd < 1
"""

import argparse
import asyncio
import hashlib
import json
import math
import random
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import NamedTuple
from urllib.parse import parse_qs

from tests.anthropic_faults import (
    MALFORMED,
    PAGES,
    REFUSED,
    ApiError,
    Faults,
    chances,
    custom_ids_of,
    error_of,
    invalid,
    last_user,
    not_found,
    pairs_for,
    refuse,
    reply_for,
    spoiled,
    text_of,
    token_of,
)

__all__ = ["AnthropicServer", "Options", "billed_in", "last_user", "pairs_for", "reply_for", "serving", "token_of"]

PRICES = {
    "claude-opus-5-5": {"input": 4, "output": 20, "read": 0.2, "write_5m": 5, "write_1h": 8},
    "claude-sonnet-5-5": {"input": 2, "output": 10, "read": 0.1, "write_5m": 2.5, "write_1h": 4},
    "claude-haiku-5-5": {"input": 0.1, "output": 0.5, "read": 0.01, "write_5m": 0.125, "write_1h": 0.2},
}
"""Dollars a million tokens."""
LLAMA = "meta-llama/Meta-Llama-3-70B-Instruct"
DAY = 86400
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}


@dataclass(frozen=True, kw_only=True)
class Options:
    """How a server behaves; shares are from 0 to 1."""

    port: int = 0
    key: str = "test-key"
    """What Anthropic's side accepts; the other side takes any."""
    prices: dict = field(default_factory=lambda: PRICES)
    """Model -> its prices; these are the models there are."""
    served: tuple = (LLAMA,)
    """Models of the vLLM side; they answer on ``/v1/messages`` too, free."""
    seed: int = 0
    latency: float = 0.0
    """Seconds before every answer."""
    batch_seconds: float = 0.2
    """Until a batch ends."""
    batch_polls: int | None = None
    """Instead: how often it is asked about until it ends."""
    cancel_seconds: float = 0.1
    """From the request to cancel until the end."""
    listing_lag: float = 0.0
    """Seconds until a new batch is listed."""
    skew: float = 0.0
    """Seconds that this server's clock is ahead."""
    refusals: float = 0.0
    """Share of user messages that are refused, every time; so ``max_tokens`` and ``malformed``."""
    max_tokens: float = 0.0
    malformed: float = 0.0
    errored: float = 0.0
    """Share of the rows of a batch, drawn anew for every batch; so ``expired`` and ``canceled``."""
    expired: float = 0.0
    canceled: float = 0.0
    invalid: float = 0.0
    """Share of user messages for which a batch has an ``invalid_request_error``, every time."""
    adversarial: bool = False
    """Every answer is billed with as many tokens as were allowed."""
    thinking: int = 0
    """Tokens of thinking, about, part of the output."""
    caching: bool = False
    """What stands before ``cache_control`` is written once and then read."""
    cache_minimum: int = 1024
    """Tokens below which nothing is cached, without a word."""
    context: int = 200_000
    served_context: int = 8192
    most_requests: int = 100_000
    most_bytes: int = 256_000_000
    per_minute: int | None = None
    """Requests to ``/v1/messages`` within a minute; the rest get 429."""
    faults: dict = field(default_factory=dict)
    """Fault -> share, or (share, regular expression of "METHOD /path"); names in ``anthropic_faults``."""
    fault: object = None
    """``fault(number, method, path) -> name | None``."""
    log: object = None
    """Path of a file that gets everything as JSON lines."""


class Answer(NamedTuple):
    """One answer that was given, or would have been had the connection held."""

    seconds: float
    path: str
    batch_id: str | None
    custom_id: str | None
    sha256: str
    """Of the parameters: JSON with sorted keys and no spaces, ASCII."""
    token: str
    model: str
    what: str
    """``text``, ``refusal``, ``max_tokens`` or ``malformed``."""
    usage: dict
    usd: float


@dataclass
class Batch:
    id: str
    number: int
    requests: list
    """Emptied when it ends."""
    created: float
    custom_ids: list
    polls: int = 0
    status: str = "in_progress"
    ended: float | None = None
    cancelled: float | None = None
    archived: float | None = None
    elsewhere: bool = False
    counts: dict = field(default_factory=dict)
    lines: list = field(default_factory=list)


class AnthropicServer:
    """See ``Options``.  The lists grow while it serves; read them from any thread."""

    def __init__(self, **options):
        self.options = Options(**options)
        self.key = self.options.key
        self.requests = []
        """(seconds, method, path, what): ``ok``, a status, or the fault."""
        self.answered = []
        """Every ``Answer``, also of models that cost nothing."""
        self.billed = []
        """Those that cost something."""
        self.batches = {}
        """``Batch`` by id, in the order of creation."""
        self.elsewhere = []
        """(seconds, path, headers) of requests to another origin that ``results_url`` pointed to."""
        self._models = {*self.options.prices, *self.options.served}
        self._connections = set()
        self._faults = Faults(self.options.faults, self.options.fault, self.options.seed)
        self._numbers = self._minute = self._in_minute = 0
        self._cached = {}
        self._deleted = set()
        self._log = open(self.options.log, "a", buffering=1) if self.options.log else None  # noqa: SIM115

    # ------------------------------------------------------------------ for tests

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def billed_usd(self):
        return math.fsum(one.usd for one in self.billed)

    def billed_twice(self):
        """sha256 of parameters -> how often, of what was billed more than once."""
        return {sha: n for sha, n in Counter(one.sha256 for one in self.billed).items() if n > 1}

    def asked(self, pattern=""):
        """Requests whose "METHOD /path" has this pattern in it."""
        return [one for one in self.requests if re.search(pattern, f"{one[1]} {one[2]}")]

    def what_of(self, body):
        """What becomes of a request by its words alone: ``text``, ``refusal``, ``max_tokens``, ``malformed``."""
        return self._what(chances(self.options.seed, last_user(body)))

    def settle(self):
        """End every batch now."""
        self._in_loop(lambda: [self._end(batch) for batch in self.batches.values() if batch.status != "ended"])

    def archive(self):
        """Let the results of every batch be gone."""
        self._in_loop(lambda: [setattr(batch, "archived", self._now()) for batch in self.batches.values()])

    def _in_loop(self, function):
        async def run():
            function()

        asyncio.run_coroutine_threadsafe(run(), self.loop).result(60)

    # ------------------------------------------------------------------ serving

    async def serve(self):
        """Begin to serve; two sockets to close."""
        self.loop = asyncio.get_running_loop()
        server = await self.loop.create_server(lambda: _Connection(self), "127.0.0.1", self.options.port, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        other = await self.loop.create_server(lambda: _Connection(self, elsewhere=True), "127.0.0.1", 0)
        self._other = f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
        return server, other

    def close(self):
        """Let go of every connection."""
        for transport in list(self._connections):
            transport.abort()
        if self._log:
            self._log.close()
            self._log = None

    def hold(self, transport):
        self._connections.add(transport)

    def let_go(self, transport):
        self._connections.discard(transport)

    def begin(self, method, path):
        """The number of a request and its fault, known before its body."""
        self._numbers += 1
        return self._numbers, self._faults.of(self._numbers, method, path)

    def note(self, began, method, path, what):
        self.requests.append((began, method, path, what))
        self._write({"kind": "request", "seconds": began, "method": method, "path": path, "what": what})

    def _write(self, entry):
        if self._log:
            self._log.write(json.dumps(entry) + "\n")

    def respond(self, request):
        """Status, headers and pieces of the body; the pieces are a list where the length is not told."""
        try:
            if request.fault and (known := error_of(request.fault)):
                status, kind, message, code, after = known
                raise ApiError(status, kind, message, code=code, after=after)
            status, headers, body = PAGES[request.fault] if request.fault in PAGES else self._route(request)
        except ApiError as error:
            status, headers, body = error.status, {}, error.body(request.id, vllm=request.is_for_vllm)
            if error.after is not None:
                headers["retry-after"] = error.after
        if isinstance(body, dict):
            body = json.dumps(body).encode()
        return status, {"content-type": "application/json", **self._limits(request), **headers}, body

    def _limits(self, request):
        if not request.path.startswith("/v1/messages"):
            return {}
        left = max(0, (self.options.per_minute or 4000) - self._in_minute)
        headers = {"request-id": request.id, "anthropic-organization-id": "00000000-0000-0000-0000-000000000000"}
        for name, share in (("requests", 1), ("input-tokens", 1000), ("output-tokens", 200)):
            headers[f"anthropic-ratelimit-{name}-limit"] = str((self.options.per_minute or 4000) * share)
            headers[f"anthropic-ratelimit-{name}-remaining"] = str(left * share)
            headers[f"anthropic-ratelimit-{name}-reset"] = _stamp((self._minute + 1) * 60)
        return headers

    def _route(self, request):
        method, path = request.method, request.path
        if (method, path) == ("POST", "/v1/chat/completions"):
            return 200, {}, self._chat(request)
        if request.is_for_vllm:
            return 200, {}, b"" if path == "/health" else self._served_models(path)
        self._authenticate(request)
        match method, path.removeprefix("/v1/").split("/"):
            case "POST", ["messages"]:
                self._hurry()
                params = _json(request)
                return 200, {}, self._message(params, self._refuse(params), path)
            case "POST", ["messages", "count_tokens"]:
                return 200, {}, {"input_tokens": self._refuse({"max_tokens": 1, **_json(request)})[0]}
            case "POST", ["messages", "batches"]:
                return 200, {}, self._create(request)
            case "GET", ["messages", "batches"]:
                return 200, {}, self._list(request)
            case "GET", ["messages", "batches", batch_id]:
                return 200, {}, self._retrieve(batch_id, request.fault)
            case "DELETE", ["messages", "batches", batch_id]:
                return 200, {}, self._delete(batch_id)
            case "POST", ["messages", "batches", batch_id, "cancel"]:
                return 200, {}, self._cancel(batch_id)
            case "GET", ["messages", "batches", batch_id, "results"]:
                return 200, {"content-type": "application/x-jsonl"}, self.results(batch_id, request.fault)
            case "GET", ["models"]:
                models = [_model(name) for name in self.options.prices]
                return 200, {}, _page(models, parse_qs(request.query), 20)
            case "GET", ["models", name] if name in self.options.prices:
                return 200, {}, _model(name)
        raise not_found(f"Not found: {method} {path}")

    def _authenticate(self, request):
        given = request.headers.get("authorization", "").removeprefix("Bearer ") or request.headers.get("x-api-key")
        if given != self.key:
            raise ApiError(401, "authentication_error", "invalid x-api-key")
        if "anthropic-version" not in request.headers:
            raise invalid("anthropic-version: header is required")

    def _hurry(self):
        minute = int(self._now() // 60)
        if minute != self._minute:
            self._minute, self._in_minute = minute, 0
        self._in_minute += 1
        if self.options.per_minute is not None and self._in_minute > self.options.per_minute:
            after = str(math.ceil((minute + 1) * 60 - self._now()))
            raise ApiError(429, "rate_limit_error", "Number of requests has exceeded your rate limit.", after=after)

    def _now(self):
        return time.time() + self.options.skew

    # ------------------------------------------------------------------ one message

    def _message(self, params, counted, path, batch_id=None, custom_id=None):
        """A message of Anthropic's API; its answer goes into the ledger."""
        text = last_user(params)
        odds = chances(self.options.seed, text)
        what = self._what(odds)
        said, output, thought = self._say(params, odds, what)
        usage = self._usage(params, counted, output, thought)
        content = [] if what == "refusal" else [{"type": "text", "text": said, "citations": None}]
        if thought:
            content.insert(0, {"type": "thinking", "thinking": "", "signature": "c2VlZA=="})
        category = REFUSED[min(int(odds[5] ** 2 * len(REFUSED)), len(REFUSED) - 1)]
        details = {"type": "refusal", "category": category, "explanation": None} if what == "refusal" else None
        digest = _sha256(params)
        message = {
            "id": f"msg_{digest[:20]}{len(self.answered):06x}", "type": "message", "role": "assistant",
            "model": params["model"], "content": content, "container": None, "diagnostics": None,
            "stop_reason": what if what in ("refusal", "max_tokens") else "end_turn", "stop_sequence": None,
            "stop_details": details, "usage": usage | {"service_tier": "batch" if batch_id else "standard"},
        }  # fmt: skip
        self._bill(
            Answer(
                time.monotonic(), path, batch_id, custom_id, digest, token_of(text), params["model"], what, usage,
                self._usd(params["model"], usage, batch_id is not None),
            )
        )  # fmt: skip
        return message

    def _refuse(self, params):
        """Raise where parameters are not taken; else what they count as, see ``_input_tokens``."""
        refuse(params, self._models)
        counted = self._input_tokens(params)
        if counted[0] > self.options.context:
            raise invalid(f"prompt is too long: {counted[0]} tokens > {self.options.context} maximum")
        return counted

    def _what(self, odds):
        given, chance = self.options, odds[2]
        for what, share in (
            ("refusal", given.refusals), ("max_tokens", given.max_tokens), ("malformed", given.malformed),
        ):  # fmt: skip
            if chance < share:
                return what
            chance -= share
        return "text"

    def _say(self, params, odds, what):
        """Words, tokens of output, and those of them that were thought."""
        most = params["max_tokens"]
        said = "" if what == "refusal" else reply_for(params)
        thought = round(self.options.thinking * (0.9 + 0.2 * odds[6]))
        output = round(450 * (0.9 + 0.2 * odds[1])) + thought
        if what == "refusal":
            output = 1
        elif what == "malformed":
            said = MALFORMED[int(odds[4] * len(MALFORMED))](said)
        if self.options.adversarial or what == "max_tokens" or output > most:
            output = most
        if what == "max_tokens":
            said = said[: int(len(said) * (0.5 + 0.45 * odds[3]))]
        return said, output, min(thought, output)

    def _input_tokens(self, params):
        """Tokens of a request, and those of them that ``cache_control`` marks, with its key and seconds."""
        pieces = [params.get("system") or "", *(one["content"] for one in params["messages"])]
        chars, before, at, ttl, key = 0, 0, 0, None, None
        for number, content in enumerate(pieces, 1):
            if isinstance(content, str):
                chars += len(content)
                continue
            for block in content:
                chars += len(block.get("text") or "")
                if block.get("cache_control"):
                    before, at, ttl = chars, number, block["cache_control"].get("ttl", "5m")
        if params.get("cache_control"):
            before, at, ttl = chars, len(pieces), params["cache_control"].get("ttl", "5m")
        tokens = max(1, round(chars / 3.5 * (0.9 + 0.2 * chances(self.options.seed, last_user(params))[0])))
        if ttl is not None:
            key = (params["model"], *map(text_of, pieces[:at]))
        return tokens, round(tokens * before / max(chars, 1)), key, ttl

    def _usage(self, params, counted, output, thought):
        tokens, marked, key, ttl = counted
        read = written = 0
        if self.options.caching and key is not None and marked >= self.options.cache_minimum:
            now = time.monotonic()
            read, written = (marked, 0) if self._cached.get(key, 0) > now else (0, marked)
            self._cached[key] = now + (3600 if ttl == "1h" else 300)
        long = written if ttl == "1h" else 0
        return {
            "input_tokens": tokens - read - written, "output_tokens": output,
            "cache_creation_input_tokens": written, "cache_read_input_tokens": read,
            "cache_creation": {"ephemeral_5m_input_tokens": written - long, "ephemeral_1h_input_tokens": long},
            "output_tokens_details": {"thinking_tokens": thought}, "inference_geo": "global",
        }  # fmt: skip

    def _usd(self, model, usage, batch):
        price = self.options.prices.get(model)
        if price is None:
            return 0.0
        made = usage["cache_creation"]
        total = (
            price["input"] * usage["input_tokens"]
            + price["output"] * usage["output_tokens"]
            + price["read"] * usage["cache_read_input_tokens"]
            + price["write_5m"] * made["ephemeral_5m_input_tokens"]
            + price["write_1h"] * made["ephemeral_1h_input_tokens"]
        )
        return total / 1e6 * (0.5 if batch else 1)

    def _bill(self, answer):
        self.answered.append(answer)
        if answer.usd:
            self.billed.append(answer)
        self._write({"kind": "billed" if answer.usd else "answered", **answer._asdict()})

    # ------------------------------------------------------------------ batches

    def _create(self, request):
        if len(request.body) > self.options.most_bytes:
            raise ApiError(413, "request_too_large", "Request exceeds the maximum size")
        requests = _json(request).get("requests")
        custom_ids = custom_ids_of(requests, self.options.most_requests)
        number = len(self.batches) + len(self._deleted) + 1
        name = hashlib.sha256(f"{self.options.seed} {number}".encode()).hexdigest()[:16]
        batch = Batch(f"msgbatch_{number:04d}{name}", number, requests, self._now(), custom_ids)
        self.batches[batch.id] = batch
        self._trait(batch, request.fault)
        self._write({"kind": "batch", "id": batch.id, "rows": len(requests)})
        if self.options.batch_polls is None:
            self.loop.call_later(self.options.batch_seconds, self._end, batch)
        return self._described(batch)

    def _trait(self, batch, fault):
        if fault == "archived":
            batch.archived = self._now()
        elif fault == "results on another host":
            batch.elsewhere = True

    def _described(self, batch):
        ended = batch.status == "ended"
        counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
        counts |= batch.counts if ended else {"processing": len(batch.custom_ids)}
        home = self._other if batch.elsewhere else self.url
        archived = batch.archived if ended else None
        return {
            "id": batch.id, "type": "message_batch", "processing_status": batch.status, "request_counts": counts,
            "created_at": _stamp(batch.created), "expires_at": _stamp(batch.created + DAY),
            "ended_at": _stamp(batch.ended), "cancel_initiated_at": _stamp(batch.cancelled),
            "archived_at": _stamp(archived),
            "results_url": f"{home}/v1/messages/batches/{batch.id}/results" if ended and not archived else None,
        }  # fmt: skip

    def _batch(self, batch_id):
        if batch_id not in self.batches:
            raise not_found(f"No message batch {batch_id} was found")
        return self.batches[batch_id]

    def _list(self, request):
        old = self._now() - self.options.listing_lag
        newest_first = [self._described(one) for one in reversed(self.batches.values()) if one.created <= old]
        return _page(newest_first, parse_qs(request.query), 20)

    def _retrieve(self, batch_id, fault):
        batch = self._batch(batch_id)
        self._trait(batch, fault)
        batch.polls += 1
        if self.options.batch_polls is not None and batch.polls >= self.options.batch_polls:
            self._end(batch)
        return self._described(batch)

    def _delete(self, batch_id):
        if self._batch(batch_id).status != "ended":
            raise invalid("Message Batches can only be deleted once they have ended; cancel it first")
        self._deleted.add(batch_id)
        del self.batches[batch_id]
        return {"id": batch_id, "type": "message_batch_deleted"}

    def _cancel(self, batch_id):
        batch = self._batch(batch_id)
        if batch.status == "ended":
            raise invalid(f"Message batch {batch_id} has ended and cannot be canceled")
        if batch.status == "in_progress":
            batch.status, batch.cancelled = "canceling", self._now()
            self.loop.call_later(self.options.cancel_seconds, self._end, batch)
        return self._described(batch)

    def _end(self, batch):
        """Answer every row of a batch, each with what the seed has for it."""
        if batch.status == "ended":
            return
        drawn = random.Random(f"batch {self.options.seed} {batch.number}")
        done = 1.0
        if batch.cancelled is not None:
            done = min(1.0, (batch.cancelled - batch.created) / max(self.options.batch_seconds, 1e-6))
            done = 0.0 if self.options.batch_polls is not None else done
        path, counts = "/v1/messages/batches", Counter()
        for one in batch.requests:
            result = self._result(batch, one, drawn.random(), drawn.random() < done, path)
            counts[result["type"]] += 1
            batch.lines.append(json.dumps({"custom_id": one["custom_id"], "result": result}).encode() + b"\n")
        drawn.shuffle(batch.lines)
        batch.counts, batch.requests, batch.ended, batch.status = dict(counts), [], self._now(), "ended"
        self._write({"kind": "ended", "id": batch.id, "counts": batch.counts})

    def _result(self, batch, one, chance, reached, path):
        given, params = self.options, one["params"]
        try:
            counted = self._refuse(params)
            if chances(given.seed, last_user(params))[7] < given.invalid:
                raise invalid("messages: this row is refused")
        except ApiError as error:
            return _errored(error.kind, error.message)
        if not reached or chance < given.canceled:
            return {"type": "canceled"}
        chance -= given.canceled
        if chance < given.expired:
            return {"type": "expired"}
        chance -= given.expired
        if chance < given.errored:
            kind = "api_error" if chance < given.errored / 2 else "overloaded_error"
            return _errored(kind, "Internal server error" if kind == "api_error" else "Overloaded")
        return {"type": "succeeded", "message": self._message(params, counted, path, batch.id, one["custom_id"])}

    def results(self, batch_id, fault=""):
        """Lines of the results, in no order."""
        batch = self._batch(batch_id)
        if batch.status != "ended" or batch.archived:
            raise not_found(f"The results of message batch {batch_id} are not available")
        return spoiled(batch.lines, fault, f"{self.options.seed} {batch.number}")

    # ------------------------------------------------------------------ vLLM

    def _chat(self, request):
        params = _json(request)
        model = params.get("model")
        if model not in self.options.served:
            raise ApiError(404, "NotFoundError", f"The model `{model}` does not exist.", param="model")
        if not params.get("messages"):
            raise ApiError(400, "BadRequestError", "messages: Field required", param="messages")
        system = [one for one in params["messages"] if one["role"] == "system"]
        said = [one for one in params["messages"] if one["role"] != "system"]
        most = params.get("max_completion_tokens") or params.get("max_tokens") or 1024
        alike = {"model": model, "messages": said, "system": system[0]["content"] if system else "", "max_tokens": most}
        if params.get("response_format"):
            alike["response_format"] = params["response_format"]
        tokens = self._input_tokens(alike)[0]
        if tokens + most > self.options.served_context:
            what = f"This model's maximum context length is {self.options.served_context} tokens. However, you "
            what += f"requested {most} output tokens and your prompt contains {tokens} input tokens."
            raise ApiError(400, "BadRequestError", what, param="input_tokens")
        text = last_user(alike)
        odds = chances(self.options.seed, text)
        what = self._what(odds)
        if what == "refusal":  # a model of one's own has no classifiers; it says sorry
            what = "text"
        spoken, output, _ = self._say(alike, odds, what)
        cached = self._prefix(alike, tokens) if self.options.caching else None
        usage = {
            "prompt_tokens": tokens, "completion_tokens": output, "total_tokens": tokens + output,
            "prompt_tokens_details": {"cached_tokens": cached} if cached is not None else None,
        }  # fmt: skip
        digest = _sha256(params)
        self._bill(Answer(time.monotonic(), request.path, None, None, digest, token_of(text), model, what, usage, 0.0))
        choice = {
            "index": 0, "message": {"role": "assistant", "content": spoken, "refusal": None, "tool_calls": []},
            "finish_reason": "length" if what == "max_tokens" else "stop", "logprobs": None, "stop_reason": None,
        }  # fmt: skip
        return {
            "id": f"chatcmpl-{digest[:32]}", "object": "chat.completion", "created": int(self._now()), "model": model,
            "choices": [choice], "usage": usage, "system_fingerprint": None,
        }  # fmt: skip

    def _prefix(self, params, tokens):
        """Tokens found in the cache: all before the last message, in blocks of 16, from the second time on."""
        before = [params["system"], *(text_of(one["content"]) for one in params["messages"][:-1])]
        key = (params["model"], *before)
        chars = sum(map(len, before))
        found = self._cached.get(key, 0)
        self._cached[key] = 1
        share = chars / max(1, chars + len(text_of(params["messages"][-1]["content"])))
        return int(tokens * share) // 16 * 16 if found else 0

    def _served_models(self, path):
        cards = [
            {"id": name, "object": "model", "created": 1_790_000_000, "owned_by": "vllm", "parent": None,
             "root": self.options.served[0], "max_model_len": self.options.served_context, "permission": []}
            for name in self.options.served
        ]  # fmt: skip
        name = path.removeprefix("/v1/models").lstrip("/")
        if not name:
            return {"object": "list", "data": cards}
        if name not in self.options.served:
            raise ApiError(404, "NotFoundError", f"The model `{name}` does not exist.", param="model")
        return cards[self.options.served.index(name)]


# ---------------------------------------------------------------------- shapes


def _json(request):
    try:
        value = json.loads(request.body)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise invalid("The request body is not valid JSON: a dictionary is expected")
    return value


def _errored(kind, message):
    error = {"type": "error", "error": {"type": kind, "message": message}, "request_id": None}
    return {"type": "errored", "error": error}


def _model(name):
    return {
        "id": name, "type": "model", "display_name": name.replace("-", " ").title(), "lifecycle": "active",
        "created_at": "2026-09-01T00:00:00Z", "max_input_tokens": 200_000, "max_tokens": 64_000,
    }  # fmt: skip


def _page(entries, query, most):
    """A page of entries by ``limit``, ``after_id`` and ``before_id``."""
    told = query.get("limit", [str(most)])[0]
    limit = int(told) if told.isdecimal() else 0
    if not 1 <= limit <= 1000:
        raise invalid("limit: Input should be between 1 and 1000")
    ids = [one["id"] for one in entries]
    first = 0
    for name in ("after_id", "before_id"):
        if name in query and query[name][0] not in ids:
            raise invalid(f"{name}: no such object")
    if "before_id" in query:
        last = ids.index(query["before_id"][0])
        first, more = max(0, last - limit), last - limit > 0
        page = entries[first:last]
    else:
        first = ids.index(query["after_id"][0]) + 1 if "after_id" in query else 0
        page, more = entries[first : first + limit], first + limit < len(entries)
    ends = (page[0]["id"], page[-1]["id"]) if page else (None, None)
    return {"data": page, "has_more": more, "first_id": ends[0], "last_id": ends[1]}


def _stamp(seconds):
    if seconds is None:
        return None
    return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


def _sha256(params):
    return hashlib.sha256(json.dumps(params, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


# ---------------------------------------------------------------------- HTTP


class _Request:
    """One request, from its head on."""

    def __init__(self, head, begin):
        lines = head.decode("latin-1").split("\r\n")
        self.method, target, _ = lines[0].split(" ", 2)
        self.path, _, self.query = target.partition("?")
        self.headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(":")
            self.headers[name.strip().lower()] = value.strip()
        self.length = int(self.headers.get("content-length", 0))
        self.body = b""
        self.began = time.monotonic()
        self.number, self.fault = begin(self.method, self.path)
        self.id = f"req_{self.number:016x}"

    @property
    def is_for_vllm(self):
        sdk = "anthropic-version" in self.headers
        return self.path.startswith(("/v1/chat", "/health")) or (self.path.startswith("/v1/models") and not sdk)


class _Connection(asyncio.Protocol):
    """HTTP/1.1 with keep-alive: one request after the other, bodies with a length."""

    def __init__(self, server, *, elsewhere=False):
        self._server, self._elsewhere = server, elsewhere
        self._got, self._request, self._busy = bytearray(), None, False

    def connection_made(self, transport):
        self._transport = transport
        self._server.hold(transport)

    def connection_lost(self, error):
        self._server.let_go(self._transport)

    def data_received(self, data):
        self._got += data
        self._take()

    def _take(self):
        """Take requests from what has come, one at a time."""
        while not self._busy and not self._transport.is_closing():
            if self._request is None:
                end = self._got.find(b"\r\n\r\n")
                if end < 0:
                    return
                begin = (lambda *_: (0, "")) if self._elsewhere else self._server.begin
                self._request = _Request(bytes(self._got[:end]), begin)
                del self._got[: end + 4]
                if self._request.fault == "connect":
                    self._reset()
                    return
            request = self._request
            if len(self._got) < request.length:
                return
            request.body = bytes(self._got[: request.length])
            del self._got[: request.length]
            self._busy = True
            if self._elsewhere:
                self._betray(request)
            elif request.fault == "read timeout":
                self._note("read timeout")
            elif self._server.options.latency:
                self._server.loop.call_later(self._server.options.latency, self._answer)
            else:
                self._answer()

    def _answer(self):
        """Done, and billed, whether or not anybody is still there to hear it."""
        request = self._request
        status, headers, body = self._server.respond(request)
        if request.fault == "hang after accept":
            self._note(request.fault)
        elif request.fault == "drop after accept":
            self._reset()
        else:
            self._note(request.fault or ("ok" if status == 200 else str(status)))
            self._send(status, headers, body)

    def _send(self, status, headers, body):
        broken = self._request.fault == "drop results" and isinstance(body, list)
        length = "transfer-encoding: chunked" if isinstance(body, list) else f"content-length: {len(body)}"
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'X')}", length, *(f"{n}: {v}" for n, v in headers.items())]
        head = "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n"
        if isinstance(body, list):
            kept = body[: len(body) // 2] if broken else body
            whole = b"".join(kept)
            pieces = [whole[at : at + 65536] for at in range(0, len(whole), 65536)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + (
                b"" if broken else b"0\r\n\r\n"
            )
        self._transport.write(head + body)
        if broken:
            self._transport.close()
            return
        self._request, self._busy = None, False
        if self._got:
            self._server.loop.call_soon(self._take)

    def _reset(self):
        self._note(self._request.fault)
        linger = struct.pack("ii", 1, 0)
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._transport.abort()

    def _betray(self, request):
        """Remember what another origin was told, and give it what it asked for."""
        self._server.elsewhere.append((request.began, request.path, request.headers))
        batch_id = request.path.split("/")[-2]
        lines = self._server.results(batch_id) if batch_id in self._server.batches else [b"\n"]
        self._send(200, {"content-type": "application/x-jsonl"}, lines)

    def _note(self, what):
        self._server.note(self._request.began, self._request.method, self._request.path, what)


def billed_in(log):
    """Answers that cost something, from the file that a server logs to, as dictionaries."""
    with open(log) as lines:
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
    return [entry for entry in entries if entry["kind"] == "billed"]


@contextmanager
def serving(server=None, **options):
    """An ``AnthropicServer``, or the one given, in a thread of this process."""
    server = server or AnthropicServer(**options)
    started, end = threading.Event(), asyncio.Event()

    async def run():
        sockets = await server.serve()
        started.set()
        await end.wait()
        for one in sockets:
            one.close()
        server.close()
        await asyncio.sleep(0)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=lambda: loop.run_until_complete(run()), daemon=True)
    thread.start()
    if not started.wait(10):
        raise RuntimeError("the server does not start")
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(end.set)
        thread.join(10)
        loop.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=SHARE[@PATTERN]")
    known = {one.name: one for one in fields(Options) if one.name not in ("fault", "faults", "log")}
    for name, one in known.items():
        kind = one.type if one.type in (int, float, str) else json.loads
        if one.type is bool:
            parser.add_argument(f"--{name.replace('_', '-')}", action="store_true")
        else:
            parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=argparse.SUPPRESS)
    parser.add_argument("--log")
    given = vars(parser.parse_args())
    faults = {}
    for one in given.pop("fault"):
        name, _, share = one.partition("=")
        share, _, pattern = share.partition("@")
        faults[name] = (float(share), pattern) if pattern else float(share)
    server = AnthropicServer(faults=faults, **given)

    async def run():
        await server.serve()
        print(server.url, flush=True)
        await asyncio.to_thread(sys.stdin.read)

    asyncio.run(run())


if __name__ == "__main__":
    main()
