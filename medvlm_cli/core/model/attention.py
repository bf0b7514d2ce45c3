"""Which ways to compute attention this machine offers, and why it refuses the others."""

import torch
from medvlm_kernels import BACKENDS
from medvlm_kernels.backends import choose, refusal

_TILE = (1, 730, 3, 16, 80)
"""A tile of the paper's tower: 27 x 27 patches and the class token, 16 heads of 80 channels."""


def attention_backends() -> dict[str, str]:
    """Of every backend ``ok``, or why it cannot be used; ``auto`` is told by the name of the one that it takes.

    Tried with a tile of the paper's tower in bfloat16, on the first CUDA device where there is one.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tile = torch.zeros(_TILE, dtype=torch.bfloat16, device=device)
    tried = {name: refusal(name, tile) or "ok" for name in BACKENDS if name != "auto"}
    return {"auto": choose("auto", tile), **tried}
