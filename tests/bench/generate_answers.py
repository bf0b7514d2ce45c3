"""Answers a second: ``Generator.answers`` in batches against plain ``generate``, question by question.  No test.

    python tests/bench/generate_answers.py [--checkpoint DIR] [--questions 64] [--batch 16] [--tokens 16] [--json]

Both read one folder and answer greedily in float32 in this process, on its GPU or its processor, about drawn figures of
two to four questions each.  The plain side is what a first script does: ``AutoModelForImageTextToText`` and
``AutoProcessor``, one question a call, its image prepared and encoded in that call.  All answers must be equal.

Without ``--checkpoint`` the model is made on the spot, as the tiny preset makes it but hardly trained: it seldom says
when to stop, so that nearly all answers run to ``--tokens``.  The model of ``make demo`` answers in a word or two.
"""

import argparse
import io
import itertools
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "kernels"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from medvlm_cli.core import phantom
from medvlm_cli.core.generate import Answer, Generator, Picture, Request
from medvlm_cli.core.model.checkpoint import save
from medvlm_cli.core.model.tiny import TinyRecipe, make_tiny
from medvlm_cli.core.model.vlm import build_model

BAR = 4.0
"""Times faster, at a batch of 16 on a processor."""
HARDLY = TinyRecipe(figures=64, texts=64, tower_steps=1, llm_steps=1)


def make_checkpoint(folder: Path) -> Path:
    """A model of the tiny preset's sizes."""
    parts = make_tiny(folder / "parts", 0, lambda *_: None, HARDLY)
    made = build_model(str(parts / "tower"), str(parts / "llm"), (32, 64, 96), antialias=True)
    save(*made, folder / "model", {"stage": "finetune"})
    return folder / "model"


def asked() -> Iterator[tuple[bytes, str]]:
    """Image and question, without end; the questions about one figure follow each other."""
    index = 0
    while True:
        drawn = phantom.draw("phantom-vqa", 0, index)
        image = phantom.png(drawn)
        for question, _ in phantom.questions(drawn).values():
            yield image, question
        index += 1


def plain(folder: Path, questions: list[tuple[bytes, str]], tokens: int) -> tuple[list[str], float]:
    """Answers, and the seconds that they took once the model was there."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = AutoModelForImageTextToText.from_pretrained(folder, dtype=torch.float32).to(device).eval()
    processor = AutoProcessor.from_pretrained(folder)
    answers, began = [], time.monotonic()
    for data, question in questions:
        turn = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
        text = processor.apply_chat_template([turn], add_generation_prompt=True)
        image = Image.open(io.BytesIO(data)).convert("RGB")
        read = processor(text=text, images=image, return_tensors="pt", add_special_tokens=False).to(device)
        with torch.inference_mode():
            ids = model.generate(**read, max_new_tokens=tokens, do_sample=False)[0, read["input_ids"].shape[1] :]
        answers.append(processor.tokenizer.decode(ids, skip_special_tokens=True).strip())
    return answers, time.monotonic() - began


def batched(folder: Path, questions: list[tuple[bytes, str]], batch: int, tokens: int) -> tuple[list[Answer], float]:
    """As ``plain``, by ``Generator.answers``."""
    generator = Generator(folder, "fp32")
    requests = [
        Request([{"role": "user", "text": question}], [lambda data=data: Picture(data, "figure")], "question")
        for data, question in questions
    ]
    began = time.monotonic()
    found = dict(generator.answers(requests, batch, tokens))
    return [found[index] for index in range(len(requests))], time.monotonic() - began


def main() -> None:
    """Answer both ways and print the rates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--questions", type=int, default=64)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        folder = options.checkpoint or make_checkpoint(Path(work))
        questions = list(itertools.islice(asked(), options.questions))
        plain(folder, questions[:2], 2)  # the first call pays for what later ones find ready
        together, fast = batched(folder, questions, options.batch, options.tokens)
        alone, slow = plain(folder, questions, options.tokens)
    told = {
        "questions": len(questions),
        "batch": options.batch,
        "tokens_each": round(sum(answer.tokens for answer in together) / len(together), 1),
        "threads": torch.get_num_threads(),
        "equal": sum(one == other.text for one, other in zip(alone, together, strict=True)),
        "plain_per_second": round(len(questions) / slow, 2),
        "batched_per_second": round(len(questions) / fast, 2),
        "times_faster": round(slow / fast, 2),
        "bar": BAR,
    }
    print(json.dumps(told) if options.json else "\n".join(f"{name}: {value}" for name, value in told.items()))
    if told["equal"] < len(questions) or told["times_faster"] < BAR:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
