"""The loopback server is only worth something if Anthropic's own SDK cannot tell it from the real one."""

import asyncio
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import anthropic
import httpx2
import pytest

from tests.anthropic_faults import FAULTS, MALFORMED, Faults
from tests.anthropic_server import LLAMA, billed_in, last_user, pairs_for, reply_for, serving, token_of

OPUS = "claude-opus-5-5"
ROOT = Path(__file__).parents[1]


def body(number=0, **more):
    said = [{"role": "user", "content": f"Figure Caption:\nCaption {number}."}]
    return {"model": OPUS, "max_tokens": 4096, "system": "Write turns.", "messages": said} | more


def rows(count, **more):
    return [{"custom_id": f"row-{number}", "params": body(number, **more)} for number in range(count)]


def client_of(server, **more):
    options = {"api_key": server.key, "base_url": server.url, "max_retries": 0, "timeout": 5.0} | more
    return anthropic.Anthropic(**options)


def ended(client, batch):
    deadline = time.monotonic() + 10
    while client.messages.batches.retrieve(batch.id).processing_status != "ended":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return client.messages.batches.retrieve(batch.id)


def batch_of(client, requests):
    return ended(client, client.messages.batches.create(requests=requests))


def kinds(client, batch):
    return [one.result.type for one in client.messages.batches.results(batch.id)]


def lines_of(client, batch):
    with client.messages.batches.with_streaming_response.results(batch.id) as answer:
        return b"".join(answer.iter_bytes()).splitlines()


