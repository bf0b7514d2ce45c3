"""The settings of every verb: one frozen dataclass each; ``presets`` fills them.

A default is the paper's number where the paper gives one (tables 8 and 9 of Llama3-Med).
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from medvlm_cli.core.errors import ConfigError

FITS = ("squash", "pad", "crop")

WINDOWS = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "soft-tissue": (50.0, 400.0),
    "abdomen": (50.0, 400.0),
    "liver": (30.0, 150.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "subdural": (75.0, 215.0),
    "stroke": (40.0, 40.0),
    "spine": (50.0, 250.0),
}
"""Windows of CT by name: centre and width in Hounsfield units, as Radiopaedia's article "Windowing (CT)" gives them."""
AXES = ("axial", "coronal", "sagittal")
FRAMES = ("middle", "first", "all")


def window_of(text: str) -> tuple[float, float]:
    """Centre and width of a window given as a name of ``WINDOWS`` or as ``center,width``.

    Raises:
        ConfigError: it is neither, or the width is below 1.
    """
    name = "-".join(text.lower().replace("_", " ").split())
    if name in WINDOWS:
        return WINDOWS[name]
    try:
        center, width = (float(part) for part in text.strip("[]() ").split(","))
    except ValueError:
        center, width = 0.0, 0.0
    if not (math.isfinite(center) and 1 <= width < math.inf):
        raise ConfigError(f"window is {text!r}", f"give center,width (a width of 1 or more), or {', '.join(WINDOWS)}")
    return center, width


