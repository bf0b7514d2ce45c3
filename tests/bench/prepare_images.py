"""From a JPEG file to what the tower takes: ``core.images.prepare`` and, as peers, Hugging Face and Pillow.

``python tests/bench/prepare_images.py [ROUNDS]``: milliseconds of processor time of one thread, the least of all
rounds, the ways taking turns; and the largest difference to Pillow's pixels in grey levels.

Hugging Face is what one writes with it: Pillow opens the file and converts it to RGB, ``CLIPImageProcessor`` squashes
it and gives normalised floats.  Ours are bytes: the weights of the tower take the normalisation, see
``medvlm_kernels.fold``.  ``without convert`` leaves that call out.
"""

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from medvlm_cli.core.images import MEAN, STD, decode, prepare, to_rgb_square

SIDE = 1134
SIZES = [(3000, 2000), (2000, 1500), (1200, 900), (600, 455)]
PROCESSOR = CLIPImageProcessor(size={"height": SIDE, "width": SIDE}, do_center_crop=False)


def photograph(width: int, height: int) -> bytes:
    """A JPEG of quality 90 with detail at every scale from 2 to 256 pixels, the coarse stronger than the fine."""
    random, pixels = np.random.default_rng(0), np.zeros((height, width, 3), dtype=np.float32)
    for scale in (2**power for power in range(1, 9)):
        coarse = random.normal(size=(3, height // scale + 2, width // scale + 2)).astype(np.float32)
        planes = [Image.fromarray(plane).resize((width, height), Image.Resampling.BICUBIC) for plane in coarse]
        pixels += np.stack([np.asarray(plane) for plane in planes], -1) * scale**0.7
    values = (pixels - pixels.mean()) / pixels.std() * 50 + 128
    out = io.BytesIO()
    Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()


def ours(data: bytes) -> np.ndarray:
    """As the product does it."""
    return prepare(data, "a.jpg", SIDE, "squash")


def pillow(data: bytes) -> np.ndarray:
    """The reference: Pillow's decoder and Pillow's bicubic."""
    return to_rgb_square(decode(data, "a.jpg"), SIDE, "squash")


def hugging_face(data: bytes) -> torch.Tensor:
    """Normalised floats ``(1, 3, SIDE, SIDE)``."""
    return PROCESSOR(Image.open(io.BytesIO(data)).convert("RGB"), return_tensors="pt")["pixel_values"]


def without_convert(data: bytes) -> torch.Tensor:
    """The same, the image given as Pillow opens it."""
    return PROCESSOR(Image.open(io.BytesIO(data)), return_tensors="pt")["pixel_values"]


def as_bytes(result: np.ndarray | torch.Tensor) -> np.ndarray:
    """The pixels behind a result, normalised or not."""
    if isinstance(result, np.ndarray):
        return result
    return np.rint((result[0].permute(1, 2, 0).numpy() * np.array(STD) + np.array(MEAN)) * 255)


WAYS: dict[str, Callable[[bytes], np.ndarray | torch.Tensor]] = {
    "ours": ours,
    "Pillow": pillow,
    "Hugging Face": hugging_face,
    "without convert": without_convert,
}


def milliseconds(data: bytes, rounds: int) -> dict[str, float]:
    """The least processor time of each way, all of them in every round."""
    least = dict.fromkeys(WAYS, float("inf"))
    for _ in range(rounds):
        for name, way in WAYS.items():
            began = time.process_time()
            way(data)
            least[name] = min(least[name], 1000 * (time.process_time() - began))
    return least


def main() -> None:
    """Print the table, and the ratios of the largest image as the last line."""
    torch.set_num_threads(1)
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, {rounds} rounds")
    print("pixels".ljust(14) + "".join(f"{name:>20}" for name in WAYS) + "   ms, and levels from Pillow")
    last = ""
    for width, height in SIZES:
        data = photograph(width, height)
        truth = pillow(data).astype(int)
        levels = {name: int(np.abs(as_bytes(way(data)) - truth).max()) for name, way in WAYS.items()}
        least = milliseconds(data, rounds)
        row = "".join(f"{f'{least[name]:.1f} ({levels[name]})':>20}" for name in WAYS)
        print(f"{width} x {height}".ljust(14) + row, flush=True)
        ratios = ", ".join(f"{least[name] / least['ours']:.2f} x {name}" for name in WAYS if name != "ours")
        last = last or f"{width} x {height}: ours is {ratios}; at most {levels['ours']} grey level from Pillow"
    print(last)


if __name__ == "__main__":
    main()
