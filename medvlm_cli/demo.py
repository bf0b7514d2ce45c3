"""``make demo``: the six verbs on drawn figures with the tiny preset, offline, and the paper's claim in miniature.

Two models are trained alike but for the scales: one reads each figure at 32 pixels only, the other at 32, 64 and 96.
Whether a small lesion is smooth or speckled is too fine for 32 pixels: the gap is there by construction, and shows the
mechanism, not clinical value.  Every step is a ``medvlm`` command, printed as it is run; the two models train side by
side, a process each.
"""

import argparse
import json
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.phantom import specimen
from medvlm_cli.core.schemas import QUESTIONS

ROWS = ("always", "blank", "one_scale", "three_scales")
TITLES = ("commonest answer", "blank image", "one scale", "three scales")


class Demo:
    """One run of the demo: a workspace, and the seconds each step took."""

    def __init__(self, root: Path, seed: int) -> None:
        self.root = root
        self.workspace = root if seed == 0 else root / f"seed-{seed}"
        self.seed = seed
        self.seconds: dict[str, float] = {}

    def medvlm(self, step: str, *argv: str, workspace: Path | None = None) -> dict[str, Any]:
        """Run one command with ``--json``, show it, and return what it prints; end the demo where it fails."""
        where = ["-w", str(workspace or self.workspace)]
        print("$ medvlm " + shlex.join([*argv, *where]), flush=True)
        began = time.monotonic()
        command = [sys.executable, "-m", "medvlm_cli", *argv, *where, "-c", "tiny", "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        self.seconds[step] = round(time.monotonic() - began, 1)
        if done.returncode:
            raise SystemExit(done.returncode)
        return json.loads(done.stdout)

    def train_and_eval(self, name: str, *settings: str) -> dict[str, Any]:
        """Both training stages and the evaluation of one model; the one-scale model has a workspace of its own."""
        own = self.workspace / "one-scale" if name == "one scale" else self.workspace
        here = self.workspace
        figures = ("--figures", str(here / "figures/phantom"))
        captions, instruct = str(here / "conversations/captions"), str(here / "conversations/instruct")
        self.medvlm(f"pretrain, {name}", "pretrain", captions, *figures, *settings, workspace=own)
        self.medvlm(f"finetune, {name}", "finetune", instruct, *figures, workspace=own)
        return self.medvlm(f"eval, {name}", "eval", "--bench", str(here / "questions/phantom-vqa"), workspace=own)

    def run(self) -> dict[str, Any]:
        """All six verbs; returns what goes into ``demo.json``."""
        seed = ("--set", f"seed={self.seed}")
        self.medvlm("fetch figures", "fetch", "phantom", *seed)
        self.medvlm("fetch questions", "fetch", "phantom-vqa", *seed)
        self.medvlm("synthesize", "synthesize", str(self.workspace / "figures/phantom"))
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(self.train_and_eval, "one scale", *seed, "--set", "scales=32")
            three = pool.submit(self.train_and_eval, "three scales", *seed)
            scores = {"one_scale": one.result()["categories"], "three_scales": three.result()["categories"]}
        picture, image, question = self.picture()
        answer = self.medvlm("chat", "chat", str(image), "-p", question)["answer"]
        print(f"  {question}\n  {answer}\n")
        result = {
            category.rpartition(", ")[0]: {  # of one kind each
                "always": row["best constant"],
                "blank": row["blank image"],
                "one_scale": scores["one_scale"][category]["strict"],
                "three_scales": row["strict"],
            }
            for category, row in scores["three_scales"].items()
        }
        return {"seed": self.seed, "categories": result, "seconds": self.seconds, "picture": str(picture)}

    def picture(self) -> tuple[Path, Path, str]:
        """Draw a question about the small lesion of a CT, with its tiles; the figure itself is laid beside it."""
        questions = open_dataset(self.workspace / "questions/phantom-vqa", QUESTIONS)
        said = ["question_id", "category", "answers", "image_id"]
        answers = {(row["image_id"], row["category"]): row for row in questions.rows(said)}
        shown = {image: row["answers"][0] for (image, category), row in answers.items() if category == "modality"}
        chosen = next(
            row["question_id"]
            for (image, category), row in answers.items()
            if "small" in category and row["answers"] == ["speckled"] and shown[image] == "CT"
        )
        row = questions.row(chosen)
        image, picture = self.workspace / "demo-image.png", self.workspace / "demo.png"
        image.write_bytes(row["image"]["bytes"])
        specimen(row["image"]["bytes"], row["question"], row["answers"][0]).save(picture)
        return picture, image, row["question"]


def main() -> None:
    """Run the demo, print its table, and write ``demo.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0, help="seed of figures, weights and order")
    parser.add_argument("--workspace", type=Path, default=Path("medvlm-workspace"))
    options = parser.parse_args()
    demo = Demo(options.workspace, options.seed)
    began = time.monotonic()
    result = demo.run()
    (demo.root / "demo.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = Table(title="strict score in percent, by category of question", title_justify="left")
    for title in ("", *TITLES):
        table.add_column(title, justify="right" if title else "left")
    for category, scores in result["categories"].items():
        table.add_row(category, *(f"{scores[row]:.1f}" for row in ROWS))
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    times = ", ".join(f"{step} {seconds:.0f}" for step, seconds in demo.seconds.items())
    print(f"seconds: {times}; in all {time.monotonic() - began:.0f}")
    print("The gap is made: smooth or speckled is too fine for one scale.  It shows the mechanism, not clinical value.")
    print(f"A figure, its tiles at three scales, question and answer: {result['picture']}")
    workspace = "" if demo.workspace == Path("medvlm-workspace") else f" -w {demo.workspace}"
    print(f"Go on with: .venv/bin/medvlm chat {demo.workspace / 'demo-image.png'}{workspace}")


if __name__ == "__main__":
    main()
