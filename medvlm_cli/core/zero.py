"""DeepSpeed: its configuration for a run, and what it needs on processes without a GPU."""

import importlib
import importlib.util
import json
import os
from typing import Any

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.presets import presets


def zero_config(stage: int, micro: int, accumulation: int, world: int, bf16: bool, clip: float) -> dict[str, Any]:
    """``configs/deepspeed/zero<stage>.json`` with this run's numbers.

    Every value is a number, never ``auto``: one ``auto`` of stage 3 left over kills a run of stage 2.  The optimiser is
    PyTorch's AdamW, as without DeepSpeed, because DeepSpeed's own is compiled at its first use.

    Raises:
        ConfigError: deepspeed is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise ConfigError(
            f"zero is {stage} on several devices, and deepspeed is not installed",
            "pip install 'medvlm[train]', or --set zero=0 for plain data parallel training",
        )
    folder = next(iter(presets().values())).parent / "deepspeed"
    return json.loads((folder / f"zero{stage}.json").read_text(encoding="utf-8")) | {
        "train_batch_size": micro * accumulation * world,
        "train_micro_batch_size_per_gpu": micro,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": clip,
        "bf16": {"enabled": bf16},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 1 << 40,  # never: it prints on stdout
    }


def start_on_cpu() -> None:
    """Start DeepSpeed's communication over gloo, without the shared memory extension that needs a C++ compiler."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    # `import deepspeed.comm.torch as x` would give PyTorch itself
    importlib.import_module("deepspeed.comm.torch").build_shm_op = lambda: None  # type: ignore[attr-defined]
    deepspeed.init_distributed("gloo")
