"""One training run in this process: a job in, a trained model in the state folder out.

``launch`` looks after the folders and decides how many processes do this; here every process is one rank of them.
"""

import math
import os
import signal
import time
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from medvlm_cli.core.arrow import Harvest, Writer
from medvlm_cli.core.errors import ResourceError
from medvlm_cli.core.features import Cache, Features
from medvlm_cli.core.model.checkpoint import load, save
from medvlm_cli.core.model.threads import one_thread_if_small
from medvlm_cli.core.model.vlm import build_model, freeze
from medvlm_cli.core.samples import KINDS, Figures, Samples, Split
from medvlm_cli.core.schemas import STEPS
from medvlm_cli.core.steps import Job, StepTrainer, plan_of
from medvlm_cli.core.tell import Tell
from medvlm_cli.core.zero import start_on_cpu, zero_config

MAX_GRAD_NORM = 1.0
"""Gradients are clipped to this norm: the default of the trainer that the published model was trained with."""


def fit(job: Job, tell: Tell) -> dict[str, Any]:
    """Train as one rank of ``$WORLD_SIZE``, from the start or from ``job.resume``, and save the model.

    Args:
        job: what to train; the same for all ranks.
        tell: progress, of the first rank.

    Returns:
        The outcome: steps, losses in nats per target word, seconds.  The model lies in ``<state>/out``.

    Raises:
        DataError: a conversation cannot be learnt from, or a figure cannot be decoded.
        MedVLMError: training has diverged.
        ResourceError: the memory of the device or the disk is not enough.
        SystemExit: SIGTERM came, to any rank; a checkpoint was saved before.
    """
    # The model is made before TrainingArguments: once they name ZeRO-3, from_pretrained splits the weights over the
    # ranks itself and saves them under other names.  Every rank holds the whole model in main memory for that.
    model, processor = load_model(job)
    freeze(model, job.stage)
    _widen(model, job)
    one_thread_if_small(model.num_parameters())
    split = Split(Path(job.conversations), Figures([Path(folder) for folder in job.figures]), KINDS[job.stage])
    features = _features(job, model, processor, tell)
    length = job.config["max_length"]
    train, val = (Samples(split, rows, model, processor, length, features) for rows in (split.train, split.val))
    trainer = StepTrainer(job, model, _arguments(job, len(train)), train, tell)
    if trainer.steps:
        trainer.steps.start(int(Path(job.resume).name.removeprefix("step-")) if job.resume else 0)
    try:
        with trainer.stop:
            trainer.train(resume_from_checkpoint=job.resume)
    except torch.OutOfMemoryError as error:
        what = f"micro_batch {job.micro} does not fit the memory of {torch.cuda.get_device_name()}"
        raise ResourceError(what, "--set micro_batch=N with a smaller N: the result stays the same") from error
    trainer.stop.leave()
    if trainer.stopping:
        raise SystemExit(128 + signal.SIGTERM)  # another rank was asked to
    held_out = trainer.held_out(val)
    outcome = _outcome(trainer.steps.rows(), trainer.cut, held_out) if trainer.steps else {}
    _export(trainer, processor, outcome)
    return outcome


def load_model(job: Job) -> tuple[Any, Any]:
    """Model and processor that a job starts from, on the CPU; a fresh connector's weights come from the job's seed."""
    dtype = torch.bfloat16 if job.config["precision"] == "bf16" else torch.float32
    if "checkpoint" in job.model:
        return load(job.model["checkpoint"], torch.device("cpu"), dtype)
    config = job.config
    names = ("scales", "fit", "antialias", "seed")
    return build_model(job.model["tower"], job.model["llm"], dtype=dtype, **{name: config[name] for name in names})


def _widen(model: Any, job: Job) -> None:
    """Keep what is trained in float32, or small steps would round to nothing; DeepSpeed keeps such a copy itself."""
    if not (job.config["zero"] and _world() > 1):
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()


