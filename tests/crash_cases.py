"""``python -m tests.crash_cases CASE MODE FOLDER [STRIDE]``: a run that is cut off at its first operation, begun
anew, cut off at its second, and so on until one ends clean; then what is damaged, as JSON.

Every attempt is forked from this process, which has done the whole run once and has all libraries loaded.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import signal
import sys
import traceback
from concurrent.futures import Future
from pathlib import Path

from medvlm_cli import app
from medvlm_cli.core import commit, failpoint
from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES
from tests.power_cut import PowerCut

SMALL = ("-c", "tiny", "-q")


class Alone:
    """Does in this process what the workers of ``core.crew`` do in theirs, which take longer to start than a run."""

    def __init__(self, workers):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        pass

    def futures(self, function, keys):
        for key in keys:
            future = Future()
            future.set_result(function(key))
            yield key, future


def medvlm(*argv):
    """The command in this process, silent."""
    sys.argv = ["medvlm", *map(str, argv)]
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            app.main()
        except SystemExit as end:
            assert not end.code, f"{argv} ended with {end.code}"


def rows_of(folder, schema):
    """A digest of all rows in order of their ids; raises where the dataset is not whole."""
    dataset = open_dataset(folder, schema)
    rows = sorted(map(repr, dataset.rows()))
    assert len(dataset) == len(rows)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


class Fetch:
    def prepare(self, folder):
        from medvlm_cli.stages import fetch

        fetch.Crew = Alone

    def run(self, folder):
        medvlm("fetch", "phantom", "-o", folder / "figures", "--set", "n=2", *SMALL)

    def found(self, folder):
        return rows_of(folder / "figures", FIGURES)

    def partly(self, folder):
        """What may be there at any moment: a dataset that says it is whole is."""
        if (folder / "figures" / "manifest.json").exists():
            assert self.found(folder)


class Synthesize(Fetch):
    def prepare(self, folder):
        super().prepare(folder)
        medvlm("fetch", "phantom", "-o", folder / "figures" / "phantom", "--set", "n=2", *SMALL)

    def run(self, folder):
        medvlm("synthesize", "-w", folder, *SMALL)

    def found(self, folder):
        return [rows_of(folder / "conversations" / name, CONVERSATIONS) for name in ("captions", "instruct")]

    def partly(self, folder):
        for name in ("captions", "instruct"):
            if (folder / "conversations" / name / "manifest.json").exists():
                assert rows_of(folder / "conversations" / name, CONVERSATIONS)


class Eval(Fetch):
    """``eval`` with a tiny model, which is loaded once: forked processes find it in their memory."""

    def prepare(self, folder):
        import torch

        from medvlm_cli.core import exam
        from medvlm_cli.core.model.checkpoint import save
        from medvlm_cli.core.model.vlm import build_model
        from tests import conftest
        from tests.stages.eval_cases import question, write

        torch.set_num_threads(1)
        tower, names = folder / "tower", {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
        conftest.save_tiny_tower(tower)
        conftest.save_tiny_llm(folder / "llm", conftest.byte_level_tokenizer(conftest.LLAMA3_SPECIAL, **names))
        model, processor = build_model(str(tower), str(folder / "llm"), conftest.SCALES)
        save(model, processor, folder / "checkpoint", {"stage": "finetune"})
        write(folder / "questions", [question(number) for number in range(3)])
        generator = exam.Generator(folder / "checkpoint", "fp32")
        exam.Generator = lambda where, precision: generator

    def run(self, folder):
        medvlm(
            "eval", "--bench", folder / "questions", "--checkpoint", folder / "checkpoint", "-o", folder / "answers",
            *(word for one in ("batch=2", "max_new_tokens=2", "draws=5", "overlap=false") for word in ("--set", one)),
            *SMALL,
        )  # fmt: skip

    def found(self, folder):
        from tests.stages.eval_cases import answers

        scores = json.loads((folder / "answers" / "scores.json").read_text())
        assert "</html>" in (folder / "answers" / "report.html").read_text()
        return [answers(folder / "answers"), answers(folder / "answers-blank"), scores["sheets"]]

    def partly(self, folder):
        from tests.stages.eval_cases import answers

        for name in ("answers", "answers-blank"):
            if (folder / name / "manifest.json").exists():
                assert len(answers(folder / name)) == 3
        if (folder / "answers" / "scores.json").exists():
            json.loads((folder / "answers" / "scores.json").read_text())


class Checkpoint:
    """The checkpoints and the log of a training, without the training."""

    STEPS = 4

    def prepare(self, folder):
        from medvlm_cli.core.record import write_run

        write_run(folder, {"fingerprint": "this"})

    def run(self, folder):
        from medvlm_cli.core.resume import Checkpoints, StepLog

        checkpoints, log = Checkpoints(folder), StepLog(folder / "steps.jsonl")
        whole = [path for path, fault in checkpoints.newest() if not fault]
        done = int(whole[0].name.removeprefix("step-")) if whole else 0
        promised = folder / "promised"
        assert done >= (int(promised.read_text()) if promised.exists() else 0), "a finished checkpoint is lost"
        log.start(done)
        for step in range(done + 1, self.STEPS + 1):
            log.append({"step": step, "loss": 1 / step})
            log.sync()
            checkpoints.begin(step)
            for name in ("trainable.safetensors", "optimizer.pt", "ranks/0.pt"):
                self.as_a_library_writes(checkpoints.part(step) / name, f"{name} {step}".encode() * 50)
            checkpoints.commit(step)
            promised.write_text(str(step))  # not through ``commit``: the test's own note, which no cut takes back

    def as_a_library_writes(self, path, data):
        """Without settling anything; the points are there to tell what is unsettled."""
        if not path.parent.exists():
            failpoint.reached("open", path.parent)
            path.parent.mkdir()
        failpoint.reached("open", path)
        failpoint.reached("write", path)
        path.write_bytes(data)

    def found(self, folder):
        from medvlm_cli.core.resume import KEEP, Checkpoints, StepLog

        rows = [row["step"] for row in StepLog(folder / "steps.jsonl").rows()]
        return [rows, [(path.name, fault) for path, fault in Checkpoints(folder).newest()][:KEEP]]

    def partly(self, folder):
        from medvlm_cli.core.resume import Checkpoints

        for path, fault in Checkpoints(folder).newest():
            assert not fault, f"{path.name} has its name and is not whole: {fault}"
        if (folder / "latest").exists():
            assert (folder / (folder / "latest").read_text().strip()).is_dir()


CASES = {"fetch": Fetch, "synthesize": Synthesize, "eval": Eval, "checkpoint": Checkpoint}


def child(task):
    """Run a task in a forked process; whether it ended clean, was cut off, or what it raised."""
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(reading)
        code = 0
        try:
            task()
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            code = 1
            os.write(writing, traceback.format_exc()[-4000:].encode())
        os._exit(code)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "cut", ""
    return ("clean" if status == 0 else "failed"), said


def cut_off(case, folder, at, mode):
    """One attempt, in a forked process that dies at its ``at``-th operation."""

    def task():
        cut = PowerCut(at, mode)
        failpoint.reached, os.fsync = cut, cut.settled
        note_promises(folder.parent / "promises.jsonl")
        case.run(folder)

    return child(task)


def note_promises(notes):
    """Note, once a record is said to be durable, how long its file is then; until the program removes the file."""
    reached, append_line, sync = failpoint.reached, commit.append_line, commit.Growing.sync

    def note(path, size):
        with notes.open("a") as file:
            file.write(json.dumps([str(path), size]) + "\n")

    def noted_line(path, line):
        append_line(path, line)
        note(path, path.stat().st_size)

    def noted_sync(growing):
        sync(growing)
        note(growing.path, growing.path.stat().st_size)

    def noted_end(operation, path, to=None):
        if operation == "unlink":
            note(path, 0)
        reached(operation, path, to)

    failpoint.reached, commit.append_line, commit.Growing.sync = noted_end, noted_line, noted_sync


def check_promises(notes):
    """Raise where a record that was said to be durable is not there."""
    lines = notes.read_text().splitlines() if notes.exists() else []
    for path, size in dict(map(json.loads, lines)).items():
        there = Path(path).stat().st_size if Path(path).exists() else 0
        assert there >= size, f"{path}: of {size} durable bytes {there} are there"


def walk(case, mode, root, impatient, stride=1):
    """Cut off one run after the other; returns the number of points, and what was damaged at which.

    With ``impatient``, the first damage ends it, else the tenth.  ``stride`` is from one point to the next.
    """
    golden = root / "golden"
    golden.mkdir()
    case.prepare(golden)
    start = root / "start"
    shutil.copytree(golden, start)
    case.run(golden)
    wanted, damaged, at = case.found(golden), [], 1
    while True:
        folder = root / "run"
        shutil.copytree(start, folder)
        (root / "promises.jsonl").unlink(missing_ok=True)
        how, said = cut_off(case, folder, at, mode)
        if how == "clean":
            return {"points": at - 1, "damaged": damaged}
        if how == "failed":
            damaged.append([at, said])
        else:
            damaged += [[at, told] for told in after(case, folder, wanted)]
        shutil.rmtree(folder)
        if len(damaged) >= (1 if impatient else 10):
            return {"points": at, "damaged": damaged}
        at += stride


def after(case, folder, wanted):
    """What is wrong with what a cut left, with the run that goes on from it, or with its result; nothing as a rule."""

    def task():
        check_promises(folder.parent / "promises.jsonl")
        case.partly(folder)
        case.run(folder)
        found = case.found(folder)
        assert found == wanted, f"{found} is not {wanted}"

    how, said = child(task)
    return [] if how == "clean" else [said or how]


def main(name, mode, root, stride=1, impatient=False):
    os.fsync = lambda file: None  # what it makes durable is ``PowerCut``'s to say, and the disk's to take time for
    print(json.dumps(walk(CASES[name](), mode, Path(root), impatient, int(stride))))


if __name__ == "__main__":
    main(*sys.argv[1:])
