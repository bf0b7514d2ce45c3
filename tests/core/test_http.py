"""The HTTP client against a server on loopback that misbehaves on purpose; nothing here leaves this machine."""

import asyncio
import dataclasses
import hashlib
import itertools
import logging
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from medvlm_cli.core.hosts import PublicResolver, followed, is_private, shown
from medvlm_cli.core.http import (
    CircuitOpenError,
    FaultyError,
    GoneError,
    Http,
    RefusedError,
    TooBigError,
    download,
    md5_is,
)
from medvlm_cli.core.pace import Patience, Rate
from tests.bucket import FAULTS, Bucket, serving

BODY = bytes(range(256)) * 20
QUICK = Patience(first_pause=0.01, longest_pause=0.02, window=0.3, window_bytes=1024, silence=0.2, headers=2)


def get(url, patience=QUICK, *, limit=1 << 20, check=None, redirects=0, **options):
    """The body, and the client after it."""

    async def run():
        async with Http(4, patience, redirects) as http:
            try:
                return (await http.get(url, limit=limit, check=check, **options))[0], http
            finally:
                get.last = http

    return asyncio.run(run())


class Scripted(Bucket):
    """Answers in the order of a script: (status, body, headers), or the name of a fault."""

    def __init__(self, *script, **options):
        super().__init__({"x": BODY}, **options)
        self.script = itertools.chain(script, itertools.repeat("ok"))
        self.times = []

    async def _answer(self, target, reader, writer):
        self.times.append(time.monotonic())
        step = next(self.script)
        if isinstance(step, str):
            return await self._send(step, *self._find(target), writer)
        return await self._send("ok", *step, writer)


@pytest.fixture
def scripted():
    """Start a server that follows a script."""
    from contextlib import ExitStack

    with ExitStack() as stack:

        def start(*script):
            return stack.enter_context(serving(None, bucket=Scripted(*script)))

        yield start


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_overcome_by_another_try(scripted, fault):
    server = scripted(fault, fault)
    body, http = get(f"{server.url}/x", check=md5_is(hashlib.md5(BODY).hexdigest()))
    assert body == BODY
    assert len(server.times) == 3
    assert http.retries == 2 - (fault == "reset")  # aiohttp asks again by itself where a kept connection is gone


def test_a_body_without_announced_length_that_stops_early_needs_a_check_to_be_found_out(scripted):
    server = scripted("unannounced cut")
    assert get(f"{server.url}/x")[0] == BODY[: len(BODY) // 2]


def test_an_object_that_is_not_there_is_an_answer_and_not_tried_again(scripted):
    server = scripted()
    with pytest.raises(GoneError, match=r"/gone\.jpg: not there"):
        get(f"{server.url}/gone.jpg")
    assert len(server.times) == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_is_not_tried_again(scripted, status):
    server = scripted((status, b"", {}))
    with pytest.raises(FaultyError, match=f"refused .status {status}") as caught:
        get(f"{server.url}/x")
    assert caught.value.exit_code == 5
    assert len(server.times) == 1


def test_five_refusals_in_a_row_open_the_circuit(scripted):
    server = scripted(*[(403, b"", {})] * 9)

    async def run():
        async with Http(4, QUICK) as http:
            return await asyncio.gather(
                *(http.get(f"{server.url}/{n}", limit=9) for n in range(30)), return_exceptions=True
            )

    errors = asyncio.run(run())
    assert {type(error) for error in errors} == {RefusedError, CircuitOpenError}
    assert len(server.times) < 9


def test_a_silent_host_opens_the_circuit_and_one_that_answers_between_does_not(scripted):
    dead = scripted(*["503"] * 20_000)

    async def many(url, n):
        async with Http(8, dataclasses.replace(QUICK, tries=30)) as http:
            return await asyncio.gather(*(http.get(f"{url}/x", limit=9999) for _ in range(n)), return_exceptions=True)

    assert any(isinstance(error, CircuitOpenError) for error in asyncio.run(many(dead.url, 60)))
    halting = scripted(*["503", "ok"] * 200)
    results = asyncio.run(many(halting.url, 60))
    assert [result for result in results if isinstance(result, Exception)] == []


def test_what_fails_while_nothing_succeeds_is_tried_on_until_the_outage_has_lasted_too_long(scripted):
    patience = dataclasses.replace(QUICK, tries=2, outage=5.0, silence=60)
    assert get(f"{scripted(*['503'] * 6).url}/x", patience)[0] == BODY
    with pytest.raises(FaultyError, match="status 503"):
        get(f"{scripted(*['503'] * 500).url}/x", dataclasses.replace(patience, outage=0.3))
    with pytest.raises(FaultyError, match=r"md5 .* was stated .2 tries"):  # the host answers, with a wrong object
        get(f"{scripted().url}/x", patience, check=md5_is("0" * 32))


def test_what_fails_while_others_succeed_is_not_tried_on(scripted):
    server = scripted("503", "ok", *["503"] * 9)
    patience = dataclasses.replace(QUICK, tries=3, first_pause=0.05, outage=5.0)

    async def run():
        async with Http(1, patience) as http:
            return await asyncio.gather(
                *(http.get(f"{server.url}/x", limit=9999) for _ in range(2)), return_exceptions=True
            )

    failed, succeeded = asyncio.run(run())
    assert isinstance(failed, FaultyError) and "3 tries" in str(failed)
    assert succeeded[0] == BODY


def test_answers_are_counted_and_what_fails_is_none(scripted):
    server = scripted("503", "ok", (404, b"", {}))
    get(f"{server.url}/x")
    assert (get.last.requests, get.last.answers, get.last.retries) == (2, 1, 1)


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_the_pause_that_the_host_asks_for_is_kept(scripted, form):
    value = "1" if form == "seconds" else format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    server = scripted((503, b"", {"Retry-After": value}))
    get(f"{server.url}/x")
    first, second = server.times
    assert second - first >= 0.95


@pytest.mark.parametrize("value", ["soon", "-3", "nan", "Wed, 99 Foo"])
def test_a_pause_that_is_nonsense_is_not_kept(scripted, value):
    server = scripted((503, b"", {"Retry-After": value}))
    began = time.monotonic()
    get(f"{server.url}/x")
    assert time.monotonic() - began < 0.9


def test_a_host_that_asks_for_an_hour_is_not_waited_for(scripted):
    server = scripted((429, b"", {"Retry-After": "3600"}))
    with pytest.raises(CircuitOpenError, match="3,600 s"):
        get(f"{server.url}/x")


def test_the_same_wrong_bytes_every_time_are_what_lies_there(scripted):
    server = scripted()
    with pytest.raises(FaultyError, match=r"md5 .* was stated .6 tries") as caught:
        get(f"{server.url}/x", check=md5_is("0" * 32))
    assert caught.value.final


def test_an_outage_is_not_what_lies_there(scripted):
    server = scripted(*["html", "503"] * 9)
    with pytest.raises(FaultyError) as caught:
        get(f"{server.url}/x", check=md5_is("0" * 32))
    assert not caught.value.final


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "9"}])
def test_a_body_over_the_limit_is_not_read(scripted, headers):
    server = scripted((200, b"x" * 5000, {}))
    with pytest.raises(TooBigError, match="over the limit of 1,000"):
        get(f"{server.url}/x", limit=1000)


