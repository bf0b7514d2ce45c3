"""What the frozen tower sees, computed once and kept on disk: features/1.

A figure costs T x K x C half floats: 5.6 MB at 729 x 3840, so 600,000 figures are 3.4 TB.  Worth it for small sets,
several epochs and sweeps; off by default.

Legend: T tokens of a figure, K scales, C channels of the tower.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medvlm_cli.core.arrow import Dataset, Harvest, Reject, Writer, open_dataset
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import decode, to_rgb_square
from medvlm_cli.core.model.vlm import Fit
from medvlm_cli.core.record import fingerprint, identity
from medvlm_cli.core.schemas import FIGURES, features_schema
from medvlm_cli.core.tell import Tell

TOGETHER = 32
"""Figures that go through the tower in one call."""
SHARD_BYTES = 256 << 20
"""About what a killed run computes again."""


class Features:
    """A finished cache: ``features[figure_id]`` is float16 ``(T, K * C)``."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "run.json").read_text(encoding="utf-8"))["config"]
        self.shape = config["tokens"], config["channels"]
        self.dataset = open_dataset(folder, features_schema(*self.shape))
        self._rows = {figure: row for row, figure in enumerate(self.dataset.ids)}

    def __getitem__(self, figure: str) -> torch.Tensor:
        """The features of a figure.

        Raises:
            DataError: its image could not be decoded when the cache was made.
        """
        if figure not in self._rows:
            reasons = self.dataset.folder / "rejects"
            raise DataError(f"figure {figure}: its image could not be decoded, see {reasons}", "drop its conversations")
        return torch.from_numpy(self.dataset.values_at(self._rows[figure], "features").reshape(self.shape))


class Cache:
    """The features of every figure, in a folder named by the beginning of their fingerprint.

    What they depend on: the tower's weights and precision, scales, fit, antialiasing, and the figures.  Both stages
    find the same one.
    """

    def __init__(self, root: Path, figures: Sequence[Path], model: Any, processor: Any) -> None:
        """Say where the features lie, or will lie.

        Args:
            root: folder of all caches.
            figures: figures/1 datasets; an id that is in two of them is left out.
            model: a ``MedVLMForConditionalGeneration``.
            processor: of the same checkpoint.
        """
        self._tower, tower = model.model.vision_tower, model.model.vision_tower.config
        self._side, self._fit = processor.image_processor.crop_size["height"], model.config.fit
        self._places: dict[str, tuple[Dataset, int]] = {}
        twice = set()
        for dataset in (open_dataset(folder, FIGURES) for folder in figures):
            for row, figure in enumerate(dataset.ids):
                twice |= {figure} & self._places.keys()
                self._places[figure] = dataset, row
        self._keys = [figure for figure in self._places if figure not in twice]
        self._config = {
            "tower": _digest(self._tower),
            "precision": str(self._tower.dtype).removeprefix("torch."),
            "scales": list(tower.s2_scales),
            "antialias": tower.s2_antialias,
            "fit": self._fit,
            "tokens": tower.tokens,
            "channels": tower.channels,
        }
        self._inputs = {f"figures {number}": folder for number, folder in enumerate(figures)}
        parts = identity("features/1", "features", self._config, self._inputs, self._keys)
        self.folder = root / fingerprint(parts)[:12]

    def make(self, tell: Tell) -> None:
        """Encode every figure, unless that was done before; images that cannot be decoded become rejects.

        Args:
            tell: told the size in bytes before anything is written.

        Raises:
            BusyError: another process is making it.
            ResourceError: the disk is full.
        """
        tokens, channels = self._config["tokens"], self._config["channels"]
        size = 2 * tokens * channels
        with Writer(
            self.folder, features_schema(tokens, channels), stage="features", config=self._config,
            inputs=self._inputs, keys=self._keys, keys_per_shard=max(1, SHARD_BYTES // size),
        ) as writer:  # fmt: skip
            phase, done = f"features ({size * len(self._keys):,} bytes)", 0
            for shard, keys in writer.todo():
                for_shard = self._harvests(keys)
                tell(phase, done, len(self._keys))
                writer.commit(shard, for_shard)
                done += len(keys)
                tell(phase, done, len(self._keys))

    def _harvests(self, keys: Sequence[str]) -> Iterator[Harvest]:
        """What each figure gives, ``TOGETHER`` of them encoded in one call."""
        for start in range(0, len(keys), TOGETHER):
            pixels: dict[str, np.ndarray] = {}
            rejects: dict[str, Reject] = {}
            for figure in keys[start : start + TOGETHER]:
                dataset, row = self._places[figure]
                try:
                    pixels[figure] = square(dataset, row, figure, self._side, self._fit)
                except DataError as error:
                    rejects[figure] = Reject(figure, "bad_image", error.what)
            encoded = dict(zip(pixels, self._encode(list(pixels.values())), strict=True)) if pixels else {}
            for figure in keys[start : start + TOGETHER]:
                refused = [rejects[figure]] if figure in rejects else []
                yield Harvest(1, [] if refused else [self._row(figure, encoded[figure])], refused)

    def _encode(self, pixels: list[np.ndarray]) -> np.ndarray:
        """Squares ``(S, S, 3)`` uint8 -> float16 ``(N, T * K * C)``."""
        stacked = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).to(self._tower.device)
        return self._tower.encode(stacked).flatten(1).half().cpu().numpy()

    def _row(self, figure: str, features: np.ndarray) -> dict[str, Any]:
        tower, scales = self._config["tower"][:12], self._config["scales"]
        return {"figure_id": figure, "tower": tower, "scales": scales, "features": features}


def square(figures: Dataset, row: int, figure: str, side: int, fit: Fit) -> np.ndarray:
    """The image of a figure as the tower takes it, uint8 ``(side, side, 3)``.

    Raises:
        DataError: it cannot be decoded; names the figure and its dataset.
    """
    data = figures.row_at(row, ["image"])["image"]["bytes"]
    return to_rgb_square(decode(data, f"{figures.folder}, figure {figure}"), side, fit)


def _digest(tower: torch.nn.Module) -> str:
    """SHA-256 of the tower's weights, names included, in hex."""
    digest = hashlib.sha256()
    for name, weight in sorted(tower.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()