@dataclass(frozen=True, kw_only=True)
class FetchConfig:
    """Settings of ``medvlm fetch``."""

    n: int = 3000
    """Figures to draw (source ``phantom``)."""
    questions: int = 400
    """Figures to draw and ask about (benchmark ``phantom-vqa``)."""
    seed: int = 0
    """Seed of what is drawn."""
    license: str = ""
    """Licences to keep: commercial, noncommercial or all; empty: what suits the source, for ``pmc`` commercial."""
    modality: tuple[str, ...] = ()
    """Modalities to keep, ``ct,mri``; empty: all."""
    query: str = ""
    """Search words for PubMed Central (source ``pmc``), with its field tags and filters."""
    pmcids: str = ""
    """File of PMC ids (source ``pmc``)."""
    inventory: bool = False
    """Select from the bucket's newest inventory (source ``pmc``)."""
    since: str = ""
    """Of the inventory, only what changed on this day or later, ``2026-11-01``."""
    limit: int = 200
    """Most articles that a search or the inventory selects; 0: all."""
    mirror: tuple[str, ...] = ()
    """Local folders or packages to read instead of the network; the verb sets it from ``--from``."""
    bucket: str = "https://pmc-oa-opendata.s3.amazonaws.com"
    """Address of PubMed Central's bucket, or of a mirror of it."""
    eutils: str = "https://eutils.ncbi.nlm.nih.gov/entrez/eutils"
    """Address of NCBI's E-utilities."""
    connections: int = 64
    """Requests to the bucket at a time."""
    tries: int = 6
    """How often a request is tried before it counts as failed."""
    decode_seconds: int = 20
    """Longest that one image may take to decode; the memory for it is limited to 2 GiB."""
    shard: str = ""
    """``i/N``: only the i-th of N disjoint parts, from 0; the verb sets it from ``--shard``."""
    engine: str = "local"
    """Who runs: local, or ray (the extra ``cluster``), which runs parts as tasks; the verb sets it."""
    shards: int = 0
    """Parts that ``--engine ray`` runs as tasks; 0: as many as the cluster has processors."""
    selection: str = ""
    """Dataset of the articles to fetch (source ``pmc``); the stage sets it."""
    cache: str = ""
    """Folder of what was downloaded on the way; the stage sets it."""
    images: str = ""
    """Folder of images (source ``folder``); the verb sets it from its argument."""
    captions: str = ""
    """CSV or JSONL file of captions (source ``folder``); empty: the only one in the folder."""
    window: str = ""
    """Grey values from black to white: a name such as lung, for CT, or ``center,width``; empty: the file's own."""
    frame: str = "middle"
    """Frame of a multi-frame image, or slice of a volume: middle, first, all, or a number from 0."""
    axis: str = "axial"
    """Plane in which a volume is cut: axial, coronal or sagittal."""
    volume: int = 0
    """Volume of a series of volumes, from 0."""
    thumbnail: int = 1024
    """Longest side in pixels of what is made of a whole-slide image."""
    files: tuple[str, ...] = ()
    """Published files to import (``llava-med``, ``llama3-med``); the verb sets it from its arguments."""
    part: str = ""
    """Which of the published files of ``llava-med`` they are; empty: told from their names."""
    osf: str = "https://files.osf.io"
    """Address of the Open Science Framework's files (benchmark ``vqa-rad``)."""
    pathvqa_files: str = "https://raw.githubusercontent.com/UCSD-AI4H/PathVQA/HEAD/baselines/method1/saved/lxmert"
    """Address of the questions of ``pathvqa``."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "n", "questions", "connections", "tries", "decode_seconds")
        _at_least(self, 0, "limit", "shards")
        for name in ("bucket", "eutils"):
            if not _is_address(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)!r}", "give an address such as https://host/folder")
        _one_of(self, "license", ("", "all", "commercial", "noncommercial"))
        _one_of(self, "engine", ("local", "ray"))
        _one_of(self, "axis", AXES)
        _at_least(self, 0, "volume")
        _at_least(self, 16, "thumbnail")
        if self.thumbnail > 7000:
            raise ConfigError(f"thumbnail is {self.thumbnail}, above 7000", "cut regions out of slides to see more")
        if self.frame not in FRAMES and not (self.frame.isascii() and self.frame.isdigit()):
            raise ConfigError(f"frame is {self.frame!r}", f"give one of {', '.join(FRAMES)}, or a number from 0")
        if self.window:
            window_of(self.window)


@dataclass(frozen=True, kw_only=True)
class SynthesizeConfig:
    """Settings of ``medvlm synthesize``."""

    teacher: str = "mix"
    """Who writes the instruction conversations: mix, claude, llama, template, or ``replay:PATH``."""
    mix: str = "claude=25,llama=75"
    """Shares of the figures in percent (table 1)."""
    mix_mode: str = "hash"
    """hash: by each figure's id alone; quota: exact shares of each modality."""
    seed: int = 0
    """Seed of the mix and of Llama's sampling."""
    limit: int = 0
    """Most figures to write about, the same ones whatever else is there; 0: all."""
    prompt: str = ""
    """File of a system prompt of one's own."""
    shots: str = ""
    """YAML file of few-shot examples of one's own."""
    format: str = "text"
    """What teachers answer in: text (as in the paper), or json."""
    claude_model: str = "claude-opus-5-5"
    """Claude's model; the paper's, Claude 3 Opus, was retired on 2026-01-05."""
    claude_mode: str = "batch"
    """batch: Message Batches, at half the price; sync: one message at a time."""
    claude_url: str = ""
    """Address of Anthropic's API; empty: ``ANTHROPIC_BASE_URL``, else Anthropic's own."""
    claude_max_tokens: int = 4096
    """Longest answer of Claude in tokens, thinking included."""
    effort: str = "low"
    """How hard Claude thinks: low, medium or high."""
    caching: str = "auto"
    """Have Claude keep what all requests begin with: on, off, or auto, which is on in the mode sync only."""
    llama_model: str = "meta-llama/Meta-Llama-3-70B-Instruct"
    """Model behind the Llama endpoints, by the name that they serve it under."""
    llama_endpoint: tuple[str, ...] = ()
    """Addresses of OpenAI-compatible servers; the verb sets it from ``--llama-endpoint``."""
    llama_max_tokens: int = 1024
    """Longest answer of Llama in tokens."""
    temperature: float = 0.0
    """Llama's sampling temperature; Claude takes none."""
    launch: str = ""
    """Model that ``vllm serve`` is started with; the verb sets it from ``--launch``."""
    launch_copies: int = 1
    """Copies of the model of ``--launch``, each on its share of the GPUs."""
    launch_arguments: str = ""
    """More arguments of ``vllm serve``, as in a shell: ``--quantization fp8``; they win over ours."""
    offline: bool = False
    """Load the model of ``--launch`` into this process (``vllm.LLM``) instead of starting a server."""
    max_cost: float = 0.0
    """Dollars that may be spent; a paid teacher asks for it."""
    accept_terms: tuple[str, ...] = ()
    """Terms of teachers that the user has accepted: claude, llama3, llama3.1."""
    prices: str = ""
    """YAML file of prices instead of medvlm's own."""
    price: str = ""
    """``input,output`` of Claude's model in dollars a million tokens, instead of a table."""
    on_refusal: str = "drop"
    """What becomes of a figure that its teacher refuses: drop (counted), or other, which asks the other teacher."""
    judge: str = ""
    """Who gives every conversation a mark: claude or llama, with ``:MODEL`` if another one; empty: nobody."""
    judge_threshold: float = 0.9
    """Lowest mark that is kept, from 0 to 1."""
    near_duplicates: float = 0.7
    """Jaccard similarity from which two conversations are one; 0 keeps all."""
    batch_rows: int = 1000
    """Requests of one Message Batch, about."""
    connections: int = 64
    """Requests to one teacher at a time."""
    tries: int = 6
    """How often a request is tried before it counts as failed."""
    pause: float = 1.0
    """Seconds before a second try, at most; every further one may wait twice as long."""
    timeout: float = 300.0
    """Seconds that one answer may take."""
    poll: float = 30.0
    """Seconds between two looks at a Message Batch."""
    settle: float = 60.0
    """Seconds until a Message Batch that is not listed is taken for one that was never made."""
    repay: bool = False
    """Ask, and pay, again for Message Batches whose results are gone."""
    engine: str = "local"
    """Who talks to the Llama endpoints: local, or ray (the extra ``cluster``); the verb sets it."""

    def __post_init__(self) -> None:
        _at_least(
            self, 1, "claude_max_tokens", "llama_max_tokens", "batch_rows", "connections", "tries", "launch_copies"
        )
        _at_least(self, 0, "limit", "temperature", "max_cost", "pause", "poll", "settle", "near_duplicates")
        _one_of(self, "mix_mode", ("hash", "quota"))
        _one_of(self, "format", ("text", "json"))
        _one_of(self, "claude_mode", ("batch", "sync"))
        _one_of(self, "effort", ("low", "medium", "high"))
        _one_of(self, "caching", ("auto", "on", "off"))
        _one_of(self, "on_refusal", ("drop", "other"))
        _one_of(self, "engine", ("local", "ray"))
        if self.batch_rows > 100_000:
            raise ConfigError(f"batch_rows is {self.batch_rows:,}; Anthropic takes 100,000 at most")
        for name in ("near_duplicates", "judge_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, outside 0 to 1")
        for name in ("max_cost", "pause", "timeout", "poll", "settle", "temperature"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)}", "give a number")
        for url in (*self.llama_endpoint, *([self.claude_url] if self.claude_url else [])):
            if not _is_address(url):
                raise ConfigError(f"no address: {url!r}", "give one such as http://host:8000")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings that ``pretrain`` and ``finetune`` share."""

    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    batch: int = 256
    """Conversations per optimiser step, over all devices and accumulation steps."""
    micro_batch: int = 8
    """Conversations per device and forward pass, at most; the rest of ``batch`` is accumulated."""
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
    checkpointing: bool = True
    """Recompute activations in the backward pass instead of keeping them."""
    cache_features: bool = False
    """Encode every figure once and keep the tower's features on disk (5.6 MB a figure at 729 x 3840)."""
    save_every: int = 200
    """Optimiser steps between two resumable checkpoints."""
    seed: int = 0
    """Seed of the connector's weights and of the order of the data."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "batch", "micro_batch", "max_length", "save_every")
        if not 0 <= self.warmup <= 1:
            raise ConfigError(f"warmup is {self.warmup}, outside 0 to 1", "give a fraction, for example 0.03")
        if not self.lr > 0 or not self.epochs > 0:
            raise ConfigError(f"lr is {self.lr} and epochs is {self.epochs}; both must be above 0")
        _one_of(self, "precision", ("bf16", "fp32"))
        _one_of(self, "zero", (0, 2, 3))


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
    """How an image is made square: squash, pad or crop."""
    antialias: bool = False
    """Antialias the reduction to the smaller scales; the paper's code does not."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _one_of(self, "fit", FITS)
        if not self.scales or any(scale <= 0 or scale % self.scales[0] for scale in self.scales):
            raise ConfigError(f"scales are {self.scales}", "give the tower's size first, then multiples of it")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainConfig):
    """Settings of ``medvlm finetune``, which trains the language model and the connector."""

    lr: float = 2e-5
    """Peak learning rate of AdamW."""
    batch: int = 128
    """Conversations per optimiser step, over all devices and accumulation steps."""


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Settings of ``medvlm eval``."""

    split: str = "test"
    """Questions to ask: those of this split."""
    batch: int = 16
    """Questions generated together."""
    max_new_tokens: int = 64
    """Longest answer in tokens."""
    precision: str = "bf16"
    """Arithmetic of generation: bf16 or fp32."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "batch", "max_new_tokens")
        _one_of(self, "precision", ("bf16", "fp32"))


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Settings of ``medvlm chat``."""

    max_new_tokens: int = 512
    """Longest answer in tokens."""
    temperature: float = 0.0
    """0 answers greedily; above it, sampling."""
    precision: str = "bf16"
    """Arithmetic of generation: bf16 or fp32."""

    def __post_init__(self) -> None:
        _at_least(self, 1, "max_new_tokens")
        _one_of(self, "precision", ("bf16", "fp32"))


def _is_address(text: str) -> bool:
    """Whether keys may be put behind this address."""
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, half an IPv6 address
        return False
    return known and not any(one.isspace() or one in "?#" for one in text)


def _at_least(config: Any, least: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < least:
            raise ConfigError(f"{name} is {getattr(config, name)}, below {least}")


def _one_of(config: Any, name: str, allowed: tuple) -> None:
    if getattr(config, name) not in allowed:
        given = ", ".join(str(value) for value in allowed)
        raise ConfigError(f"{name} is {getattr(config, name)!r}", f"give one of {given}")


def as_dict(config: Any) -> dict[str, Any]:
    """The settings as JSON takes them, for ``run.json`` and the fingerprint."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()
    }