def _features(job: Job, model: Any, processor: Any, tell: Tell) -> Features | None:
    """The cache of the tower's features, made by the first rank while the others wait for its manifest."""
    if not job.features:
        return None
    figures = [Path(folder) for folder in job.figures]
    cache = Cache(Path(job.features), figures, model, processor)
    if _rank() == 0:
        model.model.vision_tower.to("cuda" if torch.cuda.is_available() else "cpu")
        cache.make(tell)
    while not (cache.folder / "manifest.json").exists():  # no collective: this may take longer than one is allowed
        time.sleep(0.2)
    return Features(cache.folder)


def _arguments(job: Job, rows: int) -> TrainingArguments:
    """What ``Trainer`` is told; the steps are counted here, because it would count devices and epochs its own way."""
    config, world, cpu = job.config, _world(), not torch.cuda.is_available()
    steps = plan_of(job, rows, 0, world).steps
    zero = config["zero"] if world > 1 else 0
    deepspeed = None
    if zero:
        if cpu:
            start_on_cpu()
        deepspeed = zero_config(zero, job.micro, job.accumulation, world, config["precision"] == "bf16", MAX_GRAD_NORM)
    arguments = TrainingArguments(
        output_dir=job.state,
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and world > 1 else None,
        ddp_find_unused_parameters=False,
        deepspeed=deepspeed,
        per_device_train_batch_size=job.micro,
        gradient_accumulation_steps=job.accumulation,
        num_train_epochs=1,  # Plan goes through all of them
        learning_rate=config["lr"],
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(steps * config["warmup"]),
        weight_decay=config["weight_decay"],
        max_grad_norm=MAX_GRAD_NORM,
        bf16=config["precision"] == "bf16",
        activation_checkpointing=config["checkpointing"],
        activation_checkpointing_kwargs={"use_reentrant": False},
        seed=config["seed"],
        save_strategy="steps",
        save_steps=config["save_every"],
        logging_steps=1,
        logging_nan_inf_filter=False,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )
    arguments._n_gpu = min(arguments.n_gpu, 1)  # or one process would spread over every GPU it sees, by DataParallel
    return arguments


def _outcome(rows: list[dict[str, Any]], cut: int, held_out: float | None) -> dict[str, Any]:
    last = rows[-max(1, len(rows) // 20) :]
    return {
        "steps": len(rows),
        "loss": sum(row["loss"] for row in last) / len(last),  # mean of the last twentieth
        "held_out_loss": held_out,
        "seconds": sum(row["seconds"] for row in rows),
        "cut_to_max_length": cut,  # conversations shown since the start of this process
    }


def _export(trainer: StepTrainer, processor: Any, outcome: dict[str, Any]) -> None:
    """Save the model as a Hugging Face folder, by the first rank; under ZeRO-3 all ranks lend their parts to it."""
    gathered: Any = nullcontext()
    job = trainer.job
    if trainer.is_deepspeed_enabled and trainer.accelerator.deepspeed_config["zero_optimization"]["stage"] == 3:
        import deepspeed

        gathered = deepspeed.zero.GatheredParameters(list(trainer.model.parameters()))
    with gathered:
        if trainer.steps:
            dtype = torch.bfloat16 if job.config["precision"] == "bf16" else torch.float32
            finished = datetime.now(UTC).isoformat(timespec="seconds")
            run = job.run | outcome | {"finished": finished}
            save(trainer.model.to(dtype), processor, Path(job.state) / "out", run)
            _export_steps(trainer.steps.rows(), job, Path(job.state) / "out" / "steps")
    trainer.accelerator.wait_for_everyone()


def _export_steps(rows: list[dict[str, Any]], job: Job, out: Path) -> None:
    """The log as a steps/1 dataset, in one shard because its rows have an order."""
    keys = [str(row["step"]) for row in rows]
    with Writer(out, STEPS, stage=job.stage, config=job.config, keys=keys, keys_per_shard=len(keys)) as writer:
        for shard, _ in writer.todo():
            writer.commit(shard, [Harvest(1, [row], []) for row in rows])


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
