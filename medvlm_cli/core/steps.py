"""The optimiser steps of one training run: their data, what they log, how they are saved and how they go on.

The loop is ``transformers.Trainer``'s.  What this one does otherwise than the stock one, and why:

* the loss is the mean over the target words of the whole optimiser step, whatever the split into devices and
  accumulation;
* every process knows the whole order of the data, so no conversation is shown twice to fill a last batch;
* a checkpoint holds what is trained and nothing frozen (65 MB, not 34 GB, for the connector of an 8B model), and only
  exists when it is complete (``resume``);
* a loss that is not finite stops the run before it is saved.
"""

import math
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import accelerate.utils.other
import torch
import transformers.utils
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from medvlm_cli.core.commit import refusals
from medvlm_cli.core.errors import MedVLMError
from medvlm_cli.core.resume import Checkpoints, StepLog
from medvlm_cli.core.samples import Plan, Samples
from medvlm_cli.core.tell import Tell

# Two libraries that one process on one device never uses are kept out, 3 s of every start: Trainer imports `datasets`
# to see whether our dataset is one of its own, accelerate imports `deepspeed` to see whether our model is.
_has_datasets, transformers.utils.is_datasets_available = transformers.utils.is_datasets_available, lambda: False
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: E402

transformers.utils.is_datasets_available = _has_datasets
accelerate.utils.other.is_deepspeed_available = lambda: "deepspeed" in sys.modules


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training run, as the processes that do it are told; every field goes through JSON."""

    stage: str
    """pretrain or finetune."""
    conversations: str
    figures: list[str]
    state: str
    """Folder of the checkpoints and of the step log."""
    config: dict[str, Any]
    """The verb's settings."""
    model: dict[str, Any]
    """``tower``, ``llm`` of a fresh model, or ``checkpoint``."""
    micro: int
    """Conversations per device and forward pass."""
    accumulation: int
    """Forward passes per optimiser step."""
    run: dict[str, Any]
    """What the checkpoint's run.json says beside the outcome."""
    features: str | None = None
    """Folder of cached features, features/1."""
    resume: str | None = None
    """Checkpoint to go on from."""


