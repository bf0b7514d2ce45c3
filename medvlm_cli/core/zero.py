"""DeepSpeed: its configuration for a run, and what it needs on processes without a GPU."""

import importlib
import importlib.util
import json
import os
from typing import Any

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.presets import presets

HIDDEN = 4096
"""Width of the language model that the sizes in ``configs/deepspeed`` are meant for: Llama-3 8B's."""


def zero_config(
    stage: int, micro: int, accumulation: int, world: int, bf16: bool, clip: float, hidden: int = HIDDEN
) -> dict[str, Any]:
    """``configs/deepspeed/zero<stage>.json`` with this run's numbers.

    Every value is a number, never ``auto``: one ``auto`` of stage 3 left over kills a run of stage 2.  The optimiser is
    PyTorch's AdamW, as without DeepSpeed, because DeepSpeed's own is compiled at its first use.  ``overlap_comm`` is
    false, because some releases of DeepSpeed gave wrong gradients with it under stage 2 (its issue 7718), and no run of
    ours on several GPUs has shown yet that this one does not.

    Args:
        stage: 2 or 3.
        micro: conversations per device and forward pass.
        accumulation: forward passes per optimiser step.
        world: devices.
        bf16: bfloat16 arithmetic; else float32.
        clip: largest norm of the gradients.
        hidden: width of the language model, which the sizes of the buckets go with.

    Raises:
        ConfigError: deepspeed is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"zero is {stage} on several devices, and deepspeed is not installed",
            "pip install 'medvlm[train]', or --set zero=0 for plain data parallel training",
        )
    folder = next(iter(presets().values())).parent / "deepspeed"
    config = json.loads((folder / f"zero{stage}.json").read_text(encoding="utf-8"))
    return {
        "zero_optimization": _buckets(config["zero_optimization"], hidden),
        "train_batch_size": micro * accumulation * world,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "bf16": {"enabled": bf16},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 40,  # never: it prints on stdout
    }


def _buckets(options: dict[str, Any], hidden: int) -> dict[str, Any]:
    """ZeRO's options with the sizes, in weights, that suit a width; for ``HIDDEN`` they are those of the file."""
    square = hidden * hidden
    sizes = {
        "reduce_bucket_size": square,
        "allgather_bucket_size": square,
        "stage3_prefetch_bucket_size": square * 9 // 10,
        "stage3_param_persistence_threshold": 10 * hidden,
    }
    return {name: sizes.get(name, value) for name, value in options.items()}


def start_on_cpu() -> None:
    """Start DeepSpeed's communication over gloo, without the shared memory extension that needs a C++ compiler."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # `import deepspeed.comm.torch as x` would give PyTorch itself
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
    deepspeed.init_distributed("gloo")
