"""Keys, passwords and a patient's identifiers through every verb that meets them, at its wordiest: in no output.

What is looked at is every byte that a command printed, logged to a file or left in its folder.
"""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from medvlm_cli.core.arrow import write_all
from medvlm_cli.core.schemas import FIGURES
from tests import bucket, inside, synthesis
from tests.anthropic_server import serving
from tests.corpus import Article, objects_of
from tests.plugins.identifier_cases import ALL, IDENTIFIERS, found_in, save_scan, save_slide, save_volume
from tests.plugins.scan_cases import files

SECRETS = {
    "ANTHROPIC_API_KEY": "sk-ant-CANARY0anthropic0key",
    "HF_TOKEN": "hf_CANARY0hugging0face0token",
    "NCBI_API_KEY": "CANARY0ncbi0key",
    "WANDB_API_KEY": "CANARY0wandb0key",
}
PASSWORD = "CANARY0password"
WORDY = ("-vv", "--log-file", "said.log")
VERBS = (
    "fetch pmc", "fetch folder", "synthesize", "synthesize refused", "pretrain", "finetune", "eval", "chat",
    "a bad setting",
)  # fmt: skip
NAME = f"{IDENTIFIERS['name']}_{IDENTIFIERS['record number']}_{IDENTIFIERS['date']}"


def leaked(*contents):
    """Secrets and kinds of identifiers that occur in bytes or texts."""
    data = [part if isinstance(part, bytes) else str(part).encode("utf-8", "replace") for part in contents]
    return [name for name, secret in [*SECRETS.items(), ("password", PASSWORD)] if any(secret.encode() in one for one in data)] + found_in(*data)  # fmt: skip # noqa: E501


def apart(folder, *argv):
    """``medvlm ARGV`` as a process of its own: what its workers print is its output too."""
    command = [sys.executable, "-m", "medvlm_cli", *map(str, argv), *WORDY]
    return subprocess.run(
        command, cwd=folder, env=synthesis.environment(**SECRETS), capture_output=True, text=True, timeout=200
    )


def fetched_scans(folder):
    """``fetch folder`` over scans whose tags identify a patient, and of DICOM files the names, which are not kept."""
    images = folder.parent / "scans"
    images.mkdir()
    save_scan(images / f"{NAME}.dcm", BurnedInAnnotation="YES")
    save_volume(images / "brain.nii.gz")
    save_slide(images / "slide.svs")
    cut = (images / f"{NAME}.dcm").read_bytes()[:-200]
    (images / f"cut-{NAME}.dcm").write_bytes(cut)
    rows = [json.dumps({"image": path.name, "caption": "A scan."}) for path in files(images)]
    (folder.parent / "table.jsonl").write_text("\n".join(rows) + "\n")
    return apart(folder, "fetch", "folder", images, "--captions", folder.parent / "table.jsonl", "-o", "scans")


def identifying_figures(out):
    """Figures whose captions hold every identifier: a teacher is told them and rows keep them, and nobody else does."""

    def make(key):
        harvest = synthesis.figure(key)
        harvest.rows[0]["caption"] += f" {ALL}"
        return harvest

    write_all(out, FIGURES, make, stage="fetch", config={}, keys=["0", "1", "2"], tell=lambda *told: None)
    return out


@pytest.fixture(scope="module")
def runs(tmp_path_factory, training_data, pretrained, tiny_checkpoint, tiny_tower, tiny_llm):
    """What each command said, and the folder that all of them worked in."""
    folder = tmp_path_factory.mktemp("secrets") / "work"
    folder.mkdir()
    done, before = {}, os.getcwd()
    figures = identifying_figures(folder.parent / "figures")
    (folder / "questions.json").write_text(
        '[{"id": "1", "answer_type": "OPEN", "conversations": [{"value": "q"}, {"value": "a"}]}]'
    )
    (folder / "answers.jsonl").write_text('{"question_id": "1", "text": "a"}\n')
    with bucket.serving(objects_of([Article(1), Article(2)]), ids=[1, 2]) as server:
        address = server.url.replace("://", f"://me:{PASSWORD}@")
        settings = [
            "--set",
            f"bucket={address}",
            "--set",
            f"eutils={server.url}",
            "--set",
            "tries=2",
            "--query",
            "liver",
        ]
        done["fetch pmc"] = apart(folder, "fetch", "pmc", *settings, "-o", "pmc")
    done["fetch folder"] = fetched_scans(folder)
    os.chdir(folder)
    try:
        with serving(key=SECRETS["ANTHROPIC_API_KEY"]) as server:
            mix = ("--accept-terms", "claude,llama3", "--mix", "claude=50,llama=50", "--max-cost", "5", *WORDY)
            done["synthesize"] = inside.synthesize(figures, folder.parent / "taught", server, *mix, env=SECRETS)
        with serving(key="another") as server:
            done["synthesize refused"] = inside.synthesize(
                figures, folder.parent / "refused", server, *mix, env=SECRETS
            )
        for verb, more in (("pretrain", ()), ("finetune", ("--base", pretrained.path("pretrain")))):
            parts = (
                () if more else ("--set", f"tower={tiny_tower}", "--set", f"llm={tiny_llm}", "--set", "scales=32,64,96")
            )
            data = (training_data / ("instruct" if more else "captions"), "--figures", training_data / "figures")
            done[verb] = inside.medvlm(verb, *data, *more, *parts, "--track", "wandb", "--dry-run", *WORDY, **SECRETS)
        scored = ("--predictions", "answers.jsonl", "--references", "questions.json", "-o", "scores")
        done["eval"] = inside.medvlm("eval", *scored, *WORDY, **SECRETS)
        image = folder.parent / "scans" / f"{NAME}.dcm"
        asked = ("-p", "What is shown?", "--set", "max_new_tokens=2", "--save", "talk", "--checkpoint", tiny_checkpoint)
        done["chat"] = inside.medvlm("chat", image, *asked, *WORDY, **SECRETS, HOME=str(folder))
        done["a bad setting"] = inside.medvlm("fetch", "phantom", "--set", "nn=3", *WORDY, **SECRETS)
    finally:
        os.chdir(before)
    return SimpleNamespace(done=done, folder=folder)


@pytest.mark.parametrize("verb", VERBS)
def test_no_secret_and_no_identifier_is_in_what_a_command_says(runs, verb):
    done = runs.done[verb]
    assert done.returncode == {"synthesize refused": 5, "a bad setting": 2}.get(verb, done.returncode)
    assert done.returncode in (0, 2, 3, 5), done.stderr[-3000:]
    assert leaked(done.stdout, done.stderr) == []


def test_no_secret_and_no_identifier_is_in_what_the_commands_leave(runs):
    left = files(runs.folder)
    assert {"said.log", "manifest.json", "run.json", "README.md"} <= {path.name for path in left}
    assert {str(path): found for path in left if (found := leaked(path.read_bytes(), path.name))} == {}


def test_the_log_was_wordy(runs):
    assert len((runs.folder / "said.log").read_text().splitlines()) > 20
