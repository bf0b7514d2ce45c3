"""What ``--dry-run`` of ``pretrain`` and ``finetune`` says: whether a run fits, in which layout, and how long it takes.

No weights are loaded and nothing is written.  ``cost`` has the arithmetic; here it meets a config, a device and data.
"""

import dataclasses
import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import medvlm_cli.core.steps  # noqa: F401  or saving the tiny parts imports DeepSpeed, which writes on stdout
from medvlm_cli.core.cost import (
    EFFICIENCY,
    Sizes,
    Split,
    activations,
    disk,
    feature_bytes,
    flop_per_sample,
    logits,
    seconds_per_step,
    states,
)
from medvlm_cli.core.devices import DEVICES, GB, Device, find_device
from medvlm_cli.core.lengths import Lengths, Rows, assumed, pieces
from medvlm_cli.core.resume import KEEP
from medvlm_cli.core.samples import KINDS, split_batch
from medvlm_cli.core.sizes import Parts, parts_of_checkpoint, parts_of_names, sizes_of

FASTER = "all activations kept"
"""Row of the layout without recomputation, where the settings have it and could do without: ``checkpointing=false``."""
RECOMPUTED = {"all": 1.0, "half": 0.5, "none": 0.0}
"""Setting ``checkpointing`` -> share of the layers whose activations are computed again."""
_MORE = (1, 2, 4, 8, 16, 32, 64)
"""Numbers of devices that are tried when the ones at hand do not do."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """What shall be estimated."""

    stage: str
    """pretrain or finetune."""
    config: Any
    """The stage's settings."""
    parts: Any
    """Where sizes and words come from: the folder of a checkpoint, or a ``PretrainConfig``."""
    conversations: Path | None
    """conversations/1 dataset; None assumes the published model's."""
    out: Path
    """Where the checkpoint would be."""
    gpus: int
    """Devices."""
    gpu_type: str = ""
    """Of ``devices.NAMES``; empty: this machine's."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """Everything that the arithmetic needs."""

    stage: str
    config: Any
    sizes: Sizes
    lengths: Lengths
    device: Device

    def recomputing(self, whether: bool) -> "Case":
        """The same, with or without recomputation."""
        return dataclasses.replace(self, config=dataclasses.replace(self.config, checkpointing=whether))

    def adapting(self, kind: str) -> "Case":
        """The same, with an adapter of this kind in place of the language model's own weights."""
        zero = min(self.config.zero, 2)  # ZeRO-3 does not split weights of 4 bits
        return dataclasses.replace(self, config=dataclasses.replace(self.config, adapter=kind, zero=zero))

    def split(self, world: int, zero: int) -> Split:
        """A layout over ``world`` devices."""
        return Split(
            stage=self.stage, world=world, zero=zero if world > 1 else 0, precision=self.config.precision,
            recomputed=RECOMPUTED[self.config.checkpointing], adapter=getattr(self.config, "adapter", "none"),
            rank=getattr(self.config, "lora_rank", 0),
        )  # fmt: skip

    def memory(self, split: Split, micro: int) -> dict[str, Any]:
        """GB on each device, and whether they are there: for a full pack, or ``micro`` conversations of the longest."""
        count, length = float(micro), float(self.lengths.tokens.max())
        if pack := self.config.pack_tokens:
            length = float(self.lengths.tokens.mean())
            count = pack / length
        needed = states(self.sizes, split) | {
            "activations": activations(self.sizes, split, count, length),
            "logits": logits(self.sizes, split, count, self.lengths.targets),
        }
        total = sum(needed.values())
        usable = self.device.usable(split.world)
        needed |= {"total": total, "usable": usable}
        return {name: size / GB for name, size in needed.items()} | {"fits": total <= usable}

    def micro(self, split: Split) -> int:
        """The largest micro-batch that fits and that a device's share of the batch is a multiple of; 0: none fits."""
        share = self.config.batch // split.world
        sizes = (size for size in range(share, 0, -1) if share % size == 0)
        return next((size for size in sizes if self.memory(split, size)["fits"]), 0)

    def layout(self, world: int) -> tuple[Split, int]:
        """The layout to take over ``world`` devices, and its micro-batch: ZeRO-2 where it fits, else ZeRO-3."""
        several = (2,) if getattr(self.config, "adapter", "none") == "qlora" else (2, 3)
        for zero in several if world > 1 else (0,):
            split = self.split(world, zero)
            if micro := self.micro(split):
                return split, micro
        return split, 0


