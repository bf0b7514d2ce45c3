"""Validators V1 to V9 and V11: what may not stand in a conversation, what is put right, and what is only counted.

Rules are in ``rules.yaml``.  A rule drops the row, drops one question with its answer, mends a sentence, or warns; what
is left is looked at again.  The paper's own sample breaks the paper's rules, so one hard gate would keep nothing.  V10
compares with benchmarks, see ``contamination``.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import yaml

from medvlm_cli.teachers.commands import CommandPatterns, Commands
from medvlm_cli.teachers.leaks import Leaks, Patterns, words_of

CODE = 1
"""Raised when the code of a rule changes and its table does not."""
FEWEST, MOST = 2, 8
"""Questions of a conversation: fewer are a reject, more a warning (paper, table 6)."""
OVERLAP_WARNS, OVERLAP_DROPS = 8, 15
"""Words in a row that are the source's."""

MEANINGS: Mapping[str, str] = {
    "V1_few_turns": "fewer than two questions are left",
    "V1_many_turns": "more than eight questions",
    "V2_empty": "a question or an answer without words",
    "V3_banned_word": "a word that gives away that a text was read, and that could not be mended",
    "V3_mended": "such a word introduced a sentence and was taken out",
    "V4_number": "a number that a viewer could not know, and the source has",
    "V4_leak": "an author, a figure's number, a date or a p-value",
    "V4_name": "a maker, a product or an institution that the source names",
    "V4_copied": "fifteen words in a row, or more than half of an answer, are the source's",
    "V4_overlap": "eight words in a row are the source's",
    "V5_no_access": "the writer says that it sees nothing, or that it is a machine",
    "V6_no_image_word": "no answer speaks of an image",
    "V6_image_reference": "an answer speaks of the image",
    "V7_advice": "advice on treatment, or a dose",
    "V7_certain": "a diagnosis stated as certain",
    "V7_sends_to_professional": "an answer sends to a professional",
    "V8_modality": "an answer calls the image another kind than it is",
    "V9_too_long": "a question or an answer is too long",
    "V9_language": "not in the language of the source",
    "V9_mojibake": "text that was decoded wrongly",
    "V9_repetition": "the same words again and again",
    "V9_markup": "an address, markup, or a role where words should be",
    "V9_injection": "the source tells its writer what to say, or the conversation speaks of instructions",
    "V11_empty": "no question with an answer",
}
"""What every code says."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a conversation was written from."""

    caption: str
    mentions: tuple[str, ...] = ()
    modality: str = "unknown"

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join((self.caption, *self.mentions))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What validators made of a conversation; codes as in ``MEANINGS``."""

    pairs: tuple[tuple[str, str], ...]
    """What is left, mended."""
    reasons: tuple[str, ...]
    """Why it is a reject, the cause first; empty for one that is kept."""
    repairs: tuple[str, ...]
    """What was mended, and for what questions were dropped."""
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    """For the statistics only."""


def validate(pairs: Sequence[tuple[str, str]], source: Source) -> Verdict:
    """Look at a conversation.

    Args:
        pairs: questions and answers.
        source: what they were written from.
    """
    rules = _rules()
    leaks, commands = Leaks(source.text, rules.patterns), Commands(source.text, rules.commands)
    kept: list[_Pair] = []
    dropped: list[str] = []
    repairs: list[str] = []
    for question, answer in pairs:
        pair = said = _Pair(question, answer)
        if rules.hints["banned"](pair.hints):
            pair = _Pair(rules.mend(question), rules.mend(answer))
        if fault := next(_faults(pair, source, leaks, rules), "") or _obeys(pair, commands):
            dropped.append(fault)
            continue
        if (pair.question, pair.answer) != (said.question, said.answer):
            repairs.append("V3_mended")
        kept.append(pair)
    repairs += [f"dropped_{code}" for code in dropped]
    left = tuple((pair.question, pair.answer) for pair in kept)
    if len(kept) < FEWEST:
        few = "V1_few_turns" if pairs else "V11_empty"
        return Verdict(left, tuple(dict.fromkeys([*dropped, few])), _once(repairs), (), ())
    if commands.given:
        return Verdict(left, ("V9_injection",), _once(repairs), (), ())
    if not _speaks_like(kept, source.text, rules.function_words):
        return Verdict(left, ("V9_language",), _once(repairs), (), ())
    return Verdict(left, (), _once(repairs), _once(_warnings(kept, leaks, rules)), _once(_notes(kept, rules)))


def faults(question: str, answer: str, source: Source) -> tuple[str, ...]:
    """Every code for which a question would go with its answer, before anything is mended; empty for none."""
    rules = _rules()
    return tuple(_faults(_Pair(question, answer), source, Leaks(source.text, rules.patterns), rules))


class _Pair:
    """A question, its answer, and their words, which are looked for once."""

    def __init__(self, question: str, answer: str) -> None:
        self.question, self.answer = question, answer
        self.told = hint_words(answer)
        """Words of the answer as hints take them."""
        self.hints = self.told | hint_words(question)

    @functools.cached_property
    def words(self) -> list[str]:
        """Of the answer, in their order."""
        return words_of(self.answer)


def _faults(pair: _Pair, source: Source, leaks: Leaks, rules: "_Rules") -> Iterator[str]:
    """The codes one by one, what costs most to find last."""
    question, answer = pair.question, pair.answer
    if not any(map(str.isalnum, question)) or not any(map(str.isalnum, answer)):
        yield "V2_empty"
    if len(question) > rules.caps["question"] or len(answer) > rules.caps["answer"]:
        yield "V9_too_long"
    both = f"{question}\n{answer}".replace("\u2019", "'")
    for code, found, hint in rules.faults:
        if (not hint or rules.hints[hint](pair.hints)) and found(both):
            yield code
    if _advises(answer.replace("\u2019", "'"), pair.told, rules):
        yield "V7_advice"
    if code := leaks.found_in(both):
        yield code
    longest, share = leaks.overlap(pair.words)
    if longest >= OVERLAP_DROPS or (len(pair.words) >= OVERLAP_WARNS and share > 0.5):
        yield "V4_copied"
    if _repeats(pair.words, answer):
        yield "V9_repetition"
    if rules.hints["kinds"](pair.told) and _contradicts(answer, source, rules):
        yield "V8_modality"


def _obeys(pair: _Pair, commands: Commands) -> str:
    return "V9_injection" if commands.obeyed_by(f"{pair.question}\n{pair.answer}") else ""


def _warnings(kept: Sequence[_Pair], leaks: Leaks, rules: "_Rules") -> Iterator[str]:
    if len(kept) > MOST:
        yield "V1_many_turns"
    if any(leaks.overlap(pair.words)[0] >= OVERLAP_WARNS for pair in kept):
        yield "V4_overlap"
    if not any(rules.image_words(pair.answer) for pair in kept):
        yield "V6_no_image_word"
    if any(rules.hints["certain"](pair.told) and rules.certain(pair.answer) for pair in kept):
        yield "V7_certain"


def _notes(kept: Sequence[_Pair], rules: "_Rules") -> Iterator[str]:
    if any(rules.image_words(pair.answer) for pair in kept):
        yield "V6_image_reference"
    if any(rules.hints["professional"](pair.told) and rules.professional(pair.answer) for pair in kept):
        yield "V7_sends_to_professional"


def _advises(answer: str, said: Set[str], rules: "_Rules") -> bool:
    """Whether a sentence tells what to do about a disease; a question may ask for it."""
    if rules.hints["advice"](said) and rules.advice(answer):
        return True
    if not rules.hints["treatments"](said) or not rules.treatments(answer):
        return False
    found = (one for one in _sentences(answer) if rules.treatments(one) and rules.directives(one))
    return any(not rules.history(one) for one in found)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?;])\s+", text)


def _repeats(words: Sequence[str], text: str) -> bool:
    """Whether four words in a row come five times, or one character twenty times in a row."""
    if re.search(r"(\S)\1{19}", text):
        return True
    if len(words) - len(set(words)) < 16:  # each of the four words comes four times more
        return False
    counts: dict[tuple[str, ...], int] = {}
    for at in range(len(words) - 3):
        gram = tuple(words[at : at + 4])
        counts[gram] = counts.get(gram, 0) + 1
        if counts[gram] >= 5:
            return True
    return False


def _contradicts(answer: str, source: Source, rules: "_Rules") -> bool:
    """Whether an answer calls the image of another kind than the source does."""
    if source.modality not in rules.claims or not rules.kinds(answer):
        return False
    for sentence in _sentences(answer):
        for modality, (claims, names) in rules.claims.items():
            if modality != source.modality and claims(sentence) and not rules.compared(sentence):
                return not names(source.text)  # a source that names it too may show both
    return False


def _speaks_like(kept: Sequence[_Pair], source: str, function_words: frozenset[str]) -> bool:
    """Whether a conversation is in English, or its source is not."""
    text = "\n".join(f"{pair.question}\n{pair.answer}" for pair in kept)
    words = [word for pair in kept for word in (*words_of(pair.question), *pair.words)]
    if len(words) < 12:
        return True
    if (text.isascii() or _is_latin(text)) and _english_share(words, function_words) >= 0.1:
        return True
    return _english_share(words_of(source), function_words) < 0.1


def _is_latin(text: str) -> bool:
    """Whether most letters are of the Latin or, as in formulas, of the Greek alphabet."""
    letters = [one for one in text if one.isalpha()]
    return sum(one > "\u024f" and not "\u0370" <= one <= "\u03ff" for one in letters) <= 0.3 * len(letters)


def _english_share(words: Sequence[str], function_words: frozenset[str]) -> float:
    return len(list(filter(function_words.__contains__, words))) / max(1, len(words))


def _once(codes: Sequence[str] | Iterator[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(codes))


Finder = Callable[[str], Any]


class _Rules:
    """``rules.yaml``, compiled."""

    def __init__(self, text: str) -> None:
        table = filled(yaml.safe_load(text))
        self.patterns = Patterns(table)
        self.commands = CommandPatterns(table)
        self.id = hashlib.sha256(f"{CODE}\n{text}".encode()).hexdigest()[:12]
        self.caps: dict[str, int] = table["caps"]
        self.function_words = frozenset(table["function_words"].split())
        self.banned = any_of(table["banned"])
        self.hints = {name: Hints(words) for name, words in table["hints"].items()}
        self.faults: tuple[tuple[str, Finder, str], ...] = (
            ("V9_markup", _where(r"[</:\[]|www|material", any_of(table["markup"])), ""),
            ("V9_injection", any_of(table["injection"]), "injection"),
            ("V9_mojibake", any_of([table["mojibake"]], re.NOFLAG), ""),
            ("V5_no_access", any_of(table["no_access"]), "no_access"),
            ("V3_banned_word", self.banned, "banned"),
        )
        self.advice = any_of(table["advice"])
        self.treatments = any_of(table["treatments"])
        self.directives = any_of(table["directives"])
        self.history = any_of([table["history"]])
        self.image_words = any_of([table["image_words"]])
        self.certain = any_of(table["certain"])
        self.professional = any_of(table["professional"])
        self.compared = any_of([table["compared"]])
        self.kinds = any_of(table["kinds"])
        self.claims = {
            modality: (any_of(_claims(name)), any_of([rf"\b{name}\b"])) for modality, name in table["claims"].items()
        }
        self._mended = [(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in table["mended"]]

    def mend(self, text: str) -> str:
        """A text whose sentences no longer begin with what gives them away; unchanged where nothing is banned."""
        if not self.banned(text):
            return text
        for pattern, instead in self._mended:
            text = pattern.sub(instead, text)
        text = re.sub(r"\s+([,.;?!])", r"\1", re.sub(r"[ \t]{2,}", " ", text)).strip(" ,;")
        return re.sub(r"(?:^|(?<=[.!?]\s))([a-z])", lambda match: match[1].upper(), text)


def _claims(name: str) -> list[str]:
    """How a sentence says of what kind its image is."""
    return [
        rf"\b(?:this|the) (?:\w+[ -]){{0,3}}{name}(?: (?:image|scan|slice|picture|study|section|view))?\b",
        rf"\b(?:image|picture|figure|scan|it|this) (?:is|shows|was|appears to be) (?:an? )?(?:\w+[ -]){{0,3}}{name}\b",
        rf"\b(?:made|taken|obtained|acquired|seen|shown) (?:by|with|on|in) (?:an? |the )?(?:\w+ ){{0,2}}{name}\b",
    ]


def filled(table: dict[str, Any]) -> dict[str, Any]:
    """The rules with their terms in place: ``{image}`` in a pattern stands for ``terms: image``."""
    terms: dict[str, str] = table.pop("terms")

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return re.sub(r"\{([a-z]+)\}", lambda match: terms[match[1]], value)
        if isinstance(value, list):
            return [fill(one) for one in value]
        return {name: fill(one) for name, one in value.items()} if isinstance(value, dict) else value

    made = fill(table)
    return made | {"kinds": [rf"\b{name}\b" for name in made["claims"].values()]}


_PART = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_KNOWN = 100_000
"""Words of which a hint remembers whether they are hints; a set that holds so many is begun anew."""


def hint_words(text: str) -> Set[str]:
    """The words of a text in small letters, each once; of one with a hyphen or an apostrophe its parts too."""
    text = text.lower().replace("\u2019", "'")
    words = set(_PART.findall(text))
    return words.union(*(word.split("'") for word in words if "'" in word)) if "'" in text else words


def _where(rare: str, found: Finder) -> Finder:
    """A finder that looks only where something rare is, without which it cannot find anything."""
    first = re.compile(rare, re.IGNORECASE).search
    return lambda text: first(text) and found(text)


class Hints:
    """Whether words, as ``hint_words`` gives them, hold one of these: ``whole``, ``beginning*`` or ``*ending``."""

    def __init__(self, hints: Sequence[str]) -> None:
        self._whole = frozenset(hint for hint in hints if "*" not in hint)
        self._beginnings = tuple(hint[:-1] for hint in hints if hint.endswith("*"))
        self._endings = tuple(hint[1:] for hint in hints if hint.startswith("*"))
        self._known: set[str] = set()
        self._hits: set[str] = set()

    def __call__(self, words: Set[str]) -> bool:
        """Whether some words hold a hint; each word is looked at once."""
        if len(self._known) > _KNOWN:
            self._known, self._hits = set(), set()
        for word in words - self._known:
            self._known.add(word)
            if word in self._whole or word.startswith(self._beginnings) or word.endswith(self._endings):
                self._hits.add(word)
        return not self._hits.isdisjoint(words)


def any_of(patterns: Sequence[str], flags: re.RegexFlag = re.IGNORECASE) -> Finder:
    """Finds the first place at which one of the patterns matches."""
    return re.compile(
        "|".join(f"(?:{pattern})" if not pattern.startswith("(?m)") else f"(?m:{pattern[4:]})" for pattern in patterns),
        flags,
    ).search


@functools.cache
def _rules() -> _Rules:
    return _Rules(files("medvlm_cli.teachers").joinpath("rules.yaml").read_text("utf-8"))


RULES_ID = _rules().id
"""First 12 hex digits of the SHA-256 of the rules and the number of their code."""
