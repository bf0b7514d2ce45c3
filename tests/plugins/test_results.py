"""Results of a Message Batch: lines in any order, some of them foreign, broken, double or of kinds nobody knows yet."""

import json

import pytest

from medvlm_cli.teachers.results import read_results

MESSAGE = {
    "type": "message", "id": "msg_1", "model": "claude-opus-5-5", "stop_reason": "end_turn",
    "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "User: a\nAssistant: b"}],
    "usage": {"input_tokens": 10, "output_tokens": 20, "cache_creation_input_tokens": 7, "cache_read_input_tokens": 3,
              "cache_creation": {"ephemeral_1h_input_tokens": 5, "ephemeral_5m_input_tokens": 2},
              "output_tokens_details": {"thinking_tokens": 6}},
}  # fmt: skip
IDS = {f"run-0001-{number:032d}": f"key{number}" for number in range(6)}
ONE, TWO, *_ = IDS


def line(one, result):
    return json.dumps({"custom_id": one, "result": result})


def succeeded(one, **changed):
    return line(one, {"type": "succeeded", "message": MESSAGE | changed})


def read(tmp_path, *lines):
    path = tmp_path / "results.jsonl"
    path.write_text("".join(f"{one}\n" for one in lines), encoding="utf-8")
    return read_results(path, IDS)


def test_an_answer_is_its_text_and_its_usage(tmp_path):
    reply = read(tmp_path, succeeded(ONE)).replies[ONE]
    assert (reply.text, reply.stop_reason, reply.provider_id) == ("User: a\nAssistant: b", "end_turn", "msg_1")
    usage = reply.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read, usage.thinking_tokens) == (10, 20, 3, 6)
    assert (usage.cache_write_5m, usage.cache_write_1h) == (2, 5)


def test_a_refusal_has_no_words_and_a_category(tmp_path):
    changed = {"content": [], "stop_reason": "refusal", "stop_details": {"type": "refusal", "category": "bio"}}
    reply = read(tmp_path, succeeded(ONE, **changed)).replies[ONE]
    assert (reply.text, reply.stop_reason, reply.stop_category) == ("", "refusal", "bio")


@pytest.mark.parametrize(
    ("result", "code"),
    [
        ({"type": "errored", "error": {"type": "error", "error": {"type": "invalid_request_error", "message": "m"}}}, "invalid_request"),  # noqa: E501
        ({"type": "errored", "error": {"type": "error", "error": {"type": "overloaded_error", "message": "m"}}}, "errored"),  # noqa: E501
        ({"type": "errored", "error": {"type": "api_error", "message": "m"}}, "errored"),
        ({"type": "errored"}, "errored"),
        ({"type": "expired"}, "expired"),
        ({"type": "canceled"}, "canceled"),
        ({"type": "brand_new", "message": MESSAGE}, "unknown_result"),
    ],
)  # fmt: skip
def test_what_was_not_answered_has_a_code(tmp_path, result, code):
    results = read(tmp_path, line(ONE, result))
    assert (results.failures[ONE][0], results.replies, results.unreadable) == (code, {}, 0)


@pytest.mark.parametrize(
    "broken",
    ["{", "[]", "null", "3", '{"custom_id": 5}', line(TWO, {"type": "succeeded"}), line(TWO, {"type": "succeeded", "message": {}}),  # noqa: E501
     succeeded(TWO, usage=None), succeeded(TWO, content=[3]), line(TWO, "text"), "\ufffd" * 40],
)  # fmt: skip
def test_a_broken_line_costs_no_other_one(tmp_path, broken):
    results = read(tmp_path, broken, succeeded(ONE), "")
    assert (set(results.replies), results.unreadable, results.missing(IDS)) == ({ONE}, 1, set(IDS) - {ONE})


def test_lines_about_other_requests_are_counted_and_not_taken(tmp_path):
    results = read(tmp_path, succeeded("somebody-else"), succeeded(ONE), succeeded(""))
    assert (set(results.replies), results.foreign) == ({ONE}, 2)


def test_of_two_lines_about_one_request_an_answer_counts_before_a_failure_and_the_first_before_the_second(tmp_path):
    expired, first, second = line(ONE, {"type": "expired"}), succeeded(ONE, id="first"), succeeded(ONE, id="second")
    for order in ([expired, first, second], [first, expired, second], [first, second, expired]):
        results = read(tmp_path, *order)
        assert (results.replies[ONE].provider_id, results.failures) == ("first", {})


def test_a_file_that_was_cut_off_misses_the_rest(tmp_path):
    path = tmp_path / "results.jsonl"
    whole = "\n".join(succeeded(one) for one in IDS).encode()
    path.write_bytes(whole[: len(whole) // 2 - 20])
    results = read_results(path, IDS)
    assert len(results.replies) == 2
    assert len(results.missing(IDS)) == 4
