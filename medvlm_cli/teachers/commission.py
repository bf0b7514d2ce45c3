"""One order of conversations, from the survey of the figures to the finished datasets."""

import dataclasses
import functools
import hashlib
import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from medvlm_cli.core.arrow import Dataset
from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.errors import LaterError
from medvlm_cli.core.schemas import TAUGHT
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers import replay
from medvlm_cli.teachers.asks import Composer, families
from medvlm_cli.teachers.contamination import Benchmarks
from medvlm_cli.teachers.examine import Found, examine, rules_of
from medvlm_cli.teachers.judge import Judge
from medvlm_cli.teachers.launch import Serving, launched, served_name
from medvlm_cli.teachers.ledger import Ask, Ledger
from medvlm_cli.teachers.plan import plan, refuse
from medvlm_cli.teachers.prices import dollars
from medvlm_cli.teachers.prompt import load
from medvlm_cli.teachers.publish import Publisher
from medvlm_cli.teachers.status import seen
from medvlm_cli.teachers.survey import Surveyed, chosen, dumped, loaded, survey
from medvlm_cli.teachers.work import Work, answer

WORDS = ["figure_id", "caption", "mentions", "modality", "license"]
"""Columns of a figure that requests and rows are made of: each is read several times a figure."""
CACHED = 4096
"""Requests whose words are kept: they are needed for the price, and again when they are sent."""
PAGE = 512


