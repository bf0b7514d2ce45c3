"""The results of a Message Batch: a file of JSON lines in any order, not all of which need be what they should."""

import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medvlm_cli.teachers.claude import reply_of
from medvlm_cli.teachers.replies import Reply

INVALID = "invalid_request"
"""Code of a request that will never be answered; it is not sent again."""
UNKNOWN = "unknown_result"
"""Code of a request whose result is of a kind that nobody knows: it may have been billed."""


@dataclass
class Results:
    """What a file of results says about the requests that were expected."""

    replies: dict[str, Reply] = field(default_factory=dict)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Id -> code and message: ``invalid_request``, ``errored``, ``expired``, ``canceled``, ``unknown_result``."""
    foreign: int = 0
    """Lines about requests that nobody expected."""
    unreadable: int = 0
    """Lines that are no result."""

    @property
    def unknown(self) -> bool:
        """Whether there is a result of a kind that nobody knows: another look may show that the line was broken."""
        return any(code == UNKNOWN for code, _ in self.failures.values())

    @property
    def are_foreign(self) -> bool:
        """Whether these are the results of a batch that is not ours."""
        return bool(self.foreign) and not self.replies and not self.failures

    def missing(self, expected: Collection[str]) -> set[str]:
        """Ids of which the file does not say anything."""
        return {one for one in expected if one not in self.replies and one not in self.failures}


def read_results(path: Path, expected: Collection[str]) -> Results:
    """Read a file of results line by line; a bad line costs no other one.

    Of several lines about one request the first counts, but an answer counts before anything else.

    Args:
        path: the file.
        expected: ``custom_id`` of every request of the batch.
    """
    results = Results()
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                one, result = str(entry["custom_id"]), entry["result"]
                kind = result["type"]
            except (ValueError, KeyError, TypeError):
                results.unreadable += 1
                continue
            if one not in expected:
                results.foreign += 1
            elif kind == "succeeded":
                _take(results, one, result)
            elif one not in results.replies:
                results.failures.setdefault(one, _failure(kind, result))
    return results


def _take(results: Results, one: str, result: dict[str, Any]) -> None:
    try:
        results.replies.setdefault(one, reply_of(result["message"]))
        results.failures.pop(one, None)
    except (ValueError, KeyError, TypeError, AttributeError):
        results.unreadable += 1


def _failure(kind: Any, result: dict[str, Any]) -> tuple[str, str]:
    """Code and message of a request without an answer; one of a kind that nobody knows may have been billed."""
    if kind == "errored":
        outer = result.get("error")
        error = outer.get("error", outer) if isinstance(outer, dict) else {}
        error = error if isinstance(error, dict) else {}
        code = INVALID if error.get("type") == "invalid_request_error" else "errored"
        return code, f"{error.get('type')}: {str(error.get('message'))[:300]}"
    if kind in ("expired", "canceled"):
        return kind, f"the batch ended before this request was answered ({kind})"
    return UNKNOWN, f"a result of the kind {str(kind)[:60]!r}"
