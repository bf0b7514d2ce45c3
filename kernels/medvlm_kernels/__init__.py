"""The operations of the three-scale tower.  Each is plain PyTorch today, see ``reference``."""

from medvlm_kernels.reference import merge_scale, split_scale

__all__ = ["merge_scale", "split_scale"]
