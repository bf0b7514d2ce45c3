"""The client of Anthropic's API, against loopback servers: one request a call, and every failure as the right error."""

import asyncio
import json
import socket
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.teachers.claude import URL, Claude, LostError, UnknownError, base_url, has_key, rest_of
from medvlm_cli.teachers.replies import AgainError, Reply, RowError, Usage
from tests.anthropic_server import reply_for, serving
from tests.openai_server import OpenAIServer

KEY = "sk-test-4711"
BODY = {"model": "claude-opus-5-5", "max_tokens": 1000, "messages": [{"role": "user", "content": "What is seen?"}]}
MESSAGE = {
    "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-opus-5-5", "stop_reason": "end_turn",
    "content": [{"type": "text", "text": "A mass."}], "usage": {"input_tokens": 9, "output_tokens": 4},
}  # fmt: skip


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", KEY)
    monkeypatch.setenv("NO_PROXY", "*")


def do(url, call, timeout=5.0):
    """What one call of a client of its own gives."""

    async def go():
        async with Claude(url, connections=4, timeout=timeout) as claude:
            return await call(claude)

    return asyncio.run(go())


def ask(url, body=BODY, timeout=5.0):
    return do(url, lambda claude: claude.ask(body), timeout)


def error_of(url, call, timeout=5.0):
    """The error that a call ends with."""
    with pytest.raises((AgainError, RowError, RemoteError, LostError)) as caught:
        do(url, call, timeout)
    return caught.value


def served(**options):
    return serving(key=KEY, **options)


# ---------------------------------------------------------------------- answers


def test_an_answer_comes_with_its_words_and_the_providers_own_counts():
    with served(caching=True) as server:
        reply = ask(server.url)
        (billed,) = server.billed
    assert (reply.text, reply.stop_reason) == (reply_for(BODY), "end_turn")
    assert reply.usage == Usage(**{name: billed.usage[name] for name in ("input_tokens", "output_tokens")})
    assert (reply.served_model, reply.provider_id[:4]) == ("claude-opus-5-5", "msg_")


def test_what_a_cache_takes_and_gives_is_told_apart():
    usage = {
        "input_tokens": 5, "output_tokens": 40, "cache_creation_input_tokens": 30, "cache_read_input_tokens": 7,
        "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 10},
        "output_tokens_details": {"thinking_tokens": 25},
    }  # fmt: skip
    with OpenAIServer((200, MESSAGE | {"usage": usage}, {})) as server:
        reply = ask(server.url)
    expected = Usage(input_tokens=5, output_tokens=40, cache_write_5m=20, cache_write_1h=10, cache_read=7,
                     thinking_tokens=25)  # fmt: skip
    assert reply.usage == expected


def test_a_refusal_is_a_reply_without_words_and_with_its_category():
    with served(refusals=1.0) as server:
        reply = ask(server.url)
    assert (reply.text, reply.stop_reason, reply.usage.output_tokens) == ("", "refusal", 1)
    assert reply.stop_category in ("bio", "frontier_llm", "cyber", "general_harms", None)


def test_thinking_is_no_part_of_the_words():
    content = [{"type": "thinking", "thinking": "hm", "signature": "x"}, *MESSAGE["content"]]
    with OpenAIServer((200, MESSAGE | {"content": content}, {})) as server:
        assert ask(server.url).text == "A mass."


def test_a_long_answer_may_be_asked_for_without_streaming():
    with served() as server:
        assert ask(server.url, BODY | {"max_tokens": 60_000}).stop_reason == "end_turn"


def test_the_key_goes_as_a_bearer_and_the_version_of_the_api_is_said():
    with OpenAIServer((200, MESSAGE, {})) as server:
        ask(server.url)
    (headers,) = ({name.lower(): value for name, value in one.items()} for one in server.headers)
    assert headers["authorization"] == f"Bearer {KEY}"
    assert "x-api-key" not in headers
    assert headers["anthropic-version"]


def test_tokens_are_counted_without_a_bill():
    body = BODY | {"output_config": {"effort": "low"}, "system": "Write."}
    with served() as server:
        assert do(server.url, lambda claude: claude.count(body)) > 0
        assert (len(server.asked("count_tokens$")), server.billed) == (1, [])


