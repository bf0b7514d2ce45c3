"""A folder of ours where medvlm is not: opened by transformers alone, in a process that cannot import it.

That process and the one with medvlm are started once for all tests here, because each takes seconds to import torch.
"""

import ast
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from medvlm_cli.core.model.checkpoint import AUTO_MAP, CODE, code, load
from medvlm_cli.core.prompts import generation_prompt

QUESTION = [{"role": "user", "text": "Is there a nodule?"}]
MESSAGES = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a nodule?"}]}]
BLOCKED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("medvlm_cli", "medvlm_kernels"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
OPEN = """
import json, sys, torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor
folder, given, out, trust = sys.argv[1:]
trust = {"trust_remote_code": True} if trust == "trust" else {}
model = AutoModelForImageTextToText.from_pretrained(folder, **trust).eval()
processor = AutoProcessor.from_pretrained(folder)
body = AutoModel.from_pretrained(folder, **trust).eval()
with torch.device("meta"):
    AutoModel.from_config(body.config, **trust)
given = load_file(given)
ids, bytes_, floats = given["ids"], given["bytes"], given["floats"]
mask = torch.ones_like(ids)
messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Is there a nodule?"}]}]
text = processor.apply_chat_template(messages, add_generation_prompt=True)
from PIL import Image
image = Image.fromarray(bytes_[0].permute(1, 2, 0).numpy())
read = processor(text=text, images=image, return_tensors="pt", add_special_tokens=False)
with torch.no_grad():
    found = {
        "ids": read["input_ids"],
        "pixels": read["pixel_values"],
        "logits": model(ids, pixel_values=floats).logits,
        "logits_of_bytes": model(ids, pixel_values=bytes_).logits,
        "loss": model(ids, pixel_values=floats, labels=ids).loss[None],
        "hidden": body(ids, pixel_values=floats).last_hidden_state,
        "said": model.generate(ids, attention_mask=mask, pixel_values=floats, max_new_tokens=5, eos_token_id=-1),
    }
learning = {name.split(".")[1] for name, weight in model.named_parameters() if weight.requires_grad}
about = {"class": f"{type(model).__module__}.{type(model).__name__}", "learning": ",".join(sorted(learning)),
         "tokens": str(processor._get_num_multimodal_tokens(image_sizes=[(96, 96)]).num_image_tokens)}
save_file({name: value.contiguous() for name, value in found.items()}, out, about)
"""


def normalised(images, config):
    mean, std = torch.tensor(config.image_mean), torch.tensor(config.image_std)
    return (images / 255 - mean[:, None, None]) / std[:, None, None]


def opened(folder, given, work, name, before, trust):
    """What a fresh process makes of ``folder``: its tensors, and what it says of them."""
    from safetensors import safe_open

    out = work / f"{name}.safetensors"
    paths = os.pathsep.join(sys.path) if "medvlm_cli" in before else ""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MEDVLM_KERNELS")}
    environment |= {"PYTHONPATH": paths, "HF_MODULES_CACHE": str(work / "modules"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", before + OPEN, str(folder), str(given), str(out), trust]
    done = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
    with safe_open(out, "pt") as file:
        return load_file(out), file.metadata()


@pytest.fixture(scope="module")
def given(tiny_checkpoint, tmp_path_factory):
    """File of token ids and of one picture as bytes and as normalised floats."""
    model, processor = load(tiny_checkpoint, "cpu", torch.float32)
    ids = torch.tensor([generation_prompt(processor, QUESTION)])
    images = torch.randint(0, 256, (1, 3, 96, 96), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    floats = normalised(images, model.config.vision_config)
    path = tmp_path_factory.mktemp("given") / "given.safetensors"
    save_file({"ids": ids, "bytes": images, "floats": floats}, path)
    return path


@pytest.fixture(scope="module")
def expected(tiny_checkpoint, given):
    """What the installed model gives, in this process and with one thread, as in the others."""
    model, processor = load(tiny_checkpoint, "cpu", torch.float32)
    sample, threads = load_file(given), torch.get_num_threads()
    ids, images, floats = sample["ids"], sample["bytes"], sample["floats"]
    torch.set_num_threads(1)
    with torch.no_grad():
        found = {
            "ids": ids,
            "pixels": processor.image_processor(images[0], return_tensors="pt")["pixel_values"],
            "logits": model(ids, pixel_values=floats).logits,
            "logits_of_bytes": model(ids, pixel_values=images).logits,
            "loss": model(ids, pixel_values=floats, labels=ids).loss[None],
            "hidden": model.model(ids, pixel_values=floats).last_hidden_state,
            "said": model.generate(
                ids, attention_mask=torch.ones_like(ids), pixel_values=floats, max_new_tokens=5, eos_token_id=-1
            ),
        }
    torch.set_num_threads(threads)
    return found


@pytest.fixture(scope="module")
def without_medvlm(tiny_checkpoint, given, tmp_path_factory):
    return opened(tiny_checkpoint, given, tmp_path_factory.mktemp("without"), "without", BLOCKED, "trust")


@pytest.fixture(scope="module")
def with_medvlm(tiny_checkpoint, given, tmp_path_factory):
    """Of a folder whose own code would stop the process."""
    work = tmp_path_factory.mktemp("with")
    shutil.copytree(tiny_checkpoint, work / "model")
    (work / "model" / CODE).write_text("raise SystemExit('the code of the folder was run')", encoding="utf-8")
    return opened(work / "model", given, work, "with", "import medvlm_cli.core.model.vlm\n", "no")


EXACT = ["ids", "pixels", "logits", "hidden", "said"]


@pytest.mark.parametrize("name", EXACT)
def test_without_medvlm_the_same_bits_come_out(without_medvlm, expected, name):
    assert torch.equal(without_medvlm[0][name], expected[name])


def test_without_medvlm_the_loss_differs_by_rounding(without_medvlm, expected):  # medvlm adds it up slice by slice
    assert torch.allclose(without_medvlm[0]["loss"], expected["loss"], rtol=1e-6)


@pytest.mark.parametrize("name", [*EXACT, "loss", "logits_of_bytes"])
def test_with_medvlm_the_same_bits_come_out_and_no_code_of_the_folder_is_run(with_medvlm, expected, name):
    assert torch.equal(with_medvlm[0][name], expected[name])


def test_without_medvlm_bytes_differ_by_the_rounding_of_the_two_paths(without_medvlm, expected):
    found, wanted = without_medvlm[0]["logits_of_bytes"], expected["logits_of_bytes"]
    assert 0 < (found - wanted).norm() / wanted.norm() <= 2e-6


def test_the_classes_are_the_folders_own_without_medvlm_and_medvlms_with_it(without_medvlm, with_medvlm):
    assert without_medvlm[1]["class"].startswith("transformers_modules.")
    assert with_medvlm[1]["class"] == "medvlm_cli.core.model.vlm.MedVLMForConditionalGeneration"


def test_the_tower_is_frozen_without_medvlm_too_and_the_processor_counts_for_servers(without_medvlm):
    assert without_medvlm[1]["learning"] == "language_model,multi_modal_projector,weight"
    assert without_medvlm[1]["tokens"] == "[16]"


def test_the_code_of_a_folder_imports_torch_and_transformers_alone(tiny_checkpoint):
    text = (tiny_checkpoint / CODE).read_text(encoding="utf-8")
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in nodes]
    assert text == code()
    assert {name.split(".")[0] for name in names} == {"huggingface_hub", "torch", "transformers", "typing"}


def test_every_name_of_the_auto_map_is_a_class_of_the_code(tiny_checkpoint):
    config = json.loads((tiny_checkpoint / "config.json").read_text(encoding="utf-8"))
    classes = {node.name for node in ast.parse(code()).body if isinstance(node, ast.ClassDef)}
    assert config["auto_map"] == AUTO_MAP
    assert {name.removeprefix("modeling_medvlm.") for name in AUTO_MAP.values()} <= classes


def test_medvlm_never_runs_the_code_of_a_folder(tiny_checkpoint, tmp_path):
    folder = tmp_path / "foreign"
    shutil.copytree(tiny_checkpoint, folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')", encoding="utf-8")
    (folder / CODE).write_text("import evil\n" + (folder / "evil.py").read_text(encoding="utf-8"), encoding="utf-8")
    auto = {"AutoTokenizer": ["evil.T", "evil.T"], "AutoProcessor": "evil.P", "AutoImageProcessor": "evil.I"}
    for name in ("config.json", "tokenizer_config.json", "processor_config.json"):
        content = json.loads((folder / name).read_text(encoding="utf-8"))
        content["auto_map"] = {**auto, "AutoConfig": "evil.C", "AutoModel": "evil.M"}
        (folder / name).write_text(json.dumps(content), encoding="utf-8")
    model, _ = load(folder, "cpu", torch.float32)
    assert type(model).__module__ == "medvlm_cli.core.model.vlm"
    assert not (tmp_path / "ran").exists()