def post(url, value):
    request = urllib.request.Request(url, json.dumps(value).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def failure(call, kind=anthropic.APIStatusError):
    with pytest.raises(kind) as raised:
        call()
    return raised.value


# ---------------------------------------------------------------------- messages


def test_the_sdk_reads_a_message_and_its_text_is_the_expected_one():
    with serving() as server, client_of(server) as client:
        message = client.messages.create(**body(7))
    assert message.content[0].text == reply_for(body(7))
    assert (message.stop_reason, message.model, message.type) == ("end_turn", OPUS, "message")
    assert message._request_id.startswith("req_")


def test_the_asynchronous_sdk_gets_the_same_text_for_the_same_row():
    async def run(server):
        options = {"api_key": server.key, "base_url": server.url, "max_retries": 0}
        async with anthropic.AsyncAnthropic(**options) as client:
            return await asyncio.gather(*(client.messages.create(**body(number)) for number in range(20)))

    with serving() as server:
        messages = asyncio.run(run(server))
    assert [one.content[0].text for one in messages] == [reply_for(body(number)) for number in range(20)]


def test_every_answer_of_a_reply_holds_the_word_of_its_own_message_only():
    words = [token_of(last_user(body(number))) for number in range(500)]
    answers = [answer for _, answer in pairs_for(last_user(body(3)))]
    assert len(set(words)) == 500
    assert 2 <= len(answers) <= 4
    assert all(words[3] in answer for answer in answers)
    assert words[3].isalpha()


def test_conversations_are_too_different_to_be_taken_for_near_duplicates():
    grams = []
    for number in range(60):
        words = reply_for(body(number)).lower().split()
        grams.append({tuple(words[at : at + 3]) for at in range(len(words) - 2)})
    alike = max(len(a & b) / len(a | b) for a in grams for b in grams if a is not b)
    assert alike < 0.4


def test_replies_obey_the_rules_of_the_paper():
    text = "\n".join(reply_for(body(number)) for number in range(300))
    assert not re.search(r"mention|caption|context|\d", text, re.IGNORECASE)
    assert text.count("image") > 300


def test_a_request_for_json_and_a_judge_get_json():
    form = {"format": {"type": "json_schema", "schema": {"type": "object"}}}
    turns = json.loads(reply_for(body(1, output_config=form)))["turns"]
    mark = json.loads(reply_for(body(1, system='Answer with {"no_leak": 1}')))
    assert [(turn["user"], turn["assistant"]) for turn in turns] == pairs_for(last_user(body(1)))
    assert mark["visual"] == 1


def test_blocks_count_as_their_text():
    blocks = [{"role": "user", "content": [{"type": "text", "text": last_user(body(1))}]}]
    with serving() as server, client_of(server) as client:
        message = client.messages.create(**body(messages=blocks))
    assert message.content[0].text == reply_for(body(1))


def test_a_refusal_is_a_200_without_content():
    with serving(refusals=1.0) as server, client_of(server) as client:
        messages = [client.messages.create(**body(number)) for number in range(40)]
        what = server.what_of(body(0))
    assert {one.stop_reason for one in messages} == {"refusal"}
    assert all(one.content == [] for one in messages)
    assert {"bio", "frontier_llm"} <= {one.stop_details.category for one in messages}
    assert what == "refusal"


def test_a_text_may_be_cut_off_by_max_tokens():
    with serving(max_tokens=1.0) as server, client_of(server) as client:
        message = client.messages.create(**body(1))
    whole = reply_for(body(1))
    assert (message.stop_reason, message.usage.output_tokens) == ("max_tokens", 4096)
    assert whole.startswith(message.content[0].text)
    assert len(message.content[0].text) < len(whole)


def test_shares_of_outcomes_are_about_what_was_asked_for():
    with serving(refusals=0.1, max_tokens=0.2, malformed=0.3) as server:
        what = [server.what_of(body(number)) for number in range(2000)]
    assert [round(what.count(one) / 2000, 1) for one in ("refusal", "max_tokens", "malformed", "text")] == [
        0.1, 0.2, 0.3, 0.4,
    ]  # fmt: skip


def test_a_malformed_text_is_one_of_the_known_ones():
    with serving(malformed=1.0) as server, client_of(server) as client:
        texts = [client.messages.create(**body(number)).content[0].text for number in range(60)]
    known = [{spoil(reply_for(body(number))) for spoil in MALFORMED} for number in range(60)]
    assert all(text in one for text, one in zip(texts, known, strict=True))
    assert len({text[:5] for text in texts}) > 4


def test_counting_tokens_agrees_with_what_is_billed_and_is_free():
    with serving() as server, client_of(server) as client:
        counted = client.messages.count_tokens(model=OPUS, messages=body(1)["messages"], system="Write turns.")
        usage = client.messages.create(**body(1)).usage
    chars = len("Write turns.") + len(last_user(body(1)))
    assert counted.input_tokens == usage.input_tokens
    assert abs(counted.input_tokens - chars / 3.5) <= chars / 35 + 1
    assert len(server.billed) == 1


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"extra_body": {"temperature": 0}}, "temperature: Extra inputs are not permitted"),
        ({"max_tokens": 0}, "max_tokens: Input should be greater"),
        ({"messages": []}, "at least one message"),
        ({"messages": [{"role": "user", "content": ""}]}, "non-empty content"),
        ({"messages": [*body()["messages"], {"role": "assistant", "content": "User:"}]}, "prefill"),
        ({"thinking": {"type": "disabled"}}, "cannot be disabled"),
        ({"system": "x" * 900_000}, "prompt is too long"),
    ],
)
def test_parameters_that_the_api_does_not_take_are_a_400(wrong, said):
    with serving() as server, client_of(server) as client:
        error = failure(lambda: client.messages.create(**(body() | wrong)), anthropic.BadRequestError)
    assert (error.type, error.status_code) == ("invalid_request_error", 400)
    assert said in error.api_message
    assert server.billed == []


def test_an_unknown_model_is_a_404():
    with serving() as server, client_of(server) as client:
        error = failure(lambda: client.messages.create(**body(model="claude-none")), anthropic.NotFoundError)
    assert error.type == "not_found_error"


def test_a_wrong_key_is_a_401_in_the_documented_shape():
    with serving() as server, client_of(server, api_key="wrong") as client:
        error = failure(lambda: client.messages.create(**body()), anthropic.AuthenticationError)
    assert error.body["type"] == "error"
    assert (error.type, error.request_id) == ("authentication_error", error.body["request_id"])


def test_the_old_header_for_keys_is_accepted_too():
    headers = {"x-api-key": "test-key", "anthropic-version": "2023-06-01", "content-type": "application/json"}
    with serving() as server:
        request = urllib.request.Request(f"{server.url}/v1/messages", json.dumps(body()).encode(), headers)
        with urllib.request.urlopen(request, timeout=5) as answer:
            message = json.load(answer)
    assert message["content"][0]["text"] == reply_for(body())