# ---------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("fault", "busy", "billed", "after"),
    [
        ("429", True, False, 0), ("429 7", True, False, 7), ("429 99999", True, False, 99999),
        ("ramp limit", True, False, 1), ("529", True, False, 0), ("500", False, False, 0), ("502", False, False, 0),
        ("503", False, False, 0), ("408", False, True, 0), ("504", False, True, 0), ("connect", False, True, 0),
        ("drop after accept", False, True, 0), ("html 200", False, True, 0), ("html as json", False, True, 0),
        ("empty 200", False, True, 0),
    ],
)  # fmt: skip
def test_what_may_pass_is_to_be_tried_again_and_was_asked_once(fault, busy, billed, after):
    with served(faults={fault: 1.0}) as server:
        error = error_of(server.url, lambda claude: claude.ask(BODY))
        assert isinstance(error, AgainError)
        assert (error.busy, error.billed, error.after) == (busy, billed, after)
        assert len(server.requests) == 1


@pytest.mark.parametrize(("fault", "code"), [("400", "invalid_request"), ("413", "too_long")])
def test_what_will_never_be_answered_is_the_rows_own_fault(fault, code):
    with served(faults={fault: 1.0}) as server:
        error = error_of(server.url, lambda claude: claude.ask(BODY))
        assert isinstance(error, RowError)
        assert (error.code, len(server.requests)) == (code, 1)


def test_a_prompt_that_is_too_long_is_called_so():
    with served(context=1) as server:
        error = error_of(server.url, lambda claude: claude.ask(BODY))
        assert isinstance(error, RowError)
        assert error.code == "too_long" and "prompt is too long" in error.what


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401", "the key is not accepted"), ("402", "a billing problem"), ("403", "not permitted"),
        ("spend limit", "a spend limit is reached .400 enforced_spend_limit_reached"),
    ],
)  # fmt: skip
def test_a_refusal_of_key_account_or_spending_ends_the_run(fault, said):
    with served(faults={fault: 1.0}) as server:
        error = error_of(server.url, lambda claude: claude.ask(BODY))
        assert isinstance(error, RemoteError)
        assert len(server.requests) == 1
    with pytest.raises(RemoteError, match=rf"Anthropic refuses: {said}(.|\n)*the same command goes on"):
        raise error


def test_a_400_about_credit_is_about_the_account_and_not_about_the_row():
    told = {"type": "invalid_request_error", "message": "Your credit balance is too low to access the Anthropic API."}
    with OpenAIServer((400, {"type": "error", "error": told}, {})) as server:
        error = error_of(server.url, lambda claude: claude.ask(BODY))
    assert isinstance(error, RemoteError)
    assert "the account has no credit left" in str(error)


def test_an_unknown_model_is_named_with_the_setting_that_gives_another():
    with served() as server:
        error = error_of(server.url, lambda claude: claude.ask(BODY | {"model": "claude-9"}))
    assert isinstance(error, UnknownError)
    assert "model: claude-9" in str(error) and "--set claude_model=NAME" in str(error)


def test_an_answer_that_never_comes_may_have_been_billed():
    with served(faults={"read timeout": 1.0}) as server:
        error = error_of(server.url, lambda claude: claude.ask(BODY), timeout=0.2)
        assert (error.what, error.billed, len(server.requests)) == ("no answer in time", True, 1)


