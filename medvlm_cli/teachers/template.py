"""The teacher that needs no model: it turns a figure's own words into a conversation by fixed rules.

It extracts and never adds: every answer is in the caption or in a sentence that cites the figure, except "yes", "no"
and the name of the kind of image, which follow from one of them.  The same figure gives the same conversation on every
machine.  What it writes is labelled ``template``, so nobody takes it for the work of a language model.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from medvlm_cli.core.arrow import Reject
from medvlm_cli.core.splits import split_of

IMAGE = "<image>"
DESCRIBE = (
    "Describe the image briefly.",
    "Give a short description of this image.",
    "Summarise what is visible in the image.",
    "What does the image show? Answer briefly.",
    "Provide a concise description of the image.",
)
QUESTIONS = {
    "modality": ("What kind of image is this?", "What type of image is shown?", "Which imaging method was used?"),
    "choice": ("Is the {subject} {first} or {second}?", "Is the {subject} best called {first} or {second}?"),
    "property": ("Is the {subject} {quality}?",),
    "side": ("On which side is the {subject}?", "Is the {subject} on the left or on the right?"),
    "presence": ("Is there {subject}?", "Is {subject} seen?"),
    "shown": ("What is shown here?", "What can be seen in the image?"),
}
"""What may be asked, by the rule that found the answer."""
MODALITIES = (
    ("MRI", r"MRI|FLAIR|(?i:magnetic resonance|T[12]-weighted)"),
    ("CT", r"CT|(?i:computed tomograph\w*)"),
    ("X-ray", r"(?i:X-rays?|radiographs?|radiography)"),
    ("ultrasound", r"(?i:ultrasound|ultrasonograph\w*|sonogra\w*|echocardiogra\w*)"),
    ("endoscopy", r"(?i:endoscop\w*|colonoscop\w*)"),
    ("immunohistochemistry", r"(?i:immunohistochemi\w*)"),
    ("histology", r"H&E|(?i:histolog\w*|histopatholog\w*|ha?ematoxylin)"),
    ("electron micrograph", r"SEM|TEM|(?i:electron microscop\w*|electron micrographs?)"),
    ("fluorescence micrograph", r"(?i:fluorescence|confocal)"),
    ("gross photograph", r"(?i:gross (?:photograph|specimen|appearance|view)\w*)"),
)
"""What a kind of image is called in an answer, and what calls it so; acronyms in capitals only."""
OPPOSITES = (
    ("smooth", "speckled"), ("benign", "malignant"), ("acute", "chronic"), ("increased", "decreased"),
    ("dilated", "narrowed"), ("hyperintense", "hypointense"), ("hyperdense", "hypodense"), ("unilateral", "bilateral"),
    ("focal", "diffuse"), ("solid", "cystic"), ("normal", "abnormal"), ("positive", "negative"),
)  # fmt: skip
MAX_TURNS = 6
"""Questions asked about one figure at most."""
PROMPT_ID = hashlib.sha256(json.dumps([DESCRIBE, QUESTIONS, MODALITIES, OPPOSITES]).encode()).hexdigest()[:12]

_OTHER = {word: other for pair in OPPOSITES for word, other in (pair, pair[::-1])}
_WORD = r"(?!(?:is|are|was|were|be|been|has|have|had|and|or|but|that|which|who)\b)[a-z][\w-]*"
_THING = rf"(?P<subject>(?:{_WORD}\s+){{0,4}}?{_WORD})"
"""What something is said of: up to five words, none of which ends a phrase."""
_QUALITY = rf"(?P<quality>{'|'.join(_OTHER)})"
_IS = r"(?:is|are|was|were)"
_SEEN = r"(?:seen|present|visible|noted|found|identified|observed|detected|evident|shown|located)"
_CITED = re.compile(
    r"\s*[(\[]\s*(?:see\s+)?fig(?:ure|s)?\b[^)\]]*[)\]]|^as (?:shown|seen|illustrated) in fig(?:ure|s)?\.?\s*\w+\s*,\s*"
    r"|^fig(?:ure|s)?\.?\s*\d+\w*\s+(?:shows?|demonstrates?|reveals?|illustrates?)\s+(?:that\s+)?",
    re.IGNORECASE,
)
_LABEL = re.compile(r"^\s*(?:supplementary\s+)?fig(?:ure|s)?\.?\s*[\dIVX]+\w*\s*[.:|]?\s*", re.IGNORECASE)
_MODALITIES = tuple((name, re.compile(rf"\b(?:{pattern})(?!\w)")) for name, pattern in MODALITIES)
_PROPERTY = (
    re.compile(rf"\b(?:the|this|an?)\s+{_THING}\s+{_IS}\s+(?P<negated>not\s+)?{_QUALITY}\b", re.IGNORECASE),
    re.compile(
        rf"\ban?\s+{_THING}\s+{_IS}\s+{_SEEN},\s+which\s+{_IS}\s+(?P<negated>not\s+)?{_QUALITY}\b", re.IGNORECASE
    ),
    re.compile(rf"\b{_IS}\s+(?P<negated>not\s+)?an?\s+{_QUALITY}\s+{_THING}(?=[.,;]|$)", re.IGNORECASE),
    re.compile(rf"\b(?P<negated>(?!))?an?\s+{_QUALITY}\s+{_THING}\s+{_IS}\s+{_SEEN}\b", re.IGNORECASE),
)
_SIDE = re.compile(
    rf"\b(?:the|an?)\s+{_THING}\s+(?:{_IS}\s+)?(?:{_SEEN}\s+)?(?:on|in|at|to)\s+the\s+(?P<side>left|right)\b",
    re.IGNORECASE,
)
_ABSENT = (
    re.compile(rf"\bno\s+(?:evidence\s+of\s+)?{_THING}\s+{_IS}\s+{_SEEN}", re.IGNORECASE),
    re.compile(rf"(?:^|\b(?:shows?|showed|reveals?|revealed|with)\s+)no\s+{_THING}(?=[.;]|$)", re.IGNORECASE),
    re.compile(rf"\bthere\s+{_IS}\s+no\s+{_THING}(?=[.,;(]|$)", re.IGNORECASE),
)
_PRESENT = (
    _SIDE,
    re.compile(rf"\bthere\s+{_IS}\s+an?\s+{_THING}(?=\s+(?:on|in|at|of|with|near)\b|[.,;]|$)", re.IGNORECASE),
    re.compile(rf"\ban?\s+{_THING}\s+{_IS}\s+{_SEEN}\b", re.IGNORECASE),
)


@dataclass(frozen=True)
class _Asked:
    """One question and its answer; two of the same ``about`` are one question asked twice, and the first is kept."""

    about: tuple[str, str]
    question: str
    answer: str


def caption(figure: dict) -> dict | Reject:
    """The one-turn conversation of the first training stage: a request to describe, answered by the caption.

    Args:
        figure: a row of figures/1; its image is not looked at.

    Returns:
        A row of conversations/1 of kind ``caption``, or a Reject where the caption holds no words.
    """
    told = _tidy(figure["caption"])
    if not _has_words(told):
        return _no_words(figure)
    question = DESCRIBE[_draw(figure["figure_id"], "describe", len(DESCRIBE))]
    return _row(figure, "caption", [(question, told)])


def instruct(figure: dict) -> dict | Reject:
    """The conversation of the second training stage: up to ``MAX_TURNS`` questions whose answers the text holds.

    Args:
        figure: a row of figures/1; only its caption, its mentions and its id are read.

    Returns:
        A row of conversations/1 of kind ``instruct``, or a Reject where the caption holds no words.
    """
    told = _tidy(figure["caption"])
    if not _has_words(told):
        return _no_words(figure)
    sentences = _sentences(_LABEL.sub("", told))
    for mention in figure["mentions"]:
        sentences += _sentences(_CITED.sub("", _tidy(mention["text"])))
    key = figure["figure_id"]
    found: dict[tuple[str, str], _Asked] = {}
    for asked in _extract(sentences, key):
        found.setdefault(asked.about, asked)
    turns = sorted(found.values(), key=lambda asked: _digest(key, *asked.about))[:MAX_TURNS]
    if len(turns) < 2 or _draw(key, "shown", 8) == 0:
        turns = [_Asked(("shown", ""), _ask("shown", key), _upper(sentences[0])), *turns][:MAX_TURNS]
    return _row(figure, "instruct", [(asked.question, asked.answer) for asked in turns])


def _extract(sentences: list[str], key: str) -> Iterator[_Asked]:
    """Every question the rules find, in the order of the text."""
    for name, pattern in _MODALITIES:
        if any(pattern.search(sentence) for sentence in sentences):
            yield _Asked(("modality", ""), _ask("modality", key), name)
            break
    for sentence in sentences:
        yield from _properties(sentence, key)
        side = _SIDE.search(sentence)
        if side:
            subject = _bare(side["subject"])
            yield _Asked(("side", subject), _ask("side", key, subject=subject), side["side"].lower())
        yield from _presences(sentence, key)


def _properties(sentence: str, key: str) -> Iterator[_Asked]:
    """From "the nodule is (not) smooth": a choice between the two opposites, or a question for yes or no."""
    for pattern in _PROPERTY:
        match = pattern.search(sentence)
        if not match:
            continue
        subject, quality = _bare(match["subject"]), match["quality"].lower()
        about = ("property", subject)
        chosen = (quality, _OTHER[quality])[_draw(key, f"{subject}?", 2)]
        if match["negated"] or _draw(key, f"{subject} choice", 4) == 0:
            answer = "yes" if (chosen == quality) != bool(match["negated"]) else "no"
            if match["negated"]:  # "not smooth" does not say "speckled": ask about the word that was used
                chosen, answer = quality, "no"
            yield _Asked(about, _ask("property", key, subject=subject, quality=chosen), answer)
        else:
            yield _Asked(
                about, _ask("choice", key, subject=subject, first=chosen, second=_OTHER[chosen]), quality
            )  # fmt: skip


def _presences(sentence: str, key: str) -> Iterator[_Asked]:
    """From "no effusion is seen" and "there is an effusion": a question for no or yes."""
    for patterns, answer in ((_ABSENT, "no"), (_PRESENT, "yes")):
        for pattern in patterns:
            match = pattern.search(sentence)
            if match:
                subject = _bare(match["subject"])
                words = [word for word in subject.split() if word not in _OTHER]
                if words and words == subject.split():
                    thing = subject if re.search(r"[^isu]s$", subject) else f"{_article(subject)} {subject}"
                    yield _Asked(("presence", subject), _ask("presence", key, subject=thing), answer)


def _ask(rule: str, key: str, **parts: str) -> str:
    """One of the wordings of a question, picked by the hash of the figure and never by the answer."""
    wordings = QUESTIONS[rule]
    return wordings[_draw(key, rule, len(wordings))].format(**parts)


def _row(figure: dict, kind: str, asked: list[tuple[str, str]]) -> dict:
    turns = []
    for number, (question, answer) in enumerate(asked):
        words = question.replace(IMAGE, "")
        turns.append({"role": "user", "text": f"{IMAGE}\n{words}" if number == 0 else words})
        turns.append({"role": "assistant", "text": answer.replace(IMAGE, "").strip()})
    key = figure["figure_id"]
    return {
        "conversation_id": f"{key}/{kind}", "figure_id": key, "kind": kind, "turns": turns,
        "teacher": "template", "teacher_planned": "template", "prompt_id": PROMPT_ID,
        "request_sha256": None, "raw_response": None, "stop_reason": None,
        "input_tokens": None, "output_tokens": None, "cost_usd": None,
        "license_tags": [figure["license"]], "split": split_of(key),
    }  # fmt: skip


def _no_words(figure: dict) -> Reject:
    message = "the caption holds no words to make a conversation of"
    return Reject(figure["figure_id"], "no_caption_text", message, figure["caption"])


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode("utf-8", "replace")).hexdigest()


def _draw(key: str, purpose: str, choices: int) -> int:
    """A number below ``choices`` that depends on the figure's id and the purpose alone."""
    return int(_digest(key, purpose)[:12], 16) % choices


def _tidy(text: str | None) -> str:
    return " ".join((text or "").replace(IMAGE, " ").split())


def _has_words(text: str) -> bool:
    return bool(re.search(r"[^\W\d_]{2,}", _LABEL.sub("", text)))


def _sentences(text: str) -> list[str]:
    parts = re.split(r"(?<=[.!?])\s+(?=[A-Z(\[])", text)
    return [part.strip() for part in parts if _has_words(part)]


def _bare(subject: str) -> str:
    return re.sub(r"^(?:the|an?|this)\s+", "", subject.lower())


def _article(subject: str) -> str:
    return "an" if subject[0] in "aeio" else "a"


def _upper(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
