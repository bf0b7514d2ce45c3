"""What a run of teachers came to, counted, in the layout of the paper's table 1.

The paper counts "QAs" and does not say of what: LLaVA-Med's row has 2.9 an image, as many as it has pairs, and its own
6.2, as many as three pairs have messages.  So pairs and messages are told apart here, and the paper's number is
in neither line.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvlm_cli.teachers.sheets import Sheet, as_latex, as_markdown, as_text

LABELS = {
    "chest_xray": "Chest X-ray",
    "ct": "CT",
    "mri": "MRI",
    "histology": "Histology",
    "gross": "Pathology (gross)",
    "other": "Other",
    "unique_total": "Unique total",
}
"""Columns of the table: the paper's five modalities, all others, and every figure once."""
PAPER = {
    "LLaVA-Med": {
        "images": {"chest_xray": 8060, "ct": 17358, "mri": 16539, "histology": 17030, "gross": 2552},
        "qas": {"chest_xray": 22839, "ct": 50583, "mri": 47867, "histology": 49504, "gross": 7323},
    },
    "Llama3-Med": {
        "images": {"chest_xray": 40, "ct": 6809, "mri": 6568, "histology": 6643, "gross": 116},
        "qas": {"chest_xray": 212, "ct": 41630, "mri": 40824, "histology": 42084, "gross": 714},
    },
}
"""Images and QAs as the paper prints them; of Llama3-Med those that it adds to LLaVA-Med's."""
SOURCE = "Chen et al. 2024, arXiv:2406.09454, table 1"
BANNER = "demo data, not a reproduction"
THIN = 100
"""A modality with fewer images is warned about: the paper has 40 chest X-rays and says what they cost it."""

JUDGE = "judge"
"""Who marks conversations, among those who are paid."""

