"""``finetune``: the language model and the connector learn to answer questions about figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm_cli.core.config import FinetuneConfig, as_dict
from medvlm_cli.core.launch import Training, run_stage
from medvlm_cli.core.tell import Tell


def finetune(
    conversations: Path,
    figures: Sequence[Path],
    base: Path,
    out: Path,
    config: FinetuneConfig,
    tell: Tell,
    gpus: int = 1,
) -> dict[str, Any]:
    """Train the language model and the connector on instruction conversations; the tower stays frozen.

    Args:
        conversations: conversations/1 dataset, every row of kind ``instruct``.
        figures: figures/1 datasets; every figure that the conversations name is in exactly one of them.
        base: the checkpoint that ``pretrain`` made.
        out: folder to make: a plain Hugging Face model, ``run.json``, and ``steps``, a steps/1 dataset.
        config: settings; ``batch`` counts conversations per optimiser step over all devices.
        tell: progress.
        gpus: devices to train on; where there is no GPU, processes on the CPU.

    Returns:
        A summary: ``checkpoint``, ``steps``, ``loss`` and ``held_out_loss`` in nats per target word, ``seconds``.

    Raises:
        DataError: a conversation is of another kind, its figure is not in exactly one dataset, or is not readable; or
            ``base`` is no checkpoint.
        ConfigError: ``batch`` does not divide over the devices.
        BusyError: another process or another run has ``out``; the same run goes on where it was killed.
        MedVLMError: training has diverged.

    Source: LLaVA, Liu et al. 2023, arXiv:2304.08485, second training stage.
    """
    model = {"checkpoint": str(base)}
    training = Training(
        stage="finetune", conversations=conversations, figures=figures, out=out, config=as_dict(config), model=model
    )
    return run_stage(training, tell, gpus)
