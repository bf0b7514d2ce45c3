"""What tests of ``synthesize`` share: many different figures, the command against a loopback server, what it left."""

import hashlib
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

from medvlm_cli.core.arrow import Harvest, open_dataset, write_all
from medvlm_cli.core.schemas import FIGURES, REPLIES, TAUGHT
from tests.training_cases import picture

ROOT = Path(__file__).parents[1]
MODALITIES = ("ct", "mri", "histology", "chest_xray", "gross")
_PARTS = (
    ("Axial", "Coronal", "Sagittal", "Oblique", "Frontal", "Lateral"),
    ("view of the liver", "view of the spleen", "section of the colon", "image of the knee", "image of the left lung",
     "view of the brain", "section of the kidney", "image of the pelvis"),
    ("with a rounded mass", "with a linear defect", "with diffuse thickening", "with scattered nodules",
     "with a cystic space", "with a wedge-shaped area", "with irregular borders"),
    ("next to the capsule", "near the hilum", "at the lower pole", "along the margin", "in the upper third",
     "beneath the surface", "close to the midline"),
)  # fmt: skip
PICTURE = picture(1)
FREE = ("--accept-terms", "claude,llama3", "--mix", "claude=0,llama=100")
QUICK = {"pause": 0.01, "poll": 0.05, "settle": 0.2, "batch_rows": 100, "timeout": 20}
"""Settings of a run whose waits are over before a person notices."""


def caption(number):
    """A caption of its own for each number: a made-up word of letters keeps them apart."""
    word = "".join(chr(97 + int(digit, 16)) for digit in hashlib.sha256(str(number).encode()).hexdigest()[:10])
    chance = random.Random(number)
    return f"{' '.join(chance.choice(part) for part in _PARTS)}; the {word} sign is seen (arrow)."


def figure(key):
    number = int(key)
    mentions = [{"text": f"As shown here, {caption(number + 10**6)}", "panel": None}] * (number % 3 > 0)
    known = {
        "figure_id": f"PMC{number}/fig1", "source": "test", "image": {"bytes": PICTURE, "path": None}, "width": 50,
        "image_sha256": hashlib.sha256(PICTURE).digest(), "height": 40, "caption": caption(number), "mentions": mentions,  # noqa: E501
        "modality": MODALITIES[number % 5], "license": "CC-BY-4.0", "commercial_ok": True, "retracted": False,
        "third_party": False,
    }  # fmt: skip
    return Harvest(1, [dict.fromkeys(FIGURES.names) | known], [])


def write_figures(out, count, first=0):
    """``count`` figures as a dataset."""
    keys = [str(number) for number in range(first, first + count)]
    write_all(out, FIGURES, figure, stage="fetch", config={}, keys=keys, tell=lambda *told: None)
    return out


def command(figures, out, server, *options, **settings):
    """The command line of a run that asks a loopback server and nobody else."""
    argv = [sys.executable, "-m", "medvlm_cli", "synthesize", str(figures), "-o", str(out), *map(str, options)]
    if server is not None:
        argv += ["--set", f"claude_url={server.url}", "--llama-endpoint", server.url]
    argv += itertools.chain.from_iterable(("--set", f"{name}={value}") for name, value in (QUICK | settings).items())
    return argv


def environment(**more):
    """No key but the loopback server's, no workspace, and one thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ANTHROPIC", "MEDVLM", "VLLM"))}
    return kept | {"ANTHROPIC_API_KEY": "test-key", "OMP_NUM_THREADS": "1", "NO_PROXY": "*"} | more


def synthesize(figures, out, server, *options, env=None, timeout=200, **settings):
    """Run the command to its end."""
    return subprocess.run(
        command(figures, out, server, *options, **settings), capture_output=True, text=True, cwd=ROOT,
        env=environment(**(env or {})), timeout=timeout,
    )  # fmt: skip


def rows(out):
    return sorted(open_dataset(out / "instruct", TAUGHT).rows(), key=lambda row: row["figure_id"])


def rejects(out):
    return sorted(open_dataset(out / "instruct", TAUGHT).rejects(), key=lambda reject: reject["id"])


def replies(out):
    return list(open_dataset(out / "replies", REPLIES).rows())


def told(done):
    """What a run with ``--json`` printed."""
    return json.loads(done.stdout)


def digest(folder):
    """SHA-256 of every data file of a dataset, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted((folder / "data").iterdir())}
