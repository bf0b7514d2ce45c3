"""The verbs as the tests of this folder run them: tiny, the same at every run, and their results as values."""

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES, SCORED_ANSWERS, STEPS
from tests.stages.eval_cases import question
from tests.stages.eval_cases import write as write_questions
from tests.synthesis import write_figures

FIGURES_COUNT = 8
QUESTIONS_COUNT = 8


def rows(folder, schema, *but):
    """All rows in the order of their ids, without the columns that are of one process alone."""
    found = [
        {name: value for name, value in row.items() if name not in but} for row in open_dataset(folder, schema).rows()
    ]
    return sorted(found, key=lambda row: str(row[schema.names[0]]))


def settings(**given):
    return [word for name, value in given.items() for word in ("--set", f"{name}={value}")]


class Fetch:
    """``fetch phantom``."""

    def __init__(self, given):
        pass

    def argv(self, out):
        return ["fetch", "phantom", "-o", out / "figures", "-q", "-c", "tiny", *settings(n=FIGURES_COUNT)]

    def found(self, out):
        return rows(out / "figures", FIGURES)


class Synthesize:
    """``synthesize --teacher template``."""

    def __init__(self, given):
        self.figures = write_figures(given.root / "figures", FIGURES_COUNT)

    def argv(self, out):
        return ["synthesize", self.figures, "--teacher", "template", "-o", out, "-q"]

    def found(self, out):
        return [rows(out / name, CONVERSATIONS) for name in ("captions", "instruct")]


class Eval:
    """``eval`` on a benchmark of a few questions, with the blank image."""

    def __init__(self, given):
        self.checkpoint = given.checkpoint
        asked = [question(number) for number in range(QUESTIONS_COUNT)]
        self.questions = write_questions(given.root / "small-vqa", asked)

    def argv(self, out):
        argv = ["eval", "--bench", self.questions, "--checkpoint", self.checkpoint, "-o", out / "answers", "-q"]
        return argv + settings(overlap="false", batch=2, max_new_tokens=3, draws=20)

    def found(self, out):
        return [rows(out / name, SCORED_ANSWERS, "seconds") for name in ("answers", "answers-blank")]


class Pretrain:
    """``pretrain`` of a tiny model, six steps, a checkpoint after every second."""

    verb = "pretrain"

    def __init__(self, given):
        self.data, self.parts = given.data, given.parts

    def argv(self, out):
        argv = [self.verb, self.data / "captions", "--figures", self.data / "figures", "-o", self.checkpoint(out), "-q"]
        return argv + self.training() + settings(**self.parts)

    def training(self):
        return settings(
            batch=8, micro_batch=4, epochs=2, precision="fp32", checkpointing="none", save_every=2, proven="false",
            lr=1e-3,
        )  # fmt: skip

    def checkpoint(self, out):
        return out / "checkpoints" / self.verb

    def state(self, out):
        return out / "checkpoints" / f".{self.verb}.state"

    def found(self, out):
        steps = open_dataset(self.checkpoint(out) / "steps", STEPS).rows()
        curve = [{name: row[name] for name in ("step", "loss", "lr", "grad_norm", "tokens")} for row in steps]
        return [curve, (self.checkpoint(out) / "model.safetensors").read_bytes()]


class Finetune(Pretrain):
    """``finetune`` of a tiny checkpoint."""

    verb = "finetune"

    def __init__(self, given):
        super().__init__(given)
        self.base = given.checkpoint

    def argv(self, out):
        argv = ["finetune", self.data / "instruct", "--figures", self.data / "figures", "--from", self.base]
        return [*argv, "-o", self.checkpoint(out), "-q", *self.training()]


VERBS = {"fetch": Fetch, "synthesize": Synthesize, "eval": Eval, "pretrain": Pretrain, "finetune": Finetune}


class Bench:
    """Inputs, and an undisturbed run of every verb that is asked for."""

    def __init__(self, forks, root, data, checkpoint, tower, llm):
        self.forks, self.root, self.data, self.checkpoint = forks, root, data, checkpoint
        self.parts = {"tower": tower, "llm": llm, "scales": "32,64,96"}
        self._verbs = {}

    def verb(self, name):
        """A verb, the values of its undisturbed run, and how many operations on the disk that took."""
        if name not in self._verbs:
            verb, out = VERBS[name](self), self.root / name
            fork = self.start(verb, out)
            assert fork.wait() == 0, self.said(out)
            self._verbs[name] = verb, verb.found(out), fork.operations()
        return self._verbs[name]

    def start(self, verb, out, **more):
        out.mkdir(exist_ok=True)
        return self.forks.start(verb.argv(out), out.with_suffix(".log"), **more)  # beside it, where there is room

    def said(self, out):
        """What the last command that wrote there printed, the end of it."""
        return out.with_suffix(".log").read_text()[-3000:]

    def finish(self, verb, out):
        """The same command, left alone."""
        status = self.start(verb, out).wait()
        assert status == 0, self.said(out)
        return verb.found(out)
