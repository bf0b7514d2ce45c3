"""Seconds to the first token of turn 1 and of turn 2 of a conversation, and their ratio.  Run it, it is no test.

    python tests/bench/chat_turns.py [--checkpoint DIR] [--rounds 20] [--json]

Every round is a new image and a new conversation of two questions in one session; "first" is the very first round, in
which the process is still cold, "median" is over the others.  Turn 1 encodes the image and reads the whole prompt,
turn 2 reads what is new.  Without a checkpoint it is a model of the tiny preset's sizes, hardly trained.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "kernels"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from medvlm_cli.core.config import ChatConfig, PretrainConfig
from medvlm_cli.core.presets import load
from medvlm_cli.sources.opening import open_image
from medvlm_cli.stages.chat import ChatSession

QUESTIONS = ("What is shown?", "Where is it?")


def made(folder: Path) -> Path:
    """A checkpoint of the tiny preset's sizes, hardly trained."""
    from medvlm_cli.core.model.checkpoint import save
    from medvlm_cli.core.model.tiny import TinyRecipe, make_tiny
    from medvlm_cli.core.model.vlm import build_model

    config = load(PretrainConfig, "tiny")
    short = TinyRecipe(figures=2, tower_steps=1, llm_steps=1)
    parts = make_tiny(folder / "tiny", 0, lambda what, done, total: None, short)
    model, processor = build_model(
        str(parts / "tower"), str(parts / "llm"), config.scales, fit=config.fit, antialias=config.antialias
    )
    save(model, processor, folder / "finetune", {"stage": "finetune"})
    return folder / "finetune"


def turns(session: ChatSession, image: Path) -> list[dict[str, float]]:
    """Time to the first token and tokens read of each question about a new image."""
    session.reset()
    session.images = [open_image(image)]
    told = []
    for question in QUESTIONS:
        for _ in session.ask(question):
            pass
        stats = session.stats()
        told.append({"ttft_s": stats["ttft_s"], "read": stats["tokens_in"] - stats["tokens_known"]})
    return told


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        session = ChatSession(options.checkpoint or made(folder), ChatConfig(max_new_tokens=16, precision="fp32"))
        rounds = []
        for seed in range(options.rounds + 1):
            pixels = np.random.default_rng(seed).integers(0, 256, (384, 512, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "image.png")
            rounds.append(turns(session, folder / "image.png"))
    result = {}
    for label, chosen in (("first", rounds[:1]), ("median", rounds[1:])):
        first, second = (statistics.median(both[turn]["ttft_s"] for both in chosen) for turn in (0, 1))
        read = [statistics.median(both[turn]["read"] for both in chosen) for turn in (0, 1)]
        result[label] = {"turn_1_s": first, "turn_2_s": second, "ratio": round(first / second, 1), "tokens_read": read}
    if options.json:
        print(json.dumps(result))
        return
    for label, row in result.items():
        print(
            f"{label:>8}: turn 1 {row['turn_1_s'] * 1e3:6.1f} ms, turn 2 {row['turn_2_s'] * 1e3:6.1f} ms, "
            f"{row['ratio']} times sooner; tokens read {row['tokens_read'][0]:.0f} and {row['tokens_read'][1]:.0f}"
        )


if __name__ == "__main__":
    main()
