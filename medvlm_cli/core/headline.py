"""What stands above the answers of a page: scores with their intervals, baselines, the paper's rows, how it was made.

It reads the documents ``scores.json`` and ``compare.json`` and shows what it finds; what they lack is left out.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_cli.core.page import SENTENCE, cut, word
from medvlm_cli.core.scoring import llama3med, strict
from medvlm_cli.core.scoring.published_rows import OURS, beside

_EXAMPLE = "example"
"""Of the facts of a prompt, a whole one: the page has a place for it."""
LINES = 80
"""Most lines of a table and of the list of what made the page."""
_HEADLINE = ("llama3med", "recall"), ("llama3med", "accuracy"), ("strict", "recall"), ("strict", "accuracy")
_BEHAVIOUR = {
    "balanced_accuracy": "balanced accuracy",
    "unparsed": "unparsed",
    "said_yes": "said yes",
    "words": "words an open answer",
}
"""Metrics of the strict protocol that say how a model answers rather than how well."""
_UNITS = "Per cent, with 95 % interval and number of questions"
_KIND = {"recall": "open recall", "accuracy": "closed accuracy"}
_FOLDERS = re.compile(r"(?<![\w.…])~?/(?:[^\s/]+/)+(?=[^\s/])")
"""The folders of a path in a sentence: whoever is mailed the page need not know where the data lies."""
_APART = ("sheets", "interval", "baselines", "overlap", "judge", "cells", "made", "benchmark", "split")
"""Facts that have a place of their own; all others are listed."""

Document = Mapping[str, Any]


@dataclass(frozen=True)
class Cell:
    """What stands in a cell, and in small letters under it."""

    text: str
    more: str = ""


@dataclass(frozen=True)
class Line:
    """A line of a table; ``lead`` lifts it above the others."""

    name: str
    cells: list[Cell]
    more: str = ""
    lead: bool = False


@dataclass(frozen=True)
class Table:
    """A table; the first of its columns names the lines."""

    title: str
    columns: list[Cell]
    lines: list[Line]
    notes: list[str]


@dataclass(frozen=True)
class Section:
    """Tables under one heading."""

    title: str
    notes: list[str]
    tables: list[Table]


def header(document: Document) -> dict[str, Any]:
    """What the template shows of a document: ``title``, ``facts``, ``sections`` of tables, and ``hashes``.

    Args:
        document: of ``scores.json`` or ``compare.json``.
    """
    sheets: Mapping[str, Any] = document.get("sheets") or {}
    title = " ".join(filter(None, (word(document.get("benchmark")), word(document.get("split"))))) or "answers"
    return {
        "title": f"{title}: {' and '.join(map(word, sheets)) or 'two runs'}" if "cells" in document else title,
        "facts": [(title, text) for title, text in _facts(document, sheets) if text],
        "sections": list(_sections(document, sheets)),
        "hashes": list(_flat({name: value for name, value in document.items() if name not in _APART}))[:LINES],
    }


def protocols(document: Document) -> dict[str, str]:
    """Ids of the published and of the strict protocol by their short names, as the document says them."""
    here = {"llama3med": llama3med.PROTOCOL, "strict": strict.PROTOCOL}
    told = document.get("protocols") or {}
    return {name: word(told.get(name, id_)) for name, id_ in here.items()}


def _facts(document: Document, sheets: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    first: Mapping[str, Any] = next(iter(sheets.values()), {})
    counts = first.get("counts") or {}
    checkpoint = document.get("checkpoint")
    prompt = document.get("prompt") or (document.get("settings") or {}).get("prompt")
    yield "Checkpoint", _last(checkpoint.get("name") if isinstance(checkpoint, Mapping) else checkpoint)
    for name, told in (document.get("answers") or {}).items():
        if isinstance(told, Mapping):
            yield word(name), cut(", ".join(map(_last, told.get("models") or ())), SENTENCE)
    yield "Questions", f"{counts['rows']:,}" if "rows" in counts else ""
    yield "Open, closed", f"{counts['open']:,}, {counts['closed']:,}" if "open" in counts else ""
    yield "Images", f"{counts['images']:,}" if "images" in counts else ""
    yield "Prompt preset", word(prompt.get("preset") if isinstance(prompt, Mapping) else prompt)
    yield "Made", word(str(document.get("made", ""))[:10])
    version = (document.get("versions") or {}).get("medvlm")
    yield "By", f"medvlm {word(version)}" if version else ""


def _sections(document: Document, sheets: Mapping[str, Any]) -> Iterator[Section]:
    ids, benchmark = protocols(document), str(document.get("benchmark") or "")
    first: Mapping[str, Any] = next(iter(sheets.values()), {})
    if sheets:
        yield Section("Scores", [_interval(document)], [_scores(document, sheets, ids)])
    if document.get("cells"):
        yield Section("Difference", [], [_differences(document["cells"])])
    if first.get("categories"):
        yield Section("By category", [], [_categories(sheets, ids)])
    paper = beside(dict(first), benchmark) if "counts" in first else {}
    if paper:
        yield Section("Beside the paper", [], [_paper(paper, ids)])
    if (document.get("judge") or {}).get("line"):
        yield Section("A second opinion, no score", [cut(str(document["judge"]["line"]), SENTENCE)], [])
    shared = document.get("overlap") or {}
    if shared.get("lines"):
        notes = [cut(_FOLDERS.sub("…/", str(line)), SENTENCE) for line in shared["lines"][:LINES]]
        sources = shared.get("sources") or []
        yield Section("What it shares with other data", notes, [_shared(sources)] if sources else [])


def _scores(document: Document, sheets: Mapping[str, Any], ids: Mapping[str, str]) -> Table:
    """The headline: a line for each set of answers, and where the baselines come from."""
    lines = []
    for place, (name, sheet) in enumerate(sheets.items()):
        cells = [_cell((sheet.get(protocol) or {}).get(metric)) for protocol, metric in _HEADLINE]
        honest = sheet.get("strict") or {}
        cells += [_cell(honest.get(metric), 1 if metric == "words" else 100) for metric in _BEHAVIOUR]
        lines.append(Line(word(name), cells, lead=place == 0))
    columns = [Cell(_KIND[metric], ids[protocol]) for protocol, metric in _HEADLINE]
    columns += [Cell(title, ids["strict"]) for title in _BEHAVIOUR.values()]
    sources = [f"{word(name)}: {cut(str(text), SENTENCE)}." for name, text in (document.get("baselines") or {}).items()]
    return Table(f"{_UNITS}; words are counted", [Cell(""), *columns], lines, sources)


def _categories(sheets: Mapping[str, Any], ids: Mapping[str, str]) -> Table:
    """The first set of answers by both protocols, and each other one by the strict protocol."""
    first, *others = sheets
    lines = []
    for category, own in sheets[first]["categories"].items():
        for metric, kind in _KIND.items():
            if own["strict"].get(metric):
                theirs = [(sheets[name].get("categories") or {}).get(category) or {} for name in others]
                cells = [_cell(own[protocol].get(metric)) for protocol in ids]
                cells += [_cell((one.get("strict") or {}).get(metric)) for one in theirs]
                lines.append(Line(word(category) or "other", cells, kind))
    columns = [Cell(word(first), id_) for id_ in ids.values()] + [Cell(word(name), ids["strict"]) for name in others]
    return Table(_UNITS, [Cell(""), *columns], lines[:LINES], _more(len(lines)))


def _differences(cells: Mapping[str, Mapping[str, Any]]) -> Table:
    """What one run scores more than the other, and whether that is more than chance."""
    lines = []
    for name, cell in list(cells.items())[:LINES]:
        span = f"{100 * cell['low']:.2f} to {100 * cell['high']:.2f}, n {cell['rows']:,}"
        shown = [Cell(f"{100 * cell['one']:.2f}"), Cell(f"{100 * cell['other']:.2f}")]
        shown += [Cell(f"{100 * cell['difference']:+.2f}", span), Cell(f"{cell['p']:.3g}", word(cell["test"]))]
        shown += [Cell(f"{cell['p_holm']:.3g}")]
        shown += [Cell(f"{cell[key]:,}" if key in cell else "–") for key in ("one_only", "other_only")]
        lines.append(Line(word(name), shown))
    titles = ("", "A", "B", "A less B", "p", "p, Holm", "right in A only", "right in B only")
    title = "Per cent, with 95 % interval of the paired difference and number of questions"
    return Table(title, [*map(Cell, titles)], lines, _more(len(cells)))


def _shared(sources: Sequence[Mapping[str, Any]]) -> Table:
    """How much of the asked images and questions each other set has."""
    lines = []
    for source in sources[:LINES]:
        images = source.get("images") or {}
        counts = [images.get(name) for name in ("exact", "near", "names")]
        counts += [source.get(name) for name in ("questions", "pairs", "triples")]
        lines.append(Line(word(source.get("name")), list(map(_share, counts)), word(source.get("kind"))))
    titles = ("", "same image file", "copy of the image", "same name of the image", "same question")
    columns = [*map(Cell, titles), Cell("same question and answer"), Cell("all three the same")]
    return Table("Of the asked images and questions", columns, lines, _more(len(sources)))


def _share(share: Mapping[str, Any] | None) -> Cell:
    if not share or not share.get("of"):
        return Cell("–")
    return Cell(f"{share['count']:,} of {share['of']:,}", f"{100 * share['count'] / share['of']:.1f} %")


def _more(lines: int) -> list[str]:
    return [f"and {lines - LINES:,} lines more in the JSON beside this page"] if lines > LINES else []


def _paper(rows: Mapping[str, Mapping[str, Any]], ids: Mapping[str, str]) -> Table:
    """Table 3 of the paper under our own line."""
    kinds = {"open recall": "open 95 %", "closed accuracy": "closed 95 %"}
    lines = [
        Line(name, [Cell(f"{row[kind]:.2f}", row.get(span, "")) for kind, span in kinds.items()], lead=name == OURS)
        for name, row in sorted(rows.items(), key=lambda pair: pair[0] != OURS)
    ]
    title = f"Per cent under {ids['llama3med']}; the other lines as the paper reports them"
    return Table(title, [Cell(""), *map(Cell, kinds)], lines, [])


def _interval(document: Document) -> str:
    interval = document.get("interval") or {}
    if not {"method", "draws", "seed"} <= interval.keys():
        return ""
    how = f"Intervals: {word(interval['method'])}, {interval['draws']:,} draws, seed {word(interval['seed'])}."
    return f"{how}  One without width, as 0 to 0, says that all these questions went alike, not that others would."


def _cell(metric: Mapping[str, Any] | None, scale: float = 100) -> Cell:
    """A metric, in per cent unless told otherwise, with its interval and how many questions it is of."""
    if not metric:
        return Cell("–")
    low, high = (f"{scale * metric[end]:.1f}" for end in ("low", "high"))
    return Cell(f"{scale * metric['value']:.2f}", f"{low} to {high}, n {metric['rows']:,}")


def _flat(value: Any, path: Sequence[str] = ()) -> Iterator[tuple[str, str]]:
    """Every fact in a document of JSON with the path to it."""
    if isinstance(value, Mapping):
        for name, part in value.items():
            yield from _flat(part, (*path, str(name)))
    elif isinstance(value, list | tuple):
        yield cut(" / ".join(path), SENTENCE), cut(", ".join(map(_last, value)), SENTENCE)
    elif value not in (None, "") and path[-1:] != (_EXAMPLE,):
        yield cut(" / ".join(path), SENTENCE), _last(value)


def _last(value: Any) -> str:
    """A value as words; of a path only the end."""
    text = "" if value is None else str(value)
    return cut("…/" + text.rstrip("/").rsplit("/", 1)[-1] if text.startswith(("/", "~/")) else text, SENTENCE)
