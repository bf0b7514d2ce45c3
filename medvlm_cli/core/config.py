"""The settings of every verb: one frozen dataclass each; ``presets`` fills them.

A default is the paper's number where the paper gives one (tables 8 and 9 of Llama3-Med).
"""

import math
from dataclasses import dataclass

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.questioning import PROMPTS
from medvlm_cli.core.settings import CACHE_PRECISIONS, as_dict, at_least, is_address, one_of
from medvlm_cli.core.train_config import FITS, FinetuneConfig, PretrainConfig, TrainConfig

__all__ = [
    "AXES", "CACHE_PRECISIONS", "FITS", "FRAMES", "WINDOWS", "ChatConfig", "EvalConfig", "FetchConfig",
    "FinetuneConfig", "PretrainConfig", "SynthesizeConfig", "TrainConfig", "as_dict", "window_of",
]  # fmt: skip

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
        at_least(self, 1, "n", "questions", "connections", "tries", "decode_seconds")
        at_least(self, 0, "limit", "shards")
        for name in ("bucket", "eutils"):
            if not is_address(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)!r}", "give an address such as https://host/folder")
        one_of(self, "license", ("", "all", "commercial", "noncommercial"))
        one_of(self, "engine", ("local", "ray"))
        one_of(self, "axis", AXES)
        at_least(self, 0, "volume")
        at_least(self, 16, "thumbnail")
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
        at_least(
            self, 1, "claude_max_tokens", "llama_max_tokens", "batch_rows", "connections", "tries", "launch_copies"
        )
        at_least(self, 0, "limit", "temperature", "max_cost", "pause", "poll", "settle", "near_duplicates")
        one_of(self, "mix_mode", ("hash", "quota"))
        one_of(self, "format", ("text", "json"))
        one_of(self, "claude_mode", ("batch", "sync"))
        one_of(self, "effort", ("low", "medium", "high"))
        one_of(self, "caching", ("auto", "on", "off"))
        one_of(self, "on_refusal", ("drop", "other"))
        one_of(self, "engine", ("local", "ray"))
        if self.batch_rows > 100_000:
            raise ConfigError(f"batch_rows is {self.batch_rows:,}; Anthropic takes 100,000 at most")
        for name in ("near_duplicates", "judge_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}, outside 0 to 1")
        for name in ("max_cost", "pause", "timeout", "poll", "settle", "temperature"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"{name} is {getattr(self, name)}", "give a number")
        for url in (*self.llama_endpoint, *([self.claude_url] if self.claude_url else [])):
            if not is_address(url):
                raise ConfigError(f"no address: {url!r}", "give one such as http://host:8000")


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Settings of ``medvlm eval``."""

    split: str = "test"
    """Questions to ask: those of this split."""
    prompt: str = "llama3med"
    """How a question is put: llama3med (as it stands), llavamed-options or short."""
    system: str = ""
    """Text of a system turn before the question; empty: none."""
    batch: int = 16
    """Questions generated together."""
    max_new_tokens: int = 64
    """Longest answer in tokens."""
    precision: str = "bf16"
    """Arithmetic of generation: bf16 or fp32."""
    engine: str = "transformers"
    """What generates: transformers.  vLLM is not offered: it has no three-scale tower."""
    cache_features: bool = False
    """Keep the tower's features of the questions' images on disk, where another run finds them."""
    cache_precision: str = "exact"
    """How kept features are stored: exact, or int8 (half the size of bf16; the error it makes is said)."""
    shard: str = ""
    """Answer part i of N, given as i/N; empty: all questions."""
    draws: int = 10_000
    """Bootstrap samples behind every interval."""
    seed: int = 0
    """Of the bootstrap."""
    overlap: bool = True
    """Look for the benchmark's images and questions in its other splits and in the workspace's training data."""
    judge: str = ""
    """Who says whether open answers mean what the gold says: claude, claude:MODEL, a folder or OWNER/NAME@REVISION."""
    judge_labels: str = ""
    """CSV of a person's own verdicts (question_id, agrees), which the judge is compared with."""
    max_cost: float = 0.0
    """Dollars that a judge may be billed; a paid one asks for it."""

    def __post_init__(self) -> None:
        at_least(self, 1, "batch", "max_new_tokens", "draws")
        at_least(self, 0, "seed", "max_cost")
        if not math.isfinite(self.max_cost):
            raise ConfigError(f"max_cost is {self.max_cost}", "give a number")
        if self.judge_labels and not self.judge:
            raise ConfigError("judge_labels go with a judge", "give --judge, or leave them out")
        one_of(self, "prompt", tuple(PROMPTS))
        one_of(self, "precision", ("bf16", "fp32"))
        one_of(self, "cache_precision", CACHE_PRECISIONS)
        if self.engine != "transformers":
            what = f"engine is {self.engine!r}: vLLM and others have no three-scale tower, so none is offered"
            raise ConfigError(what, "leave it out, or give --engine transformers")


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
        at_least(self, 1, "max_new_tokens")
        at_least(self, 0, "temperature")
        if not math.isfinite(self.temperature):
            raise ConfigError(f"temperature is {self.temperature}", "give a number")
        one_of(self, "precision", ("bf16", "fp32"))
