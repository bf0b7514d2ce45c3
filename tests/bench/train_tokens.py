"""Tokens a second in training: ``medvlm finetune`` with packing, and the plain Hugging Face ``Trainer`` as its peer.

``python tests/bench/train_tokens.py [ROUNDS]``: both train one tiny model (the tiny preset's parts and batch of 32)
on the same conversations in the same steps, taking turns in one process on one thread; of all rounds the one with the
least processor time counts.

The peer is what one writes with transformers: ``LlavaForConditionalGeneration`` with our tower, conversations padded to
the longest of the micro-batch by the stock collator's rule, logits at every position.  It gets its pixels decoded and
normalised and its tokens ready, in memory; ours reads the datasets, or, ``cached``, the features of the frozen tower,
as the tiny preset does.  Its micro-batch is the preset's 32, or the 8 of the default, whatever is faster.

The lengths are drawn, not those of a real dataset: one to five questions of 4 to 20 words, answers of a log-normal
number of words (median 20, sigma 0.8, at most 150).
"""

import dataclasses
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlavaForConditionalGeneration, Trainer, TrainerCallback, TrainingArguments

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from medvlm_cli.core.arrow import Harvest, open_dataset, write_all
from medvlm_cli.core.batch import Collator
from medvlm_cli.core.config import FinetuneConfig, as_dict
from medvlm_cli.core.model.checkpoint import load, save
from medvlm_cli.core.model.tiny import GENERAL_TEXT, TinyRecipe, make_tiny
from medvlm_cli.core.model.vlm import build_model, freeze
from medvlm_cli.core.prompts import IGNORED
from medvlm_cli.core.samples import KINDS, Figures, Plan, Samples, Split
from medvlm_cli.core.schemas import CONVERSATIONS, STEPS
from medvlm_cli.core.steps import Job
from medvlm_cli.core.train import fit
from tests.training_cases import conversation, quiet, write_figures

STEPS_TAKEN, BATCH, PACK = 9, 32, 2048
"""Of each round; the first step is not counted."""
WORDS = " ".join(GENERAL_TEXT).split()


def words(draw: random.Random, count: int) -> str:
    return " ".join(draw.choices(WORDS, k=count))


def lengthy(key: str) -> Harvest:
    """A conversation of a length of its own."""
    draw, turns = random.Random(int(key)), []
    for _ in range(draw.choices((1, 2, 3, 4, 5), weights=(3, 2, 2, 1, 1))[0]):
        answer = min(150, max(1, round(draw.lognormvariate(np.log(20), 0.8))))
        turns += [{"role": "user", "text": words(draw, draw.randint(4, 20)) + "?"}]
        turns += [{"role": "assistant", "text": words(draw, answer) + "."}]
    (row,) = conversation(key, "instruct").rows
    return Harvest(1, [row | {"turns": turns, "split": "train"}], [])


class Case:
    """The data, the model to start from, and the settings that both trainers have."""

    def __init__(self, root: Path) -> None:
        self.root = root
        keys = [str(number) for number in range(STEPS_TAKEN * BATCH)]
        self.figures = write_figures(root / "figures", keys)
        made = {"stage": "synthesize", "config": {}, "inputs": {}, "keys": keys, "tell": quiet}
        write_all(root / "instruct", CONVERSATIONS, lengthy, **made)
        parts = make_tiny(root / "tiny", 0, quiet, TinyRecipe(figures=64, texts=64, tower_steps=1, llm_steps=1))
        self.model, self.processor = build_model(str(parts / "tower"), str(parts / "llm"), (32, 64, 96))
        save(self.model, self.processor, root / "base", {"stage": "pretrain"})
        self.config = FinetuneConfig(
            batch=BATCH, micro_batch=BATCH, lr=2e-3, precision="fp32", checkpointing=False, save_every=1000
        )
        split = Split(root / "instruct", Figures([self.figures]), KINDS["finetune"])
        self.samples = Samples(split, split.train, self.model, self.processor, self.config.max_length, None)
        self.plan = Plan(rows=len(keys), batch=BATCH, micro=BATCH, epochs=1, seed=self.config.seed, rank=0, world=1)

    def counts(self) -> tuple[int, int, float]:
        """Tokens and targets of the steps that are counted, and the share of padding in the peer's micro-batches."""
        steps = [self.plan.step(step).tolist() for step in range(1, STEPS_TAKEN)]
        rows = [[self.samples[row] for row in step] for step in steps]
        lengths = [[len(row["input_ids"]) for row in step] for step in rows]
        targets = sum(label != IGNORED for step in rows for row in step for label in row["labels"])
        padded = sum(max(step) * len(step) for step in lengths)
        return sum(map(sum, lengths)), targets, 1 - sum(map(sum, lengths)) / padded


