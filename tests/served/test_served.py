"""A real vLLM with a tiny random Llama: what ``--launch`` starts, asked in every way that medvlm asks.

Opt-in, because the environment has 2.5 GB: ``make test-vllm`` makes it and sets ``MEDVLM_VLLM`` to its command.
"""

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.teachers.claude import Claude, UnknownError
from medvlm_cli.teachers.launch import PROGRAM
from medvlm_cli.teachers.replies import RowError
from medvlm_cli.teachers.vllm import Servers, chat_body
from tests.served.tiny_llama import NEEDS_VLLM, POSITIONS

ROOT = Path(__file__).resolve().parents[2]
pytestmark = NEEDS_VLLM
SYSTEM = "You write short conversations about medical images. " * 12
SCHEMA = {
    "type": "object",
    "properties": {
        "side": {"type": "string", "enum": ["left", "right"]},
        "why": {"type": "string", "maxLength": 20},
    },
    "required": ["side", "why"],
    "additionalProperties": False,
}
OFFLINE = """
import asyncio, json, sys
from dataclasses import asdict
from medvlm_cli.teachers.offline import Gathered, Offline
from medvlm_cli.teachers.replies import Reply

async def one_by_one(offline, bodies):
    async with Gathered(offline) as gathered:
        return await asyncio.gather(*map(gathered.ask, bodies), return_exceptions=True)

def told(one):
    return asdict(one) if isinstance(one, Reply) else [type(one).__name__, one.code]

if __name__ == "__main__":
    model, bodies = sys.argv[1], json.loads(sys.stdin.read())
    offline = Offline(model, dtype="float32", enforce_eager=True, max_num_seqs=16)
    first = asyncio.run(one_by_one(offline, bodies))
    second = offline.ask_many(bodies)
    print("told " + json.dumps([list(map(told, first)), list(map(told, second))]))
"""


