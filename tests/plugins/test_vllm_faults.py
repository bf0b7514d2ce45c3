"""What every answer of a Llama server means: a reply, another try, a row that is given up, or the end of the run."""

import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.teachers import vllm
from medvlm_cli.teachers.replies import AgainError, Reply, RowError, Usage
from medvlm_cli.teachers.vllm import KEY, reply_of
from tests.openai_server import MODEL, OpenAIServer, completion, models
from tests.plugins.vllm_cases import PAGE, SAID, TOO_LONG, ask, error_of


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv(KEY, raising=False)


def test_a_reply_holds_text_tokens_model_and_id():
    with OpenAIServer((200, completion("Yes.\n"), {})) as server:
        [reply] = ask(server.url)
    usage = Usage(input_tokens=40, output_tokens=7, cache_read=60)
    assert reply == Reply(
        text="Yes.\n", stop_reason="end_turn", usage=usage, served_model=MODEL, provider_id="chatcmpl-1"
    )


@pytest.mark.parametrize(
    ("finish", "stop"),
    [("stop", "end_turn"), ("length", "max_tokens"), ("content_filter", "refusal"), ("tool_calls", "tool_use"),
     ("repetition", "repetition"), (None, "unknown")],
)  # fmt: skip
def test_why_an_answer_ends_is_said_in_anthropics_words(finish, stop):
    assert reply_of(completion(finish=finish)).stop_reason == stop


def test_an_answer_without_text_is_empty():
    assert reply_of(completion(text=None, finish="length")).text == ""


def test_a_refusal_has_no_text():
    answer = completion("I cann")
    answer["choices"][0]["message"]["refusal"] = "I cannot help with that."
    reply = reply_of(answer)
    assert (reply.text, reply.stop_reason) == ("", "refusal")


def test_tokens_that_a_server_does_not_count_are_not_estimated():
    assert reply_of(completion(usage=None)).usage == Usage()


AGAIN = [
    (408, {"billed": True}), (409, {}), (425, {}), (429, {"busy": True}), (529, {"busy": True}),
    (500, {}), (502, {}), (503, {}), (504, {"billed": True}),
]  # fmt: skip


@pytest.mark.parametrize(("status", "flags"), AGAIN)
@pytest.mark.parametrize("told", [SAID, PAGE, b""], ids=["json", "html", "nothing"])
def test_a_failure_that_may_pass_is_tried_again(status, flags, told):
    error = error_of(status, told)
    assert isinstance(error, AgainError) and f"status {status}" in error.what
    assert (error.billed, error.busy, error.after) == (flags.get("billed", False), flags.get("busy", False), 0.0)
    assert ("something is wrong" in error.what) == (told is SAID) and "html" not in error.what


def test_a_host_that_says_how_long_to_wait_is_heard():
    assert error_of(429, SAID, {"Retry-After": "7"}).after == 7.0
    assert error_of(503, SAID, {"Retry-After": "7.5"}).after == 7.5
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=600), usegmt=True)
    assert 500 < error_of(429, SAID, {"Retry-After": later}).after <= 600
    assert error_of(429, SAID, {"Retry-After": "soon"}).after == 0.0


@pytest.mark.parametrize(
    "told",
    [PAGE, b"", b'{"choices": [', b"[]", b"null", {"choices": []}, SAID, completion(finish="abort"), completion(["a"])],
    ids=["html", "nothing", "cut", "list", "null", "no choice", "error", "given up", "no text"],
)
def test_an_answer_that_is_none_is_tried_again_and_counts_as_billed(told):
    error = error_of(200, told)
    assert isinstance(error, AgainError) and error.billed and not error.busy


def test_an_answer_without_end_is_not_read_to_the_end(monkeypatch):
    monkeypatch.setattr(vllm, "_LONGEST", 1000)
    error = error_of(200, completion("x" * 2000))
    assert isinstance(error, AgainError) and "more than 1,000 bytes" in error.what


@pytest.mark.parametrize(
    ("status", "told", "code"),
    [(400, SAID, "invalid_request"), (422, {"detail": "no such field"}, "invalid_request"),
     (400, PAGE, "invalid_request"), (400, TOO_LONG, "too_long"), (413, PAGE, "too_long"),
     (400, {"error": {"message": "shorten it", "code": "context_length_exceeded"}}, "too_long")],
)  # fmt: skip
def test_a_request_that_is_never_answered_is_given_up(status, told, code):
    error = error_of(status, told)
    assert isinstance(error, RowError) and error.code == code and error.what


@pytest.mark.parametrize("status", [401, 403])
def test_a_server_that_wants_a_key_ends_the_run(status):
    error = error_of(status, {"error": "Unauthorized"})
    assert isinstance(error, RemoteError) and error.exit_code == 5
    assert "Unauthorized" in error.what and f"{KEY} is not set" in error.what and error.fix == f"export {KEY}=..."


def test_a_model_that_is_not_there_ends_the_run():
    error = error_of(404, {"error": {"message": "The model `llama` does not exist.", "code": 404}})
    assert isinstance(error, ConfigError) and "does not exist" in error.what


def test_a_redirect_is_not_followed():
    with OpenAIServer() as elsewhere:
        error = error_of(307, b"", {"Location": f"{elsewhere.url}/v1/chat/completions?token=secret"})
    assert isinstance(error, RemoteError) and elsewhere.url in error.what and "secret" not in error.what
    assert elsewhere.paths == []


def test_a_closed_door_is_tried_again_and_cost_nothing():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        [error] = ask(f"http://127.0.0.1:{probe.getsockname()[1]}")
    assert isinstance(error, AgainError) and "Connection refused" in error.what and not error.billed


def test_a_connection_that_breaks_may_have_cost_something():
    error = error_of(0, b"")
    assert isinstance(error, AgainError) and "broke" in error.what and error.billed


def test_an_answer_that_takes_too_long_may_have_cost_something():
    with OpenAIServer(hold=threading.Event()) as server:
        [error] = ask(server.url, timeout=0.3)
    assert isinstance(error, AgainError) and "no answer in 0.3 s" in error.what and error.billed


def test_the_key_is_sent_and_never_shown(monkeypatch):
    monkeypatch.setenv(KEY, "sk-very-secret")
    said = {"error": {"message": "Incorrect API key provided: sk-very-secret"}}
    with OpenAIServer((401, said, {})) as server:
        [error] = ask(server.url)
    assert [sent["Authorization"] for sent in server.headers] == ["Bearer sk-very-secret"] * 2
    assert "Incorrect API key" in error.what and "secret" not in str(error)


def test_another_model_never_answers_unseen():
    with OpenAIServer((200, completion(model="tiny-fallback"), {})) as server:
        [error] = ask(server.url)
    assert isinstance(error, ConfigError) and "was asked for 'llama' and answered as 'tiny-fallback'" in error.what


def test_a_server_may_answer_as_another_name_of_the_same_weights():
    served = (200, models(("first-name", "/weights"), (MODEL, "/weights")), {})
    with OpenAIServer((200, completion(model="first-name"), {}), served=served) as server:
        [reply] = ask(server.url)
    assert reply.served_model == "first-name"