def test_models_are_listed_and_found_by_name():
    with serving() as server, client_of(server) as client:
        names = [one.id for one in client.models.list(limit=1)]
        model = client.models.retrieve("claude-haiku-5-5")
        error = failure(lambda: client.models.retrieve("claude-none"))
    assert OPUS in names
    assert len(names) == 3
    assert (model.id, model.lifecycle) == ("claude-haiku-5-5", "active")
    assert error.status_code == 404


# ---------------------------------------------------------------------- money


def test_what_is_billed_follows_from_usage_and_prices():
    with serving() as server, client_of(server) as client:
        usage = client.messages.create(**body()).usage
    assert server.billed_usd == pytest.approx((usage.input_tokens * 4 + usage.output_tokens * 20) / 1e6)
    assert 405 <= usage.output_tokens <= 495
    assert server.billed[0].token == token_of(last_user(body()))


def test_a_batch_costs_half():
    with serving(batch_seconds=0) as server, client_of(server) as client:
        client.messages.create(**body())
        batch_of(client, rows(1))
    sync, batch = server.billed
    assert batch.usd == sync.usd / 2
    assert (batch.custom_id, sync.custom_id) == ("row-0", None)
    assert batch.sha256 == sync.sha256
    assert server.billed_twice() == {sync.sha256: 2}


def test_adversarial_answers_use_all_tokens_that_are_allowed():
    with serving(adversarial=True) as server, client_of(server) as client:
        message = client.messages.create(**body(max_tokens=2000))
    assert message.usage.output_tokens == 2000
    assert message.content[0].text == reply_for(body())


def test_thinking_is_part_of_the_output():
    with serving(thinking=1000) as server, client_of(server) as client:
        message = client.messages.create(**body())
    thought = message.usage.output_tokens_details.thinking_tokens
    assert 900 <= thought <= 1100
    assert message.usage.output_tokens - thought < 500
    assert [block.type for block in message.content] == ["thinking", "text"]


def shared(number, ttl="1h"):
    mark = {"type": "ephemeral", "ttl": ttl}
    shot = [{"type": "text", "text": "long " * 1000, "cache_control": mark}]
    return body(
        messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": shot}, *body(number)["messages"]]
    )


def test_what_stands_before_cache_control_is_written_once_and_then_read():
    with serving(caching=True) as server, client_of(server) as client:
        first, second = (client.messages.create(**shared(number)).usage for number in range(2))
    assert first.cache_creation.ephemeral_1h_input_tokens == first.cache_creation_input_tokens > 1000
    assert second.cache_read_input_tokens > 1000
    assert (first.cache_read_input_tokens, second.cache_creation_input_tokens) == (0, 0)
    assert first.input_tokens < 50
    expected = (second.input_tokens * 4 + second.cache_read_input_tokens * 0.2 + second.output_tokens * 20) / 1e6
    assert server.billed[1].usd == pytest.approx(expected)


def test_a_prefix_below_the_minimum_is_not_cached():
    with serving(caching=True, cache_minimum=4096) as server, client_of(server) as client:
        usage = [client.messages.create(**shared(number, "5m")).usage for number in range(2)][1]
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (0, 0)


# ---------------------------------------------------------------------- batches


def test_a_batch_counts_its_rows_as_processing_until_it_ends():
    with serving(batch_polls=3) as server, client_of(server) as client:
        made = client.messages.batches.create(requests=rows(4))
        seen = [client.messages.batches.retrieve(made.id) for _ in range(3)]
    assert [one.processing_status for one in (made, *seen)] == ["in_progress"] * 3 + ["ended"]
    assert (seen[1].request_counts.processing, seen[1].request_counts.succeeded) == (4, 0)
    assert (seen[2].request_counts.processing, seen[2].request_counts.succeeded) == (0, 4)
    assert (seen[1].results_url, seen[1].ended_at) == (None, None)
    assert seen[2].results_url.startswith(server.url)
    assert (made.expires_at - made.created_at).total_seconds() == 86400


def test_results_come_in_another_order_and_each_belongs_to_its_row():
    with serving(batch_seconds=0.05) as server, client_of(server) as client:
        results = list(client.messages.batches.results(batch_of(client, rows(50)).id))
    told = {one.custom_id: one.result.message.content[0].text for one in results}
    assert [one.custom_id for one in results] != [f"row-{number}" for number in range(50)]
    assert told == {f"row-{number}": reply_for(body(number)) for number in range(50)}


