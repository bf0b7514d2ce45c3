"""The choices that a closed question names, so that an answer which names several is told from the right one.

No benchmark lists them; they are read off the question ("Is this an MRI or a CT scan?"), and only where its gold answer
is one of what it names.  A choice too few only lets an ambiguous answer pass, as no list at all does; a wrong choice
would punish a right answer.  So what is not plain is left out.
"""

import re

from medvlm_cli.core.scoring.strict import words

YES_NO = ("yes", "no")

_OR = re.compile(r"\s*,?\s+(?:or|vs\.?|versus)\s+", re.IGNORECASE)
_HEAD = re.compile(r"(?:which|what|where|who|how|in which)\b", re.IGNORECASE)
_CLOSING = re.compile(r"[?.:;]")
_SILENT = re.compile(r"['’]s\b|\bweighted\b", re.IGNORECASE)
"""What a choice is named with or without: "T2 weighted" is "T2"."""
_NO_CHOICE = frozenset(
    words(
        "is are was were be do does did has have can this that these those it of in on at to from by for with without "
        "using than if used seen shown taken located image picture patient there any either not no yes"
    )
)
"""Words that stand around choices; no choice goes on past one."""


def named_choices(question: str, gold: str) -> list[str]:
    """The choices of a closed question, its gold answer among them.

    Args:
        question: as asked.
        gold: its answer.

    Returns:
        ``["yes", "no"]`` where the gold answer is one of these; else the choices named, the gold answer in its place;
        the gold answer alone where the question does not plainly name it beside others.
    """
    if gold.strip().lower() in YES_NO:
        return list(YES_NO)
    wanted = words(gold)
    found = _alternatives(question, len(wanted))
    hits = [place for place, item in enumerate(found) if item == wanted or wanted[: len(item)] == item]
    if len(hits) != 1:
        return [gold]
    rivals = [" ".join(item) for item in found]
    rivals[hits[0]] = gold
    return list(dict.fromkeys(rivals))


def _alternatives(question: str, width: int) -> list[tuple[str, ...]]:
    """What stands left and right of the question's only "or", each as its words.

    After "Which is bigger in this image," the alternatives stand alone between commas and count whole.  In "Is this a
    solid or cystic lesion?" they run into the rest of the sentence: no more than ``width`` words next to the "or" do.
    """
    parts = _OR.split(_SILENT.sub("", question).strip())
    if len(parts) != 2:
        return []
    before, after = parts[0].split(","), _CLOSING.split(parts[1])[0].split(",")[0]
    if _HEAD.match(question):
        left = [_run(item, first=True) for item in before[1:]]
        right = _run(after, first=True)
    else:
        runs = [_run(item, first=False) for item in before]
        left = [run[-width:] for run in runs]
        if any(len(run) > width and set(run[-width:]) & set(words(after)) for run in runs):
            return []  # "vascular process or a genetic process": "process" alone tells nothing apart
        right = _run(after, first=True)[:width]
    found = [*left, right]
    return found if len(found) > 1 and all(found) else []


def _run(text: str, first: bool) -> tuple[str, ...]:
    """The first, or the last, words of ``text`` without one of ``_NO_CHOICE`` between them."""
    runs: list[list[str]] = [[]]
    for word in words(text):
        if word in _NO_CHOICE:
            runs.append([])
        else:
            runs[-1].append(word)
    if first:
        return tuple(next((run for run in runs if run), []))
    return tuple(runs[-1])
