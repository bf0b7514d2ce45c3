"""One training step of the full-size tower and a language model of the 1B class, random weights: share of the peak.

``python tests/bench/train_step.py [--quick]`` takes a CUDA device where there is one, else the CPU, where only
``--quick`` ends soon.  Two ways take turns in one process on the same model and the same conversations:

* ours: bytes through the fused tower, conversations end to end in rows, the loss where there is a target;
* padded: the tower's reference path, rows padded to the longest, logits at every position, as stock LLaVA.

Model FLOPs utilisation counts the matrix products that the conversations need, once, whatever is computed, as a share
of the rate of a product of two 8192 x 8192 matrices in the same run.  The last line is the ratios.  Lengths are
assumed: 729 tokens an image and 320 of text, varied by half, 280 of them targets on average.
"""

import argparse
import datetime
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import LlamaConfig

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "kernels"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from medvlm_cli.core.cost import Split
from medvlm_cli.core.flops import Counts, Speed
from medvlm_cli.core.model.documents import attend_by_document
from medvlm_cli.core.model.towers import TOWERS
from medvlm_cli.core.model.vlm import MedVLMForConditionalGeneration, freeze, make_config
from medvlm_cli.core.packing import Budget, share_out
from medvlm_cli.core.prompts import IGNORED
from medvlm_cli.core.sizes import Parts, sizes_of

ROOT = Path(__file__).resolve().parents[2]
VOCABULARY, IMAGE_TOKEN = 128_320, 128_256


def build(quick: bool, device: torch.device) -> Any:
    """The model with random weights; what is trained in float32 under autocast, the tower in bfloat16."""
    spec = TOWERS["dfn5b-vit-h-14-378"]
    vision = spec.config((378, 756, 1134))
    sizes = {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32}
    vocabulary, image = VOCABULARY, IMAGE_TOKEN
    if quick:
        vision = type(vision)(**vision.to_dict() | {
            "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": 42, "s2_scales": [42, 84, 126],
        })  # fmt: skip
        sizes = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
        vocabulary, image = 1024, 1000
    text = LlamaConfig(vocab_size=vocabulary, num_key_value_heads=4, max_position_embeddings=8192, **sizes)
    config = make_config(vision, text, image, "squash", "llama3")
    torch.manual_seed(0)
    with device:
        model: Any = MedVLMForConditionalGeneration(config)
    freeze(model, "finetune")
    model.model.vision_tower.to(torch.bfloat16)
    return model.train()


