"""One of two ranks that train under every stage of ZeRO in turn, because to start ranks takes longer than to train.

    torchrun --nproc_per_node 2 -m tests.stages.zero_cases DATA OUT BASE [STAGE ...]

Under ``OUT`` each stage leaves ``whole-<stage>`` and ``cut-<stage>``, state folders of a run that nothing disturbed and
of one that went on from a checkpoint of it; and rank 0 ``gradients.json``, how far ZeRO-2's gradients are from those
of plain data parallel training, by what the two ranks had in their batches.
"""

import gc
import json
import os
import shutil
import sys
from pathlib import Path

import torch
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from medvlm_cli.core.config import FinetuneConfig, as_dict
from medvlm_cli.core.model.checkpoint import load
from medvlm_cli.core.model.vlm import freeze
from medvlm_cli.core.prompts import generation_prompt
from medvlm_cli.core.steps import Job
from medvlm_cli.core.train import fit
from medvlm_cli.core.zero import start_on_cpu, zero_config
from tests.training_cases import SETTINGS, quiet

SAVED = 4
"""The optimiser step that a run goes on after; there are 6."""
BATCHES = {"mixed": (1, 0), "text only": (0, 0), "images": (1, 1)}
"""Images in the batch of each rank."""


def job_of(data: Path, base: Path, state: Path, zero: int, resume: str | None = None) -> Job:
    config = FinetuneConfig(**SETTINGS | {"lr": 1e-3, "micro_batch": 2, "zero": zero, "save_every": SAVED})
    return Job(
        stage="finetune", conversations=str(data / "instruct"), figures=[str(data / "figures")], state=str(state),
        config=as_dict(config), model={"checkpoint": str(base)}, micro=2, accumulation=2, run={}, resume=resume,
    )  # fmt: skip


def forget() -> None:
    """Make the process as good as new: without DeepSpeed's settings of the last run, and without its engine."""
    unset_hf_deepspeed_config()
    gc.collect()


def train(job: Job) -> None:
    """A run from its own start."""
    forget()
    Path(job.state).mkdir(parents=True, exist_ok=True)
    fit(job, quiet)


def train_whole_and_cut(data: Path, base: Path, out: Path, zero: int) -> None:
    whole, cut = out / f"whole-{zero}", out / f"cut-{zero}"
    train(job_of(data, base, whole, zero))
    saved = f"step-{SAVED:08d}"
    if torch.distributed.get_rank() == 0:
        shutil.copytree(whole / saved, cut / saved)
        shutil.copyfile(whole / "steps.jsonl", cut / "steps.jsonl")
    torch.distributed.barrier()
    train(job_of(data, base, cut, zero, str(cut / saved)))


def batch_of(processor, images: int) -> dict:
    """A question of this rank's own, with or without an image, all of whose words are targets."""
    rank = torch.distributed.get_rank()
    random = torch.Generator().manual_seed(rank)
    turn = [{"role": "user", "text": "<image>\n" * images + ("Which side is bright?", "Is there a nodule?")[rank]}]
    ids = torch.tensor([generation_prompt(processor, turn, images=images)])
    labels = ids.masked_fill(ids == processor.image_token_id, -100)
    pixels = torch.randint(0, 256, (images, 3, 96, 96), dtype=torch.uint8, generator=random)
    return {"input_ids": ids, "labels": labels} | ({"pixel_values": pixels} if images else {})


def gradients(base: Path, images: int, zero: bool) -> dict[str, torch.Tensor]:
    forget()
    model, processor = load(base, torch.device("cpu"), torch.float32)
    freeze(model, "finetune")
    model.train()
    batch, names = batch_of(processor, images), dict(model.named_parameters())
    trained = {name: weight for name, weight in names.items() if weight.requires_grad}
    if not zero:
        wrapped = torch.nn.parallel.DistributedDataParallel(model)  # a name keeps it, and its hooks, alive
        wrapped(**batch).loss.backward()
        return {name: weight.grad for name, weight in trained.items()}
    import deepspeed

    start_on_cpu()
    options = zero_config(2, 1, 1, 2, False, 0.0, hidden=96)
    optimizer = torch.optim.AdamW(trained.values(), lr=0.0)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=options)
    engine.backward(engine(**batch).loss)
    return {name: deepspeed.utils.safe_get_full_grad(weight) for name, weight in trained.items()}


def compare_gradients(base: Path, out: Path) -> None:
    rank, apart = torch.distributed.get_rank(), {}
    for kind, images in BATCHES.items():
        plain, zero = (gradients(base, images[rank], stage) for stage in (False, True))
        scale = max(grad.abs().max() for grad in plain.values())
        apart[kind] = max(((plain[name] - zero[name]).abs().max() / scale).item() for name in plain)
    if rank == 0:
        (out / "gradients.json").write_text(json.dumps(apart))


def main(data: Path, out: Path, base: Path, stages: list[int]) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    for zero in stages:
        train_whole_and_cut(data, base, out, zero)
    compare_gradients(base, out)
    torch.distributed.barrier()
    os._exit(0)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), stages=list(map(int, sys.argv[4:])))