_TEMPLATE = "template"
_MODALITIES = tuple(LABELS)[:5]
_ALL = "unique_total"
_MEASURES = {"images": "images", "qa_pairs": "QA pairs", "messages": "messages", "pairs_per_image": "pairs per image"}
_USAGE = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens")
_REFERENCE, _OVERLAP, _LEAK = "V6_image_reference", "V4_overlap", "V4_"
_DROPPED = "dropped_"
"""What the code of a repair begins with that took a question and its answer away; the reason follows."""
_DUPLICATES = ("near_duplicate", "duplicate_source")
_TINY = 10**12
"""Parts of a dollar that are counted, whole ones: sums then do not hang on the order of the entries."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one answer took; it is counted for whoever gave it, whatever became of it."""

    who: str
    """A teacher, or ``JUDGE``."""
    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cost_usd: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What became of one figure."""

    figure_id: str
    teacher: str
    """The family that answered or was to answer, ``claude``; of a replayed answer, the recorded one."""
    teacher_planned: str
    modalities: tuple[str, ...]
    """Those of the figure, by the names of figures/1."""
    outcome: str
    """``kept``, or the code of the reason why not."""
    pairs: int = 0
    messages: int = 0
    refusals: tuple[str, ...] = ()
    """The category of every refusal; both teachers may have refused."""
    spent: tuple[Spent, ...] = ()
    notes: tuple[str, ...] = ()
    """Codes of what the validators noticed and let pass."""
    repairs: tuple[str, ...] = ()
    """Codes of what was mended or dropped, and the rest kept."""


@dataclass(frozen=True)
class Statistics:
    """Counts of a run; made by ``tabulate``."""

    planned_mix: dict[str, float]
    figures: Counter[str] = field(default_factory=Counter)
    """Figures by the teacher that answered or was to."""
    assigned: Counter[str] = field(default_factory=Counter)
    """Figures by the teacher that the mix gave them to, those of the template teacher left out."""
    substituted: Counter[str] = field(default_factory=Counter)
    """Kept conversations by teacher, of figures that were another's."""
    held: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """Images, pairs and messages of kept conversations: (teacher, measure, column)."""
    rejects: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """(reason, teacher, column)."""
    refusals: Counter[tuple[str, str]] = field(default_factory=Counter)
    """(category, column)."""
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Kept conversations: (code, teacher)."""
    repairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Kept conversations: (code, teacher)."""
    freed: Counter[str] = field(default_factory=Counter)
    """Kept conversations, by teacher, that lost a question with its answer for a leak."""
    usage: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Tokens, and ``cost`` in parts of a dollar: (teacher, what)."""

    @property
    def teachers(self) -> list[str]:
        """Those of the plan, then whoever else answered; the template teacher is none."""
        others = {*self.figures, *self.assigned} - {*self.planned_mix}
        return [name for name in (*self.planned_mix, *sorted(others)) if name != _TEMPLATE]

    @property
    def warnings(self) -> list[str]:
        """What whoever trains on these conversations should know."""
        told = []
        images = self._measures(self.teachers)["images"]
        if made_up := self.held[_TEMPLATE, "images", _ALL]:
            several = "conversation is" if made_up == 1 else "conversations are"
            told.append(f"{made_up:,} {several} of the template teacher: {BANNER}; no other row counts them")
        elif not images[_ALL]:
            told.append("no conversation was kept")
        thin = [f"{LABELS[name]} ({images[name]:,})" for name in _MODALITIES if images[_ALL] and images[name] < THIN]
        if thin:
            told.append(
                f"fewer than {THIN} images: {', '.join(thin)}; what is learnt or measured on so few says little"
            )
        return told

    def as_dict(self) -> dict[str, Any]:
        """Everything as JSON; columns by the names in ``LABELS``."""
        by_reason: Counter[str] = Counter()
        cross: dict[str, dict[str, dict[str, int]]] = {}
        for (reason, teacher, column), count in sorted(self.rejects.items()):
            cross.setdefault(reason, {}).setdefault(teacher, dict.fromkeys(LABELS, 0))[column] = count
            by_reason[reason] += count if column == _ALL else 0
        alike = {reason: by_reason[reason] for reason in _DUPLICATES}
        everybody = {name: [name] for name in self.teachers} | {"total": self.teachers}
        demo = {_TEMPLATE: [_TEMPLATE]} if self.figures[_TEMPLATE] else {}
        judge = [JUDGE] if any(who == JUDGE for who, _ in self.usage) else []
        payees = {name: [name] for name in (*self.teachers, *judge)} | {"total": [*self.teachers, *judge]}
        return {
            "columns": LABELS,
            "table_1": {name: self._measures(who) for name, who in everybody.items()},
            "paper": {name: _of_paper(rows) for name, rows in PAPER.items()},
            "template": {"banner": BANNER} | self._measures([_TEMPLATE]) if demo else None,
            "mix": self._mix(),
            "rejects": {
                "total": by_reason.total(),
                "by_reason": dict(sorted(by_reason.items(), key=lambda item: (-item[1], item[0]))),
                "by_reason_teacher_modality": cross,
            },
            "refusals": {
                category: {name: self.refusals[category, name] for name in LABELS}
                for category in sorted({category for category, _ in self.refusals})
            },
            "rates": {name: self._rates(who) for name, who in (everybody | demo).items()},
            "notes": self._by_code(self.notes),
            "repairs": self._by_code(self.repairs),
            "usage": {name: self._used(who) for name, who in (payees | demo).items()},
            "duplicates": alike | {"total": sum(alike.values())},
            "warnings": self.warnings,
        }

    def sheets(self) -> list[Sheet]:
        """Everything as tables; those that would be empty are left out."""
        told = self.as_dict()
        makers = (_table_1, _template, _mix, _rejects, _refusals, _rates, _notes, _repairs, _used, _alike)
        made = (make(told) for make in makers)
        return [sheet for sheet in made if sheet.lines]

    def text(self) -> str:
        """For a terminal: the tables one after the other; the warnings are told apart."""
        return "\n".join(map(as_text, self.sheets()))

    def markdown(self) -> str:
        """For a README."""
        return "\n".join([*(f"> **Warning:** {one}\n" for one in self.warnings), *map(as_markdown, self.sheets())])

    def latex(self) -> str:
        r"""For a paper: floats that ask for no package, to be read with ``\input``."""
        return "\n".join([*(f"% warning: {one}\n" for one in self.warnings), *map(as_latex, self.sheets())])

    def _measures(self, who: Sequence[str]) -> dict[str, dict[str, Any]]:
        rows: dict[str, dict[str, Any]] = {
            measure: {column: sum(self.held[name, measure, column] for name in who) for column in LABELS}
            for measure in ("images", "qa_pairs", "messages")
        }
        return rows | {
            "pairs_per_image": {name: _ratio(rows["qa_pairs"][name], rows["images"][name]) for name in LABELS}
        }

    def _mix(self) -> dict[str, dict[str, Any]]:
        """Percent as planned, of all figures as divided, and of the conversations that are kept."""
        images = {name: self.held[name, "images", _ALL] for name in self.teachers}
        return {
            name: {
                "planned_percent": self.planned_mix.get(name, 0.0),
                "assigned": self.assigned[name],
                "assigned_percent": _percent(self.assigned[name], self.assigned.total()),
                "kept": images[name],
                "reached_percent": _percent(images[name], sum(images.values())),
                "substituted": self.substituted[name],
            }
            for name in self.teachers
        }

    def _rates(self, who: Sequence[str]) -> dict[str, Any]:
        kept = sum(self.held[name, "images", _ALL] for name in who)
        figures = sum(self.figures[name] for name in who)
        leaks = sum(
            count
            for (reason, name, column), count in self.rejects.items()
            if name in who and column == _ALL and reason.startswith(_LEAK)
        )
        referring, overlapping = (sum(self.notes[code, name] for name in who) for code in (_REFERENCE, _OVERLAP))
        freed = sum(self.freed[name] for name in who)
        return {
            "figures": figures, "kept": kept,
            "image_reference": referring, "image_reference_percent": _percent(referring, kept),
            "overlap": overlapping, "overlap_percent": _percent(overlapping, kept),
            "leaks_dropped": freed, "leaks_dropped_percent": _percent(freed, kept),
            "leaks_rejected": leaks, "leaks_rejected_percent": _percent(leaks, figures),
        }  # fmt: skip

    def _by_code(self, counted: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
        names = (*self.teachers, _TEMPLATE)
        return {
            code: {name: count for name in names if (count := counted[code, name])}
            for code in sorted({code for code, _ in counted})
        }

    def _used(self, who: Sequence[str]) -> dict[str, Any]:
        tokens: dict[str, Any] = {what: sum(self.usage[name, what] for name in who) for what in _USAGE}
        return tokens | {"cost_usd": sum(self.usage[name, "cost"] for name in who) / _TINY}


def tabulate(entries: Iterable[Entry], planned_mix: Mapping[str, float]) -> Statistics:
    """Count what became of every figure, in one pass; how many there are does not matter to the memory.

    Args:
        entries: one a figure.  A figure of several modalities counts in the column of each, and once in the total.
        planned_mix: teacher -> percent.
    """
    made = Statistics(dict(planned_mix))
    for entry in entries:
        who = entry.teacher
        columns = _columns(entry.modalities)
        made.figures[who] += 1
        if who != _TEMPLATE:
            made.assigned[entry.teacher_planned] += 1
        for one in entry.spent:
            for what in _USAGE:
                made.usage[one.who, what] += getattr(one, what)
            made.usage[one.who, "cost"] += round(one.cost_usd * _TINY)
        for category in entry.refusals:
            made.refusals.update((category, column) for column in columns)
        if entry.outcome != "kept":
            made.rejects.update((entry.outcome, who, column) for column in columns)
            continue
        made.substituted[who] += who != entry.teacher_planned
        made.notes.update((code, who) for code in set(entry.notes))
        made.repairs.update((code, who) for code in set(entry.repairs))
        made.freed[who] += any(code.startswith(_DROPPED + _LEAK) for code in entry.repairs)
        for column in columns:
            made.held[who, "images", column] += 1
            made.held[who, "qa_pairs", column] += entry.pairs
            made.held[who, "messages", column] += entry.messages
    return made


def _columns(modalities: Sequence[str]) -> set[str]:
    """The columns of a figure: one for each of the paper's modalities it has, ``other``, and always the total."""
    return {name if name in _MODALITIES else "other" for name in modalities or ("other",)} | {_ALL}


