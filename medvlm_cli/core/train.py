"""One training run in this process: a job in, a trained model in the state folder out.

``launch`` looks after the folders and decides how many processes do this; here every process is one rank of them.
"""

import math
import os
import signal
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from medvlm_cli.core.arrow import Harvest, Writer
from medvlm_cli.core.bad_step import TracedSamples
from medvlm_cli.core.commit import write_text
from medvlm_cli.core.errors import ResourceError
from medvlm_cli.core.features import Cache, Features
from medvlm_cli.core.flops import speed_of
from medvlm_cli.core.model.adapters import adapt, merge
from medvlm_cli.core.model.checkpoint import load, save
from medvlm_cli.core.model.documents import attend_by_document
from medvlm_cli.core.model.threads import one_thread_if_small
from medvlm_cli.core.model.vlm import build_model, freeze
from medvlm_cli.core.parity import encoder, published
from medvlm_cli.core.recipe import RECIPE, recipe
from medvlm_cli.core.resume import is_weights_only, load_weights, written
from medvlm_cli.core.samples import KINDS, Figures, Split
from medvlm_cli.core.schemas import STEPS
from medvlm_cli.core.steps import Data, Job, StepTrainer, Told, TrainingArguments, plan_of
from medvlm_cli.core.tell import Tell
from medvlm_cli.core.tracking import Tracking
from medvlm_cli.core.zero import start_on_cpu, zero_config

MAX_GRAD_NORM = 1.0
"""Gradients are clipped to this norm: the default of the trainer that the published model was trained with."""

LAYERS_A_CHECKPOINT = {"all": 1, "half": 2, "none": 0}
"""Setting ``checkpointing`` -> of how many layers one is computed again in the backward pass; 0: none is."""
HELD_OUT_ROWS = 512
"""Most held-out conversations that the loss is measured on while a run goes on; at its end it is all of them."""


def fit(job: Job, tell: Tell) -> dict[str, Any]:
    """Train as one rank of ``$WORLD_SIZE``, from the start or from ``job.resume``, and save the model.

    Args:
        job: what to train; the same for all ranks.
        tell: progress, of the first rank.

    Returns:
        The outcome: steps, losses in nats per target word, seconds.  The model lies in ``<state>/out``.

    Raises:
        DataError: a conversation cannot be learnt from, or a figure cannot be decoded.
        ConfigError: ``job.track`` cannot be opened.
        MedVLMError: training has diverged.
        ResourceError: the memory of the device or the disk is not enough.
        SystemExit: SIGTERM came, to any rank; a checkpoint was saved before.
    """
    tracking = Tracking(Path(job.state), job.track, job.run) if _rank() == 0 else None
    try:
        return _fit(job, tell, tracking)
    finally:
        if tracking:
            with suppress(Exception):  # what ends a run is to be told, and not that its curves were cut short
                tracking.close()


def _fit(job: Job, tell: Tell, tracking: Tracking | None) -> dict[str, Any]:
    # The model is made before TrainingArguments: once they name ZeRO-3, from_pretrained splits the weights over the
    # ranks itself and saves them under other names.  Every rank holds the whole model in main memory for that.
    model, processor = load_model(job)
    freeze(model, job.stage)
    adapt(model, job.config)
    if job.resume and is_weights_only(Path(job.resume)):
        load_weights(model, Path(job.resume))
    _widen(model, job)
    if job.config["pack_tokens"]:
        attend_by_document(model.model.language_model, job.config["max_length"])
    one_thread_if_small(model.num_parameters())
    split = Split(Path(job.conversations), Figures([Path(folder) for folder in job.figures]), KINDS[job.stage])
    features = _features(job, model, processor, split, tell)
    sets = (split.train, split.val, _spread(split.val, HELD_OUT_ROWS))
    train, held_out, part = (
        TracedSamples(split, rows, model, processor, job.config["max_length"], features) for rows in sets
    )
    for samples in (train, held_out, part):
        samples.encode = encoder(job.stage, job.config["parity"])
    data = Data(train=train, held_out=held_out, held_out_part=part)
    speed = speed_of(model, job.config["precision"], features is not None, _world())
    told = Told(tell=tell, tracking=tracking, speed=speed)
    arguments = _arguments(job, len(train), model.config.text_config.hidden_size)
    trainer = StepTrainer(job, model, arguments, data, told)
    trainer.start(int(Path(job.resume).name.removeprefix("step-")) if job.resume else 0)
    try:
        with trainer.stop:
            trainer.train(resume_from_checkpoint=job.resume)
    except torch.OutOfMemoryError as error:
        packed = job.config["pack_tokens"]
        size, name = (packed, "pack_tokens") if packed else (job.micro, "micro_batch")
        what = f"{name} {size} does not fit the memory of {torch.cuda.get_device_name()}"
        raise ResourceError(what, f"--set {name}=N with a smaller N: the result stays the same") from error
    trainer.stop.leave()
    if trainer.stopping:
        raise SystemExit(128 + signal.SIGTERM)  # another rank was asked to
    last = trainer.held_out_at_the_end()
    outcome = _outcome(trainer.steps.rows(), trainer.cut, last) if trainer.steps else {}
    _export(trainer, processor, outcome)
    return outcome


