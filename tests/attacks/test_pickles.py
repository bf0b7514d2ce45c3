"""Files that run code where a program opens them as pickles, at every place from which medvlm loads weights: none runs.

Each of the places gets the bomb in both forms that ``torch.load`` knows, and there must be a file in its way before the
test counts: what is loaded is checked to have been refused.
"""

import json
import os
import pickle
import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import SiglipVisionConfig, SiglipVisionModel

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.commit import sha256_of
from medvlm_cli.core.errors import DataError, MedVLMError
from medvlm_cli.core.model import towers
from medvlm_cli.core.model.checkpoint import load
from medvlm_cli.core.model.llms import load_llm
from medvlm_cli.core.model.towers import load_tower
from medvlm_cli.core.resume import COMPLETE, Checkpoints
from medvlm_cli.core.schemas import FIGURES
from tests.training_cases import Bench, cut_at


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, canary):
        self.canary = canary

    def __reduce__(self):
        return os.mkdir, (str(self.canary),)


def as_torch_saves(path, canary):
    torch.save({"weight": torch.zeros(2), "bomb": Bomb(canary)}, path)


def as_a_bare_pickle(path, canary):
    path.write_bytes(pickle.dumps(Bomb(canary)))


FORMS = {one.__name__: one for one in (as_torch_saves, as_a_bare_pickle)}


def weights_of_a_timm_tower(folder, plant, given):
    plant(folder / "weights.bin")
    load_tower(f"biomedclip-vit-b-16-224:{folder}/weights.bin", [224])


def weights_of_an_open_clip_tower(folder, plant, given):
    import open_clip

    small = {"layers": 1, "width": 64, "patch_size": 16, "image_size": 32}
    words = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
    (folder / "tiny-open-clip.json").write_text(json.dumps({"embed_dim": 32, "vision_cfg": small, "text_cfg": words}))
    open_clip.add_model_config(folder)
    plant(folder / "weights.pt")
    spec = replace(towers.TOWERS["clip-vit-l-14-336"], open_clip_name="tiny-open-clip")
    towers._open_clip_visual("tiny", spec, str(folder / "weights.pt"))


def folder_of_a_siglip_tower(folder, plant, given):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=32, patch_size=8)).save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    plant(folder / "pytorch_model.bin")
    load_tower(f"siglip-base-16-224:{folder}", [224])


