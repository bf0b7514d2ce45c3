"""``finetune``: the language model and the connector learn to answer questions about figures."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FinetuneConfig, as_dict
from medvlm_cli.core.launch import Training, run_stage
from medvlm_cli.core.record import read_json
from medvlm_cli.core.schemas import CONVERSATIONS
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers.terms import forbidden

log = logging.getLogger(__name__)


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
    _warn_of_terms(conversations, base)
    model = {"checkpoint": str(base)}
    training = Training(
        stage="finetune", conversations=conversations, figures=figures, out=out, config=as_dict(config), model=model
    )
    return run_stage(training, tell, gpus)


def _warn_of_terms(conversations: Path, base: Path) -> None:
    """Say where the terms of a teacher forbid this student to learn from what it wrote; the user decides."""
    config = read_json(base / "config.json") or {}
    student = f"{config.get('base_llm') or ''} {config.get('llm_family') or ''}"
    rows = open_dataset(conversations, CONVERSATIONS).rows(["license_tags"])
    for terms in forbidden({tag for row in rows for tag in row["license_tags"]}, student):
        log.warning("%s: %s  The model here is built on %s.", terms.title, terms.says, student.strip() or "another one")
