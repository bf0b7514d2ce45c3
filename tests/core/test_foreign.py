"""Folders of models of which one file is not what it should be: an error of one line, whichever file and reader."""

import shutil

import pytest
import torch

from medvlm_cli.core.errors import MedVLMError
from medvlm_cli.core.model.checkpoint import load
from medvlm_cli.core.model.foreign import reading
from medvlm_cli.core.model.llms import load_llm
from medvlm_cli.core.model.towers import load_tower
from medvlm_cli.core.sizes import parts_of_checkpoint
from medvlm_cli.teachers.second_opinion_local import LocalJudge

READERS = {
    "llm": ("tiny_llm", lambda folder: load_llm(str(folder), torch.float32)),
    "judge": ("tiny_llm", lambda folder: LocalJudge(str(folder), lambda *_: None)._load()),
    "tower": ("tiny_tower", lambda folder: load_tower(str(folder), [32])),
    "checkpoint": ("tiny_checkpoint", lambda folder: load(folder, "cpu", torch.float32)),
    "sizes": ("tiny_checkpoint", parts_of_checkpoint),
}
DAMAGES = {
    "cut": lambda data: data[: len(data) // 2],
    "empty": lambda data: b"",
    "no text": lambda data: b"\xff" * 99,
    "a list": lambda data: b"[1]",
    "null": lambda data: b"null",
    "an object of nothing": lambda data: b"{}",
    "other types": lambda data: data.replace(b": {", b': "x", "y": {', 1).replace(b'": "', b'": 7, "z": "', 1),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_file_is_read_or_refused_and_is_never_a_bug(reader, damage, tmp_path, request):
    fixture, read = READERS[reader]
    original = request.getfixturevalue(fixture)
    shutil.copytree(original, tmp_path / "sound")
    read(tmp_path / "sound")
    refused = set()
    for file in sorted(path.name for path in (tmp_path / "sound").iterdir() if path.is_file()):
        folder = tmp_path / "damaged"
        shutil.copytree(original, folder)
        (folder / file).write_bytes(DAMAGES[damage]((folder / file).read_bytes()))
        try:
            read(folder)
        except MedVLMError as error:
            assert "\n" not in error.what and str(folder) in error.what
            refused.add(file)
        shutil.rmtree(folder)
    needed = "processor_config.json" if reader == "sizes" else "model.safetensors"
    assert needed in refused or damage in ("an object of nothing", "other types")


@pytest.mark.parametrize(
    "nobodys", [MemoryError(), torch.OutOfMemoryError(), KeyboardInterrupt(), MedVLMError("as is")]
)
def test_what_is_not_the_models_fault_passes_unchanged(nobodys):
    with pytest.raises(type(nobodys)) as caught, reading(lambda reason, error: MedVLMError("another")):
        raise nobodys
    assert caught.value is nobodys