def estimate(question: Question) -> dict[str, Any]:
    """Everything that can be said before a run.

    Args:
        question: the run.

    Returns:
        JSON-able, in the order in which a person reads it; ``notes`` says what was assumed and what does not fit, and
        ``sample`` is the first conversation in ``lengths.pieces``.  Bytes are in GB of 10^9.

    Raises:
        ConfigError: there is no such part or device, or the batch does not divide over the devices.
        DataError: the checkpoint or a conversation is not what it must be.
    """
    device = find_device(question.gpu_type)
    parts = _parts(question)
    rows = Rows(question.conversations, question.config, KINDS[question.stage]) if question.conversations else None
    if rows and parts.processor:
        lengths = rows.lengths(parts.processor)
    else:
        lengths = assumed(question.stage, parts.vision.tokens, rows)
    case = Case(stage=question.stage, config=question.config, sizes=sizes_of(parts), lengths=lengths, device=device)
    said = _numbers(case, question)
    said["notes"] = [*parts.notes, *_assumptions(case, rows is not None), *_ways_out(case, question.gpus, said)]
    if rows and parts.processor:
        first = rows.encoded(rows.first(), parts.processor)
        shown = pieces(parts.processor, first["input_ids"], first["labels"])
        said["sample"] = {"conversation": first["name"], "pieces": shown}
    return said


def _parts(question: Question) -> Parts:
    return parts_of_checkpoint(question.parts) if isinstance(question.parts, Path) else parts_of_names(question.parts)


def _numbers(case: Case, question: Question) -> dict[str, Any]:
    """All of the estimate that is a number."""
    config, sizes, world = case.config, case.sizes, question.gpus
    own, _ = split_batch(config.batch, config.micro_batch, world)
    as_set = case.split(world, config.zero)
    split, micro = case.layout(world)
    shown = micro or 1
    memory = {"chosen": _laid_out(case, split, shown), "as set": _laid_out(case, as_set, own)}
    time = {"chosen": _time(case, split, shown), "as set": _time(case, as_set, own)}
    faster = case.recomputing(False)
    kept, kept_micro = faster.layout(world)
    if config.checkpointing != "none" and kept_micro:
        memory[FASTER], time[FASTER] = _laid_out(faster, kept, kept_micro), _time(faster, kept, kept_micro)
    return {
        "device": {
            "name": case.device.name, "count": world, "memory_gb": case.device.memory / GB,
            "tflops": None if case.device.peak is None else case.device.peak / 1e12, "source": case.device.source,
        },
        "parameters": _parameters(sizes, split),
        "length": {
            "source": case.lengths.source, "conversations": case.lengths.rows,
            "tokens": float(case.lengths.tokens.mean()), "longest": int(case.lengths.tokens.max()),
            "targets": case.lengths.targets, "cut_to_max_length": case.lengths.cut,
        },
        "chosen": {
            "zero": split.zero, "micro_batch": micro, "accumulation": config.batch // (world * shown),
            "fits": micro > 0,
        },
        "memory_gb": memory,
        "main_memory_gb": split.item * (sizes.llm + sizes.connector + sizes.tower) * world / GB,
        "time": time,
        **_disk(case, split, question.out),
    }  # fmt: skip


def _laid_out(case: Case, split: Split, micro: int) -> dict[str, Any]:
    return {"zero": split.zero, "micro_batch": micro} | case.memory(split, micro)


def _parameters(sizes: Sizes, split: Split) -> dict[str, dict[str, Any]]:
    counts = {"llm": sizes.llm, "connector": sizes.connector, "tower": sizes.tower}
    if split.adapts:
        counts["adapter"] = split.rank * sizes.adapter
    trained = {"connector", "adapter"} | ({"llm"} if split.whole else set())
    return {name: {"parameters": count, "trained": name in trained} for name, count in counts.items()}


def _time(case: Case, split: Split, micro: int) -> dict[str, Any]:
    """Operations, steps and hours; seconds and hours are None where the device's speed is not known."""
    config, lengths = case.config, case.lengths
    cached, padded = config.cache_features, lengths.padded(1 if config.pack_tokens else micro)
    flop = flop_per_sample(case.sizes, split, padded, lengths.targets, tower=not cached)
    samples = max(1, round(lengths.rows * config.epochs))
    peak = case.device.peak if config.precision == "bf16" else None
    total = flop * samples + (case.sizes.tower_flop * lengths.images if cached else 0)
    hours = None if peak is None else total / (peak * EFFICIENCY) / 3600
    return {
        "padded_tokens": padded,
        "tflop_per_sample": flop / 1e12,
        "steps": math.ceil(samples / config.batch),
        "seconds_per_step": None if peak is None else seconds_per_step(flop, config.batch, split.world, peak),
        "gpu_hours": hours,
        "hours": None if hours is None else hours / split.world,
    }


