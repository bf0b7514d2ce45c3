"""``pretrain``: the connector learns to say with a figure's tokens what its caption says with words."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm_cli.core.config import PretrainConfig, as_dict
from medvlm_cli.core.launch import Training, run_stage
from medvlm_cli.core.model.hub_id import pinned_llm
from medvlm_cli.core.model.tiny import make_tiny
from medvlm_cli.core.parity import semantics
from medvlm_cli.core.ranks import leads
from medvlm_cli.core.tell import Tell
from medvlm_cli.core.tracking import check_tracker


def pretrain(
    conversations: Path,
    figures: Sequence[Path],
    out: Path,
    config: PretrainConfig,
    tell: Tell,
    gpus: int = 1,
) -> dict[str, Any]:
    """Train the connector on captions, with the tower and the language model frozen.

    The connector maps joined features ``(B, T, K * C)`` to word embeddings ``(B, T, H)``: for 378 pixel tiles at three
    scales and Llama-3 8B, T is 729 tokens, K 3, C 1280 and H 4096.

    Args:
        conversations: conversations/1 dataset, every row of kind ``caption``.
        figures: figures/1 datasets; every figure that the conversations name is in exactly one of them.
        out: folder to make: a plain Hugging Face model, ``run.json``, and ``steps``, a steps/1 dataset.
        config: settings; ``batch`` counts conversations per optimiser step over all devices.
        tell: progress.
        gpus: devices to train on; where there is no GPU, processes on the CPU.

    Returns:
        A summary: ``checkpoint``, ``steps``, ``loss`` and ``held_out_loss`` in nats per target word, ``seconds``.

    Raises:
        DataError: a conversation is of another kind, its figure is not in exactly one dataset, or is not readable.
        ConfigError: there is no such tower or language model, ``batch`` does not divide over the devices, or the
            language model is not one that ``parity`` knows.
        BusyError: another process or another run has ``out``; the same run goes on where it was killed.
        MedVLMError: training has diverged.

    Source: LLaVA, Liu et al. 2023, arXiv:2304.08485, first training stage.
    """
    parts = {"tower": config.tower, "llm": config.llm}
    check_tracker(config.track)
    if "tiny" in parts.values() and leads():  # no other rank reads what it is made of
        place = out.parent.parent if out.parent.name == "checkpoints" else out.parent
        made = make_tiny(place / "models" / f"tiny-{config.seed}", config.seed, tell)
        parts = {name: str(made / name) if value == "tiny" else value for name, value in parts.items()}
    settings = as_dict(config)
    if leads() and (named := pinned_llm(parts["llm"])):
        parts["llm"] = settings["llm"] = str(named)  # a run that goes on another day goes on with the same model
    hostfile = settings.pop("hostfile")
    training = Training(
        stage="pretrain", conversations=conversations, figures=figures, out=out, config=settings, model=parts,
        notes=semantics(config.parity),
    )  # fmt: skip
    return run_stage(training, tell, gpus, Path(hostfile) if hostfile else None)