def test_an_answer_that_drips_is_given_up_although_every_piece_is_in_time():
    async def drip(reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 9999\r\n\r\n")
        with suppress(ConnectionError, asyncio.CancelledError):
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.05)

    async def go():
        server = await asyncio.start_server(drip, "127.0.0.1", 0)
        async with (
            server,
            Claude(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", connections=1, timeout=0.2) as claude,
        ):
            await asyncio.wait_for(claude.ask(BODY), 10)

    with pytest.raises(AgainError, match="no answer in time") as caught:
        asyncio.run(go())
    assert caught.value.billed


def test_a_host_that_takes_no_connection_in_time_was_sent_nothing():
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, socket.socket() as one, socket.socket() as two:
        one.connect(full.getsockname())
        two.setblocking(False)
        two.connect_ex(full.getsockname())  # the queue is full from here on, and nobody takes anything out of it
        error = error_of(f"http://127.0.0.1:{full.getsockname()[1]}", lambda claude: claude.ask(BODY), timeout=0.3)
    assert (error.what, error.billed, error.busy) == ("cannot connect", False, False)


def test_a_host_that_refuses_connections_was_sent_nothing():
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    error = error_of(url, lambda claude: claude.ask(BODY))
    assert (error.what, error.billed) == ("cannot connect", False)


@pytest.mark.parametrize("body", [{}, [], 7, {"type": "error"}, MESSAGE | {"usage": None}, MESSAGE | {"content": ["x"]},
                                  MESSAGE | {"usage": {"input_tokens": "many"}}])  # fmt: skip
def test_json_that_is_no_message_is_an_answer_that_is_none(body):
    with OpenAIServer((200, body, {})) as server:
        error = error_of(server.url, lambda claude: claude.ask(BODY))
    assert isinstance(error, AgainError)
    assert error.billed


@pytest.mark.parametrize("status", [400, 401, 404, 418, 429, 500])
def test_the_key_is_in_no_error_even_where_the_host_repeats_it(status):
    told = {"type": "error", "error": {"type": "x", "message": f"what is {KEY}?"}}
    with OpenAIServer((status, told, {})) as server:
        error = error_of(server.url, lambda claude: claude.ask(BODY))
    assert KEY not in f"{error} {error!r} {vars(error)}"


# ---------------------------------------------------------------------- where the key goes


def test_a_redirect_is_not_followed():
    with OpenAIServer((200, MESSAGE, {})) as other:
        with OpenAIServer((307, b"", {"Location": f"{other.url}/v1/messages"})) as server:
            error = error_of(server.url, lambda claude: claude.ask(BODY))
        assert (type(error), other.paths) == (RemoteError, [])
    assert "status 307" in str(error)


def test_the_key_is_sent_to_no_other_host(tmp_path):
    with served(faults={"results on another host": 1.0}, batch_seconds=0) as server:
        batch = do(server.url, lambda claude: claude.create([{"custom_id": "a", "params": BODY}]))
        server.settle()
        batch = do(server.url, lambda claude: claude.batch(batch["id"]))
        told = error_of(server.url, lambda claude: claude.download(batch, tmp_path / "r"))
        batch["results_url"] = f"{server.url}/v1/x"  # the client's library asks again, and then goes where it is told
        found = error_of(server.url, lambda claude: claude.download(batch, tmp_path / "r"))
        assert server.elsewhere == []
    assert [type(told), type(found)] == [RemoteError, RemoteError]
    assert f"not at {server.url}" in str(told) and f"is not at {server.url}: not asked" in str(found)


@pytest.mark.parametrize("url", ["http://127.0.0.1:abc/x", "https://api.anthropic.com.evil.example/x", "file:///x"])
def test_results_are_fetched_from_no_address_but_home(tmp_path, url):
    batch = {"id": "b", "results_url": url}
    assert isinstance(error_of(URL, lambda claude: claude.download(batch, tmp_path / "r")), RemoteError)


def test_without_a_key_nobody_elses_account_is_charged(monkeypatch, tmp_path):
    """Neither the token of another program nor a profile on disk stands in for the key."""
    (tmp_path / "configs").mkdir()
    profile = {"credentials": {"type": "api_key", "api_key": "sk-other"}, "version": 1}
    (tmp_path / "configs" / "default.json").write_text(json.dumps(profile))
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "sk-other")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "")
    assert not has_key()
    with OpenAIServer((200, MESSAGE, {})) as server, pytest.raises(ConfigError, match="ANTHROPIC_API_KEY is not set"):
        ask(server.url)
    assert server.paths == []


def test_the_key_is_the_one_of_the_environment_whatever_else_lies_about(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "sk-other")
    monkeypatch.setenv("ANTHROPIC_PROFILE", "other")
    with OpenAIServer((200, MESSAGE, {})) as server:
        ask(server.url)
    assert "sk-other" not in str(server.headers)
    assert f"Bearer {KEY}" in str(server.headers)