class Commission:
    """What was ordered: figures, teachers, prompt, and where everything goes.

    Args:
        datasets: figures/1.
        home: which of them holds which figure.
        benchmarks: questions/1 datasets that nothing may share words with.
        out: folder of the datasets to make.
        config: settings.

    Raises:
        ConfigError: prompt, shots, mix or recording are not what they must be.
    """

    def __init__(
        self,
        datasets: Sequence[Dataset],
        home: Mapping[str, Dataset],
        benchmarks: Sequence[Dataset],
        out: Path,
        config: SynthesizeConfig,
    ) -> None:
        self.datasets, self.home, self.out = datasets, home, out
        if config.launch:
            config = dataclasses.replace(config, llama_model=served_name(config.launch))
        self.recording = replay.open_recording(config.teacher) if config.teacher.startswith("replay:") else None
        self.config = self.recording.settings(config) if self.recording else config
        given = (Path(path) if path else None for path in (config.prompt, config.shots))
        self.prompt = (self.recording and self.recording.prompt) or load(*given)
        self.families = families(self.config)
        wanted = self.config.caching == "on" or (self.config.caching == "auto" and self.config.claude_mode == "sync")
        ttl = "5m" if self.config.claude_mode == "sync" else "1h"  # a batch may take an hour
        self.composer = Composer(prompt=self.prompt, seed=self.config.seed, caching=ttl if wanted else "")
        self._benchmarks = benchmarks
        self.benchmarks_id = hashlib.sha256("".join(one.sha256 for one in benchmarks).encode()).hexdigest()[:12]
        self.rules = rules_of(self.benchmarks_id)
        self.state = out / ".instruct.state"
        self.asked = replay.asked(self.config, self.prompt)

    @property
    def schema(self) -> pa.Schema:
        """The extended conversations/1, with what all requests share in its metadata."""
        return TAUGHT.with_metadata({**(TAUGHT.metadata or {}), **self.asked})

    @functools.cached_property
    def benchmarks(self) -> Benchmarks:
        """The questions of the test splits."""
        return Benchmarks.of(
            (row["benchmark"], row["question"], " ".join(row["answers"]))
            for dataset in self._benchmarks
            for row in dataset.rows(["benchmark", "split", "question", "answers"])
            if row["split"] == "test"
        )

    @functools.cached_property
    def figures(self) -> list[tuple[str, str]]:
        """Ids and modalities of the figures to write about."""
        rows = (row for dataset in self.datasets for row in dataset.rows(["figure_id", "modality"]))
        return chosen(((row["figure_id"], row["modality"]) for row in rows), self.config)

    def figure(self, figure_id: str) -> dict[str, Any]:
        """The words of a figure."""
        return self.home[figure_id].row(figure_id, WORDS)

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """All that decides what is asked; another identity is another run."""
        config = self.config
        return {
            "figures": sorted(dataset.sha256 for dataset in self.datasets),
            "benchmarks": self.benchmarks_id,
            "teacher": config.teacher,
            **{name: getattr(config, name) for name in ("mix", "mix_mode", "seed", "limit", "on_refusal")},
            "families": {name: [one.model, dict(one.parameters)] for name, one in self.families.items()},
            "prompt": self.prompt.sha256,
        }

    @property
    def run(self) -> str:
        """The name of the run in the ledger."""
        source = self.recording.sha256 if self.recording else ""
        text = json.dumps([self.identity, source], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    # ------------------------------------------------------------------ before

    def plan(self) -> dict[str, Any]:
        """What is still to be asked and what that would cost; nobody is asked and nothing is written."""
        return plan(self._survey([]), self.config, self.composer, self.families, seen(self.state, self.run))

    def _survey(self, asks: list[Ask]) -> Surveyed:
        rows = (row for dataset in self.datasets for row in dataset.rows(WORDS))
        return survey(
            self.figures, rows, self.config, self.composer, self.benchmarks.hit, asks.append, self.families
        )  # fmt: skip

    def _begin(self, ledger: Ledger) -> Surveyed:
        """Survey the figures, or find what an earlier process of this run found."""
        told = ledger.fact(f"survey {self.run}")
        if told is not None and ledger.fact("run") == self.run:  # another run may have taken over what both ask
            ledger.begin(self.run)
            return loaded(told, self.figures, self.config)
        asks: list[Ask] = []
        found = self._survey(asks)
        with ledger.transaction():
            ledger.begin(self.run, asks)
            ledger.note(f"survey {self.run}", dumped(found))
            ledger.note("run", self.run)
        return found

    # ------------------------------------------------------------------ the work

    def fulfil(self, inputs: Mapping[str, Path], announce: Callable[[dict], None], tell: Tell) -> dict[str, Any]:
        """Ask, examine, compare, judge, and write the datasets.

        Args:
            inputs: the figures datasets by name, for the record.
            announce: told the plan before anything is sent.
            tell: told how far it is.

        Returns:
            The summary: the counts, the money, the table.

        Raises:
            ConfigError: nobody to ask, no cap, or terms that were not accepted.
            LaterError: some requests have no answer yet.
            RemoteError: a teacher refuses.
        """
        publisher = Publisher(self, inputs)
        if done := publisher.finished():
            return done
        with Ledger(self.state) as ledger:
            found = self._begin(ledger)
            if self.recording is not None:
                self._replay(ledger)
            else:
                announce(plan(found, self.config, self.composer, self.families, seen(self.state, self.run)))
                refuse(found, self.config, self.families)
                self._ask(ledger, tell)
            self._refuse_the_unfinished(ledger)
            self._examine(ledger, tell)
            dropped = self._near_duplicates(ledger, tell)
            judge = Judge(self, ledger) if self.config.judge else None
            if judge:
                judge.judge(dropped, tell)
            return publisher.write(ledger, found, dropped, judge, tell)

    def _ask(self, ledger: Ledger, tell: Tell) -> None:
        words = functools.lru_cache(maxsize=CACHED)(lambda figure_id: self.composer.user(self.figure(figure_id)))
        work = Work(
            config=self.config,
            composer=self.composer,
            families=self.families,
            ledger=ledger,
            user_of=lambda ask: words(ask.figure_id),
            tell=tell,
        )
        self.serve(work, tell)
        if self.config.on_refusal == "other" and self._pass_on(ledger):
            self.serve(work, tell)

    def serve(self, work: Work, tell: Tell) -> None:
        """Have something answered, by a server that is started for it where the user wants one.

        Raises:
            ConfigError: vLLM is not installed.
            ResourceError: the server does not start.
        """
        if not self.config.launch or self.config.offline or not work.open("llama"):
            return answer(work)
        config = self.config
        serving = Serving(copies=config.launch_copies, extra=shlex.split(config.launch_arguments))
        with launched(self.config.launch, log=self.state / "vllm.log", tell=tell, serving=serving) as url:
            own = dataclasses.replace(self.config, llama_endpoint=(url,))
            return answer(dataclasses.replace(work, config=own))

    def _pass_on(self, ledger: Ledger) -> bool:
        """Give figures that their teacher refused to the other one; whether there are any."""
        other = {"claude": "llama", "llama": "claude"}
        refused = [one.ask for one in ledger.answered() if one.reply.stop_reason == "refusal"]
        asks = [self.composer.ask(self.families[other[ask.teacher]], self.figure(ask.figure_id)) for ask in refused]
        ledger.add(asks)
        return bool(asks)

    def _replay(self, ledger: Ledger) -> None:
        """Take recorded answers, also those of whoever a refused figure was passed on to."""
        self._take(ledger)
        if self.config.on_refusal == "other" and self._pass_on(ledger):
            self._take(ledger)

    def _take(self, ledger: Ledger) -> None:
        """Take recorded answers to what is open; what the recording lacks has failed."""
        assert self.recording is not None
        wanted = {ask.key for ask, state, _, _ in ledger.asks() if state != "answered"}
        ledger.recorded(one for one in self.recording.answers(self.families) if one.ask.key in wanted)
        for ask, state, _, _ in list(ledger.asks()):
            if state not in ("answered", "failed"):
                code, message = self.recording.failure(ask.key)
                ledger.fail(ask.key, code, message, final=True)

    def _refuse_the_unfinished(self, ledger: Ledger) -> None:
        """The datasets are made of answers to everything; until then, say what is missing."""
        left: dict[str, int] = {}
        for (purpose, teacher, state), count in ledger.counts().items():
            if purpose == "teach" and state not in ("answered", "failed"):
                left[teacher] = left.get(teacher, 0) + count
        if left:
            spent = dollars(ledger.money().spent)
            missing = ", ".join(f"{count:,} of {teacher}" for teacher, count in left.items())
            what = f"{sum(left.values()):,} requests have no answer yet ({missing}); ${spent:,.4f} spent"
            raise LaterError(what, "run the same command again: it asks for these alone", sum(left.values()))

    # ------------------------------------------------------------------ after

    def _examine(self, ledger: Ledger, tell: Tell) -> None:
        """Parse and validate what was not looked at under the rules in force."""
        total = sum(count for (purpose, _, state), count in ledger.counts().items() if (purpose, state) == _TAUGHT)
        page: list[tuple[str, str]] = []
        tell("examine", 0, total)
        for done, one in enumerate(ledger.unjudged(self.rules), 1):
            found = examine(one.reply, self.figure(one.ask.figure_id), self.benchmarks.hit_pair)
            page.append((one.ask.key, found.dumped()))
            if len(page) == PAGE:
                ledger.judge(self.rules, page)
                page = []
                tell("examine", done, total)
        ledger.judge(self.rules, page)
        tell("examine", total, total)

    def _near_duplicates(self, ledger: Ledger, tell: Tell) -> dict[str, str]:
        """Figures whose conversation is nearly that of another one: id -> the id that is kept."""
        if not self.config.near_duplicates:
            return {}
        from medvlm_cli.core.near import near_duplicates

        tell("compare", 0, None)
        return near_duplicates(self._kept(ledger), self.config.near_duplicates)

    def _kept(self, ledger: Ledger) -> Iterator[tuple[str, str]]:
        for _, figure_id, text in ledger.verdicts():
            found = Found.loaded(text)
            if not found.reasons:
                yield figure_id, found.text()


_TAUGHT = ("teach", "answered")
