"""The client of Llama's servers: what is asked, what a server must serve, and which of several is asked."""

import asyncio
import json
import re
import socket
import threading

import pytest

from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.teachers import vllm
from medvlm_cli.teachers.replies import AgainError
from medvlm_cli.teachers.vllm import KEY, Servers, chat_body
from tests.openai_server import MODEL, OpenAIServer, completion, models
from tests.plugins.vllm_cases import BODY, PAGE, SAID, ask, check


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)


def test_a_body_arrives_as_it_was_given():
    with OpenAIServer() as server:
        ask(server.url, body=BODY)
    assert [json.loads(one) for one in server.bodies] == [BODY]
    assert server.headers[-1]["Content-Type"] == "application/json"
    assert "Authorization" not in server.headers[-1]


def test_a_schema_goes_as_response_format_and_never_as_guided_json():
    schema = {"type": "object"}
    body = chat_body(MODEL, "", [], max_tokens=1, temperature=0.0, seed=0, schema=schema)
    assert (
        body["response_format"]["json_schema"]["schema"] is schema and body["response_format"]["type"] == "json_schema"
    )
    assert not [name for name in body if "guided" in name]
    assert body["messages"] == [], "no system prompt, no system message"


@pytest.mark.parametrize("form", ["{}", "{}/", "{}/v1", "{}/v1/", " {}/v1// "])
def test_an_address_may_end_in_v1_and_in_slashes(form):
    with OpenAIServer() as server:
        ask(form.format(server.url))
    assert server.paths == ["/v1/models", "/v1/chat/completions"]


@pytest.mark.parametrize(
    "url", ["host:8000", "ftp://host", "http://", "http://me:secret@host", "http://host/v1?key=secret"]
)
def test_what_is_no_bare_address_is_refused_without_its_secrets(url):
    with pytest.raises(ConfigError, match="address") as caught:
        Servers([url], MODEL, connections=1, timeout=1.0)
    assert "secret" not in str(caught.value)


def test_without_an_address_the_option_is_named():
    with pytest.raises(ConfigError, match="--llama-endpoint URL"):
        Servers([], MODEL, connections=1, timeout=1.0)


def test_no_more_requests_are_under_way_than_allowed():
    hold = threading.Event()

    async def run(url):
        async with Servers([url], MODEL, connections=2, timeout=10.0) as servers:
            asks = [asyncio.create_task(servers.ask(BODY)) for _ in range(6)]
            await asyncio.sleep(0.3)
            under_way = len(server.bodies)
            hold.set()
            await asyncio.gather(*asks)
            return under_way

    with OpenAIServer(hold=hold) as server:
        assert asyncio.run(run(server.url)) == 2
    assert len(server.bodies) == 6


def test_a_server_that_serves_the_model_passes():
    with OpenAIServer(served=(200, models("other", MODEL), {})) as server:
        check(server.url)
    assert server.paths == ["/v1/models"]


def test_a_server_that_serves_another_model_is_named_with_it():
    with (
        OpenAIServer() as good,
        OpenAIServer(served=(200, models("mistral"), {})) as other,
        pytest.raises(ConfigError, match=re.escape(f"{other.url}/v1 serves 'mistral', not 'llama'")) as caught,
    ):
        check(good.url, other.url)
    assert caught.value.fix.startswith("--set llama_model=mistral")


def test_a_server_that_is_not_there_is_named():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(RemoteError, match=re.escape(f"{url}/v1: cannot connect (Connection refused)")) as caught:
            check(url)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("status", "told", "kind", "words"),
    [(401, SAID, RemoteError, "asks for a key"), (404, PAGE, ConfigError, "no OpenAI-compatible server"),
     (400, SAID, RemoteError, "something is wrong"), (500, PAGE, RemoteError, "status 500"),
     (200, PAGE, RemoteError, "an answer that is none"), (301, b"", RemoteError, "redirects")],
)  # fmt: skip
def test_a_server_that_does_not_say_what_it_serves_is_refused(status, told, kind, words):
    with OpenAIServer(served=(status, told, {})) as server, pytest.raises(kind, match=words):
        check(server.url)


def test_the_server_with_the_fewest_requests_under_way_is_asked():
    hold = threading.Event()

    async def run(slow, *others):
        async with Servers([slow.url, *(one.url for one in others)], MODEL, connections=8, timeout=10.0) as servers:
            await servers.check()
            first = asyncio.create_task(servers.ask(BODY))
            await asyncio.sleep(0.05)
            for _ in range(4):
                await servers.ask(BODY)
            hold.set()
            await first

    with OpenAIServer(hold=hold) as slow, OpenAIServer() as second, OpenAIServer() as third:
        asyncio.run(run(slow, second, third))
    assert [len(server.bodies) for server in (slow, second, third)] == [1, 2, 2]


def test_requests_at_once_are_shared_out_evenly():
    async def run(*urls):
        async with Servers(urls, MODEL, connections=30, timeout=10.0) as servers:
            await asyncio.gather(*(servers.ask(BODY) for _ in range(30)))

    with OpenAIServer() as first, OpenAIServer() as second, OpenAIServer() as third:
        asyncio.run(run(first.url, second.url, third.url))
    assert [len(server.bodies) for server in (first, second, third)] == [10, 10, 10]


def test_a_server_that_fails_five_times_in_a_row_rests_while_the_other_serves():
    with OpenAIServer((500, SAID, {})) as broken, OpenAIServer() as good:
        told = ask(broken.url, good.url, times=30)
    assert len(broken.bodies) == 5 and len(good.bodies) == 25
    assert [type(one) for one in told].count(AgainError) == 5


def test_four_failures_and_an_answer_are_no_reason_to_rest():
    answers = [*[(500, SAID, {})] * 4, (200, completion(), {}), *[(500, SAID, {})] * 4, (200, completion(), {})]
    with OpenAIServer(*answers) as shaky, OpenAIServer() as good:
        ask(shaky.url, good.url, times=30)
    assert len(shaky.bodies) == 15


def test_a_server_that_has_rested_is_tried_by_one_request_and_serves_again(monkeypatch):
    monkeypatch.setattr(vllm, "REST", 0.0)
    hold = threading.Event()
    hold.set()

    async def run(broken, good):
        async with Servers([broken.url, good.url], MODEL, connections=20, timeout=10.0) as servers:
            for _ in range(10):
                await asyncio.gather(servers.ask(BODY), return_exceptions=True)
            assert len(broken.bodies) == 5
            hold.clear()
            asks = [asyncio.create_task(servers.ask(BODY)) for _ in range(10)]
            await asyncio.sleep(0.3)
            tried = len(broken.bodies) - 5
            hold.set()
            await asyncio.gather(*asks)
            await asyncio.gather(*(servers.ask(BODY) for _ in range(10)))
            return tried

    with OpenAIServer(*[(500, SAID, {})] * 5, (200, completion(), {}), hold=hold) as broken, OpenAIServer() as good:
        assert asyncio.run(run(broken, good)) == 1
    assert len(broken.bodies) > 8, "it serves again"


def test_where_all_servers_rest_they_are_asked_all_the_same():
    with OpenAIServer((500, SAID, {})) as server:
        ask(server.url, times=8)
    assert len(server.bodies) == 8
