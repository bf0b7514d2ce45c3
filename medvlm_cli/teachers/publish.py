"""The datasets of a commission: ``instruct``, ``replies``, and what is told about them."""

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medvlm_cli.core import commit
from medvlm_cli.core.arrow import Dataset, Harvest, Reject, Writer, open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.record import RUN
from medvlm_cli.core.schemas import REPLIES, TAUGHT
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers.examine import MEANINGS, Found, reject_of, row_of
from medvlm_cli.teachers.judge import Mark, family_of
from medvlm_cli.teachers.ledger import NAME, Answered, Ledger
from medvlm_cli.teachers.prices import dollars, table_id
from medvlm_cli.teachers.statistics import JUDGE, Entry, Spent, Statistics, tabulate
from medvlm_cli.teachers.survey import MEANINGS as UNASKED
from medvlm_cli.teachers.survey import Surveyed, shares_of
from medvlm_cli.teachers.terms import tag_of, terms_of
from medvlm_cli.teachers.work import claude_price

if TYPE_CHECKING:
    from medvlm_cli.teachers.commission import Commission
    from medvlm_cli.teachers.judge import Judge


class Publisher:
    """Writes what a commission came to.

    Args:
        commission: the order.
        inputs: the figures datasets by name, for the record.
    """

    def __init__(self, commission: "Commission", inputs: Mapping[str, Path]) -> None:
        self._order = commission
        self._inputs = dict(inputs)
        self._folder = commission.out / "instruct"
        self._keys = [figure_id for figure_id, _ in commission.figures]

    def _writer(self) -> Writer:
        order = self._order
        config = order.config
        judging = {"judge": config.judge, "judge_threshold": config.judge_threshold} if config.judge else {}
        settings = {
            "dataset": "instruct",
            **order.identity,
            "rules": order.rules,
            "near_duplicates": config.near_duplicates,
            **judging,
        }
        return Writer(
            self._folder, order.schema, stage="synthesize", config=settings, inputs=self._inputs, keys=self._keys
        )

    def finished(self) -> dict[str, Any] | None:
        """The summary, if the folder holds this commission finished.

        Raises:
            BusyError: it holds another run, or another process writes there.
        """
        if not (self._folder / RUN).exists():
            return None
        with contextlib.suppress(_NotFinishedError), self._writer() as writer:
            if not writer.done:
                raise _NotFinishedError  # leaves what is there for ``write``
        told = all((self._folder / name).is_file() for name in _TOLD)  # they are written after the manifest
        if not writer.done or (not told and (self._order.state / NAME).is_file()):
            return None
        return self._summary()

    def write(
        self, ledger: Ledger, found: Surveyed, dropped: Mapping[str, str], judge: "Judge | None", tell: Tell
    ) -> dict[str, Any]:
        """Write everything and say what it came to.

        Args:
            ledger: holds every answer and what was found of it.
            found: the survey.
            dropped: figures whose conversation is nearly another one's: id -> the id that is kept.
            judge: has given its marks; None where nobody judges.
            tell: told how far it is.
        """
        came = _Came(found, dropped, judge.marks if judge else {})
        self._write_replies(ledger, judge, tell)
        with self._writer() as writer:
            writer.extra |= self._extra(ledger)
            done = 0
            for shard, part in writer.todo():
                writer.commit(shard, (self._harvest(ledger, came, one) for one in part))
                done += len(part)
                tell("write", done, len(self._keys))
        from medvlm_cli.teachers.page import write_page  # Jinja and Pillow, at the end only

        dataset = open_dataset(self._folder, TAUGHT)
        statistics = tabulate(self._entries(ledger, found, dataset), shares_of(self._order.config))
        commit.write_text(self._folder / "stats.json", json.dumps(self._told(ledger, statistics), indent=1) + "\n")
        commit.write_text(self._folder / "stats.md", statistics.markdown())
        commit.write_text(self._folder / "stats.tex", statistics.latex())
        write_page(dataset, self._with_image, statistics, UNASKED | MEANINGS)
        return self._summary()

    def _with_image(self, figure_id: str) -> dict[str, Any]:
        return self._order.home[figure_id].row(figure_id)

    def _summary(self) -> dict[str, Any]:
        """What a finished commission tells; the same when the command is repeated."""
        dataset = open_dataset(self._folder, TAUGHT)
        try:
            told = json.loads((self._folder / "stats.json").read_text("utf-8"))
        except (OSError, ValueError) as error:
            what = f"{self._folder / 'stats.json'}: not there, or no JSON"
            raise DataError(what, f"remove {self._folder} and run the command again; nothing is asked twice") from error
        rejects = dataset.manifest.get("rejected", 0)
        return {
            "instruct": {
                "conversations": len(dataset),
                "rejected": rejects,
                **told["statistics"]["rejects"]["by_reason"],
            },
            "money": told["money"],
            "table": told["table"],
            "warning": told["statistics"]["warnings"],
            "report": str(self._folder / "report.html"),
        }

    def _told(self, ledger: Ledger, statistics: Statistics) -> dict[str, Any]:
        return {"statistics": statistics.as_dict(), "money": self._money(ledger), "table": statistics.text()}

    def _money(self, ledger: Ledger) -> dict[str, float]:
        """In dollars: what this run spent, by usage, and what may have been billed without an answer."""
        money = ledger.money()
        return {"spent_usd": round(dollars(money.spent), 6), "lost_usd_at_most": round(dollars(money.lost), 6)}

    def _extra(self, ledger: Ledger) -> dict[str, Any]:
        """For ``run.json`` and the card."""
        order = self._order
        models = sorted({order.families[ask.teacher].model for ask, _, _, _ in ledger.asks()})
        terms = [
            {"model": model, "tag": tag_of(model), "says": getattr(terms_of(model), "says", "")} for model in models
        ]
        notes = [
            f"Prompt `{order.prompt.name}` ({order.prompt.prompt_id}), rules {order.rules.split()[0]}, "
            f"mix {', '.join(f'{name} {share:g} %' for name, share in shares_of(order.config).items())}.",
            *(f"`{one['model']}` ({one['tag']}): {one['says']}" for one in terms if one["says"]),
        ]
        if shares_of(order.config).get("claude"):
            notes.append(
                "The paper's Claude 3 Opus was retired on 2026-01-05; "
                f"`{order.config.claude_model}` stands in its place, with the provider's default sampling."
            )
        if order.config.judge:
            model = family_of(order.config.judge, order.families).model
            notes.append(f"Judge: `{model}`; a mark below {order.config.judge_threshold:g} is a reject.")
        money = self._money(ledger)
        if order.recording is not None:
            notes.append("Replayed from recorded answers; nobody was asked, and the costs are those of the recording.")
        else:
            lost = f", and at most ${money['lost_usd_at_most']:,.4f} for tries without an answer"
            lost = lost if money["lost_usd_at_most"] else ""
            notes.append(f"Cost: ${money['spent_usd']:,.4f} by the usage that the providers state{lost}.")
        return {
            "notes": notes,
            "accepted_terms": list(order.config.accept_terms),
            "money": money,
            "settings": {"caching": order.composer.caching, "claude_mode": order.config.claude_mode},
            **self._prices(models),
        }

    def _prices(self, models: Sequence[str]) -> dict[str, Any]:
        """By which prices the money was counted; nothing where nobody was paid."""
        config = self._order.config
        if self._order.recording is not None or self._order.families["claude"].model not in models:
            return {}
        dated = claude_price(config, config.claude_model).dated
        return {"prices": {"dated": dated, "table": table_id(Path(config.prices) if config.prices else None)}}

    # ------------------------------------------------------------------ rows

    def _harvest(self, ledger: Ledger, came: "_Came", figure_id: str) -> Harvest:
        made = self._made(ledger, came, figure_id)
        return Harvest(1, [], [made]) if isinstance(made, Reject) else Harvest(1, [made], [])

    def _made(self, ledger: Ledger, came: "_Came", figure_id: str) -> dict[str, Any] | Reject:
        """The row of a figure, or why there is none."""
        surveyed, dropped = came.surveyed, came.dropped
        if reject := surveyed.rejects.get(figure_id):
            return reject
        answers = [(one, Found.loaded(ledger.verdict(one.ask.key) or "")) for one in ledger.answers_about(figure_id)]
        if not answers:
            code, message = ledger.failures_about(figure_id)[0]
            return Reject(figure_id, code, f"{MEANINGS.get(code, code)} ({message})")
        answered, found = next((one for one in answers if not one[1].reasons), answers[-1])
        if found.reasons:
            return reject_of(answered, found)
        if figure_id in dropped:
            what = f"nearly the conversation of {dropped[figure_id]}"
            return Reject(figure_id, "near_duplicate", what, answered.reply.text)
        mark = came.marks.get(figure_id)
        if self._order.config.judge:
            threshold = self._order.config.judge_threshold
            if mark is None or mark.score is None:
                what = f"{MEANINGS['judge_silent']}: {mark.why if mark and mark.why else 'it said nothing'}"
                return Reject(figure_id, "judge_silent", what, answered.reply.text)
            if mark.score < threshold:
                what = f"mark {mark.score:g}, below {threshold:g}: {mark.why or 'no reason given'}"
                return Reject(figure_id, "judged_low", what, answered.reply.text)
        figure = self._order.figure(figure_id)
        about = {
            "teacher": self._order.families[answered.ask.teacher].label,
            "teacher_planned": self._order.families[surveyed.teacher[figure_id]].label,
            "prompt_id": self._order.prompt.prompt_id,
            "request": self._order.composer.user(figure),
            "judge_score": mark.score if mark else None,
        }
        return row_of(figure, answered, found, about)

    def _write_replies(self, ledger: Ledger, judge: "Judge | None", tell: Tell) -> None:
        """Everything that was said and everything that failed, as replies/1."""
        judged = judge.asks if judge else {}
        by_key = {ask.key: (ask, code, message) for ask, _, code, message in ledger.asks()}
        by_key |= {ask.key: (ask, code, message) for ask, _, code, message in ledger.asks("judge") if ask.key in judged}
        words = {"teach": lambda figure_id: self._order.composer.user(self._order.figure(figure_id))}
        families = {"teach": self._order.families}
        if judge:
            words["judge"], families["judge"] = judge.user, {judge.family.name: judge.family}
        settings = {"dataset": "replies", **self._order.identity}
        schema = REPLIES.with_metadata({**REPLIES.metadata, **self._order.asked})
        with Writer(
            *(self._order.out / "replies", schema),
            stage="synthesize",
            config=settings,
            inputs=self._inputs,
            keys=list(by_key),
        ) as writer:
            for number, part in list(writer.todo()):
                rows = []
                for ask, code, message in (by_key[key] for key in part):
                    answered = ledger.answer_to(ask.key)
                    row = {
                        "request_sha256": ask.key,
                        "figure_id": ask.figure_id,
                        "purpose": ask.purpose,
                        "teacher": families[ask.purpose][ask.teacher].label,
                        "request": words[ask.purpose](ask.figure_id),
                        "outcome": "answered" if answered else str(code),
                    }
                    rows.append(row | _said(answered, message))
                writer.commit(number, (Harvest(1, [row], []) for row in rows))
                tell("replies", number, None)

    # ------------------------------------------------------------------ counts

    def _entries(self, ledger: Ledger, surveyed: Surveyed, dataset: Dataset) -> Iterator[Entry]:
        """What became of every figure, for the statistics."""
        columns = ["figure_id", "turns", "warnings", "notes", "repairs"]
        kept = {  # without the words: a hundred thousand conversations take half a gigabyte
            row["figure_id"]: (len(row["turns"]), (*row["warnings"], *row["notes"]), tuple(row["repairs"]))
            for row in dataset.rows(columns)
        }
        reasons = {reject["id"]: reject["reason"] for reject in dataset.rejects()}
        for figure_id, modality in self._order.figures:
            turns, notes, repairs = kept.get(figure_id, (0, (), ()))
            answers = ledger.answers_about(figure_id)
            last = answers[-1] if answers else None
            refusals = [one.reply for one in answers if one.reply.stop_reason == "refusal"]
            planned = surveyed.teacher[figure_id]
            judged = ledger.answers_about(figure_id, "judge")
            yield Entry(
                figure_id=figure_id,
                teacher=last.ask.teacher if last else planned,
                teacher_planned=planned,
                modalities=(modality,),
                outcome="kept" if turns else reasons[figure_id],
                pairs=turns // 2,
                messages=turns,
                refusals=tuple(one.stop_category or "uncategorised" for one in refusals),
                spent=(*(_spent(one, one.ask.teacher) for one in answers), *(_spent(one, JUDGE) for one in judged)),
                notes=notes,
                repairs=repairs,
            )