def test_rows_fare_by_seed_and_only_those_that_succeed_are_billed():
    shares = {"errored": 0.1, "expired": 0.2, "canceled": 0.1, "invalid": 0.1}
    with serving(batch_seconds=0, **shares) as server, client_of(server) as client:
        batch = batch_of(client, rows(1000))
        results = list(client.messages.batches.results(batch.id))
    counts = batch.request_counts
    errors = {one.result.error.error.type for one in results if one.result.type == "errored"}
    assert errors == {"api_error", "overloaded_error", "invalid_request_error"}
    assert counts.errored == pytest.approx(190, abs=40)
    assert counts.expired == pytest.approx(180, abs=40)
    assert counts.canceled == pytest.approx(90, abs=30)
    assert counts.succeeded == len(server.billed) == 1000 - counts.errored - counts.expired - counts.canceled


def test_an_invalid_row_is_invalid_in_every_batch_and_an_expired_one_may_succeed_in_the_next():
    with serving(batch_seconds=0, invalid=0.3, expired=0.3) as server, client_of(server) as client:
        told = []
        for _ in range(2):
            results = client.messages.batches.results(batch_of(client, rows(60)).id)
            told.append({one.custom_id: one.result.type for one in results})
    first, second = told
    errored = [{name for name, kind in one.items() if kind == "errored"} for one in told]
    assert errored[0] == errored[1] != set()
    assert any(first[name] == "expired" and second[name] == "succeeded" for name in first)


def test_bad_parameters_of_a_row_are_found_only_when_the_batch_ends():
    bad = [{"custom_id": "bad", "params": body(1) | {"temperature": 0}}]
    with serving(batch_seconds=0) as server, client_of(server) as client:
        batch = batch_of(client, rows(1) + bad)
        failed = [one for one in client.messages.batches.results(batch.id) if one.custom_id == "bad"]
    assert "temperature" in failed[0].result.error.error.message
    assert (batch.request_counts.errored, batch.request_counts.succeeded) == (1, 1)


@pytest.mark.parametrize(
    ("custom_ids", "said"),
    [
        (["a" * 65], "requests.0.custom_id: String should have at most 64 characters"),
        (["a/b"], "should match pattern"),
        (["a", "a"], "unique"),
        ([], "at least 1 item"),
        (["a", "b", "c", "d"], "at most 3 items"),
    ],
)
def test_a_batch_with_wrong_ids_is_refused_at_once(custom_ids, said):
    requests = [{"custom_id": name, "params": body()} for name in custom_ids]
    with serving(most_requests=3) as server, client_of(server) as client:
        error = failure(lambda: client.messages.batches.create(requests=requests), anthropic.BadRequestError)
    assert said in error.api_message
    assert server.batches == {}


def test_a_batch_of_too_many_bytes_is_a_413():
    with serving(most_bytes=2000) as server, client_of(server) as client:
        error = failure(lambda: client.messages.batches.create(requests=rows(20)), anthropic.ContentTooLargeError)
    assert error.body["error"]["type"] == "request_too_large"


def test_a_batch_that_is_cancelled_ends_and_what_was_not_reached_is_not_billed():
    with serving(batch_seconds=60, cancel_seconds=0.05) as server, client_of(server) as client:
        made = client.messages.batches.create(requests=rows(20))
        cancelling = client.messages.batches.cancel(made.id)
        batch = ended(client, made)
        found = kinds(client, batch)
        error = failure(lambda: client.messages.batches.cancel(made.id))
    assert (cancelling.processing_status, cancelling.cancel_initiated_at is not None) == ("canceling", True)
    assert found.count("canceled") == batch.request_counts.canceled >= 18
    assert len(server.billed) == 20 - found.count("canceled")
    assert error.status_code == 400