def _percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 2) if whole else None


def _ratio(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _of_paper(rows: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """The paper's rows; it has no other modality, and no total but the sum, in which a figure may count twice."""
    images, qas = ({**rows[what], "sum": sum(rows[what].values())} for what in ("images", "qas"))
    per_image = {name: _ratio(qas[name], images[name]) for name in images}
    return {"source": SOURCE, "images": images, "qas": qas, "qas_per_image": per_image}


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.2f}"


def _cells(counts: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(_number(counts[name]) for name in LABELS)


_HEADER = tuple(LABELS.values())


def _measured(rows: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    return [(name, title, *_cells(row[key])) for name, row in rows.items() for key, title in _MEASURES.items()]


def _table_1(told: Mapping[str, Any]) -> Sheet:
    lines = _measured(told["table_1"])
    for name, row in told["paper"].items():
        for key, title in (("images", "images"), ("qas", "QAs as printed"), ("qas_per_image", "QAs per image")):
            cells = (*(_number(row[key][column]) for column in _MODALITIES), "-", f"({_number(row[key]['sum'])})")
            lines.append((f"{name} (paper)", title, *cells))
    note = (
        f"Rows of the paper: {SOURCE}. It does not say whether its QAs are pairs or messages. "
        "In brackets: the sum of its columns, in which a figure of two kinds counts twice."
    )
    return Sheet("Conversations (layout of the paper's table 1)", ("", "", *_HEADER), lines, 2, note)


def _template(told: Mapping[str, Any]) -> Sheet:
    lines = _measured({_TEMPLATE: told["template"]}) if told["template"] else []
    return Sheet(f"Template teacher: {BANNER}", ("", "", *_HEADER), lines, 2)


def _mix(told: Mapping[str, Any]) -> Sheet:
    columns = ("teacher", "planned %", "figures", "figures %", "kept", "reached %", "in another's place")
    keys = ("planned_percent", "assigned", "assigned_percent", "kept", "reached_percent", "substituted")
    return Sheet("Mix", columns, [(name, *(_number(row[key]) for key in keys)) for name, row in told["mix"].items()])


def _rejects(told: Mapping[str, Any]) -> Sheet:
    cross = told["rejects"]["by_reason_teacher_modality"]
    reasons = told["rejects"]["by_reason"]  # the commonest first
    lines = [(reason, name, *_cells(row)) for reason in reasons for name, row in cross[reason].items()]
    return Sheet("Rejects", ("reason", "teacher", *_HEADER), lines, 2)


def _refusals(told: Mapping[str, Any]) -> Sheet:
    lines = [(category, *_cells(row)) for category, row in told["refusals"].items()]
    return Sheet("Refusals of teachers", ("category", *_HEADER), lines)


def _rates(told: Mapping[str, Any]) -> Sheet:
    counted = ("refer to the image", "overlap the source", "leaks dropped", "rejected leaks")
    columns = ("teacher", "figures", "kept", *(cell for name in counted for cell in (name, "%")))
    lines = [(name, *map(_number, row.values())) for name, row in told["rates"].items()]
    note = (
        "Percent of the kept conversations; of rejected leaks, of the figures. "
        "Leaks dropped: conversations that lost a question with its answer for one."
    )
    return Sheet("References to the image, and leaks", columns, lines, note=note)


def _notes(told: Mapping[str, Any]) -> Sheet:
    return _coded("What the validators noticed and let pass", told["notes"])


def _repairs(told: Mapping[str, Any]) -> Sheet:
    return _coded("What was mended or dropped, and the rest kept", told["repairs"])


def _coded(title: str, counted: Mapping[str, Mapping[str, int]]) -> Sheet:
    lines: list[tuple[str, ...]] = [
        (code, name, _number(count)) for code, row in counted.items() for name, count in row.items()
    ]
    return Sheet(title, ("code", "teacher", "kept"), lines, 2)


def _used(told: Mapping[str, Any]) -> Sheet:
    columns = ("teacher", "input tokens", "output tokens", "cache read", "cache write", "USD")
    lines = [
        (name, *(_number(row[what]) for what in _USAGE), f"{row['cost_usd']:,.4f}")
        for name, row in told["usage"].items()
    ]
    return Sheet("Tokens and cost", columns, lines)


def _alike(told: Mapping[str, Any]) -> Sheet:
    lines: list[tuple[str, ...]] = [(reason, _number(count)) for reason, count in told["duplicates"].items()]
    return Sheet("Duplicates removed", ("reason", "figures"), lines)
