"""What training costs, by arithmetic: bytes on a device, operations of a conversation, bytes on disk.

Nothing is measured here.  Memory follows what the code keeps: which copies of a weight there are, and which tensors
autograd saves in a Llama block (a test counts them on a real one).  Operations are multiplications and additions of
matrix products: 2 for each weight and token forward, 2 for the gradient of the input, 2 for that of the weight.

Legend: P parameters, L tokens of a conversation, T tokens of an image, H width of the language model, I inner width of
its blocks, K scales, C channels of the tower, V words of the vocabulary.
"""

from dataclasses import dataclass

from medvlm_cli.core.devices import GB

EFFICIENCY = 0.45
"""Share of the datasheet's speed that training reaches: assumed, for lack of a measurement.

It stands for everything that is not a matrix product: memory traffic, communication between devices, and waiting.
"""
LOGIT_BYTES = {"bf16": 10, "fp32": 8}
"""Of one logit in the loss: the head's product, its copy in float32 (in fp32 the same), and the gradient."""
QLORA_BYTES = 4.127 / 8
"""Of a weight in 4 bits with its share of the scales, which are quantised too: QLoRA, arXiv:2305.14314, section 3."""
OPTIMIZER_BYTES = 8
"""AdamW's two moments of one weight, in float32."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Sizes of a model that its cost depends on; counts of parameters unless it says otherwise."""

    llm: int
    """All of the language model, the head too."""
    linear: int
    """Weights of the linear layers in its blocks."""
    adapter: int = 0
    """Of low-rank adapters beside all these layers, if they had rank 1."""
    head: int
    """H * V."""
    layers: int
    """Blocks."""
    width: int
    """H."""
    inner: int
    """I."""
    attention: int
    """Channels of all query heads."""
    keys: int
    """Channels of all key heads; as many are of the values."""
    heads: int
    vocabulary: int
    """V."""
    connector: int
    connector_input: int
    """Of the connector, its first layer."""
    tower: int
    tower_flop: float
    """Operations of the tower for one image."""
    tokens: int
    """T."""
    channels: int
    """K * C."""

    def trained(self, split: "Split") -> int:
        """Parameters that are trained."""
        adapter = split.rank * self.adapter if split.adapts else 0
        return self.connector + (self.llm if split.whole else adapter)

    def frozen_bytes(self, split: "Split") -> float:
        """Of the parameters that are only read."""
        frozen = self.tower + (0 if split.whole else self.llm)
        if split.adapts and split.adapter == "qlora":
            return split.item * (frozen - self.linear) + QLORA_BYTES * self.linear
        return split.item * frozen


@dataclass(frozen=True, kw_only=True)
class Split:
    """How a stage of training is laid out over devices."""

    stage: str
    """pretrain or finetune."""
    world: int
    """Devices."""
    zero: int
    """DeepSpeed's ZeRO stage, 2 or 3; 0: every device has everything."""
    precision: str
    """bf16 or fp32."""
    recomputed: float
    """Share of the blocks whose activations are computed again in the backward pass, from 0 to 1."""
    adapter: str = "none"
    """What a finetuning trains of the language model: none (all of it), lora or qlora."""
    rank: int = 0
    """Of the adapter's matrices."""
    all_logits: bool = False
    """Whether the head runs at every token, as in stock LLaVA, and not only where there is a target."""

    @property
    def whole(self) -> bool:
        """Whether the language model's own weights are trained."""
        return self.stage == "finetune" and self.adapter == "none"

    @property
    def adapts(self) -> bool:
        """Whether an adapter is trained beside them."""
        return self.stage == "finetune" and self.adapter != "none"

    @property
    def item(self) -> int:
        """Bytes of a number in the arithmetic of training."""
        return 2 if self.precision == "bf16" else 4


def states(sizes: Sizes, split: Split) -> dict[str, float]:
    """Bytes that weights, their gradients and the optimiser take on each device.

    ZeRO-2 keeps the weights whole and divides gradients and optimiser, ZeRO-3 divides all of it; under both, what is
    trained has a copy in float32 beside the two moments.  Without ZeRO it is kept in float32 only.

    Source: ZeRO, Rajbhandari et al. 2020, arXiv:1910.02054, section 3.1.
    """
    trained, frozen = sizes.trained(split), sizes.frozen_bytes(split)
    if split.zero == 0:
        buckets = 4 if split.world > 1 else 0  # DistributedDataParallel adds the gradients up in a second copy
        weights, gradients, optimizer = 4 * trained + frozen, (4 + buckets) * trained, 0
        return {"weights": weights, "gradients": gradients, "optimizer": optimizer + OPTIMIZER_BYTES * trained}
    weights = split.item * trained + frozen
    return {
        "weights": weights / (split.world if split.zero == 3 else 1),
        "gradients": split.item * trained / split.world,
        "optimizer": (4 + OPTIMIZER_BYTES) * trained / split.world,
    }


