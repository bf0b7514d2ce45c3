"""Models by their names on the hub: from a server that answers as it does, at the commit that is asked for."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medvlm_cli.core.model.hub_id import HubId, hub_id, owned_id, pinned
from tests.plugins.benchmark_cases import serving

OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"
NAME = "lab/model"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("gpt2", HubId("gpt2", None)),
        (NAME, HubId(NAME, None)),
        (f"{NAME}@{OLD}", HubId(NAME, OLD)),
        (f"{NAME}@main", None),  # a branch may be another tomorrow
        (f"{NAME}@{OLD[:-1]}", None),
        (f"{NAME}@{OLD}\n", None),
        ("a/b/c", None),
        ("../a", None),
        (Path(NAME), None),
    ],
)
def test_a_name_is_read_with_its_commit_or_not_at_all(text, found):
    assert hub_id(text) == found
    assert found is None or str(found) == text


def test_a_checkpoint_has_an_owner():
    assert owned_id("gpt2") is None and owned_id(NAME) == HubId(NAME, None)


def test_where_nobody_knows_a_model_stays_as_it_is():
    assert pinned(HubId(f"{NAME}-nowhere", None)) == HubId(f"{NAME}-nowhere", None)
    assert pinned(HubId(NAME, OLD)) == HubId(NAME, OLD)
    assert pinned(None) is None


LOAD = """
import json, torch
from medvlm_cli.core.generate import find_checkpoint
from medvlm_cli.core.model.checkpoint import load
from medvlm_cli.core.model.vlm import build_model
said = []
for name in {llms!r}:
    config = build_model({tower!r}, name, [32, 64])[0].config
    said.append([config.base_llm, config.base_llm_revision])
for name in {checkpoints!r}:
    found = find_checkpoint(name)
    load(found.where, "cpu", torch.float32)
    said.append([found.name, found.revision])
print(json.dumps(said))
"""


def files_of(name, folder):
    """What the hub answers about a model of two commits, the newer one its main branch."""
    files = {
        f"/{name}/resolve/{commit}/{path.name}": path.read_bytes()
        for path in Path(folder).iterdir()
        if path.is_file()
        for commit in (OLD, NEW)
    }
    for ref in ("", f"/revision/{OLD}", f"/revision/{NEW}", "/revision/main"):
        told = {"id": name, "modelId": name, "sha": OLD if OLD in ref else NEW, "siblings": []}
        files[f"/api/models/{name}{ref}"] = json.dumps(told).encode()
    return files


def headers(path, data):
    if data is None:
        return {"X-Error-Code": "EntryNotFound"}
    return {"X-Repo-Commit": OLD if OLD in path else NEW, "ETag": f'"{hashlib.sha256(data).hexdigest()}"'}


def test_what_is_loaded_is_of_the_commit_that_is_asked_for_or_that_it_is_now(
    tmp_path, tiny_tower, tiny_llm, tiny_checkpoint
):
    files = files_of("lab/llm", tiny_llm) | files_of("lab/vlm", tiny_checkpoint)
    with serving(files, headers) as (address, asked):

        def said(llms, checkpoints, offline):
            code = LOAD.format(tower=str(tiny_tower), llms=llms, checkpoints=checkpoints)
            switches = {"HF_HUB_OFFLINE": offline, "TRANSFORMERS_OFFLINE": offline, "HF_HOME": str(tmp_path / "cache")}
            there = {"HF_ENDPOINT": address, "PYTHONPATH": os.pathsep.join(sys.path)}
            done = subprocess.run(
                [sys.executable, "-c", code], env=os.environ | switches | there, capture_output=True, text=True,
                timeout=200,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr[-3000:]
            return json.loads(done.stdout)

        online = said([f"lab/llm@{OLD}", "lab/llm"], ["lab/vlm", f"lab/vlm@{OLD}"], "0")
        assert online == [["lab/llm", OLD], ["lab/llm", NEW], [f"lab/vlm@{NEW}", NEW], [f"lab/vlm@{OLD}", OLD]]
        before = len(asked)
        assert said([], ["lab/vlm"], "1") == [[f"lab/vlm@{NEW}", NEW]], "offline it is the copy that lies here"
        assert len(asked) == before
