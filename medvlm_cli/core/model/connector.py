"""The connector: two linear layers with a GELU between, from the tower's channels to the language model's width.

It is LLaVA's own ``LlavaMultiModalProjector``; this file says how large it is and how it starts.

Legend: K scales, C channels of the tower, H width of the language model.
"""

import math

import torch
from transformers.models.llava.modeling_llava import LlavaMultiModalProjector


def connector_parameters(channels: int, width: int) -> int:
    """Parameters of a connector from ``channels`` = K * C to ``width`` = H; 3840 and 4096 make 32,514,048."""
    return (channels + 1) * width + (width + 1) * width


@torch.no_grad()
def init_connector(connector: LlavaMultiModalProjector, seed: int) -> None:
    """Fill a connector with torch's own start for linear layers, the same for the same seed on every machine.

    Source: LLaVA leaves its projector as ``nn.Linear`` makes it (Kaiming uniform, a = sqrt 5), and so does Llama3-Med.
    """
    random = torch.Generator().manual_seed(seed)
    for linear in (connector.linear_1, connector.linear_2):
        bound = 1 / math.sqrt(linear.in_features)
        for weights in (linear.weight, linear.bias):
            start = torch.rand(weights.shape, generator=random) * (2 * bound) - bound
            weights.copy_(start)
