"""How many threads of the CPU a model computes with."""

import os

import torch

SMALL = 20_000_000
"""Parameters below which one thread is faster than two."""


def one_thread_if_small(parameters: int) -> None:
    """Compute a small model with one thread, unless there is a GPU or ``$OMP_NUM_THREADS`` says otherwise.

    Its matrices are not worth sharing, and where anything else runs beside, two threads that wait for each other take
    ten times as long (measured: 7 s against 66 s of CPU for an evaluation with the tiny preset).
    """
    if parameters < SMALL and not torch.cuda.is_available() and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
