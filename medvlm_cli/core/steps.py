"""The optimiser steps of one training run: their data, what they log, how they are saved and how they go on.

The loop is ``transformers.Trainer``'s.  What this one does otherwise than the stock one, and why:

* the loss is the mean over the target words of the whole optimiser step, whatever the split into devices and
  accumulation;
* every process knows the whole order of the data, so no conversation is shown twice to fill a last batch;
* a checkpoint holds what is trained and nothing frozen (65 MB, not 34 GB, for the connector of an 8B model), and only
  exists when it is complete (``resume``);
* the loss over conversations that are held out is measured now and then, without a trace in the training;
* a loss that is not finite stops the run before it is saved, and its conversations are kept (``bad_step``).
"""

import math
import resource
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

import accelerate.utils.other
import torch
import transformers.utils
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from medvlm_cli.core.bad_step import TracedSamples, keep
from medvlm_cli.core.errors import MedVLMError, ResourceError
from medvlm_cli.core.flops import Counts, Speed, count
from medvlm_cli.core.packing import Budget, PackedPasses, PackedSteps
from medvlm_cli.core.parity import divisor
from medvlm_cli.core.resume import Checkpoints, StepLog, is_weights_only, read_state, written
from medvlm_cli.core.samples import Plan, Samples
from medvlm_cli.core.stop import Stop
from medvlm_cli.core.tell import Tell, show
from medvlm_cli.core.tracking import Tracking

# Libraries that most processes never use are kept out, 5 s of every start: Trainer imports `datasets` and `peft` to see
# whether our dataset and our model are theirs, accelerate imports `deepspeed` for the same reason.
_has_datasets, transformers.utils.is_datasets_available = transformers.utils.is_datasets_available, lambda: False
_has_peft, transformers.utils.is_peft_available = transformers.utils.is_peft_available, lambda: False
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments  # noqa: E402

transformers.utils.is_datasets_available = _has_datasets
transformers.utils.is_peft_available = _has_peft
accelerate.utils.other.is_deepspeed_available = lambda: "deepspeed" in sys.modules