def test_batches_are_listed_newest_first_page_by_page():
    with serving(batch_seconds=60) as server, client_of(server) as client:
        ids = [client.messages.batches.create(requests=rows(1)).id for _ in range(5)]
        page = client.messages.batches.list(limit=2)
        after = client.messages.batches.list(limit=2, after_id=page.last_id)
        before = client.messages.batches.list(limit=2, before_id=after.first_id)
        all_ids = [one.id for one in client.messages.batches.list(limit=2)]
    assert [one.id for one in page.data] == [ids[4], ids[3]]
    assert [one.id for one in after.data] == [ids[2], ids[1]]
    assert [one.id for one in before.data] == [ids[4], ids[3]]
    assert (page.has_more, before.has_more) == (True, False)
    assert all_ids == ids[::-1]


def test_a_new_batch_is_not_listed_before_its_time():
    with serving(listing_lag=60) as server, client_of(server) as client:
        client.messages.batches.create(requests=rows(1))
        listed = client.messages.batches.list().data
    assert listed == []
    assert len(server.batches) == 1


def test_only_an_ended_batch_can_be_deleted():
    with serving(batch_seconds=60) as server, client_of(server) as client:
        made = client.messages.batches.create(requests=rows(1))
        error = failure(lambda: client.messages.batches.delete(made.id))
        server.settle()
        deleted = client.messages.batches.delete(made.id)
        gone = failure(lambda: client.messages.batches.retrieve(made.id))
    assert (error.status_code, gone.status_code) == (400, 404)
    assert deleted.type == "message_batch_deleted"


def test_results_can_be_gone():
    with serving(batch_seconds=0) as server, client_of(server) as client:
        batch = batch_of(client, rows(2))
        server.archive()
        archived = client.messages.batches.retrieve(batch.id)
        failure(lambda: client.messages.batches.results(batch.id), anthropic.AnthropicError)
    assert (archived.results_url, archived.archived_at is not None) == (None, True)


# ---------------------------------------------------------------------- faults


@pytest.mark.parametrize(
    ("fault", "kind", "status", "after"),
    [
        ("429 1", anthropic.RateLimitError, 429, "1"),
        ("429 99999", anthropic.RateLimitError, 429, "99999"),
        ("429", anthropic.RateLimitError, 429, None),
        ("ramp limit", anthropic.RateLimitError, 429, "1"),
        ("500", anthropic.InternalServerError, 500, None),
        ("503", anthropic.InternalServerError, 503, None),
        ("529", anthropic.InternalServerError, 529, None),
        ("401", anthropic.AuthenticationError, 401, None),
        ("402", anthropic.APIStatusError, 402, None),
    ],
)
def test_a_status_on_demand_is_the_sdks_own_error_and_costs_nothing(fault, kind, status, after):
    with serving(fault=lambda *_: fault) as server, client_of(server) as client:
        error = failure(lambda: client.messages.create(**body()), kind)
    assert (error.status_code, error.response.headers.get("retry-after")) == (status, after)
    assert (server.billed, server.requests[0][1:]) == ([], ("POST", "/v1/messages", fault))


def test_a_spend_limit_is_a_400_with_its_code():
    with serving(fault=lambda *_: "spend limit") as server, client_of(server) as client:
        error = failure(lambda: client.messages.create(**body()), anthropic.BadRequestError)
    assert error.error_code == error.details.error_code == "enforced_spend_limit_reached"


@pytest.mark.parametrize(
    ("fault", "kind", "billed"),
    [
        ("connect", anthropic.APIConnectionError, 0),
        ("read timeout", anthropic.APITimeoutError, 0),
        ("html as json", json.JSONDecodeError, 0),
        ("empty 200", json.JSONDecodeError, 0),
        ("drop after accept", anthropic.APIConnectionError, 1),
        ("hang after accept", anthropic.APITimeoutError, 1),
    ],
)
def test_an_answer_that_does_not_come_may_have_been_billed(fault, kind, billed):
    with serving(fault=lambda *_: fault) as server, client_of(server, timeout=0.3) as client:
        failure(lambda: client.messages.create(**body()), kind)
    assert (len(server.billed), server.requests[0][3]) == (billed, fault)


def test_a_page_of_html_with_status_200_passes_the_sdk_as_a_string():
    with serving(fault=lambda *_: "html 200") as server, client_of(server) as client:
        assert str(client.messages.create(**body())).startswith("<html>")
    assert server.billed == []


