"""The conversations of a step that went wrong, kept so that a person can look at them and try it again."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from medvlm_cli.core.commit import make_folder, write_text
from medvlm_cli.core.resume import written
from medvlm_cli.core.samples import Samples

KEPT = ("input_ids", "labels", "attention_mask", "position_ids")


class TracedSamples(Samples):
    """Samples whose batches say what they are made of: ``rows``, the index of each sample."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        """As ``Samples``, and ``index``."""
        return super().__getitem__(index) | {"index": index}

    def collate(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """As ``Samples``, and ``rows``."""
        return super().collate(samples) | {"rows": [sample["index"] for sample in samples]}

    def pack(self, samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """As ``Samples``, and ``rows``."""
        return super().pack(samples) | {"rows": [sample["index"] for sample in samples]}

    def told(self, index: int) -> dict[str, Any]:
        """What a person needs to find a sample again.

        Returns:
            ``conversation_id``, ``figure_id``, the hex ``image_sha256`` of the figure's file, and ``learnt``: whether
            the sample had targets here.
        """
        row = self.rows[index if index >= 0 else ~index]
        found = self.split.conversations.row_at(row, ["conversation_id", "figure_id"])
        figures = self.split.figures
        image = figures.sha256(*figures.find(found["figure_id"], found["conversation_id"])).hex()
        return {**found, "image_sha256": image, "learnt": index >= 0}


def keep(
    folder: Path,
    rank: int,
    samples: TracedSamples,
    batches: Sequence[Mapping[str, Any]],
    losses: Sequence[torch.Tensor],
    figures: Mapping[str, Any],
) -> None:
    """Write one rank's micro-batches of a step.

    ``rank-<r>.safetensors`` has their tensors under ``<micro-batch>.<name>``; ``rank-<r>.json`` names their
    conversations and images, and the part of the loss that each made.  Images themselves stay where they are.

    Args:
        folder: of the step; all ranks write into it.
        rank: this process's number.
        samples: what the batches were made from.
        batches: as ``samples`` gave them.
        losses: of each, in the same order; as many as were computed.
        figures: what else there is to say of the step.

    Raises:
        ResourceError: the disk is full, or refuses otherwise.
    """
    make_folder(folder)
    tensors = {
        f"{number}.{name}": batch[name].cpu().contiguous()
        for number, batch in enumerate(batches)
        for name in KEPT
        if name in batch
    }
    parts = [str(float(loss)) for loss in losses]  # text, because JSON has no NaN
    told = [
        {
            "loss": parts[number] if number < len(parts) else None,
            "conversations": [samples.told(row) for row in batch["rows"]],
        }
        for number, batch in enumerate(batches)
    ]
    content = {name: str(value) for name, value in figures.items()} | {"rank": rank, "micro_batches": told}
    with written(folder):
        save_file(tensors, folder / f"rank-{rank}.safetensors")
        write_text(folder / f"rank-{rank}.json", json.dumps(content, indent=1))
