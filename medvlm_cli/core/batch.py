"""Rows -> tensors, padded side by side or packed end to end.

Legend: B rows, L tokens of the longest row, N images of the batch, S pixels of an image's side, T tokens of an image,
K scales, C channels of the tower.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from transformers import LlavaProcessor

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.prompts import IGNORED


class Collator:
    """Makes a batch of rows: right padding for training, left padding for generation.

    Images stay bytes: the tower normalises them where they are used, so that a quarter of the data travels to it.
    The attention mask comes from the rows' lengths and never from looking for the padding token, which many language
    models also use to end an answer.
    """

    def __init__(self, processor: LlavaProcessor, side: Literal["right", "left"] = "right") -> None:
        tokenizer = processor.tokenizer
        self.side = side
        self.padding_id = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad and stack.

        Args:
            rows: each with ``input_ids``; ``labels`` for training; and for its images, where it has any, either
                ``image``, uint8 ``(S, S, 3)`` or ``(n, S, S, 3)``, or ``features``, float ``(T, K*C)`` or
                ``(n, T, K*C)``.  Other keys are ignored.

        Returns:
            ``input_ids`` and ``attention_mask``, int64 ``(B, L)``; ``labels`` where the rows have them; and
            ``pixel_values``, uint8 ``(N, 3, S, S)``, or ``image_features``, ``(N, T, K*C)``, in the order of the rows.

        Raises:
            DataError: some rows have pixels and others features.
        """
        lengths = [len(row["input_ids"]) for row in rows]
        batch = {
            "input_ids": self._padded([row["input_ids"] for row in rows], self.padding_id),
            "attention_mask": self._padded([[1] * length for length in lengths], 0),
        }
        if all("labels" in row for row in rows):
            batch["labels"] = self._padded([row["labels"] for row in rows], IGNORED)
        return batch | _images(rows)

    def packed(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Lay the rows end to end as one, for training.

        The rows do not see each other: positions count from 0 again where one begins, and there is neither an attention
        mask nor a cache of keys and values, which is how transformers is told.  A mask of ones would join them without
        a word, and so would a cache, which a language model keeps unless told not to.

        Args:
            rows: as above, with ``labels``.

        Returns:
            ``input_ids``, ``position_ids`` and ``labels``, int64 ``(1, L)``, L tokens of all rows together;
            ``documents``, the tokens of each row; ``use_cache``, which is False; and the images, as above.  The first
            token of a row is no target, as it is none where a row stands alone.

        Raises:
            DataError: some rows have pixels and others features.
        """
        columns = {
            "input_ids": [token for row in rows for token in row["input_ids"]],
            "position_ids": [place for row in rows for place in range(len(row["input_ids"]))],
            "labels": [label for row in rows for label in (IGNORED, *row["labels"][1:])],
        }
        packed = {name: torch.tensor([column]) for name, column in columns.items()}
        documents = [len(row["input_ids"]) for row in rows]
        return packed | {"documents": documents, "use_cache": False} | _images(rows)

    def _padded(self, rows: list[list[int]], value: int) -> torch.Tensor:
        """int64 ``(B, L)``."""
        longest = max(len(row) for row in rows)
        out = torch.full((len(rows), longest), value, dtype=torch.int64)
        for line, row in zip(out, rows, strict=True):
            line[longest - len(row) if self.side == "left" else 0 :][: len(row)] = torch.tensor(row)
        return out


def _images(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """``pixel_values`` or ``image_features`` of the rows, or neither."""
    pixels = [np.asarray(row["image"]) for row in rows if row.get("image") is not None]
    features = [torch.as_tensor(row["features"]) for row in rows if row.get("features") is not None]
    if pixels and features:
        raise DataError(
            f"of {len(rows)} rows, {len(pixels)} have pixels and {len(features)} have features",
            "cache the features of all figures, or of none",
        )
    if pixels:
        stacked = np.concatenate([image.reshape(-1, *image.shape[-3:]) for image in pixels])
        return {"pixel_values": torch.from_numpy(np.ascontiguousarray(stacked.transpose(0, 3, 1, 2)))}
    if features:
        return {"image_features": torch.cat([one.reshape(-1, *one.shape[-2:]) for one in features])}
    return {}
