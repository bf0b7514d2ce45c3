"""``finetune``: the language model and the connector learn to answer questions about figures."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medvlm_cli.benchmarks.train_split import TrainSplit, train_split
from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FinetuneConfig, as_dict
from medvlm_cli.core.launch import Training, run_stage
from medvlm_cli.core.model.adapters import check_adapter
from medvlm_cli.core.parity import semantics
from medvlm_cli.core.ranks import leads
from medvlm_cli.core.record import read_json
from medvlm_cli.core.schemas import CONVERSATIONS
from medvlm_cli.core.tell import Tell
from medvlm_cli.core.tracking import check_tracker
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
        ConfigError: ``batch`` does not divide over the devices, what ``adapter`` needs is not here, or ``base`` is not
            what ``parity`` asks for.
        BusyError: another process or another run has ``out``; the same run goes on where it was killed.
        MedVLMError: training has diverged.

    Source: LLaVA, Liu et al. 2023, arXiv:2304.08485, second training stage.
    """
    _check(config)
    return _train(_training(conversations, figures, base, out, config), config, tell, gpus)


def finetune_on_benchmark(
    questions: Path, root: Path, base: Path, out: Path, config: FinetuneConfig, tell: Tell, gpus: int = 1
) -> dict[str, Any]:
    """Train on a benchmark's train split, the third step: answers of its style, one question a conversation.

    Args:
        questions: questions/1 dataset.
        root: workspace, where the split becomes two datasets; see ``train_split``.
        base: the checkpoint that ``finetune`` made.
        out: as ``finetune``, like what is not named here.
        config: settings; ``leaks`` says what becomes of rows whose image is in the test split too.
        tell: progress.
        gpus: devices to train on.

    Returns:
        As ``finetune``, and ``overlap``: counts of images and rows that the train split shares with the test split.

    Raises:
        DataError: as ``finetune``; or the split shares images with the test split and ``leaks`` is refuse.
        MedVLMError: as ``finetune``.
    """
    _check(config)
    nothing = TrainSplit(root, root, {})  # only the first rank reads what is learnt
    split = train_split(questions, root, config.leaks, tell) if leads() else nothing
    training = _training(split.conversations, [split.figures], base, out, config, {"learnt": split.record})
    return _train(training, config, tell, gpus) | split.record


def _check(config: FinetuneConfig) -> None:
    """Refuse what cannot be done here before anything is made."""
    check_adapter(config.adapter)
    check_tracker(config.track)


def _training(
    conversations: Path,
    figures: Sequence[Path],
    base: Path,
    out: Path,
    config: FinetuneConfig,
    notes: Mapping[str, Any] | None = None,
) -> Training:
    settings = as_dict(config)
    del settings["hostfile"]
    return Training(
        stage="finetune", conversations=conversations, figures=figures, out=out, config=settings,
        model={"checkpoint": str(base)}, notes={**semantics(config.parity), **(notes or {})},
    )  # fmt: skip


def _train(training: Training, config: FinetuneConfig, tell: Tell, gpus: int) -> dict[str, Any]:
    if leads():
        _warn_of_terms(training.conversations, Path(training.model["checkpoint"]))
    return run_stage(training, tell, gpus, Path(config.hostfile) if config.hostfile else None)


def _warn_of_terms(conversations: Path, base: Path) -> None:
    """Say where the terms of a teacher forbid this student to learn from what it wrote; the user decides."""
    config = read_json(base / "config.json") or {}
    student = f"{config.get('base_llm') or ''} {config.get('llm_family') or ''}"
    rows = open_dataset(conversations, CONVERSATIONS).rows(["license_tags"])
    for terms in forbidden({tag for row in rows for tag in row["license_tags"]}, student):
        log.warning("%s: %s  The model here is built on %s.", terms.title, terms.says, student.strip() or "another one")
