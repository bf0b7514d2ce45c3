"""Rows of unlike length and kind in one batch."""

import numpy as np
import pytest
import torch

from medvlm_cli.core.batch import Collator
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.prompts import IGNORED, encode, generation_prompt


@pytest.fixture
def collate(tiny_model):
    return Collator(tiny_model[1])


def image(value):
    return np.full((96, 96, 3), value, dtype=np.uint8)


def test_rows_are_padded_on_the_right_for_training(collate):
    rows = [{"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7]}, {"input_ids": [8], "labels": [8]}]
    batch = collate(rows)
    pad = collate.padding_id
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, pad, pad]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7], [8, IGNORED, IGNORED]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert set(batch) == {"input_ids", "labels", "attention_mask"}


def test_rows_are_padded_on_the_left_for_generation(tiny_model):
    batch = Collator(tiny_model[1], side="left")([{"input_ids": [5, 6, 7]}, {"input_ids": [8]}])
    pad = tiny_model[1].tokenizer.pad_token_id
    assert batch["input_ids"].tolist() == [[5, 6, 7], [pad, pad, 8]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [0, 0, 1]]
    assert "labels" not in batch


def test_an_end_token_that_is_also_the_padding_token_is_not_masked(collate):
    end = collate.padding_id  # Llama 3 has no padding token, so its end token pads
    batch = collate([{"input_ids": [5, end], "labels": [IGNORED, end]}, {"input_ids": [5, 6, 7], "labels": [5, 6, 7]}])
    assert batch["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert batch["labels"][0].tolist() == [IGNORED, end, IGNORED]


def test_images_are_stacked_in_the_order_of_the_rows_as_bytes(collate):
    rows = [
        {"input_ids": [1], "image": image(3)},
        {"input_ids": [1]},
        {"input_ids": [1], "image": np.stack([image(4), image(5)])},
    ]
    pixels = collate(rows)["pixel_values"]
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 3, 96, 96)
    assert pixels[:, 0, 0, 0].tolist() == [3, 4, 5]


def test_channels_come_first_and_rows_stay_rows(collate):
    picture = np.arange(96 * 96 * 3, dtype=np.uint32).astype(np.uint8).reshape(96, 96, 3)
    pixels = collate([{"input_ids": [1], "image": picture}])["pixel_values"]
    assert pixels[0, 2, 10, 20].item() == picture[10, 20, 2]


def test_features_take_the_place_of_pixels(collate):
    one, two = np.ones((16, 192), dtype=np.float16), np.zeros((2, 16, 192), dtype=np.float16)
    batch = collate([{"input_ids": [1], "features": one}, {"input_ids": [1], "features": two}])
    assert batch["image_features"].shape == (3, 16, 192)
    assert batch["image_features"][:, 0, 0].tolist() == [1, 0, 0]
    assert "pixel_values" not in batch


def test_pixels_and_features_in_one_batch_are_refused(collate):
    rows = [{"input_ids": [1], "image": image(3)}, {"input_ids": [1], "features": np.ones((16, 192))}]
    with pytest.raises(DataError, match="of 2 rows, 1 have pixels and 1 have features"):
        collate(rows)


def test_packed_rows_lie_end_to_end_and_count_their_own_places(collate):
    batch = collate.packed(
        [
            {"input_ids": [5, 6, 7], "labels": [IGNORED, 6, 7], "image": image(3)},
            {"input_ids": [8, 9], "labels": [IGNORED, 9], "image": image(4)},
        ]
    )
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 6, 7, IGNORED, 9]]
    assert batch["pixel_values"].dtype == torch.uint8 and batch["pixel_values"][:, 0, 0, 0].tolist() == [3, 4]
    assert "attention_mask" not in batch and batch["documents"] == [3, 2] and batch["use_cache"] is False


def test_the_first_token_of_a_packed_row_is_no_target_of_the_row_before(collate):
    batch = collate.packed([{"input_ids": [5], "labels": [5]}, {"input_ids": [8, 9], "labels": [8, 9]}])
    assert batch["labels"].tolist() == [[IGNORED, IGNORED, 9]]


def test_pixels_and_features_in_one_pack_are_refused(collate):
    row = {"input_ids": [1], "labels": [1]}
    with pytest.raises(DataError, match="of 2 rows, 1 have pixels and 1 have features"):
        collate.packed([row | {"image": image(3)}, row | {"features": np.ones((16, 192))}])


@torch.no_grad()
def test_padding_does_not_change_the_loss_of_a_row(tiny_model, collate):
    model, processor = tiny_model
    pairs = [("Is there a nodule?", "Yes."), ("What does the image show?", "A chest radiograph of the right lung.")]
    rows = [
        encode(processor, [{"role": "user", "text": question}, {"role": "assistant", "text": answer}])
        | {"image": np.random.default_rng(number).integers(0, 256, (96, 96, 3), dtype=np.uint8)}
        for number, (question, answer) in enumerate(pairs)
    ]
    targets = sum(label != IGNORED for row in rows for label in row["labels"])
    alone = sum(model(**collate([row]), num_items_in_batch=targets).loss.item() for row in rows)
    assert model(**collate(rows)).loss.item() == pytest.approx(alone, rel=1e-5)


@torch.no_grad()
def test_padding_does_not_change_what_is_generated(tiny_model):
    model, processor = tiny_model
    collate = Collator(processor, side="left")
    rows = [
        {"input_ids": generation_prompt(processor, [{"role": "user", "text": text}]), "image": image(90 * number)}
        for number, text in enumerate(["Is it?", "What does the image show, and in which lung?"])
    ]
    together = model(**collate(rows)).logits[:, -1]
    alone = torch.cat([model(**collate([row])).logits[:, -1] for row in rows])
    assert (together - alone).abs().max() <= 1e-4 * alone.abs().max()