def test_a_batch_exists_though_the_answer_to_create_was_dropped():
    with (
        serving(faults={"drop after accept": (1.0, "^POST /v1/messages/batches$")}) as server,
        client_of(server) as client,
    ):
        failure(lambda: client.messages.batches.create(requests=rows(3)), anthropic.APIConnectionError)
        listed = client.messages.batches.list().data
    assert [sum(one.request_counts.to_dict().values()) for one in listed] == [3]


def test_a_dropped_answer_makes_the_sdks_own_retries_pay_twice():
    once = {"fault": lambda number, method, path: "drop after accept" if number == 1 else None}
    with serving(**once) as server, client_of(server, max_retries=1) as client:
        client.messages.create(**body())
    assert list(server.billed_twice().values()) == [2]


def spoiled_lines(fault):
    with serving(batch_seconds=0, faults={fault: 1.0}) as server, client_of(server) as client:
        return lines_of(client, batch_of(client, rows(20)))


def test_results_that_are_cut_end_without_an_error_in_the_middle_of_a_line():
    lines = spoiled_lines("cut results")
    assert len(lines) < 20
    with pytest.raises(ValueError):
        json.loads(lines[-1])


def test_results_that_are_dropped_break_the_connection():
    with pytest.raises(httpx2.HTTPError):
        spoiled_lines("drop results")


def test_one_line_of_the_results_is_malformed():
    lines = spoiled_lines("malformed line")
    assert len(lines) == 20
    assert sum(line.endswith(b"}}") for line in lines) == 19


def test_one_result_is_of_a_type_nobody_knows():
    found = [json.loads(line)["result"]["type"] for line in spoiled_lines("unknown type")]
    assert (found.count("brand_new"), found.count("succeeded")) == (1, 19)


def test_one_result_comes_twice():
    names = [json.loads(line)["custom_id"] for line in spoiled_lines("duplicate custom_id")]
    assert (len(names), len(set(names))) == (21, 20)


def test_one_result_is_of_a_row_that_nobody_sent():
    names = {json.loads(line)["custom_id"] for line in spoiled_lines("foreign custom_id")}
    assert len(names - {f"row-{number}" for number in range(20)}) == 1
    assert len(names) == 21


def test_results_on_another_host_are_noticed_with_the_key_that_was_sent_there():
    with serving(batch_seconds=0, faults={"results on another host": 1.0}) as server, client_of(server) as client:
        batch = batch_of(client, rows(3))
        before = list(server.elsewhere)
        found = kinds(client, batch)
    assert not batch.results_url.startswith(server.url)
    assert (before, found) == ([], ["succeeded"] * 3)
    assert server.elsewhere[0][2]["authorization"] == f"Bearer {server.key}"


def test_a_batch_can_be_archived_by_share():
    with serving(batch_seconds=0, faults={"archived": 1.0}) as server, client_of(server) as client:
        batch = batch_of(client, rows(3))
    assert (batch.results_url, batch.archived_at is not None) == (None, True)
    assert len(server.billed) == 3


def test_shares_and_seeds_decide_which_requests_go_wrong():
    shares = {"529": 0.1, "429 30": 0.2, "html 200": (1.0, "batches$")}
    drawn = [[Faults(shares, None, seed).of(1, "POST", "/v1/messages")] for seed in range(1000)]
    first, second = (Faults(shares, None, 5) for _ in range(2))
    names = [one[0] for one in drawn]
    assert [names.count("529"), names.count("429 30")] == [pytest.approx(100, abs=30), pytest.approx(200, abs=40)]
    assert [first.of(n, "POST", "/v1/messages") for n in range(50)] == [
        second.of(n, "POST", "/v1/messages") for n in range(50)
    ]
    assert first.of(51, "GET", "/v1/messages/batches") == "html 200"


def test_looks_at_batches_do_not_change_what_becomes_of_other_requests():
    alone, between = (Faults({"529": 0.3}, None, 1) for _ in range(2))
    expected = [alone.of(n, "POST", "/v1/messages") for n in range(40)]
    seen = []
    for number in range(40):
        seen.append(between.of(number, "POST", "/v1/messages"))
        between.of(number, "GET", f"/v1/messages/batches/msgbatch_{number}")
    assert seen == expected
    assert 0 < expected.count("529") < 40