def load_model(job: Job) -> tuple[Any, Any]:
    """Model and processor that a job starts from, on the CPU; a fresh connector's weights come from the job's seed."""
    dtype = torch.bfloat16 if job.config["precision"] == "bf16" else torch.float32
    if "checkpoint" in job.model:
        model, processor = load(job.model["checkpoint"], torch.device("cpu"), dtype)
    else:
        settings = {name: job.config[name] for name in ("scales", "fit", "antialias", "seed")}
        model, processor = build_model(job.model["tower"], job.model["llm"], dtype=dtype, **settings)
    if job.config["parity"] != "none":
        published(model, processor)
    return model, processor


def _widen(model: Any, job: Job) -> None:
    """Keep what is trained in float32, or small steps would round to nothing; DeepSpeed keeps such a copy itself."""
    if not (job.config["zero"] and _world() > 1):
        for weight in model.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()


def _features(job: Job, model: Any, processor: Any, split: Split, tell: Tell) -> Features | None:
    """The cache of the tower's features, filled by the first rank while the others wait until nothing is missing."""
    if not job.features:
        return None
    cache = Cache(Path(job.features), model, processor, job.config["cache_precision"])
    if _rank() == 0:
        model.model.vision_tower.to("cuda" if torch.cuda.is_available() else "cpu")
        cache.make(split.originals(), tell)
        return cache.features
    wanted = {original.sha256 for original in split.originals()}
    while not all(sha256 in cache.features for sha256 in wanted):  # no collective: this may take longer than one may
        time.sleep(0.2)
        cache.features.refresh()
    return cache.features


def _spread(rows: Sequence[int], most: int) -> list[int]:
    """``most`` of the rows at even distances, or all."""
    return [rows[place * len(rows) // most] for place in range(most)] if len(rows) > most else list(rows)


def _arguments(job: Job, rows: int, hidden: int) -> TrainingArguments:
    """What ``Trainer`` is told; the steps are counted here, because it would count devices and epochs its own way."""
    config, world, cpu = job.config, _world(), not torch.cuda.is_available()
    steps = plan_of(job, rows, 0, world).steps
    zero, every = config["zero"] if world > 1 else 0, LAYERS_A_CHECKPOINT[config["checkpointing"]]
    accumulation = 1 if config["pack_tokens"] else job.accumulation  # a step of packs is one item of the loader
    deepspeed = None
    if zero:
        if cpu:
            start_on_cpu()
        bf16 = config["precision"] == "bf16"
        deepspeed = zero_config(zero, job.micro, accumulation, world, bf16, MAX_GRAD_NORM, hidden)
    arguments = TrainingArguments(
        output_dir=job.state,
        use_cpu=cpu,
        ddp_backend="gloo" if cpu and world > 1 else None,
        ddp_find_unused_parameters=False,
        deepspeed=deepspeed,
        per_device_train_batch_size=job.micro,
        gradient_accumulation_steps=accumulation,
        num_train_epochs=1,  # Plan goes through all of them
        learning_rate=config["lr"],
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(steps * config["warmup"]),
        weight_decay=config["weight_decay"],
        max_grad_norm=MAX_GRAD_NORM,
        bf16=config["precision"] == "bf16",
        activation_checkpointing=every > 0,
        activation_checkpointing_kwargs={"use_reentrant": False, "every_n_layers": max(every, 1)},
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
    with gathered, written(Path(job.state)):
        if trainer.steps:
            dtype = torch.bfloat16 if job.config["precision"] == "bf16" else torch.float32
            finished = datetime.now(UTC).isoformat(timespec="seconds")
            run = job.run | outcome | {"finished": finished}
            out = Path(job.state) / "out"
            adapter = merge(trainer.model)
            save(trainer.model.to(dtype), processor, out, run, proven=job.config["proven"])
            base = Path(job.model["checkpoint"]) if "checkpoint" in job.model else None
            if adapter and base:
                adapter.write(out / "adapter", base.name)
            write_text(out / RECIPE, recipe(job.stage, job.config, base))
            _export_steps(trainer.steps.rows(), job, out / "steps")
            if trainer.told.tracking:
                trainer.told.tracking.export(out)
    trainer.accelerator.wait_for_everyone()


def _export_steps(rows: list[dict[str, Any]], job: Job, out: Path) -> None:
    """The log as a steps/1 dataset, in one shard because its rows have an order."""
    keys = [str(row["step"]) for row in rows]
    with Writer(out, STEPS, stage=job.stage, config=job.config, keys=keys, keys_per_shard=len(keys)) as writer:
        for shard, _ in writer.todo():
            writer.commit(shard, [Harvest(1, [dict.fromkeys(STEPS.names) | row], []) for row in rows])


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _world() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))
