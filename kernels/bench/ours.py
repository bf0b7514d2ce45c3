"""The encoder that is measured, on the weights of its peers."""

import peers
import torch
from medvlm_kernels.fold import Weights, fold
from medvlm_kernels.tower import FusedTower


def weights(state: peers.State, shape: peers.Shape, dtype: torch.dtype) -> Weights:
    """The folded weights, where ``state`` lies."""
    return fold(
        state, heads=shape.heads, eps=peers.EPS, mean=peers.MEAN, std=peers.STD, geometry=shape.geometry, dtype=dtype
    )


def tower(state: peers.State, shape: peers.Shape, dtype: torch.dtype, device: str) -> peers.Encode:
    """Its ``encode``, with everything left to its own choice."""
    return FusedTower(weights(state, shape, dtype), shape.geometry, torch.device(device)).encode