def _disk(case: Case, split: Split, out: Path) -> dict[str, Any]:
    config = case.config
    said = disk(case.sizes, split, KEEP)
    if config.cache_features:
        item = 1 if config.cache_precision == "int8" else split.item
        said["features"] = feature_bytes(case.sizes, item, case.lengths.images) / GB
    place = next(path for path in (out, *out.absolute().parents) if path.is_dir())
    return {"disk_gb": said | {"free": shutil.disk_usage(place).free / GB}}


def _assumptions(case: Case, rows: bool) -> list[str]:
    """What the numbers rest on."""
    lengths, config = case.lengths, case.config
    said = [f"memory and time are computed, not measured; {EFFICIENCY:.0%} of the device's speed is assumed"]
    if lengths.source == "assumed":
        of = "" if rows else f" and {lengths.rows:,} conversations"
        said.append(f"assumed: {lengths.tokens[0]:,} tokens a conversation, {lengths.targets:.0f} of them targets{of}")
    if case.device.peak is None:
        said.append(f"no datasheet states the speed of {case.device.name}: no hours; name a device with --gpu-type")
    elif config.precision != "bf16":
        said.append(f"the datasheet's speed is that of bf16, not of {config.precision}: no hours")
    return said


def _ways_out(case: Case, world: int, said: dict[str, Any]) -> list[str]:
    """What does not fit, or could go faster, and the settings for it."""
    notes, memory = [], said["memory_gb"]
    micro, zero = (said["chosen"][name] for name in ("micro_batch", "zero"))
    layout = f"--set micro_batch={micro}" + (f" --set zero={zero}" if world > 1 else "")
    if not said["chosen"]["fits"]:
        notes.append(_too_large(case, world, memory["chosen"]))
    elif not memory["as set"]["fits"]:
        notes.append(f"the settings as they are do not fit; these do: {layout}")
    else:
        notes.append(f"the chosen layout: {layout}")
    if FASTER in memory:
        micro, zero = (memory[FASTER][name] for name in ("micro_batch", "zero"))
        layout = f"--set checkpointing=false --set micro_batch={micro}" + (f" --set zero={zero}" if world > 1 else "")
        notes.append(f"there is memory enough to keep {FASTER.removesuffix(' kept')}, which is faster: {layout}")
    disk_gb = said["disk_gb"]
    wanted = sum(size for name, size in disk_gb.items() if name in ("checkpoints", "model", "features"))
    if wanted > disk_gb["free"]:
        notes.append(f"does not fit: the disk has {disk_gb['free']:,.1f} GB free, the run takes {wanted:,.1f}")
        if disk_gb.get("features", 0) > disk_gb["free"] / 2:
            notes.append("features take much of it: --set cache_features=false, or --set cache_precision=int8")
    return notes


def _too_large(case: Case, world: int, memory: dict[str, Any]) -> str:
    """That not even one conversation at a time fits, and every change alone that would do."""
    ways = []
    if case.config.checkpointing == "none" and case.recomputing(True).layout(world)[1]:
        ways.append("--set checkpointing=true")
    if getattr(case.config, "adapter", "") == "none":
        for kind in ("lora", "qlora"):
            split, micro = case.adapting(kind).layout(world)
            if micro:
                ways.append(f"--set adapter={kind}" + (f" --set zero={split.zero}" if world > 1 else ""))
    count = next((n for n in _MORE if n > world and case.config.batch % n == 0 and case.layout(n)[1]), None)
    if count:
        ways.append(f"{count} x {case.device.name} (ZeRO-{case.layout(count)[0].zero})")
    others = [device for device in DEVICES.values() if device.memory > case.device.memory]
    larger = [one.name for one in others if dataclasses.replace(case, device=one).layout(world)[1]]
    ways += [f"{world} x {name}" for name in larger]
    need = f"does not fit: {memory['total']:,.1f} GB a device, and {memory['usable']:,.1f} are usable"
    return f"{need}; would fit: {', or '.join(ways)}" if ways else f"{need}; take a smaller language model"
