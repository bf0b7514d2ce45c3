"""``--judge``: a second look at every conversation by a model, with marks for four questions of a fixed rubric.

After the generator and verifier of MedVLSynther (arXiv:2510.25867): what is not grounded, not visual, leaks or is
unsafe is dropped below a threshold.  The mark is the mean of the four.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from medvlm_cli.core.errors import ConfigError, LaterError
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers.asks import Composer, Family
from medvlm_cli.teachers.examine import Found
from medvlm_cli.teachers.ledger import Ask, Ledger
from medvlm_cli.teachers.prompt import from_words, plain, wrapped
from medvlm_cli.teachers.work import Work

if TYPE_CHECKING:
    from medvlm_cli.teachers.commission import Commission

CRITERIA = ("grounded", "visual", "no_leak", "safe")
WHY = 300
"""Most characters of what a judge says about its mark."""

_LAST = 20_000
"""Characters of an answer that are looked at, from its end; no judge is asked for so many."""
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class Mark:
    """What the judge thinks of one conversation."""

    score: float | None
    """From 0 to 1; None where the judge's answer holds no mark."""
    why: str = ""
    """In the judge's words; without a mark, what it said or why it said nothing."""


def read_mark(text: str) -> Mark:
    """The mark in a judge's answer: the last JSON object in it that has all four numbers, each from 0 to 1.

    True and false are numbers, and so is a number in quotes.
    """
    text = text[-_LAST:]
    for brace in reversed([found.start() for found in re.finditer(r"\{", text)]):
        try:
            told, _ = _DECODER.raw_decode(text, brace)
            marks = [float(told[name]) for name in CRITERIA]
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
            continue  # a number of 400 digits overflows, brackets in brackets recurse
        if all(0 <= mark <= 1 for mark in marks):
            return Mark(sum(marks) / len(marks), _line(told.get("why") or ""))
    return Mark(None, _line(text))


def _line(words: Any) -> str:
    return " ".join(str(words).split())[:WHY]


def family_of(judge: str, families: Mapping[str, Family]) -> Family:
    """Who judges: ``claude``, ``llama``, or either with ``:MODEL``.

    Raises:
        ConfigError: neither.
    """
    name, _, model = judge.partition(":")
    if name not in families:
        raise ConfigError(f"--judge {judge}: no such judge", "give claude or llama, with :MODEL if another one")
    family = families[name]
    return replace(family, model=model or family.model, parameters={**family.parameters, "format": "text"})


def composer_of(seed: int) -> Composer:
    """Makes the requests of a judge."""
    system = files("medvlm_cli.teachers").joinpath("judge-v1.md").read_text("utf-8")
    return Composer(prompt=from_words("judge-v1", system, []), seed=seed)


class Judge:
    """The judge of a commission."""

    def __init__(self, commission: "Commission", ledger: Ledger) -> None:
        self._order, self._ledger = commission, ledger
        self.family = family_of(commission.config.judge, commission.families)
        self._composer = composer_of(commission.config.seed)
        self.asks: dict[str, Ask] = {}
        """What was asked, by key; filled by ``judge``."""
        self.marks: dict[str, Mark] = {}
        """The marks, by figure; filled by ``judge``."""

    def user(self, figure_id: str) -> str:
        """What the judge is shown of a figure: the words that the teacher was shown, and what is kept of its answer.

        Every question, every answer and every part of the description stands on one line, so that none of them can
        pass for another part.
        """
        shown = self._order.composer.user(self._order.figure(figure_id)).split("\n")[1:-1]  # without its own markers
        answered = [
            Found.loaded(self._ledger.verdict(one.ask.key) or "") for one in self._ledger.answers_about(figure_id)
        ]
        found = next(one for one in answered if not one.reasons)
        said = [f"Question: {plain(question)}\nAnswer: {plain(answer)}" for question, answer in found.pairs]
        text = "\n".join(["Description:", *shown, "", "Conversation:", *said])
        return wrapped(text, self._order.config.seed)

    def judge(self, dropped: Mapping[str, str], tell: Tell) -> None:
        """Have all conversations marked that passed the validators and are not near-duplicates.

        Raises:
            LaterError: some were not judged yet.
            RemoteError: the judge refuses.
        """
        wanted: dict[str, Ask] = {}
        for _, figure_id, text in list(self._ledger.verdicts()):
            if not Found.loaded(text).reasons and figure_id not in dropped:
                wanted[figure_id] = self._composer.ask_of(self.family, figure_id, self.user(figure_id), "judge")
        self._ledger.add(wanted.values())
        self.asks = {ask.key: ask for ask in wanted.values()}
        if self._order.recording is not None:
            keys = {ask.key for ask in wanted.values()}
            recorded = self._order.recording.answers({self.family.name: self.family}, "judge")
            self._ledger.recorded(one for one in recorded if one.ask.key in keys)
            for ask in wanted.values():
                if self._ledger.answer_to(ask.key) is None:
                    self._ledger.fail(ask.key, "no_recorded_reply", "the recording holds no mark of it", final=True)
        else:
            self._ask(tell)
        for figure_id, ask in wanted.items():
            answered = self._ledger.answer_to(ask.key)
            state, message = self._ledger.state_of(ask.key)
            if answered is None and state != "failed":
                raise LaterError("some conversations were not judged yet", "run the same command again: it goes on")
            self.marks[figure_id] = read_mark(answered.reply.text) if answered else Mark(None, _line(message or ""))

    def _ask(self, tell: Tell) -> None:
        work = Work(
            config=self._order.config,
            composer=self._composer,
            families={self.family.name: self.family},
            ledger=self._ledger,
            user_of=lambda ask: self.user(ask.figure_id),
            tell=tell,
            purpose="judge",
        )
        self._order.serve(work, tell)
