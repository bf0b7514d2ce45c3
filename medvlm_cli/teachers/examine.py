"""From what a teacher said to a conversation, or to the reason why it is none; costs nothing and can be repeated."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from medvlm_cli.core.arrow import Reject
from medvlm_cli.core.splits import split_of
from medvlm_cli.teachers import validate
from medvlm_cli.teachers.ledger import Answered
from medvlm_cli.teachers.parse import VERSION, parse
from medvlm_cli.teachers.prices import dollars
from medvlm_cli.teachers.replies import Reply
from medvlm_cli.teachers.terms import tag_of
from medvlm_cli.teachers.validate import Source

MEANINGS = {
    "refusal": "the teacher refused to answer",
    "V10_contaminated": "question and answer, or thirteen words in a row, are those of a benchmark",
    "near_duplicate": "nearly the same conversation is kept for another figure",
    "judged_low": "the judge's mark is below the threshold",
    "judge_silent": "the judge gave no mark",
    "invalid_request": "the provider does not take this request",
    "too_long": "the request is too long for the model",
    "unavailable": "no try was answered, in two runs",
    "errored": "the provider failed at this request in every batch",
    "expired": "every batch expired before this request was answered",
    "canceled": "the batch was cancelled, every time",
    "unknown_result": "the batch gave a result of a kind that is not known, every time",
    "unreadable_result": "the line of its result cannot be read",
    "no_recorded_reply": "the recording holds no answer to this request",
} | dict(validate.MEANINGS)
"""Every reason for which a teacher's figure is a reject, and every code that a kept one may carry."""

_LIMITS = ("max_tokens", "model_context_window_exceeded")


@dataclass(frozen=True)
class Found:
    """What an answer holds."""

    pairs: tuple[tuple[str, str], ...]
    reasons: tuple[str, ...]
    repairs: tuple[str, ...]
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    def dumped(self) -> str:
        """As JSON."""
        return json.dumps([self.pairs, self.reasons, self.repairs, self.warnings, self.notes], ensure_ascii=False)

    @classmethod
    def loaded(cls, text: str) -> "Found":
        """From ``dumped``."""
        pairs, *codes = json.loads(text)
        return cls(tuple((question, answer) for question, answer in pairs), *map(tuple, codes))

    def text(self) -> str:
        """Questions and answers in a row, for comparing conversations."""
        return "\n".join(f"{question}\n{answer}" for question, answer in self.pairs)


def rules_of(benchmarks: str) -> str:
    """The name of the rules in force: validators, parser, and the benchmarks that were there to compare with."""
    return f"{validate.RULES_ID} {VERSION} {benchmarks}"


def examine(reply: Reply, figure: Mapping[str, Any], hit: Callable[[str, str], str | None]) -> Found:
    """Parse and validate an answer.

    Args:
        reply: what the teacher said.
        figure: the row of figures/1 that it was about.
        hit: names the benchmark that a question and its answer are from, or None.
    """
    if reply.stop_reason == "refusal":
        category = f"refusal_{reply.stop_category}" if reply.stop_category else "refusal_uncategorised"
        return Found((), ("refusal",), (), (), (category,))
    parsed = parse(reply.text, truncated=reply.stop_reason in _LIMITS)
    mentions = tuple(mention["text"] for mention in figure["mentions"])
    verdict = validate.validate(parsed.pairs, Source(figure["caption"], mentions, figure["modality"]))
    repairs = (*parsed.repairs, *verdict.repairs)
    if not verdict.reasons and any(hit(question, answer) for question, answer in verdict.pairs):
        return Found(verdict.pairs, ("V10_contaminated",), repairs, verdict.warnings, verdict.notes)
    return Found(verdict.pairs, verdict.reasons, repairs, verdict.warnings, verdict.notes)


def turns_of(found: Found) -> list[dict[str, str]]:
    """The turns of conversations/1; the image opens the first question."""
    turns = []
    for number, (question, answer) in enumerate(found.pairs):
        turns.append({"role": "user", "text": f"<image>\n{question}" if number == 0 else question})
        turns.append({"role": "assistant", "text": answer})
    return turns


def row_of(figure: Mapping[str, Any], answered: Answered, found: Found, about: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the extended conversations/1.

    Args:
        figure: the row of figures/1.
        answered: the answer.
        found: what it holds.
        about: ``teacher``, ``teacher_planned``, ``prompt_id``, ``request`` and ``judge_score``.
    """
    ask, reply = answered.ask, answered.reply
    usage = reply.usage
    return {
        "conversation_id": f"{ask.figure_id}/instruct", "figure_id": ask.figure_id, "kind": "instruct",
        "turns": turns_of(found), "teacher": about["teacher"], "teacher_planned": about["teacher_planned"],
        "prompt_id": about["prompt_id"], "request_sha256": ask.key, "raw_response": reply.text,
        "stop_reason": reply.stop_reason, "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens,
        "cost_usd": dollars(answered.cost), "license_tags": [figure["license"], tag_of(ask.model)],
        "split": split_of(ask.figure_id), "modalities": [figure["modality"]], "request": about["request"],
        "served_model": reply.served_model, "provider_id": reply.provider_id,
        "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h, "cache_read_tokens": usage.cache_read,
        "thinking_tokens": usage.thinking_tokens, "attempts": answered.attempts, "replied": answered.replied,
        "repairs": list(found.repairs), "warnings": list(found.warnings), "notes": list(found.notes),
        "judge_score": about["judge_score"],
    }  # fmt: skip


def reject_of(answered: Answered, found: Found) -> Reject:
    """Why an answer is no conversation; its words are kept."""
    said = [f"{code}: {MEANINGS.get(code, code)}" for code in found.reasons]
    if found.reasons[0] == "refusal":
        said = [f"{answered.ask.teacher} refused ({answered.reply.stop_category or 'no category'})"]
    return Reject(answered.ask.figure_id, found.reasons[0], "; ".join(said), answered.reply.text)
