"""The settings of the two verbs that train."""

from dataclasses import dataclass

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.settings import CACHE_PRECISIONS, at_least, one_of

FITS = ("squash", "pad", "crop")
PARITIES = ("none", "llama3-med")
ADAPTERS = ("none", "lora", "qlora")
RECOMPUTED = ("all", "half", "none")
LEAKS = ("refuse", "drop", "keep")
FULL_LR, ADAPTER_LR = 2e-5, 2e-4
"""Of ``finetune``: the paper's, and what Llama3-Med's scripts for adapters use."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings that ``pretrain`` and ``finetune`` share."""

    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    batch: int = 256
    """Conversations per optimiser step, over all devices and accumulation steps."""
    micro_batch: int = 8
    """Conversations per device and forward pass, at most; the rest of ``batch`` is accumulated."""
    pack_tokens: int = 0
    """Tokens of a row that several conversations share, unseen by one another; 0: a row each."""
    pack_images: int = 0
    """Images of such a row at most, which bounds what the tower takes; 0: as many as its tokens leave room for."""
    epochs: float = 1.0
    """Passes over the training conversations."""
    warmup: float = 0.03
    """Fraction of the steps spent warming up, from 0 to 1."""
    weight_decay: float = 0.0
    """AdamW's weight decay."""
    max_length: int = 2048
    """Longest sequence in tokens, image placeholders included."""
    precision: str = "bf16"
    """Arithmetic of training: bf16 or fp32."""
    zero: int = 2
    """DeepSpeed ZeRO stage where more than one device trains: 0 (plain data parallel), 2 or 3."""
    checkpointing: str = "all"
    """Layers whose activations are computed again in the backward pass instead of kept: all, half or none."""
    cache_features: bool = False
    """Encode every image once and keep the tower's features on disk (5.6 MB an image at 729 x 3840 in bf16)."""
    cache_precision: str = "exact"
    """How kept features are stored: exact, or int8 (half the size of bf16; the error it makes is said)."""
    save_every: int = 200
    """Optimiser steps between two resumable checkpoints."""
    held_out_every: int = 0
    """Optimiser steps between two measurements of the loss that is held out; 0: a tenth of the run."""
    seed: int = 0
    """Seed of the weights that are made, and of the order of the data."""
    proven: bool = True
    """Open the model in a fresh process at the end and compare its logits; takes its memory once more."""
    parity: str = "none"
    """Whose semantics: none (our own) or llama3-med (the published ones, see ``core.parity``)."""
    resume: str = "exact"
    """How a run goes on that was killed: exact, or weights (with a fresh optimiser, on any number of devices)."""
    track: str = ""
    """Where the curves go beside TensorBoard's files: wandb or trackio; the verb sets it from ``--track``."""
    hostfile: str = ""
    """DeepSpeed host file of the machines to train on; the verb sets it from ``--hostfile``."""

    def __post_init__(self) -> None:
        plain = {"true": "all", "false": "none"}.get(str(self.checkpointing).lower(), self.checkpointing)
        object.__setattr__(self, "checkpointing", plain)
        at_least(self, 1, "batch", "micro_batch", "max_length", "save_every")
        at_least(self, 0, "pack_tokens", "pack_images", "held_out_every")
        if 0 < self.pack_tokens < self.max_length:
            what = f"pack_tokens is {self.pack_tokens}, below max_length, {self.max_length}"
            raise ConfigError(what, "a row must hold the longest conversation: raise it, or lower max_length")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"warmup is {self.warmup}, outside 0 to 1", "give a fraction, for example 0.03")
        if not self.lr > 0 or not self.epochs > 0:
            raise ConfigError(f"lr is {self.lr} and epochs is {self.epochs}; both must be above 0")
        one_of(self, "precision", ("bf16", "fp32"))
        one_of(self, "zero", (0, 2, 3))
        one_of(self, "checkpointing", RECOMPUTED)
        one_of(self, "cache_precision", CACHE_PRECISIONS)
        one_of(self, "parity", PARITIES)
        one_of(self, "resume", ("exact", "weights"))
        if self.parity != "none" and self.pack_tokens:
            what = f"parity is {self.parity}, which weighs every micro-batch alike, and pack_tokens {self.pack_tokens}"
            raise ConfigError(what, "--set pack_tokens=0, or leave --parity out")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(TrainConfig):
    """Settings of ``medvlm pretrain``, which builds the model and trains its connector alone."""

    tower: str = "dfn5b-vit-h-14-378"
    """Vision tower: a name of ``core.model.towers``, a folder, or ``tiny`` (made by medvlm itself)."""
    llm: str = "meta-llama/Meta-Llama-3-8B-Instruct"
    """Language model: a hub id, a folder, or ``tiny`` (made by medvlm itself)."""
    scales: tuple[int, ...] = (378, 756, 1134)
    """Pixels at which the tower reads each image; multiples of the first."""
    fit: str = "squash"
    """How an image is made square: squash, pad or crop; ``parity`` crops."""
    antialias: bool = False
    """Antialias the reduction to the smaller scales; the paper's code does not, so ``parity`` does not either."""

    def __post_init__(self) -> None:
        if self.parity != "none":  # a preset may say otherwise for its own training
            object.__setattr__(self, "fit", "crop")
            object.__setattr__(self, "antialias", False)
        super().__post_init__()
        one_of(self, "fit", FITS)
        if not self.scales or any(scale <= 0 or scale % self.scales[0] for scale in self.scales):
            raise ConfigError(f"scales are {self.scales}", "give the tower's size first, then multiples of it")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainConfig):
    """Settings of ``medvlm finetune``, which trains the language model and the connector."""

    lr: float = 0.0
    """Peak learning rate of AdamW; 0: 2e-5, and 2e-4 for an adapter."""
    batch: int = 128
    """Conversations per optimiser step, over all devices and accumulation steps."""
    adapter: str = "none"
    """What of the language model trains: none (all of it), lora (low-rank matrices beside its linear layers), or qlora
    (the same over weights of 4 bits)."""
    lora_rank: int = 128
    """Rank of the matrices of ``adapter``."""
    lora_alpha: int = 256
    """Their product counts ``lora_alpha / lora_rank`` times."""
    lora_dropout: float = 0.05
    """Share of their inputs that is dropped in training."""
    benchmark: str = ""
    """Benchmark whose train split is learnt; the verb sets it from ``--benchmark``."""
    leaks: str = "refuse"
    """What becomes of its train rows whose image is in the test split too: refuse to train, drop them, or keep them."""

    def __post_init__(self) -> None:
        one_of(self, "adapter", ADAPTERS)
        if self.lr == 0:
            object.__setattr__(self, "lr", FULL_LR if self.adapter == "none" else ADAPTER_LR)
        super().__post_init__()
        one_of(self, "leaks", LEAKS)
        at_least(self, 1, "lora_rank", "lora_alpha")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora_dropout is {self.lora_dropout}", "give a share from 0 to below 1")
        if self.adapter == "qlora" and self.zero == 3:
            raise ConfigError("zero is 3, and ZeRO-3 does not split weights of 4 bits", "--set zero=2, or 0")
