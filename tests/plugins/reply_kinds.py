"""The ways in which teachers write down a conversation: each makes a reply of pairs, and says what can be had back.

``STYLES`` are ways to mark who speaks; the functions below them do what a template cannot.  A kind that a conversation
does not fit (quotation marks around turns that hold some) names the conversations that it takes.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Labelled:
    """A reply, and what a person who reads it would copy out."""

    kind: str
    text: str
    pairs: Pairs
    """Questions and answers that can be recovered, word for word."""
    truncated: bool = False
    lost: int = 0
    """Turns that stand in the reply and are beyond recovery."""


STYLES = {
    "plain": ("User: {}", "Assistant: {}", "\n"),
    "blank lines": ("User: {}", "Assistant: {}", "\n\n"),
    "no space": ("User:{}", "Assistant:{}", "\n"),
    "bold, colon inside": ("**User:** {}", "**Assistant:** {}", "\n\n"),
    "bold, colon outside": ("**User**: {}", "**Assistant**: {}", "\n\n"),
    "bold question": ("**User: {}**", "Assistant: {}", "\n"),
    "italic roles": ("*User:* {}", "_Assistant:_ {}", "\n"),
    "numbered": ("{n}. User: {}", "{n}. Assistant: {}", "\n"),
    "numbered, bold": ("{n}) **User:** {}", "{n}) **Assistant:** {}", "\n\n"),
    "user 1": ("User {n}: {}", "Assistant {n}: {}", "\n"),
    "user #1": ("**User #{n}:** {}", "**Assistant #{n}:** {}", "\n"),
    "q1 a1": ("Q{n}: {}", "A{n}: {}", "\n\n"),
    "q a bold": ("**Q:** {}", "**A:** {}", "\n\n"),
    "q a with full stops": ("Q. {}", "A. {}", "\n"),
    "q a small": ("q: {}", "a: {}", "\n"),
    "question answer": ("Question: {}", "Answer: {}", "\n"),
    "question 1 answer 1": ("**Question {n}:** {}", "**Answer {n}:** {}", "\n\n"),
    "user question": ("User Question {n}: {}", "Assistant Answer {n}: {}", "\n"),
    "human ai": ("Human: {}", "AI: {}", "\n\n"),
    "human assistant": ("Human: {}", "Assistant: {}", "\n\n"),
    "user answer": ("User: {}", "Answer: {}", "\n"),
    "full-width colon": ("User：{}", "Assistant：{}", "\n"),
    "lower case": ("user: {}", "assistant: {}", "\n"),
    "upper case": ("USER: {}", "ASSISTANT: {}", "\n"),
    "parentheses": ("(User) {}", "(Assistant) {}", "\n"),
    "parentheses, colon": ("(User): {}", "(Assistant): {}", "\n"),
    "brackets": ("[User]: {}", "[Assistant]: {}", "\n\n"),
    "remark on the speaker": ("User (points at the screen): {}", "Assistant (looks closer): {}", "\n"),
    "emoji": ("👤 User: {}", "🤖 **Assistant:** {}", "\n\n"),
    "arrow": ("→ User: {}", "→ Assistant: {}", "\n"),
    "dash before": ("- User: {}", "- Assistant: {}", "\n"),
    "dash between": ("User – {}", "Assistant – {}", "\n"),
    "headings": ("### User\n{}", "### Assistant\n{}", "\n\n"),
    "headings with a colon": ("## User:\n\n{}", "## Assistant:\n\n{}", "\n\n"),
    "alone on a line": ("User\n{}", "Assistant\n{}", "\n\n"),
    "colon, words below": ("User:\n{}", "Assistant:\n{}", "\n\n"),
    "turn 1": ("Turn {n}:\nUser: {}", "Assistant: {}", "\n"),
    "turn 1, bold": ("**Turn {n}**\n\n**User:** {}", "**Assistant:** {}", "\n\n"),
    "conversation with a title": ("### Conversation {n}: A closer look\nUser: {}", "Assistant: {}", "\n\n"),
    "another conversation": ("Here is conversation number {n}:\n\nUser: {}", "Assistant: {}", "\n\n"),
    "role said twice": ("User: User: {}", "Assistant: Assistant: {}", "\n"),
    "tags": ("<user>{}</user>", "<assistant>{}</assistant>", "\n"),
    "tags, words below": ("<user>\n{}\n</user>", "<assistant>\n{}\n</assistant>", "\n\n"),
    "chat template": ("<|im_start|>user\n{}<|im_end|>", "<|im_start|>assistant\n{}<|im_end|>", "\n"),
    "image before": ("User: <image>\n{}", "Assistant: {}", "\n"),
    "image before, same line": ("User: <image> {}", "Assistant: {}", "\n"),
    "image after": ("User: {} <image>", "Assistant: {}", "\n"),
    "image on a line after": ("User: {}\n<image>", "Assistant: {}", "\n"),
    "image in the answer": ("User: {}", "Assistant: <image>\n{}", "\n"),
    "image in other words": ("User: [Image {n}]\n{}", "Assistant: {}", "\n"),
    "rules between": ("**User:** {}", "**Assistant:** {}\n\n---", "\n\n"),
    "quoted turns": ('User: "{}"', 'Assistant: "{}"', "\n"),
    "typographic quotes": ("User: “{}”", "Assistant: “{}”", "\n"),
}
"""How the question and the answer are written, and what stands between turns; ``{n}`` is the number of the pair."""


def written(pairs: Pairs, style: str = "plain") -> str:
    """Pairs in one of the styles."""
    user, assistant, between = STYLES[style]
    turns = []
    for number, (question, answer) in enumerate(pairs, start=1):
        turns.append(user.replace("{n}", str(number)).replace("{}", question))
        turns.append(assistant.replace("{n}", str(number)).replace("{}", answer))
    return between.join(turns)


TAKES: dict[str, Callable[[str], object]] = {
    "quoted turns": lambda text: '"' not in text,
    "json, quotes not escaped": lambda text: '"' in text,
    "one line a pair": lambda text: not re.search(r"\w (?:Answer|Assistant):", text),
    "all on one line": lambda text: not re.search(r"\w (?:Answer|Assistant):", text),
    "image within a sentence": lambda text: re.search(r"\b(?:the|this) image\b", text),
} | {
    name: lambda text: not re.search(r"^A: ", text, re.MULTILINE)  # the panels of a figure, else
    for name in ("q1 a1", "q a bold", "q a with full stops", "q a small")
}
"""By kind, which conversations it can be made of; a kind that is not named takes all."""

MADE: dict[str, Callable[[Pairs], Labelled | list[Labelled]]] = {}
"""Kinds that no template makes, by name."""


def kind(name: str) -> Callable:
    """Put a function that gives a text, or what else ``Labelled`` takes, among the kinds."""

    def adopt(function: Callable) -> Callable:
        def make(pairs: Pairs) -> Labelled:
            made = function(pairs)
            text, *rest = made if isinstance(made, tuple) else (made, pairs)
            return Labelled(name, text, *rest)

        MADE[name] = make
        return function

    return adopt


# ---------------------------------------------------------------------- words around, and layout


@kind("preamble")
def _(pairs):
    return "Sure! Here is the conversation about the image:\n\n" + written(pairs)


@kind("preamble with a colon and a rule")
def _(pairs):
    return (
        f"**Topic:** what the image shows\n**Speakers:** User and Assistant\n\n---\n\n{written(pairs, 'blank lines')}"
    )


@kind("closing remark")
def _(pairs):
    return written(pairs) + "\n\nLet me know if you would like more questions!"


@kind("closing remark after a rule")
def _(pairs):
    return written(pairs, "bold, colon inside") + "\n\n---\n\n*Two colleagues, one image; all findings are visual.*"


@kind("closing note in brackets")
def _(pairs):
    return written(pairs) + "\n\n(Note: no names or numbers were used.)"


@kind("quotation")
def _(pairs):
    return "\n".join(f"> {line}".rstrip() for line in written(pairs, "bold, colon inside").split("\n"))


@kind("bullets, indented")
def _(pairs):
    return "\n".join(
        "- " + written((pair,), "blank lines").replace("\n", "\n  ").replace("  Assistant:", "- Assistant:")
        for pair in pairs
    )


@kind("everything indented")
def _(pairs):
    return "\n".join(f"    {line}" for line in written(pairs, "blank lines").split("\n"))


@kind("carriage returns")
def _(pairs):
    return written(pairs, "blank lines").replace("\n", "\r\n")


@kind("byte order mark and zero width")
def _(pairs):
    return "\ufeff" + written(pairs).replace("User:", "\u200bUser:\u200b").replace("\nAssistant", "\n\u2060Assistant")


@kind("spaces that do not break")
def _(pairs):
    return written(pairs).replace("User: ", "User:\u00a0").replace("\nAssistant: ", "\n\u00a0Assistant:\u00a0")


@kind("fence")
def _(pairs):
    return f"Here you are:\n\n```text\n{written(pairs)}\n```\n\nEvery answer keeps a careful tone."


@kind("one line a pair")
def _(pairs):
    flat = tuple((" ".join(question.split()), " ".join(answer.split())) for question, answer in pairs)
    return "\n".join(f"User: {question} Assistant: {answer}" for question, answer in flat), flat


@kind("all on one line")
def _(pairs):
    flat = tuple((" ".join(question.split()), " ".join(answer.split())) for question, answer in pairs)
    return written(flat).replace("\n", " "), flat


@kind("line breaks written out")
def _(pairs):
    return json.dumps(written(pairs), ensure_ascii=False)


@kind("thought before")
def _(pairs):
    return f"<think>\nShort, I think.\nUser: Is it large?\nAssistant: Yes.\nNo.\n</think>\n\n{written(pairs)}"


@kind("two conversations")
def _(pairs):
    again = (("Is anything else visible?", "At the edge, a ruler."), ("In which unit?", "It bears no unit."))
    return (
        f"**Conversation 1**\n\n{written(pairs, 'blank lines')}\n\n**Conversation 2**\n\n{written(again, 'plain')}",
        (*pairs, *again),
    )


@kind("image within a sentence")
def _(pairs):
    return re.sub(r"\b(the|this) image\b", r"\1 <image>", written(pairs))


# ---------------------------------------------------------------------- turns too many and too few


@kind("answer in two turns")
def _(pairs):
    *head, (question, answer) = pairs
    return f"{written(pairs)}\nAssistant: One more thing: look twice.", (
        *head,
        (question, f"{answer}\nOne more thing: look twice."),
    )


@kind("question in two turns")
def _(pairs):
    (question, answer), *tail = pairs
    return f"User: I have a question.\n{written(pairs)}", ((f"I have a question.\n{question}", answer), *tail)


@kind("dangling question")
def _(pairs):
    return f"{written(pairs)}\nUser: Is there more?", pairs, False, 1


@kind("leading answer")
def _(pairs):
    return f"Assistant: Good morning, shall we begin?\n{written(pairs)}", pairs, False, 1


@kind("question that nobody answers")
def _(pairs):
    return f"User: Is there more?\nAssistant:\n{written(pairs)}", pairs, False, 1


@kind("answer that nobody asked for")
def _(pairs):
    return f"{written(pairs)}\nUser: <image>\nAssistant: It is dark.", pairs, False, 1


@kind("cut in an answer")
def _(pairs):
    return written(pairs)[: -len(pairs[-1][1]) // 2], pairs[:-1], True, 2


@kind("cut in a question")
def _(pairs):
    return written((*pairs, ("Is there anything more to", ""))).removesuffix("\nAssistant: "), pairs, True, 1


@kind("cut after a role")
def _(pairs):
    return f"{written(pairs, 'bold, colon inside')}\n\n**User:**", pairs, True, 0


# ---------------------------------------------------------------------- JSON


def _turns(pairs: Pairs, user: str = "user", assistant: str = "assistant") -> list[dict[str, str]]:
    return [{user: question, assistant: answer} for question, answer in pairs]


def _said(pairs: Pairs, who: str, what: str, user: str, assistant: str) -> list[dict[str, str]]:
    return [{who: role, what: words} for pair in pairs for role, words in zip((user, assistant), pair, strict=True)]


JSONS = {
    "json turns": lambda pairs: {"turns": _turns(pairs)},
    "json list of turns": lambda pairs: _turns(pairs),
    "json role and content": lambda pairs: _said(pairs, "role", "content", "user", "assistant"),
    "json from and value": lambda pairs: {
        "id": "7", "image": "a.jpg", "conversations": _said(pairs, "from", "value", "human", "gpt")
    },
    "json, other names": lambda pairs: {"qa_pairs": _turns(pairs, "Question", "Answer")},
    "json, numbered names": lambda pairs: {
        f"{name}{number}": words
        for number, pair in enumerate(pairs, start=1)
        for name, words in zip(("question", "answer"), pair, strict=True)
    },
    "json, speaker and text": lambda pairs: {"dialogue": _said(pairs, "speaker", "text", "User", "Assistant")},
    "json, content in parts": lambda pairs: [
        {"role": one["role"], "content": [{"type": "image"}, {"type": "text", "text": one["content"]}]}
        for one in _said(pairs, "role", "content", "user", "assistant")
    ],
    "json, nested": lambda pairs: {"conversations": [{"id": 1, "turns": _turns(pairs)}]},
    "json, words before the role": lambda pairs: [
        {"content": one["content"], "role": one["role"]}
        for one in _said(pairs, "role", "content", "user", "assistant")
    ],
    "json, conversation as text": lambda pairs: {"conversation": written(pairs)},
    "json, list of lines": lambda pairs: [
        f"{role}: {words}" for pair in pairs for role, words in zip(("User", "Assistant"), pair, strict=True)
    ],
}  # fmt: skip
"""Shapes of JSON."""


def _dumped(shape: str, pairs: Pairs, indent: int | None = 2) -> str:
    return json.dumps(JSONS[shape](pairs), ensure_ascii=False, indent=indent)


for _name in JSONS:
    kind(_name)(lambda pairs, _name=_name: _dumped(_name, pairs, indent=len(pairs[0][0]) % 2 or None))


@kind("json in a fence")
def _(pairs):
    return f"Here is the conversation [as JSON]:\n\n```json\n{_dumped('json turns', pairs)}\n```\n\nI hope this helps!"


@kind("json lines")
def _(pairs):
    return "\n".join(json.dumps(one) for one in _said(pairs, "role", "content", "user", "assistant"))


@kind("json with line breaks in its words")
def _(pairs):
    words = [(question + "\n\tOr not?", answer + "\nSo it seems.") for question, answer in pairs]
    raw = _dumped("json turns", words).replace("\\n", "\n").replace("\\t", "\t")
    return raw, tuple(words)


@kind("json, trailing commas")
def _(pairs):
    return re.sub(r"(?<=[}\"])(?=\n\s*[}\]])", ",", _dumped("json turns", pairs))


@kind("json, commas missing")
def _(pairs):
    return re.sub(r"(?<=\}),(?=\n)", "", _dumped("json role and content", pairs))


@kind("json, quotes not escaped")
def _(pairs):
    return _dumped("json turns", pairs).replace('\\"', '"')


@kind("json, single quotes")
def _(pairs):
    return repr(_said(pairs, "role", "content", "user", "assistant"))


@kind("json, never closed")
def _(pairs):
    return _dumped("json turns", pairs).rstrip("]} \n") + "}"


@kind("json cut in an answer")
def _(pairs):
    text = _dumped("json turns", pairs, indent=None)
    return text[: -4 - len(json.dumps(pairs[-1][1])) // 2], pairs[:-1], True, 2


@kind("json cut in an answer, and nobody says so")
def _(pairs):
    text = _dumped("json turns", pairs)
    return text[: text.rindex('"assistant"') + len('"assistant": "It')], pairs[:-1], False, 2


@kind("json cut after a question")
def _(pairs):
    text = _dumped("json from and value", pairs)
    return text[: text.rindex('"from"')].rstrip(), pairs[:-1], True, 1