_TOLD = ("stats.json", "stats.md", "stats.tex", "report.html")


@dataclass(frozen=True)
class _Came:
    """What the figures came to, beside what the ledger holds."""

    surveyed: Surveyed
    dropped: Mapping[str, str]
    """Figures whose conversation is nearly another one's."""
    marks: Mapping[str, Mark]
    """The judge's, by figure."""


class _NotFinishedError(Exception):
    """The folder holds this run, unfinished."""


def _spent(answered: Answered, who: str) -> Spent:
    usage = answered.reply.usage
    return Spent(
        who=who, input_tokens=usage.input_tokens, output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read, cache_write_tokens=usage.cache_write_5m + usage.cache_write_1h,
        cost_usd=dollars(answered.cost),
    )  # fmt: skip


def _said(answered: Answered | None, message: str | None) -> dict[str, Any]:
    """The columns of replies/1 that hold an answer; of a failure its message."""
    if answered is None:
        empty = dict.fromkeys([field.name for field in REPLIES][7:])
        return empty | {"raw_response": message, "stop_reason": None, "cost_usd": 0.0, "attempts": 0}
    reply, usage = answered.reply, answered.reply.usage
    return {
        "raw_response": reply.text, "stop_reason": reply.stop_reason, "stop_category": reply.stop_category,
        "input_tokens": usage.input_tokens, "output_tokens": usage.output_tokens,
        "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h, "cache_read_tokens": usage.cache_read,
        "thinking_tokens": usage.thinking_tokens, "cost_usd": dollars(answered.cost),
        "served_model": reply.served_model, "provider_id": reply.provider_id, "attempts": answered.attempts,
        "replied": answered.replied,
    }  # fmt: skip