def test_the_address_is_the_given_one_then_the_environments_then_anthropics(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://gateway:1/")
    assert (base_url("http://given:2/"), base_url("")) == ("http://given:2", "http://gateway:1")
    monkeypatch.delenv("ANTHROPIC_BASE_URL")
    assert base_url("") == URL


# ---------------------------------------------------------------------- batches


def test_a_batch_whose_answer_is_lost_was_made_once_and_may_be_billed():
    with served(faults={"drop after accept": 1.0}) as server:
        error = error_of(server.url, lambda claude: claude.create([{"custom_id": "a", "params": BODY}]))
        assert (type(error), error.billed) == (AgainError, True)
        assert len(server.batches) == 1


def test_every_batch_of_the_time_is_listed_over_all_pages_and_none_of_before():
    requests = [{"custom_id": "a", "params": BODY}]

    async def many(claude):
        await asyncio.gather(*(claude.create(requests) for _ in range(130)))

    with served(batch_polls=9) as server:
        do(server.url, many)
        times = sorted(batch.created for batch in server.batches.values())
        everything = do(server.url, lambda claude: claude.batches(0))
        young = do(server.url, lambda claude: claude.batches(times[10]))
        assert [one["id"] for one in everything] == list(reversed(server.batches))
        assert len(server.asked("^GET .*batches$")) == 2 + 2
    assert {one["id"] for one in young} <= {one["id"] for one in everything[:120]}
    assert len(young) >= 119  # a moment is told in microseconds, and compared with one that is finer


@pytest.mark.parametrize("page", [{}, {"data": [], "has_more": True}, {"data": [{"id": 7}], "has_more": False}, []])
def test_a_list_of_batches_that_is_none_is_to_be_asked_for_again(page):
    with OpenAIServer(served=(200, page, {})) as server:
        assert isinstance(error_of(server.url, lambda claude: claude.batches(0)), AgainError)


@pytest.mark.parametrize("call", ["batch", "cancel"])
def test_a_batch_that_is_not_there_is_lost(call):
    with served() as server:
        error = error_of(server.url, lambda claude: getattr(claude, call)("msgbatch_9"))
    assert isinstance(error, LostError)


def test_results_are_a_file_under_their_name_only_when_they_are_whole(tmp_path):
    requests = [{"custom_id": f"r{n}", "params": BODY} for n in range(20)]
    with served(batch_seconds=0, fault=lambda number, method, path: "drop results" if number == 4 else None) as server:
        made = do(server.url, lambda claude: claude.create(requests))
        server.settle()
        batch = do(server.url, lambda claude: claude.batch(made["id"]))
        cut = error_of(server.url, lambda claude: claude.download(batch, tmp_path / "results"))
        assert (type(cut), list(tmp_path.iterdir())) == (AgainError, [])
        do(server.url, lambda claude: claude.download(batch, tmp_path / "results"))
        assert (tmp_path / "results").read_bytes() == b"".join(server.batches[made["id"]].lines)
        server.archive()
        gone = do(server.url, lambda claude: claude.batch(made["id"]))
        assert isinstance(error_of(server.url, lambda claude: claude.download(gone, tmp_path / "x")), LostError)
        assert isinstance(error_of(server.url, lambda claude: claude.download(batch, tmp_path / "x")), LostError)


def test_a_batch_that_is_cancelled_says_so():
    with served(batch_seconds=60, cancel_seconds=60) as server:
        made = do(server.url, lambda claude: claude.create([{"custom_id": "a", "params": BODY}]))
        assert do(server.url, lambda claude: claude.cancel(made["id"]))["processing_status"] == "canceling"


# ---------------------------------------------------------------------- limits


NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)


def limits(seconds, name="requests", left="0", date=NOON):
    """Headers by which a limit is full again so many seconds after noon."""
    reset = (NOON + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")
    told = {f"anthropic-ratelimit-{name}-remaining": left, f"anthropic-ratelimit-{name}-reset": reset}
    return told | {"date": format_datetime(date, usegmt=True)}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0), (limits(40, left="1"), 0), (limits(40), 40), (limits(40, "input-tokens"), 40),
        (limits(9, "output-tokens") | limits(30, "tokens") | limits(20), 30),
        (limits(40, date=NOON + timedelta(minutes=1)), 0),
        (limits(40) | {"anthropic-ratelimit-requests-reset": "soon"}, 0),
        (limits(40) | {"anthropic-ratelimit-requests-reset": "2026-11-24T12:00:40"}, 0),
    ],
)  # fmt: skip
def test_where_a_limit_has_nothing_left_the_rest_lasts_until_it_is_full_again(headers, seconds):
    assert rest_of(headers) == seconds


def test_a_reply_tells_how_long_to_rest():
    future = {name: value.replace("2026", "2099") for name, value in limits(40).items() if name != "date"}
    with OpenAIServer((200, MESSAGE, future), (200, MESSAGE, {})) as server:
        assert ask(server.url).rest > 10**9
        assert ask(server.url) == Reply(text="A mass.", stop_reason="end_turn", served_model="claude-opus-5-5",
                                        usage=Usage(input_tokens=9, output_tokens=4), provider_id="msg_1")  # fmt: skip