class Stop:
    """Remembers SIGTERM and the first SIGINT, so that the step under way ends and is saved; a second SIGINT raises."""

    number = 0

    def __enter__(self) -> "Stop":
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def leave(self) -> None:
        """End the process as the signal asks, if one came."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number:
            raise SystemExit(128 + self.number)


class _SaveAndStop(TrainerCallback):
    """Ends the run with a checkpoint when any process was asked to stop."""

    def __init__(self, trainer: "StepTrainer") -> None:
        self.trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **more: Any
    ) -> TrainerControl:
        """After the callback that decides whether to save regularly."""
        if self.trainer.stopping:
            control.should_save = control.should_training_stop = True
        return control


class StepTrainer(Trainer):
    """``Trainer`` with the data order, the log and the checkpoints of medvlm."""

    model: Any
    model_wrapped: Any
    optimizer: Any
    lr_scheduler: Any
    train_dataset: Any

    def __init__(self, job: Job, model: Any, args: TrainingArguments, samples: Samples, tell: Tell) -> None:
        super().__init__(model=model, args=args, train_dataset=samples, data_collator=samples.collate)
        self.job, self.tell = job, tell
        self.checkpoints = Checkpoints(Path(job.state))
        self.steps = StepLog(Path(job.state) / "steps.jsonl") if args.process_index == 0 else None
        self.stop, self.stopping = Stop(), False
        self.tokens, self.cut, self.began = 0, 0, time.perf_counter()
        self.remove_callback(PrinterCallback)
        self.add_callback(_SaveAndStop(self))

    # ---- data -------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """The micro-batches of this rank, all epochs in one pass."""
        plan = plan_of(self.job, len(self.train_dataset), self.args.process_index, self.args.world_size)
        return self._loader(self.train_dataset, plan)

    def _loader(self, samples: Samples, plan: Plan) -> DataLoader:
        workers = 0 if samples.features or self.args.device.type == "cpu" else 4  # decoding keeps up with a GPU
        return DataLoader(samples, batch_sampler=plan, collate_fn=samples.collate, num_workers=workers)

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor]:
        """The micro-batches of the next step, and the target words in it over all ranks, which the model divides by.

        The same exchange tells every rank whether one of them was asked to stop.
        """
        self.began = time.perf_counter()
        batches = [batch for _ in range(num_batches) if (batch := next(epoch_iterator, None)) is not None]
        counts = [sum(int((batch["labels"][:, 1:] != -100).sum()) for batch in batches)]
        counts += [sum(int(batch["attention_mask"].sum()) for batch in batches), int(bool(self.stop.number))]
        counts.append(sum(batch.pop("cut") for batch in batches))
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(torch.tensor(counts, device=device), "sum").tolist()
        self.tokens, self.stopping = counts[1], counts[2] > 0
        self.cut += counts[3]
        return batches, torch.tensor(max(counts[0], 1), device=device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """As ``Trainer``, without the cache of keys and values that a language model keeps unless told not to."""
        return super().compute_loss(model, inputs | {"use_cache": False}, return_outputs, num_items_in_batch)

    @torch.no_grad()
    def held_out(self, samples: Samples) -> float | None:
        """Mean loss in nats per target word over conversations that are not trained on; None without any."""
        if not len(samples):
            return None
        world, model = self.args.world_size, self.model_wrapped
        plan = Plan(
            rows=len(samples), batch=self.job.micro * world, micro=self.job.micro, epochs=1, seed=None,
            rank=self.args.process_index, world=world,
        )  # fmt: skip
        model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch in self._loader(samples, plan):
            batch.pop("cut")
            targets = (batch["labels"][:, 1:] != -100).sum()
            with self.compute_loss_context_manager():
                summed = model(**self._prepare_inputs(batch), num_items_in_batch=1, use_cache=False).loss
            total += torch.stack([summed.double(), targets.to(total)])
        if world > 1:
            total = self.accelerator.reduce(total, "sum")
        return (total[0] / total[1]).item()

    # ---- log --------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One row of steps/1 for the step that just ended.

        Raises:
            MedVLMError: its loss or gradient is not finite; the step is neither logged nor saved.
        """
        if "loss" not in logs:
            return
        step, loss, norm = self.state.global_step, logs["loss"], float(logs["grad_norm"])
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise MedVLMError(
                f"step {step} of {self.state.max_steps}: loss {loss}, gradient norm {norm}; training has diverged",
                f"lower lr ({self.job.config['lr']}) or raise warmup; the state before it is kept in {self.job.state}",
            )
        if self.steps is not None:
            seconds = time.perf_counter() - self.began
            row = {"step": step, "loss": loss, "lr": logs["learning_rate"], "grad_norm": norm, "tokens": self.tokens}
            self.steps.append(row | {"seconds": seconds, "peak_bytes": _peak_bytes()})
            self.tell(self.job.stage, step, self.state.max_steps)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """0: the stock count walks over all parameters in every step."""
        return 0

    def store_flos(self) -> None:
        """Nothing to store, and no collective for it."""

    # ---- checkpoints ------------------------------------------------------------------------------------------

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        first, step = self.args.process_index == 0, self.state.global_step
        if self.steps:
            self.steps.sync()
            self.checkpoints.begin(step)
        self.accelerator.wait_for_everyone()
        part = self.checkpoints.part(step)
        with refusals(part):
            if self.is_deepspeed_enabled:
                self.model_wrapped.save_checkpoint(str(part), exclude_frozen_parameters=True)
            elif first:
                save_file(_trainable(self.model), part / "trainable.safetensors")
                torch.save(self.optimizer.state_dict(), part / "optimizer.pt")
            self._save_rng_state(str(part))
            if first:
                torch.save(self.lr_scheduler.state_dict(), part / "scheduler.pt")
                self.state.save_to_json(str(part / "trainer_state.json"))
        self.accelerator.wait_for_everyone()
        if first:
            self.checkpoints.commit(step)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing yet: ``_prepare_for_training`` loads everything at once, when optimiser and engine exist."""

    def _prepare_for_training(self, max_steps: int, train_dataloader: DataLoader, resume_from_checkpoint: Any) -> tuple:
        prepared = super()._prepare_for_training(max_steps, train_dataloader, None)
        if resume_from_checkpoint:
            folder = Path(resume_from_checkpoint)
            if self.is_deepspeed_enabled:  # not strict: what is frozen is not in it
                self.model_wrapped.load_checkpoint(str(folder), load_module_strict=False)
            else:
                stored, current = load_file(folder / "trainable.safetensors"), _trainable(self.model)
                assert stored.keys() == current.keys(), "the fingerprint vouches for the model"
                for name, weight in current.items():
                    weight.data.copy_(stored[name])
                self.optimizer.load_state_dict(torch.load(folder / "optimizer.pt", "cpu", weights_only=True))
            self.lr_scheduler.load_state_dict(torch.load(folder / "scheduler.pt", "cpu", weights_only=True))
        return prepared


def plan_of(job: Job, rows: int, rank: int, world: int) -> Plan:
    """The order of a job's data, for one rank."""
    config = job.config
    return Plan(
        rows=rows, batch=config["batch"], micro=job.micro, epochs=config["epochs"], seed=config["seed"],
        rank=rank, world=world,
    )  # fmt: skip


def _trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def _peak_bytes() -> int:
    """The most memory this process held: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
