"""Code that a model brings along is never run, whoever made the model and whatever stands on standard input.

medvlm has no switch for it.  A language model that needs code of its own cannot become a checkpoint that opens without,
so such a switch would have every later verb, and everybody who is given the checkpoint, run that code too.
"""

import ast
import io
import json
import os
import shutil
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from medvlm_cli.core.config import PretrainConfig
from medvlm_cli.core.errors import MedVLMError
from medvlm_cli.core.model.checkpoint import load
from medvlm_cli.core.model.llms import load_llm
from medvlm_cli.core.model.towers import load_tower
from medvlm_cli.core.sizes import parts_of_checkpoint, parts_of_names, sizes_of
from medvlm_cli.teachers.second_opinion import Case
from medvlm_cli.teachers.second_opinion_local import LocalJudge

ROOT = Path(__file__).parents[1] / "medvlm_cli"
NAMES = (
    "AutoConfig",
    "AutoModel",
    "AutoModelForCausalLM",
    "AutoModelForImageTextToText",
    "AutoTokenizer",
    "AutoProcessor",
)
"""What transformers takes from a folder's own code."""


@pytest.fixture(autouse=True)
def somebody_who_says_yes(monkeypatch, tmp_path):
    """transformers asks on standard input where it was not told; and keeps what it runs in a folder of its own."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))


def infested(original, folder, canary, kind):
    """A copy of a model's folder that says its code is in ``evil.py``, which makes a folder when it is imported.

    Args:
        original: folder.
        folder: to make.
        canary: what the code makes.
        kind: ``known`` keeps the type of the model, ``foreign`` gives it one that transformers does not know.
    """
    shutil.copytree(original, folder)
    (folder / "evil.py").write_text(f"import os\nos.makedirs({str(canary)!r}, exist_ok=True)\nclass Evil: pass\n")
    for name in ("config.json", "tokenizer_config.json", "processor_config.json", "preprocessor_config.json"):
        told = json.loads((folder / name).read_text()) if (folder / name).is_file() else {}
        if told or name == "config.json":
            evil = ["evil.Evil", "evil.Evil"] if name == "tokenizer_config.json" else "evil.Evil"
            told["auto_map"] = dict.fromkeys(NAMES, evil)
            told |= {"model_type": "evil"} if kind == "foreign" and name == "config.json" else {}
            (folder / name).write_text(json.dumps(told))
    return folder


def as_language_model(folder):
    load_llm(str(folder), torch.float32)


def as_language_model_of_an_estimate(folder):
    sizes_of(parts_of_names(PretrainConfig(llm=str(folder), tower="clip-vit-l-14-336", scales=(336,))))


def as_judge(folder):
    LocalJudge(str(folder), lambda *told: None).judge([Case(key="1", text="Is it?")], lambda verdict: None)


def as_tower(folder):
    load_tower(str(folder), (32, 64))


def as_checkpoint(folder):
    load(folder, "cpu", torch.float32)


def as_checkpoint_of_an_estimate(folder):
    sizes_of(parts_of_checkpoint(folder))


PLACES = {
    as_language_model: "tiny_llm",
    as_language_model_of_an_estimate: "tiny_llm",
    as_judge: "tiny_llm",
    as_tower: "tiny_tower",
    as_checkpoint: "tiny_checkpoint",
    as_checkpoint_of_an_estimate: "tiny_checkpoint",
}


@pytest.mark.parametrize("kind", ["known", "foreign"])
@pytest.mark.parametrize("opened", PLACES, ids=lambda place: place.__name__)
def test_no_place_that_opens_a_model_runs_its_code(opened, kind, tmp_path, request):
    canary = tmp_path / "canary"
    folder = infested(request.getfixturevalue(PLACES[opened]), tmp_path / "model", canary, kind)
    with suppress(MedVLMError):
        opened(folder)
    assert not canary.exists()


@pytest.mark.parametrize("opened", [as_language_model, as_judge, as_language_model_of_an_estimate, as_checkpoint])
def test_a_model_that_needs_its_code_is_refused_by_name(opened, tmp_path, request):
    folder = infested(request.getfixturevalue(PLACES[opened]), tmp_path / "model", tmp_path / "canary", "foreign")
    with pytest.raises(MedVLMError, match="model"):
        opened(folder)


def test_the_canary_sings_where_code_is_trusted(tiny_llm, tmp_path):
    from transformers import AutoConfig

    folder = infested(tiny_llm, tmp_path / "model", tmp_path / "canary", "foreign")
    with suppress(Exception):
        AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert (tmp_path / "canary").exists()


def trusting():
    """Calls that open a model by the class that its folder names, with what each says of code: ``file: False``.

    A processor finds the class of its tokenizer so.
    """
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            kind, _, method = name.rpartition(".")
            if method in ("from_pretrained", "from_config") and (kind.startswith("Auto") or kind.endswith("Processor")):
                given = {key.arg: ast.unparse(key.value) for key in node.keywords}
                yield f"{os.path.relpath(path, ROOT)}: {given.get('trust_remote_code')}"


def test_every_call_says_no_but_the_one_that_tries_our_own_file_in_a_folder_just_written():
    calls = list(trusting())
    assert len(calls) >= 10
    assert [call for call in calls if not call.endswith(": False")] == ["core/model/fresh.py: True"] * 2