HELD_OUT_PARTS = 10
"""How often the held-out loss is measured in a run, where ``held_out_every`` does not say otherwise."""
SMOOTHED = 20
"""Steps whose mean loss is shown while a training runs."""
SHOWN = ("lr", "grad_norm", "tokens_per_second", "images_per_second", "mfu", "peak_bytes")
COUNTED = ("cut", "tokens", "padding", "rows")
"""What a batch tells beside what the model takes."""


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
    """Folder of all caches of features, features/1."""
    resume: str | None = None
    """Checkpoint to go on from."""
    track: str = ""
    """Of ``tracking.TRACKERS``; empty: none."""


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


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a run reads."""

    train: TracedSamples
    held_out: Samples
    """All conversations that are held out."""
    held_out_part: Samples
    """Those of them that the loss is measured on while the run goes on."""


@dataclass(frozen=True, kw_only=True)
class Told:
    """Who is told of a run, and what it is measured by."""

    tell: Tell
    """Progress."""
    tracking: Tracking | None = None
    """Curves; of the first rank."""
    speed: Speed | None = None
    """What the devices could do, where that is known."""


class StepTrainer(PackedPasses, Trainer):
    """``Trainer`` with the data order, the log and the checkpoints of medvlm."""

    model: Any
    model_wrapped: Any
    optimizer: Any
    lr_scheduler: Any
    train_dataset: Any

    def __init__(self, job: Job, model: Any, args: TrainingArguments, data: Data, told: Told) -> None:
        super().__init__(model=model, args=args, train_dataset=data.train, data_collator=data.train.collate)
        self.job, self.data, self.told = job, data, told
        self.checkpoints = Checkpoints(Path(job.state))
        self.steps = StepLog(Path(job.state) / "steps.jsonl") if args.process_index == 0 else None
        self.stop, self.stopping = Stop(), False
        self.cut, self.began = 0, time.perf_counter()
        self.batches: list[dict[str, Any]] = []
        self.losses: list[torch.Tensor] = []
        self.counts = Counts(targets=0, tokens=0, padding=0, conversations=0, images=0)
        self.recent: deque[float] = deque(maxlen=SMOOTHED)
        self.held_out_loss: float | None = None
        self.final: float | None = None
        self.remove_callback(PrinterCallback)
        self.add_callback(_SaveAndStop(self))

    def start(self, step: int) -> None:
        """Open the log and the curves for the steps after ``step``; by every rank, before ``train``."""
        if self.steps:
            seen = max((row["step"] for row in self.steps.rows()), default=0)
            self.steps.start(step)
            rows = self.steps.rows()
            if self.told.tracking:
                self.told.tracking.start(rows, seen)
            self.recent.extend(row["loss"] for row in rows)
            measured = [loss for row in rows if (loss := row.get("held_out_loss")) is not None]
            self.held_out_loss = measured[-1] if measured else None

    # ---- data -------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        """The micro-batches of this rank, all epochs in one pass."""
        samples = self.train_dataset
        plan = plan_of(self.job, len(samples), self.args.process_index, self.args.world_size)
        if tokens := self.job.config["pack_tokens"]:
            budget = Budget(tokens, self.job.config["pack_images"])
            return PackedSteps(samples, plan, budget).loader(**self._reading(samples))
        if self.job.config["parity"] == "none":  # whose loss depends on which conversations are together
            plan.sizes = samples.sizes
        return self._loader(samples, plan)

    def _loader(self, samples: Samples, plan: Plan, generator: torch.Generator | None = None) -> DataLoader:
        """A loader; ``generator`` makes its random numbers, which otherwise would come from training's."""
        reading = self._reading(samples)
        return DataLoader(samples, batch_sampler=plan, collate_fn=samples.collate, generator=generator, **reading)

    def _reading(self, samples: Samples) -> dict[str, Any]:
        """How a loader reads: by so many processes that decoding keeps up with a GPU, into memory that it can fetch."""
        gpu = self.args.device.type == "cuda"
        return {"num_workers": 4 if gpu and not samples.features else 0, "pin_memory": gpu}

    def get_batch_samples(
        self, epoch_iterator: Iterator, num_batches: int, device: torch.device
    ) -> tuple[list, torch.Tensor]:
        """The micro-batches of the next step, and the target words in it over all ranks, which the model divides by.

        The same exchange tells every rank whether one of them was asked to stop.
        """
        self.began = time.perf_counter()
        found = [batch for _ in range(num_batches) if (batch := next(epoch_iterator, None)) is not None]
        packed = bool(found) and isinstance(found[0], list)  # one item is a whole step, see PackedSteps
        self.batches = found[0] if packed else found
        self.losses = []
        own = count(self.batches)
        sums = [*astuple(own), sum(batch["cut"] for batch in self.batches), int(bool(self.stop.number))]
        if self.args.world_size > 1:
            sums = self.accelerator.reduce(torch.tensor(sums, device=device), "sum").tolist()
        *totals, cut, stops = sums
        self.counts, self.stopping = Counts(**dict(zip(asdict(own), totals, strict=True))), stops > 0
        self.cut += cut
        inputs: list[Any] = [_inputs(batch) for batch in self.batches]
        return [inputs] if packed else inputs, torch.tensor(max(self.counts.targets, 1), device=device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """As ``Trainer``, without the cache of keys and values that a language model keeps unless told not to."""
        if self.job.config["parity"] != "none":
            parts, world = self.current_gradient_accumulation_steps, self.args.world_size
            num_items_in_batch = divisor(inputs["labels"], parts, world)
        made = super().compute_loss(model, inputs | {"use_cache": False}, return_outputs, num_items_in_batch)
        loss: Any = made[0] if return_outputs else made
        self.losses.append(loss.detach())
        return made

    @torch.no_grad()
    def held_out(self, samples: Samples) -> float | None:
        """Mean loss in nats per target word over conversations that are not trained on; None without any.

        It draws no number that training would draw, and leaves nothing behind but the mode of the model, which
        training sets in every step.
        """
        if not len(samples):
            return None
        world, model = self.args.world_size, self.model_wrapped
        plan = Plan(
            rows=len(samples), batch=self.job.micro * world, micro=self.job.micro, epochs=1, seed=None,
            rank=self.args.process_index, world=world,
        )  # fmt: skip
        model.eval()
        total = torch.zeros(2, dtype=torch.float64, device=self.args.device)
        for batch in self._loader(samples, plan, torch.Generator()):
            targets = (batch["labels"][:, 1:] != -100).sum()
            with self.compute_loss_context_manager():
                inputs = self._prepare_inputs(_inputs(batch))
                summed = model(**inputs, num_items_in_batch=1, use_cache=False).loss
            total += torch.stack([summed.double(), targets.to(total)])
        if world > 1:
            total = self.accelerator.reduce(total, "sum")
        return (total[0] / total[1]).item()

    def held_out_at_the_end(self) -> float | None:
        """The loss over all that is held out, once the last step is done; measured if that step did not do so."""
        if self.final is None:
            self.final = self.held_out(self.data.held_out)
        return self.final

    def _held_out_after(self, step: int) -> float | None:
        """The held-out loss after a step, where it is due; a run that is asked to stop has no time for it."""
        steps = self.state.max_steps
        every = self.job.config["held_out_every"] or math.ceil(steps / HELD_OUT_PARTS)
        if self.stopping:
            return None
        if step == steps:
            return self.held_out_at_the_end()
        return self.held_out(self.data.held_out_part) if step % every == 0 else None

    # ---- log --------------------------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """One row of steps/1 for the step that just ended.

        Raises:
            MedVLMError: its loss or gradient is not finite; the step is neither logged nor saved.
        """
        if "loss" not in logs:
            return
        step, loss, norm = self.state.global_step, logs["loss"], float(logs["grad_norm"])
        if not math.isfinite(loss) or not math.isfinite(norm) or self.accelerator.optimizer_step_was_skipped:
            raise self._diverged(step, loss, norm)
        seconds = time.perf_counter() - self.began
        measured = self._held_out_after(step)
        if self.steps is None:
            return
        row: dict[str, Any] = {
            "step": step,
            "loss": loss,
            "lr": logs["learning_rate"],
            "grad_norm": norm,
            "seconds": seconds,
        }
        row |= self.counts.rates(seconds) | {"peak_bytes": _peak_bytes(), "held_out_loss": measured}
        row["mfu"] = self.told.speed.mfu(self.counts, seconds) if self.told.speed else None
        self.steps.append(row)
        if self.told.tracking:
            self.told.tracking.add(row)
        self.recent.append(loss)
        self.held_out_loss = self.held_out_loss if measured is None else measured
        shown = {"loss": sum(self.recent) / len(self.recent), "held_out_loss": self.held_out_loss}
        show(self.told.tell, {name: row[name] for name in SHOWN} | shown)
        self.told.tell(self.job.stage, step, self.state.max_steps)

    def _diverged(self, step: int, loss: float, norm: float) -> MedVLMError:
        """The error to stop with; every rank keeps its conversations of the step first."""
        folder = Path(self.job.state) / f"bad-step-{step:08d}"
        figures = {"step": step, "loss": loss, "grad_norm": norm}
        try:
            keep(folder, self.args.process_index, self.data.train, self.batches, self.losses, figures)
            kept = f"its conversations are kept in {folder}"
        except ResourceError as error:
            kept = f"its conversations could not be kept: {error.what}"
        self.accelerator.wait_for_everyone()  # the first rank to leave ends the others
        return MedVLMError(
            f"step {step} of {self.state.max_steps}: loss {loss}, gradient norm {norm}; training has diverged; {kept}",
            f"lower lr ({self.job.config['lr']}) or raise warmup; the state before it is kept in {self.job.state}",
        )

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
        with written(part):
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
            if is_weights_only(folder):
                pass  # `fit` gave them to the model; the optimiser starts afresh
            elif self.is_deepspeed_enabled:  # not strict: what is frozen is not in it
                self.model_wrapped.load_checkpoint(str(folder), load_module_strict=False)
            else:
                stored, current = load_file(folder / "trainable.safetensors"), _trainable(self.model)
                assert stored.keys() == current.keys(), "the fingerprint vouches for the model"
                for name, weight in current.items():
                    weight.data.copy_(stored[name])
                self.optimizer.load_state_dict(read_state(folder / "optimizer.pt"))
            self.lr_scheduler.load_state_dict(read_state(folder / "scheduler.pt"))
        return prepared


def plan_of(job: Job, rows: int, rank: int, world: int) -> Plan:
    """The order of a job's data, for one rank."""
    config = job.config
    return Plan(
        rows=rows, batch=config["batch"], micro=job.micro, epochs=config["epochs"], seed=config["seed"],
        rank=rank, world=world,
    )  # fmt: skip


def _inputs(batch: dict[str, Any]) -> dict[str, Any]:
    """What of a batch the model takes."""
    return {name: value for name, value in batch.items() if name not in COUNTED}


def _trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad}


def _peak_bytes() -> int:
    """The most memory this process held: of the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
