"""Figures, conversations and settings that the tests of training share; as a program, a pretraining to be killed."""

import hashlib
import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from medvlm_cli.core.arrow import Harvest, open_dataset, write_all
from medvlm_cli.core.config import FinetuneConfig, PretrainConfig
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES, STEPS

ROWS = 26
HELD_OUT = 4
SETTINGS = {
    "batch": 8, "micro_batch": 4, "epochs": 2.0, "precision": "fp32", "checkpointing": False, "save_every": 2,
    "proven": False,
}  # fmt: skip
"""44 conversations to train on in two epochs, so 5 full steps and a last one of 4."""


def quiet(what: str, done: int, total: int | None) -> None:
    """Progress that nobody hears."""


def picture(number: int) -> bytes:
    """A PNG, bright on the left where the number is odd."""
    pixels = np.random.default_rng(number).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    pixels[:, :25] = 255 * (number % 2)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def figure(key: str, data: bytes | None = None) -> Harvest:
    data = data or picture(int(key))
    known = {
        "figure_id": f"figure{key}", "source": "test", "image": {"bytes": data, "path": None}, "width": 50,
        "image_sha256": hashlib.sha256(data).digest(), "height": 40, "caption": "A picture.", "mentions": [],
        "modality": "unknown", "license": "CC0-1.0", "commercial_ok": True, "retracted": False, "third_party": False,
    }  # fmt: skip
    return Harvest(1, [dict.fromkeys(FIGURES.names) | known], [])


def conversation(key: str, kind: str) -> Harvest:
    number = int(key)
    side = ("right", "left")[number % 2]
    turns = {
        "caption": ["Describe the image.\n<image>", f"It is bright on the {side}." + " Really." * (number % 4)],
        "instruct": ["<image>\nWhich side is bright?", f"The {side}.", "Are you sure?", "Yes." * (1 + number % 3)],
    }[kind]
    known = {
        "conversation_id": f"{kind}{key}", "figure_id": f"figure{key}", "kind": kind, "teacher": "template",
        "turns": [{"role": ("user", "assistant")[i % 2], "text": text} for i, text in enumerate(turns)],
        "teacher_planned": "template", "prompt_id": "0" * 12, "license_tags": ["CC0-1.0"],
        "split": "val" if number < HELD_OUT else "train",
    }  # fmt: skip
    return Harvest(1, [dict.fromkeys(CONVERSATIONS.names) | known], [])


def write_figures(out: Path, keys: list[str], damaged: str | None = None) -> Path:
    """A figures dataset; the figure ``damaged`` is cut off in the middle."""

    def make(key: str) -> Harvest:
        return figure(key, picture(int(key))[:300] if key == damaged else None)

    write_all(out, FIGURES, make, stage="fetch", config={}, inputs={}, keys=keys, tell=quiet)
    return out


def write_conversations(out: Path, kind: str) -> Path:
    keys = [str(number) for number in range(ROWS)]
    write_all(
        out, CONVERSATIONS, lambda key: conversation(key, kind), stage="synthesize", config={"kind": kind}, inputs={},
        keys=keys, tell=quiet,
    )  # fmt: skip
    return out


class Bench:
    """Data and parts of a model, and a folder to train in."""

    def __init__(self, data: Path, out: Path, tower: str, llm: str) -> None:
        self.captions, self.instruct = data / "captions", data / "instruct"
        self.figures, self.root = [data / "figures"], out
        self.parts = {"tower": tower, "llm": llm, "scales": (32, 64, 96)}

    def pretrain(self, name: str, tell=quiet, gpus: int = 1, **changes) -> dict:
        from medvlm_cli.stages.pretrain import pretrain

        config = PretrainConfig(**SETTINGS | self.parts | {"lr": 1e-3} | changes)
        return pretrain(self.captions, self.figures, self.path(name), config, tell, gpus)

    def finetune(self, name: str, base: Path, tell=quiet, gpus: int = 1, **changes) -> dict:
        from medvlm_cli.stages.finetune import finetune

        config = FinetuneConfig(**SETTINGS | {"lr": 1e-3} | changes)
        return finetune(self.instruct, self.figures, base, self.path(name), config, tell, gpus)

    def path(self, name: str) -> Path:
        return self.root / "checkpoints" / name

    def state(self, name: str) -> Path:
        return self.root / "checkpoints" / f".{name}.state"

    def weights(self, name: str) -> dict:
        from safetensors.torch import load_file

        return load_file(self.path(name) / "model.safetensors")

    def steps(self, name: str) -> list[dict]:
        """What a run logged, but for what no two runs share: time and memory."""
        rows = open_dataset(self.path(name) / "steps", STEPS).rows()
        return [{key: row[key] for key in ("step", "loss", "lr", "grad_norm", "tokens")} for row in rows]


def cut_at(step: int, how) -> object:
    """Progress that calls ``how`` when a step of training is done."""

    def tell(what: str, done: int, total: int | None) -> None:
        if what in ("pretrain", "finetune") and done == step:
            how()

    return tell


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    data, out, tower, llm = sys.argv[1:]
    Bench(Path(data), Path(out), tower, llm).pretrain("killed", lambda *told: print(*told, flush=True))
