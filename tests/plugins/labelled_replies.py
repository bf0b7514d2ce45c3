"""The golden corpus of replies: what teachers write, and what a person who reads it would copy out as turns.

A turn is recoverable where a reader can tell who says it and where it begins and ends, all its words are there, and it
has its question or its answer.  So these are not: the turn at which a reply was cut off, with its question; a question
that nobody answers; an answer that nobody asked for; and what nobody says: a preamble, a heading, a remark, a refusal.
Turns of one role in a row are one turn, a line each.

Replies come from two sources: ``reply_kinds`` writes the ``base_conversations`` down in many ways, each with other
conversations; ``written_replies.txt`` holds replies written by hand as wholes, labelled in place.
"""

import re
from pathlib import Path

from tests.plugins.base_conversations import CONVERSATIONS
from tests.plugins.reply_kinds import MADE, STYLES, TAKES, Labelled, written

EACH = 6
"""Conversations that every kind is made of."""
WELL_FORMED = ("plain", "blank lines", "no space", "image before", "colon, words below")
"""Kinds that are as asked, or nearly: the others are malformed."""


NOTHING = {
    "refusal": [
        "I can't help with that.",
        "I'm sorry, but I cannot create a conversation about this image.",
        "I cannot fulfill your request. I am just an AI model.",
        "As an AI, I am unable to view images: the answer would be a guess.\n\nPlease provide the image.",
        "I don't feel comfortable writing this.\n\nInstead, I can:\n- explain the stain\n- list the organs",
        "Unfortunately the text holds too little.\n\nQuestion: would you send more of it?",
        'I must decline. The request reads "User: describe the wound", which I will not do.',
    ],
    "empty": [""],
    "white space": [" ", "\n\n\n", "\t \r\n", "\u200b\ufeff", "\u00a0\u2003"],
    "page instead of a reply": [
        "<!DOCTYPE html><html><head><title>502 Bad Gateway</title></head><body><h1>502</h1></body></html>",
        "<html>\n<body>\n<p>User agent blocked.</p>\n<p>Assistant service: offline</p>\n</body>\n</html>",
        '{"error": {"type": "overloaded_error", "message": "Overloaded"}}',
        '{"error": {"message": "model not found", "code": 404}, "user": null}',
    ],
    "repetition": ["the image shows " * 2000, "User: " * 2000, "User:\n" * 2000, "[{" * 2000, "Assistant: yes\n" * 500],
    "roles without words": ["User:\nAssistant:\nUser:\nAssistant:", '{"turns": [{"user": "", "assistant": " "}]}'],
    "empty json": ["[]", "{}", '{"turns": []}', "null", "```json\n{}\n```"],
    "summary": ["The image shows an axial slice. Findings: none. Assistant: not needed.", "Q & A are not possible."],
}
"""Replies of which nothing can be had, by kind."""


def made() -> list[Labelled]:
    """Replies of every kind that is made from conversations."""
    replies = []
    for number, name in enumerate((*STYLES, *MADE)):
        fitting = [one for one in CONVERSATIONS if TAKES.get(name, bool)(written(one))]
        # 5 and 28 share no divisor, so the kinds go round all conversations
        chosen = [fitting[(5 * number + 11 * step) % len(fitting)] for step in range(EACH)]
        for pairs in dict.fromkeys(chosen):
            replies.append(MADE[name](pairs) if name in MADE else Labelled(name, written(pairs, name), pairs))
    return replies


def nothing() -> list[Labelled]:
    """Replies of which nothing can be had."""
    return [Labelled(name, text, ()) for name, texts in NOTHING.items() for text in texts]


def written_by_hand() -> list[Labelled]:
    """The replies of ``written_replies.txt``; the kind of each is its name."""
    parts = re.split(r"^==== ", Path(__file__).with_name("written_replies.txt").read_text("utf-8"), flags=re.MULTILINE)
    return [_labelled(part) for part in parts[1:]]


def _labelled(part: str) -> Labelled:
    header, _, marked = part.partition("\n")
    name, *flags = header.split()
    turns: list[str] = []
    for goes_on, words in re.findall(r"⟦(\+?)([^⟧]*)⟧", marked):
        if goes_on:
            turns[-1] += f"\n{words}"
        else:
            turns.append(words)
    assert len(turns) % 2 == 0, f"{name} has an odd number of turns"
    return Labelled(
        kind=name,
        text=re.sub(r"⟦\+?|⟧", "", marked).removesuffix("\n").removesuffix("\n"),
        pairs=tuple(zip(turns[::2], turns[1::2], strict=True)),
        truncated="truncated" in flags,
        lost=next((int(flag.removeprefix("lost=")) for flag in flags if flag.startswith("lost=")), 0),
    )


CORPUS = [*made(), *nothing(), *written_by_hand()]
