"""``report.html`` of conversations: what teachers wrote, beside the figures and the words they wrote it from.

Captions, answers and names are strangers' text; what keeps them from acting in the page is in ``core.page``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medvlm_cli.core import commit
from medvlm_cli.core.arrow import Dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.page import SENTENCE, bars, cut, filters, link, made, rendered, spread, thumbnail, word
from medvlm_cli.core.record import RUN, read_json
from medvlm_cli.core.summary import UNKNOWN, shortened
from medvlm_cli.teachers.sheets import Sheet
from medvlm_cli.teachers.statistics import BANNER, Statistics

NAME = "report.html"
CONVERSATIONS_SHOWN = 200
REJECTS_SHOWN = 60
"""With thumbnails of about 10 kB each, a page that can still be mailed."""

_CAPTION, _CAPTION_START, _TURN, _RAW = 3000, 200, 2000, 2000
_MENTIONS, _TURNS, _CODES = 6, 24, 12
"""Most characters of a caption, of its start, of a turn and of a raw answer; most sentences, turns and codes."""
_REASONS, _LINES, _NARROW = 20, 60, 4
"""Most reasons with bars; most lines of a table; most columns of a table that stands beside others."""
_DROPPED = "dropped_"
"""What the code of a repair begins with that took a pair away; the reason follows."""
_NONE = "none"


def write_page(
    conversations: Dataset,
    figure_of: Callable[[str], Mapping[str, Any]],
    statistics: Statistics,
    meanings: Mapping[str, str],
) -> Path:
    """Write ``report.html`` into the folder of a dataset of conversations, replacing an earlier one.

    The same dataset gives the same bytes.  Shown are at most ``CONVERSATIONS_SHOWN``, chosen by the hashes of their ids
    and as evenly over teachers and modalities as these allow, and ``REJECTS_SHOWN``, as evenly over the reasons.

    Args:
        conversations: conversations/1, with or without the columns that teachers add.
        figure_of: the row of figures/1 of an id, image included; asked for what is shown only.
        statistics: of the same run.
        meanings: what a reason, a repair, a warning or a note means, by its code.

    Returns:
        The path of the page.

    Raises:
        DataError: the dataset is a single file, or a file of it is not what it was.
        ResourceError: the disk refuses.
    """
    if not conversations.folder.is_dir():
        raise DataError(f"{conversations.folder} is a single file", "give a dataset's folder")
    told = statistics.as_dict()
    kept = [_kept(conversations.row_at(position), figure_of, meanings) for position in _chosen(conversations)]
    rejected = [_rejected(reject, figure_of, meanings) for reject in _some_rejects(conversations)]
    cards = kept + rejected
    first = conversations.parts[0] if conversations.parts else conversations
    sheets = [_drawn(sheet) for sheet in statistics.sheets()]
    page = rendered(
        "medvlm_cli.teachers",
        "conversations.html",
        name=word(conversations.folder.resolve().name),
        rows=len(conversations),
        rejected=sum(1 for _ in conversations.rejects()),
        made=made(read_json(first.folder / RUN) or {}),
        cost=told["usage"]["total"]["cost_usd"],
        banner=BANNER if told["template"] else "",
        cautions=statistics.warnings,
        reasons=bars(shortened("rejects", told["rejects"]["by_reason"], _REASONS), meanings),
        wide=[sheet for sheet in sheets if len(sheet["columns"]) > _NARROW],
        narrow=[sheet for sheet in sheets if len(sheet["columns"]) <= _NARROW],
        filters=filters(cards),
        cards=cards,
        kept=len(kept),
        dropped=len(rejected),
    )
    path = conversations.folder / NAME
    commit.write_text(path, page)
    return path


def _chosen(conversations: Dataset) -> list[int]:
    """Positions of the conversations to show."""
    wanted = ("conversation_id", "teacher", "modalities")
    present = conversations.columns
    rows = conversations.rows([name for name in wanted if name in present]) if present else iter(())
    entries = (("\0".join([row["teacher"], *(row.get("modalities") or ())]), row["conversation_id"]) for row in rows)
    return spread(entries, CONVERSATIONS_SHOWN)


def _some_rejects(conversations: Dataset) -> list[dict[str, Any]]:
    """The rejects to show; read twice, so that only these are held."""
    chosen = set(spread(((one["reason"], one["id"]) for one in conversations.rejects()), REJECTS_SHOWN))
    return [one for number, one in enumerate(conversations.rejects()) if number in chosen]


def _drawn(sheet: Sheet) -> dict[str, Any]:
    return {
        "title": sheet.title,
        "note": sheet.note,
        "names": sheet.names,
        "columns": sheet.columns,
        "lines": [[word(cell) for cell in line] for line in sheet.lines[:_LINES]],
        "more": max(0, len(sheet.lines) - _LINES),
    }


def _kept(
    row: Mapping[str, Any], figure_of: Callable[[str], Mapping[str, Any]], meanings: Mapping[str, str]
) -> dict[str, Any]:
    """A conversation as the template shows it; ``kinds`` holds its values for each filter."""
    figure = figure_of(row["figure_id"])
    modalities = tuple(word(name or UNKNOWN) for name in row.get("modalities") or (figure["modality"],))
    turns = row["turns"]
    warnings = _codes(row.get("warnings"), meanings)
    return _source(figure) | {
        "id": word(row["conversation_id"]),
        "modality": ", ".join(modalities),
        "reject": None,
        "turns": [{"user": turn["role"] == "user", "text": cut(turn["text"], _TURN)} for turn in turns[:_TURNS]],
        "more_turns": max(0, len(turns) - _TURNS),
        "told": {
            "Warnings": warnings,
            "Repairs": _codes(row.get("repairs"), meanings),
            "Noticed": _codes(row.get("notes"), meanings),
        },
        "facts": {name: text for name, text in _facts(row).items() if text},
        "kinds": {
            "Teacher": word(row["teacher"] or UNKNOWN),
            "Modality": modalities,
            "Outcome": "kept",
            "Warnings and reasons": tuple(code for code, _ in warnings) or _NONE,
        },
    }


def _rejected(
    reject: Mapping[str, Any], figure_of: Callable[[str], Mapping[str, Any]], meanings: Mapping[str, str]
) -> dict[str, Any]:
    """As ``_kept``, of a reject; who wrote it is not among what a reject says."""
    figure = figure_of(reject["id"])
    reason = word(reject["reason"])
    modality = word(figure["modality"] or UNKNOWN)
    return _source(figure) | {
        "id": word(reject["id"]),
        "modality": modality,
        "reject": {
            "reason": reason,
            "meaning": cut(_meaning(reject["reason"], meanings), SENTENCE),
            "message": cut(reject["message"], SENTENCE),
            "raw": cut(reject["raw"] or "", _RAW),
        },
        "kinds": {"Teacher": UNKNOWN, "Modality": modality, "Outcome": "rejected", "Warnings and reasons": reason},
    }


def _source(figure: Mapping[str, Any]) -> dict[str, Any]:
    """What the teacher wrote from."""
    caption = figure["caption"]
    mentions = [mention["text"] for mention in figure["mentions"]]
    url, host = link(figure.get("url"))
    return {
        "figure": word(figure["figure_id"]),
        "label": word(figure.get("label")),
        "thumbnail": thumbnail(figure["image"]["bytes"], figure["figure_id"]),
        "caption": cut(caption, _CAPTION),
        "start": cut(caption[:_CAPTION_START], _CAPTION_START) + "…" if len(caption) > _CAPTION_START else "",
        "mentions": [cut(text, SENTENCE) for text in mentions[:_MENTIONS]],
        "all_mentions": len(mentions),
        "license": word(figure["license"] or UNKNOWN),
        "url": url,
        "host": host,
    }


def _codes(codes: Sequence[str] | None, meanings: Mapping[str, str]) -> list[tuple[str, str]]:
    """Code and meaning of each."""
    return [(word(code), cut(_meaning(code, meanings), SENTENCE)) for code in (codes or ())[:_CODES]]


def _meaning(code: str, meanings: Mapping[str, str]) -> str:
    if code in meanings or not code.startswith(_DROPPED):
        return meanings.get(code, "")
    why = meanings.get(code.removeprefix(_DROPPED))
    return f"a question and its answer were dropped: {why}" if why else ""


def _facts(row: Mapping[str, Any]) -> dict[str, str]:
    """What is recorded of a conversation; empty where nothing is."""
    planned = row["teacher_planned"]
    cost, score = row.get("cost_usd"), row.get("judge_score")
    return {
        "Teacher": word(row["teacher"]),
        "Planned": word(planned) if planned != row["teacher"] else "",
        "Model": word(row.get("served_model")),
        "Tokens": _tokens(row),
        "Cost": "" if cost is None else f"{cost:,.6f} USD",
        "Requests": word(row.get("attempts")),
        "Ended by": word(row.get("stop_reason")),
        "Judge": "" if score is None else f"{score:.2f}",
        "Prompt": word(row["prompt_id"]),
        "Terms": word(", ".join(row["license_tags"])),
        "Split": word(row["split"]),
    }


def _tokens(row: Mapping[str, Any]) -> str:
    """``3,412 in, 455 out (120 thinking), 2,900 from the cache``."""
    named = {"input_tokens": "in", "output_tokens": "out", "cache_read_tokens": "from the cache"}
    named["cache_write_tokens"] = "into the cache"
    shown = {name: row.get(name) for name in named}
    parts = {
        name: f"{shown[name]:,} {what}"
        for name, what in named.items()
        if shown[name] or (shown[name] == 0 and not name.startswith("cache"))
    }
    if "output_tokens" in parts and row.get("thinking_tokens"):
        parts["output_tokens"] += f" ({row['thinking_tokens']:,} thinking)"
    return ", ".join(parts.values())