def conversations(model: Any, count: int) -> list[dict[str, torch.Tensor]]:
    """Random conversations: an image's placeholders, then text, the last seven eighths of which are learnt."""
    draw, config = random.Random(0), model.config
    tokens, image = config.vision_config.tokens, config.image_token_index
    made = []
    for _ in range(count):
        text = draw.randint(160, 480) if tokens > 100 else draw.randint(10, 30)
        words = torch.tensor([draw.randrange(image) for _ in range(text)])
        ids = torch.cat([torch.full((tokens,), image), words])
        labels = ids.clone()
        labels[: tokens + text // 8] = IGNORED
        made.append({"ids": ids, "labels": labels})
    return made


def packed(rows: list[dict[str, torch.Tensor]], budget: int) -> list[dict[str, Any]]:
    """Rows of conversations end to end, and which of the images each holds."""
    packs = share_out([len(row["ids"]) for row in rows], Budget(budget), 1)
    return [
        {
            "input_ids": torch.cat([rows[place]["ids"] for place in pack])[None],
            "position_ids": torch.cat([torch.arange(len(rows[place]["ids"])) for place in pack])[None],
            # the first token of a conversation is not what the one before it must say
            "labels": torch.cat([rows[place]["labels"] for place in pack])[None],
            "images": pack,
        }
        for pack in packs
    ]


def padded(rows: list[dict[str, torch.Tensor]], micro: int) -> list[dict[str, Any]]:
    """Micro-batches padded on the right to their longest."""
    batches = []
    for start in range(0, len(rows), micro):
        some = rows[start : start + micro]
        pad = torch.nn.utils.rnn.pad_sequence
        batches.append({
            "input_ids": pad([row["ids"] for row in some], batch_first=True),
            "attention_mask": pad([torch.ones_like(row["ids"]) for row in some], batch_first=True),
            "labels": pad([row["labels"] for row in some], batch_first=True, padding_value=IGNORED),
            "images": list(range(start, start + len(some))),
        })  # fmt: skip
    return batches


def one_step(model: Any, optimizer: Any, batches: list[dict[str, Any]], pixels: torch.Tensor, ours: bool) -> float:
    """A whole optimiser step; its loss."""
    device, total = pixels.device, 0.0
    targets = sum(int((batch["labels"][:, 1:] != IGNORED).sum()) for batch in batches)
    os.environ["MEDVLM_KERNELS"] = "on" if ours else "off"
    for batch in batches:
        given = {name: tensor.to(device) for name, tensor in batch.items() if name != "images"}
        with torch.autocast(device.type, dtype=torch.bfloat16):
            images = {"pixel_values": pixels[batch["images"]]}
            if ours:
                loss = model(**given, **images, num_items_in_batch=targets, use_cache=False).loss
            else:
                labels = given.pop("labels")
                logits = model(**given, **images, use_cache=False).logits.float()
                loss = torch.nn.functional.cross_entropy(
                    logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=IGNORED, reduction="sum"
                ) / targets  # fmt: skip
        loss.backward()
        total += float(loss.detach())
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return total


def peak_product(device: torch.device, size: int) -> float:
    """Operations a second of a bfloat16 product of two square matrices, the best of five."""
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    times = [seconds(lambda: left @ right, device) for _ in range(6)][1:]
    return 2 * size**3 / min(times)


def seconds(run: Callable[[], Any], device: torch.device) -> float:
    """Of one run, to its end on the device."""
    began = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began


def parsed() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny sizes: whether it runs, not how fast")
    parser.add_argument("--conversations", type=int, default=16, help="of one step")
    parser.add_argument("--pack", type=int, default=8192, help="tokens of a row")
    parser.add_argument("--micro", type=int, default=4, help="conversations of a padded micro-batch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file")
    return parser.parse_args()


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = parsed()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = build(options.quick, device)
    rows = conversations(model, options.conversations)
    attend_by_document(model.model.language_model, options.pack)
    size = max(model.config.vision_config.s2_scales)
    pixels = torch.randint(0, 256, (len(rows), 3, size, size), dtype=torch.uint8).to(device)
    optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], lr=1e-5, foreach=True)
    ways = {"ours": (packed(rows, options.pack), True), "padded": (padded(rows, options.micro), False)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    losses: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.rounds + 1):  # the first of each compiles, measures and allocates
        for name, (batches, ours) in ways.items():

            def step(batches: Any = batches, ours: bool = ours, name: str = name) -> None:
                losses[name].append(one_step(model, optimizer, batches, pixels, ours))

            taken[name].append(seconds(step, device))
    product = peak_product(device, 512 if options.quick else 8192)
    tokens = sum(len(row["ids"]) for row in rows)
    targets = sum(int((row["labels"][1:] != IGNORED).sum()) for row in rows)
    counts = Counts(targets=targets, tokens=tokens, padding=0, conversations=len(rows), images=len(rows))
    sizes = sizes_of(Parts(vision=model.config.vision_config, text=model.config.text_config, processor=None))
    split = Split(stage="finetune", world=1, zero=0, precision="bf16", recomputed=0.0)
    speed = Speed(sizes=sizes, split=split, peak=product, cached=False)
    result: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "commit": subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
        ).stdout.strip() or "unknown",
        "settings": {name: value for name, value in vars(options).items() if name != "out"},
        "product_flops": product,
        "parameters": model.num_parameters(),
        "ways": {},
    }  # fmt: skip
    print(f"{'way':8} {'s/step':>8} {'tokens/s':>10} {'TFLOP/s':>9} {'of product':>11} {'first loss':>11}")
    for name, times in taken.items():
        median = statistics.median(times[1:])
        flops = speed.flop(counts) / median
        result["ways"][name] = {
            "seconds": median, "tokens_per_second": tokens / median, "flops": flops,
            "share_of_product": flops / product, "loss": losses[name][0],
        }  # fmt: skip
        print(f"{name:8} {median:8.3f} {tokens / median:10.0f} {flops / 1e12:9.2f} {flops / product:11.1%} "
              f"{losses[name][0]:11.4f}")  # fmt: skip
    if device.type == "cuda":
        result["peak_bytes"] = torch.cuda.max_memory_allocated()
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    ratio = result["ways"]["padded"]["seconds"] / result["ways"]["ours"]["seconds"]
    print(f"ours / padded: {ratio:.2f}x; ours reaches {result['ways']['ours']['share_of_product']:.1%} of the product")


if __name__ == "__main__":
    main()