@pytest.fixture(autouse=True)
def key(monkeypatch):
    """Of Anthropic's; the server asks for none."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "none")


def body(model, words="What does the image show?", **changed):
    asked = {"max_tokens": 24, "temperature": 0.0, "seed": 0} | changed
    return chat_body(model, SYSTEM, [{"role": "user", "content": words}], **asked)


def ask(url, model, *bodies):
    async def run():
        async with Servers([url], model, connections=8, timeout=120) as servers:
            await servers.check()
            return [await servers.ask(one) for one in bodies]

    return asyncio.run(run())


def test_free_text_comes_with_its_tokens_and_the_name_of_the_model(url, name):
    [reply] = ask(url, name, body(name))
    assert reply.text.strip() and reply.provider_id
    assert (reply.stop_reason, reply.usage.output_tokens) == ("max_tokens", 24)
    assert reply.served_model == name and reply.usage.input_tokens + reply.usage.cache_read > 100


def test_what_all_requests_begin_with_is_read_once(url, name):
    asked = [body(name, f"Is there a nodule? {number}", max_tokens=2) for number in range(2)]
    first, second = ask(url, name, *asked)
    assert second.usage.cache_read >= 64
    assert (
        first.usage.input_tokens + first.usage.cache_read == second.usage.input_tokens + second.usage.cache_read
    )  # the two prompts are equally long


def test_an_answer_keeps_to_a_schema_that_it_would_not_meet_by_chance(url, name):
    replies = ask(
        url, name, *(body(name, schema=SCHEMA, seed=seed, temperature=1.0, max_tokens=80) for seed in range(5))
    )
    answers = [json.loads(reply.text) for reply in replies]
    assert all(answer.keys() == {"side", "why"} and answer["side"] in ("left", "right") for answer in answers)
    assert {reply.stop_reason for reply in replies} == {"end_turn"}
    assert not any("\n" in reply.text for reply in replies), "white space between tokens was not forbidden"


def test_the_seed_decides_what_is_drawn(url, name):
    one, same, other = ask(url, name, *(body(name, temperature=1.0, seed=seed) for seed in (5, 5, 6)))
    assert one.text == same.text != other.text


def test_a_prompt_longer_than_the_model_reads_is_a_row_that_is_too_long(url, name):
    with pytest.raises(RowError, match="maximum context length") as caught:
        ask(url, name, body(name, "nodule " * POSITIONS))
    assert caught.value.code == "too_long"


def test_a_bad_parameter_is_a_row_that_is_invalid(url, name):
    with pytest.raises(RowError) as caught:
        ask(url, name, body(name, temperature=-1.0))
    assert caught.value.code == "invalid_request"


def test_a_model_that_is_not_served_is_named_beside_the_one_that_is(url, name):
    with pytest.raises(ConfigError, match=f"serves '{name}', not 'name-70b'"):
        ask(url, "name-70b", body("name-70b"))


def test_a_model_that_is_not_served_ends_the_run_when_it_is_asked_for(url, name):
    with pytest.raises(ConfigError, match="name-70b"):
        ask(url, name, body("name-70b"))


def test_the_servers_messages_api_counts_and_answers_anthropics_sdk(url, name):
    import anthropic

    client = anthropic.Anthropic(api_key="none", base_url=url, max_retries=0)
    asked = {"model": name, "system": SYSTEM, "messages": [{"role": "user", "content": "What is shown?"}]}
    counted = client.messages.count_tokens(**asked).input_tokens
    message = client.messages.create(max_tokens=12, **asked)
    assert message.type == "message" and message.content[0].text.strip()
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 12)
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) == counted > 100


def ask_as_claude(url, model, *words, **changed):
    """What comes of asking the server's side of Anthropic's API: tokens counted of the first, and all replies."""
    asked = [{"model": model, "system": SYSTEM, "messages": [{"role": "user", "content": one}]} for one in words]

    async def run():
        async with Claude(url, connections=2, timeout=120) as claude:
            return await claude.count(asked[0]), [
                await claude.ask({"max_tokens": 12, **changed, **one}) for one in asked
            ]

    return asyncio.run(run())


def test_the_client_of_claude_reads_the_servers_messages(url, name):
    counted, [reply] = ask_as_claude(url, name, "What is shown?")
    assert reply.text.strip() and (reply.stop_reason, reply.served_model) == ("max_tokens", name)
    assert reply.usage.input_tokens + reply.usage.cache_read == counted > 100


def test_the_client_of_claude_sees_what_was_read_from_the_cache(url, name):
    _, [_, second] = ask_as_claude(url, name, "Is there a mass? 1", "Is there a mass? 2")
    assert second.usage.cache_read >= 64


def test_the_client_of_claude_gets_answers_that_keep_to_a_schema(url, name):
    form = {"format": {"type": "json_schema", "schema": SCHEMA}}
    _, replies = ask_as_claude(url, name, "Which side?", "Why?", max_tokens=80, output_config=form)
    assert [json.loads(reply.text).keys() for reply in replies] == [{"side", "why"}] * 2


def test_the_client_of_claude_tells_a_prompt_that_is_too_long(url, name):
    with pytest.raises(RowError, match="maximum context length"):
        ask_as_claude(url, name, "short", "nodule " * POSITIONS)


def test_the_client_of_claude_ends_the_run_where_the_model_is_not_served(url):
    with pytest.raises(UnknownError, match="claude-opus"):
        ask_as_claude(url, "claude-opus-5-5", "What is shown?")


def test_without_a_server_the_answers_are_the_same(url, llama, name):
    good = [body(name, f"What is in part {number}?") for number in range(3)] + [
        body(name, schema=SCHEMA, max_tokens=80),
        body(name, temperature=1.0, seed=7),
    ]
    asked = [*good[:2], body(name, "nodule " * POSITIONS), *good[2:]]
    python = str(Path(os.environ[PROGRAM]).with_name("python"))
    done = subprocess.run(
        [python, "-c", OFFLINE, llama], input=json.dumps(asked), capture_output=True, text=True, timeout=600,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=llama,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.startswith("told "), "vLLM's own words are on standard output"
    first, second = json.loads(done.stdout.removeprefix("told "))
    assert first[2] == second[2] == ["RowError", "too_long"]
    served = ask(url, name, *good)
    wanted = [(reply.text, reply.stop_reason, reply.usage.output_tokens) for reply in served]
    assert [told(one) for one in first[:2] + first[3:]] == [told(one) for one in second[:2] + second[3:]] == wanted


def told(one):
    return one["text"], one["stop_reason"], one["usage"]["output_tokens"]