def test_a_gzip_body_is_taken_as_it_is_and_never_inflated(scripted):
    import gzip

    bomb = gzip.compress(b"\0" * 10_000_000)
    server = scripted((200, bomb, {"Content-Encoding": "gzip"}))
    assert get(f"{server.url}/x", limit=20_000)[0] == bomb


def test_redirects_are_followed_where_asked_for_and_never_elsewhere(scripted):
    server = scripted((302, b"", {"Location": "/x"}), (302, b"", {"Location": "/x"}))
    assert get(f"{server.url}/y", redirects=2)[0] == BODY
    server = scripted((302, b"", {"Location": "/x"}))
    with pytest.raises(FaultyError, match="redirects to"):
        get(f"{server.url}/y")


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest", "https://10.0.0.1/", "https://[::1]/", "https://[::ffff:10.0.0.1]/",
     "https://2130706433/", "https://0x7f000001/", "https://localhost/", "https://db.internal/", "file:///etc/passwd",
     "http://example.org/", "ftp://example.org/", "gopher://example.org/"],
)  # fmt: skip
def test_no_redirect_leads_into_a_private_network_or_off_https(target):
    assert followed("https://files.example.org/a", target) is None


def test_a_redirect_to_public_https_or_within_a_private_host_is_followed():
    assert followed("https://a.example.org/x", "https://b.example.org/y") == "https://b.example.org/y"
    assert followed("http://127.0.0.1:9/x", "/y") == "http://127.0.0.1:9/y"
    assert followed("http://127.0.0.1:9/x", "http://127.0.0.1:10/y") is None


@pytest.mark.parametrize(("host", "private"), [("10.1.2.3", True), ("8.8.8.8", False), ("mirror.example.org", False)])
def test_private_hosts_are_known(host, private):
    assert is_private(host) is private


def test_a_name_that_stands_for_a_private_address_is_resolved_only_for_who_named_it(monkeypatch):
    import aiohttp

    async def resolve(self, host, port=0, family=0):
        return [{"host": "10.0.0.7", "hostname": host, "port": port, "family": family, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)

    async def ask(trusted):
        return await PublicResolver(trusted).resolve("mirror.example.org")

    with pytest.raises(OSError, match="private network"):
        asyncio.run(ask(set()))
    assert asyncio.run(ask({"mirror.example.org"}))[0]["host"] == "10.0.0.7"


def test_never_more_than_the_rate_of_requests_begin_in_any_second():
    times = []

    async def run():
        rate = Rate(20)

        async def one():
            await rate.wait()
            times.append(time.monotonic())

        await asyncio.gather(*(one() for _ in range(50)))

    asyncio.run(run())
    assert max(sum(start <= other < start + 1 for other in times) for start in times) <= 20


def test_a_query_is_in_no_error_and_no_log(scripted, caplog):
    server = scripted(*["503"] * 9)
    with caplog.at_level(logging.DEBUG), pytest.raises(FaultyError) as caught:
        get(f"{server.url}/x", params={"api_key": "CANARY"})
    assert "CANARY" not in str(caught.value) + caplog.text
    assert shown("https://me:CANARY@host.org:8/a?api_key=CANARY#CANARY") == "https://host.org:8/a"


def test_a_download_is_whole_or_not_there(scripted, tmp_path):
    server = scripted("cut", "503")
    path = tmp_path / "new" / "x.bin"
    download(f"{server.url}/x", path, limit=1 << 20, sha256=hashlib.sha256(BODY).hexdigest())
    assert path.read_bytes() == BODY
    with pytest.raises(FaultyError, match="was expected"):
        download(f"{server.url}/x", tmp_path / "y.bin", limit=1 << 20, sha256="0" * 64)
    assert [one.name for one in tmp_path.rglob("*") if one.is_file()] == ["x.bin"]


def test_nobody_listening_is_said_in_plain_words():
    with pytest.raises(FaultyError, match=r"cannot connect .Connection refused"):
        get("http://127.0.0.1:9/x")