def folder_of_a_clip_tower(folder, plant, given):
    shutil.copytree(given("tiny_tower"), folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    plant(folder / "pytorch_model.bin")
    load_tower(str(folder), [32])


def folder_of_a_language_model(folder, plant, given):
    shutil.copytree(given("tiny_llm"), folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    plant(folder / "pytorch_model.bin")
    load_llm(str(folder), torch.float32)


def weights_of_a_checkpoint(folder, plant, given):
    shutil.copytree(given("tiny_checkpoint"), folder, dirs_exist_ok=True)
    (folder / "model.safetensors").unlink()
    plant(folder / "pytorch_model.bin")
    load(folder, "cpu", torch.float32)


def weights_that_the_index_of_a_checkpoint_names(folder, plant, given):
    shutil.copytree(given("tiny_checkpoint"), folder, dirs_exist_ok=True)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    (folder / "run.json").unlink()
    plant(folder / "model-00002-of-00002.bin")
    names = {"model.language_model.norm.weight": "model-00002-of-00002.bin"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    load(folder, "cpu", torch.float32)


def cache_of_features(folder, plant, given):
    plant(folder / "features.arrow")
    open_dataset(folder / "features.arrow", FIGURES)


PLACES = {
    one.__name__.replace("_", " "): one
    for one in (
        weights_of_a_timm_tower, weights_of_an_open_clip_tower, folder_of_a_siglip_tower, folder_of_a_clip_tower,
        folder_of_a_language_model, weights_of_a_checkpoint, weights_that_the_index_of_a_checkpoint_names,
        cache_of_features,
    )
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_the_bomb_goes_off_where_nobody_takes_care(tmp_path, form):
    FORMS[form](tmp_path / "bomb", tmp_path / "canary")
    with suppress(Exception):  # it goes off before anybody sees that it holds no weights
        torch.load(tmp_path / "bomb", weights_only=False)
    assert (tmp_path / "canary").is_dir()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_no_pickle_runs_and_the_user_is_told(tmp_path, request, place, form):
    canary, planted = tmp_path / "canary", []
    (tmp_path / "here").mkdir()

    def plant(path):
        planted.append(path)
        FORMS[form](path, canary)

    with pytest.raises(MedVLMError) as caught:
        PLACES[place](tmp_path / "here", plant, request.getfixturevalue)
    assert (canary.exists(), len(planted)) == (False, 1)
    assert "\n" not in caught.value.what


def killed():
    raise KeyboardInterrupt


def vouched(checkpoint, name):
    """Let COMPLETE.json vouch for a file that somebody else put there."""
    stated = json.loads((checkpoint / COMPLETE).read_text())
    facts = {"bytes": (checkpoint / name).stat().st_size, "sha256": sha256_of(checkpoint / name)}
    (checkpoint / COMPLETE).write_text(json.dumps(stated | {"files": stated["files"] | {name: facts}}))


@pytest.fixture(scope="module")
def stopped(training_data, tmp_path_factory, tiny_tower, tiny_llm):
    """A pretraining that was stopped after five of its six steps."""
    bench = Bench(training_data, tmp_path_factory.mktemp("stopped"), tiny_tower, tiny_llm)
    with suppress(KeyboardInterrupt):
        bench.pretrain("run", tell=cut_at(5, killed))
    return bench


STATE = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "more.pt")
"""Files of a checkpoint that are opened as pickles, and one that would not be."""


@pytest.mark.parametrize("name", STATE)
def test_a_pickle_that_a_checkpoint_of_ours_does_not_vouch_for_is_passed_over(stopped, tmp_path, name):
    shutil.copytree(stopped.state("run"), tmp_path / "state")
    newest = sorted((tmp_path / "state").glob("step-*"))[-1]
    as_torch_saves(newest / name, tmp_path / "canary")
    found = dict(Checkpoints(tmp_path / "state").newest())
    assert found[newest].startswith(name)
    assert [fault for path, fault in found.items() if path != newest] == [""]


def test_no_pickle_runs_though_a_checkpoint_vouches_for_it_and_the_run_is_ours(stopped, tmp_path):
    shutil.copytree(stopped.root, tmp_path / "copy")
    newest = sorted((tmp_path / "copy/checkpoints/.run.state").glob("step-*"))[-1]
    for name in STATE[:3]:
        as_torch_saves(newest / name, tmp_path / "canary")
        vouched(newest, name)
    assert next(Checkpoints(newest.parent).newest()) == (newest, "")
    again = Bench(stopped.captions.parent, tmp_path / "copy", stopped.parts["tower"], stopped.parts["llm"])
    with pytest.raises(DataError, match=r"optimizer\.pt: not a state that training wrote"):
        again.pretrain("run")
    assert not (tmp_path / "canary").exists()


def test_code_in_the_folder_of_a_language_model_is_not_run(tmp_path, tiny_llm):
    shutil.copytree(tiny_llm, tmp_path / "llm")
    stored = json.loads((tmp_path / "llm/config.json").read_text())
    names = {"AutoConfig": "modeling.Config", "AutoModelForCausalLM": "modeling.Model"}
    (tmp_path / "llm/config.json").write_text(json.dumps(stored | {"model_type": "unheard-of", "auto_map": names}))
    (tmp_path / "llm/modeling.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'canary')!r})\n")
    with pytest.raises(MedVLMError):
        load_llm(str(tmp_path / "llm"), torch.float32)
    assert not (tmp_path / "canary").exists()


def test_code_in_the_folder_of_a_checkpoint_is_not_run(tmp_path, tiny_checkpoint):
    shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    for file in Path(tmp_path / "checkpoint").glob("*.py"):
        file.write_text(f"import os\nos.mkdir({str(tmp_path / 'canary')!r})\n")
    load(tmp_path / "checkpoint", "cpu", torch.float32)
    assert list((tmp_path / "checkpoint").glob("*.py")) and not (tmp_path / "canary").exists()
