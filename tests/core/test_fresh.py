"""The check at the end of a run: what was written is loaded in a fresh process and compared."""

import json

import pytest
import torch

from medvlm_cli.core.errors import MedVLMError
from medvlm_cli.core.model import checkpoint
from medvlm_cli.core.model.checkpoint import CODE, load, save
from medvlm_cli.core.model.fresh import verify_loads


def test_a_proven_model_lies_where_it_should_and_nothing_else_does(tiny_model, tmp_path):
    save(*tiny_model, tmp_path / "finetune", {"steps": 1}, proven=True)
    assert [path.name for path in tmp_path.iterdir()] == ["finetune"]
    load(tmp_path / "finetune", "cpu", torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_in_training_mode_is_its_own_folder_to_the_last_bit(fresh_model, tmp_path, dtype):
    model, processor = fresh_model
    model.to(dtype).train()
    save(model, processor, tmp_path / "finetune", {})
    assert verify_loads(tmp_path / "finetune", model, processor) == 0
    assert model.training


@torch.no_grad()
def test_a_weight_that_is_not_the_one_in_memory_is_found(fresh_model, tmp_path):
    model, processor = fresh_model
    save(model, processor, tmp_path / "finetune", {})
    model.model.multi_modal_projector.linear_2.weight.mul_(1.1)
    with pytest.raises(MedVLMError, match=r"the model that was trained: its logits are 0\.\d+ of their length away"):
        verify_loads(tmp_path / "finetune", model, processor)


def test_another_processor_is_found(tiny_model, tmp_path):
    save(*tiny_model, tmp_path / "finetune", {})
    path = tmp_path / "finetune" / "processor_config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings["image_processor"]["image_mean"] = [0.5, 0.5, 0.5]
    path.write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(MedVLMError, match="its processor gives other pixel_values"):
        verify_loads(tmp_path / "finetune", *tiny_model)


def test_a_model_that_does_not_load_is_not_put_in_its_place_and_not_lost(tiny_model, tmp_path, monkeypatch):
    folder = tmp_path / "finetune"
    save(*tiny_model, folder, {"steps": 3})
    monkeypatch.setattr(checkpoint, "code", lambda: "raise RuntimeError('broken code')")
    message = r"in a fresh process cannot open it \(RuntimeError: broken code\)\n.*written lies in .*finetune\.refused"
    with pytest.raises(MedVLMError, match=message):
        save(*tiny_model, folder, {"steps": 4}, proven=True)
    assert json.loads((folder / "run.json").read_text(encoding="utf-8"))["steps"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["finetune", "finetune.refused"]
    assert (tmp_path / "finetune.refused" / CODE).exists()
    load(tmp_path / "finetune.refused", "cpu", torch.float32)