def ours(case: Case, **changes: Any) -> tuple[float, list[float]]:
    """Processor seconds of the counted steps of a run of ours, and its losses."""
    ends = []

    def tell(what: str, done: int, total: int | None, *more: Any) -> None:
        if what == "finetune" and done:
            ends.append(time.process_time())

    with tempfile.TemporaryDirectory(dir=case.root) as state:
        config = dataclasses.replace(case.config, **changes)
        cached = str(case.root / "features") if config.cache_features else None
        accumulation = BATCH // config.micro_batch
        job = Job(
            stage="finetune", conversations=str(case.root / "instruct"), figures=[str(case.figures)], state=state,
            config=as_dict(config), model={"checkpoint": str(case.root / "base")}, micro=config.micro_batch,
            accumulation=accumulation, run={"stage": "finetune"}, features=cached,
        )  # fmt: skip
        fit(job, tell)
        losses = [row["loss"] for row in open_dataset(Path(state) / "out" / "steps", STEPS).rows()]
    return ends[-1] - ends[0], losses


class Clock(TrainerCallback):
    """When steps ended, and their losses."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.losses: list[float] = []

    def on_step_end(self, *told: Any, **more: Any) -> None:
        self.ends.append(time.process_time())

    def on_log(self, *told: Any, logs: dict[str, Any], **more: Any) -> None:
        self.losses += [logs["loss"]] if "loss" in logs else []


def plain(case: Case, rows: Sequence[dict[str, Any]], micro: int) -> tuple[float, list[float]]:
    """The same of the plain ``Trainer``; ``rows`` are the conversations in the order of the steps."""
    model = LlavaForConditionalGeneration(case.model.config)
    model.load_state_dict(load(case.root / "base", torch.device("cpu"), torch.float32)[0].state_dict())
    freeze(model, "finetune")
    pad, clock = Collator(case.processor), Clock()

    def collate(chosen: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return {**pad(chosen), "pixel_values": torch.stack([row["pixels"] for row in chosen])}

    with tempfile.TemporaryDirectory(dir=case.root) as out:
        arguments = TrainingArguments(
            output_dir=out, use_cpu=True, per_device_train_batch_size=micro, gradient_accumulation_steps=BATCH // micro,
            num_train_epochs=1, learning_rate=case.config.lr, lr_scheduler_type="cosine", warmup_steps=1,
            weight_decay=0.0, train_sampling_strategy="sequential", save_strategy="no", logging_steps=1,
            remove_unused_columns=False, report_to="none", disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[clock])
        trainer.pop_callback(next(one for one in trainer.callback_handler.callbacks if "Printer" in type(one).__name__))
        trainer.train()
    return clock.ends[-1] - clock.ends[0], clock.losses


def ready(case: Case) -> list[dict[str, Any]]:
    """The conversations as the peer gets them: tokens, and pixels as normalised floats."""
    vision = case.model.config.vision_config
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (vision.image_mean, vision.image_std))
    samples = [case.samples[row] for step in range(STEPS_TAKEN) for row in case.plan.step(step).tolist()]
    return [
        {"input_ids": one["input_ids"], "labels": one["labels"]}
        | {"pixels": (torch.tensor(one["image"]).permute(2, 0, 1) / 255 - mean) / std}
        for one in samples
    ]


def main() -> None:
    """Print the table, and the ratios as the last line."""
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder:
        case = Case(Path(folder))
        rows, packed = ready(case), {"pack_tokens": PACK}
        ways: dict[str, Callable[[], tuple[float, list[float]]]] = {
            "ours, packed, cached": lambda: ours(case, **packed, cache_features=True),
            "ours, packed": lambda: ours(case, **packed),
            "ours, by length": lambda: ours(case, micro_batch=8),
            "Trainer, padded, 32": lambda: plain(case, rows, 32),
            "Trainer, padded, 8": lambda: plain(case, rows, 8),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        losses: dict[str, list[float]] = {}
        for _ in range(rounds):
            for name, way in ways.items():
                spent, losses[name] = way()
                seconds[name].append(spent)
        tokens, targets, padding = case.counts()
    print(
        f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, {rounds} rounds;", end=" "
    )
    print(f"{tokens:,} tokens, {targets:,} of them targets, padded by 32: {padding:.0%} padding")
    print(f"{'':22}{'tokens/s':>10}{'targets/s':>11}{'loss of the first and of the last step':>42}")
    for name, spent in seconds.items():
        first, last = losses[name][0], losses[name][-1]
        print(f"{name:22}{tokens / min(spent):>10,.0f}{targets / min(spent):>11,.0f}{first:>32.5f}{last:>10.5f}")
    best = {name: min(spent) for name, spent in seconds.items()}
    peer = min(value for name, value in best.items() if name.startswith("Trainer"))
    said = ", ".join(f"{name} {peer / value:.2f} x" for name, value in best.items() if name.startswith("ours"))
    print(f"tokens a second beside the faster Trainer: {said}")


if __name__ == "__main__":
    main()