def test_a_fault_that_nobody_knows_is_refused():
    assert len(FAULTS) > 10
    with pytest.raises(ValueError, match="no fault is called 'brand new'"), serving(faults={"brand new": 1.0}):
        pass


def test_too_many_requests_a_minute_are_told_when_to_come_back():
    with serving(per_minute=2) as server, client_of(server) as client:
        told = [client.messages.with_raw_response.create(**body()).headers for _ in range(2)]
        error = failure(lambda: client.messages.create(**body()), anthropic.RateLimitError)
    assert [one["anthropic-ratelimit-requests-remaining"] for one in told] == ["1", "0"]
    assert told[0]["anthropic-ratelimit-requests-reset"].endswith("Z")
    assert 0 < int(error.response.headers["retry-after"]) <= 60


# ---------------------------------------------------------------------- vLLM


def test_the_other_side_speaks_as_vllm_does_and_costs_nothing():
    asked = {"model": LLAMA, "max_tokens": 1024, "temperature": 0, "messages": body(5)["messages"]}
    with serving() as server:
        status, answer = post(f"{server.url}/v1/chat/completions", asked)
    choice, usage = answer["choices"][0], answer["usage"]
    assert (status, answer["object"], answer["model"]) == (200, "chat.completion", LLAMA)
    assert (choice["message"]["content"], choice["finish_reason"]) == (reply_for(asked), "stop")
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert (server.billed, len(server.answered)) == ([], 1)


def test_the_other_side_refuses_a_wrong_model_and_a_prompt_that_is_too_long():
    asked = {"model": LLAMA, "max_tokens": 1024, "messages": [{"role": "user", "content": "x" * 40_000}]}
    with serving() as server:
        wrong = post(f"{server.url}/v1/chat/completions", asked | {"model": "none"})
        long = post(f"{server.url}/v1/chat/completions", asked)
    assert (wrong[0], wrong[1]["error"]["code"]) == (404, 404)
    assert (long[0], long[1]["error"]["param"]) == (400, "input_tokens")
    assert "maximum context length is 8192 tokens" in long[1]["error"]["message"]


def test_the_other_side_stops_at_the_length_and_reports_what_it_found_in_its_cache():
    said = [{"role": "system", "content": "s" * 3000}, *body(1)["messages"]]
    asked = {"model": LLAMA, "max_tokens": 1024, "messages": said}
    with serving(max_tokens=1.0, caching=True) as server:
        first, second = (post(f"{server.url}/v1/chat/completions", asked)[1] for _ in range(2))
    assert first["choices"][0]["finish_reason"] == "length"
    assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 600


def test_the_other_side_lists_its_models_and_has_the_same_faults():
    with serving(faults={"529": (1.0, "chat")}) as server:
        with urllib.request.urlopen(f"{server.url}/v1/models", timeout=5) as answer:
            listed = json.load(answer)
        status, told = post(f"{server.url}/v1/chat/completions", {"model": LLAMA, "messages": body()["messages"]})
    assert [one["id"] for one in listed["data"]] == [LLAMA]
    assert (status, told["error"]["code"]) == (529, 529)
    assert [one[3] for one in server.asked("chat")] == ["529"]


# ---------------------------------------------------------------------- as a process


def test_as_a_process_it_serves_until_its_stdin_closes_and_its_log_outlives_it(tmp_path):
    log = tmp_path / "log.jsonl"
    command = [sys.executable, "-m", "tests.anthropic_server", "--port", "0", "--log", str(log)]
    command += ["--batch-seconds", "0.05", "--seed", "3", "--fault", "529=1.0@count_tokens", "--adversarial"]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    url = process.stdout.readline().strip()
    with anthropic.Anthropic(api_key="test-key", base_url=url, max_retries=0) as client:
        batch = batch_of(client, rows(3))
        failure(lambda: client.messages.count_tokens(model=OPUS, messages=body()["messages"]))
    process.stdin.close()
    assert process.wait(10) == 0
    billed = billed_in(log)
    assert {one["custom_id"] for one in billed} == {"row-0", "row-1", "row-2"}
    assert {one["batch_id"] for one in billed} == {batch.id}
    assert {one["usage"]["output_tokens"] for one in billed} == {4096}
    assert {"batch", "ended", "request"} <= {json.loads(line)["kind"] for line in log.read_text().splitlines()}