def block_bytes(sizes: Sizes, split: Split) -> int:
    """Bytes that autograd keeps of one token in one Llama block without recomputation.

    A norm keeps its input in float32, and for the gradient of a weight the product with it too; attention keeps
    queries, keys, values and what comes out; the gated layers keep both branches and the activation.  Linear layers
    keep their input only where their weights, or an adapter's beside them, are trained; an adapter keeps what
    its dropout leaves of it too, and which it dropped.
    """
    item, inputs = split.item, split.whole or split.adapts
    norms = 2 * (4 * sizes.width + 4 + item * sizes.width * (int(split.whole) + int(inputs)))
    attention = 2 * item * (sizes.attention + sizes.keys) + 4 * sizes.heads
    gated = (4 if inputs else 3) * item * sizes.inner
    dropped = (item + 1) * (5 * sizes.width + sizes.attention + sizes.inner) if split.adapts else 0
    return norms + attention + gated + dropped


def activations(sizes: Sizes, split: Split, micro: float, length: float) -> float:
    """Bytes kept between the forward and the backward pass of a micro-batch, without the logits.

    Of a block that is computed again only its input is kept; when its turn comes it is there whole, one at a time.

    Args:
        sizes: of the model.
        split: of the training.
        micro: conversations of the micro-batch.
        length: L, padding included.
    """
    whole, words, images = block_bytes(sizes, split), micro * length, micro * sizes.tokens
    again = split.recomputed * sizes.layers
    kept = words * (again * split.item * sizes.width + (sizes.layers - again) * whole + (whole if again else 0))
    connector = images * split.item * (sizes.channels + 3 * sizes.width)
    autocast = split.item * sizes.trained(split) if split.zero == 0 and split.precision == "bf16" else 0
    return kept + connector + autocast  # autocast: copies of what is kept in float32, made in every forward pass


def logits(sizes: Sizes, split: Split, micro: float, words: float) -> float:
    """Bytes of the loss: ``words`` of each conversation have logits."""
    return LOGIT_BYTES[split.precision] * micro * words * sizes.vocabulary


def flop_per_sample(sizes: Sizes, split: Split, length: float, targets: float, *, tower: bool = True) -> float:
    """Operations of one conversation with one image, forward and backward.

    A frozen language model is still gone through backwards, because the image stands first; only the gradients of its
    weights are spared.  Of causal attention the half that is masked counts nothing.

    Args:
        sizes: of the model.
        split: of the training.
        length: L, padding included.
        targets: tokens that the loss looks at.
        tower: whether the image goes through the tower, and its features do not come from the cache.
    """
    weights_too = split.whole
    adapter = 6 * split.rank * sizes.adapter * length if split.adapts else 0
    linear = 2 * sizes.linear * length
    attention = 2 * length**2 * sizes.attention * sizes.layers
    blocks = linear * (3 if weights_too else 2) + 3 * attention + split.recomputed * (linear + attention)
    head = 2 * sizes.head * (length if split.all_logits else targets) * (3 if weights_too else 2)
    connector = sizes.tokens * (6 * sizes.connector - 2 * sizes.connector_input)  # nothing behind its first layer
    return blocks + adapter + head + connector + (sizes.tower_flop if tower else 0)


def seconds_per_step(flop: float, batch: int, world: int, peak: float) -> float:
    """Of one optimiser step over ``batch`` conversations, ``flop`` each, on devices of ``peak`` operations a second."""
    return flop * batch / (world * peak * EFFICIENCY)


def feature_bytes(sizes: Sizes, item: int, images: int) -> int:
    """What the cache of features takes; in int8, ``item`` 1, every channel of an image has a scale besides."""
    return images * sizes.channels * (sizes.tokens * item + (4 if item == 1 else 0))


def disk(sizes: Sizes, split: Split, kept: int) -> dict[str, float]:
    """GB on disk: a resumable checkpoint of what is trained, ``kept`` of them and one in the making, the model."""
    trained = sizes.trained(split)
    copies = 4 + OPTIMIZER_BYTES + (split.item if split.zero else 0)
    model = split.item * (sizes.llm + sizes.connector + sizes.tower)  # adapters are added to the weights
    checkpoint = copies * trained
    return {"checkpoint": checkpoint / GB, "checkpoints": (kept + 1) * checkpoint / GB, "model": model / GB}
