"""Whether a saved model loads where medvlm is not: transformers opens it in a fresh process, and the logits must agree.

``python -m medvlm_cli.core.model.fresh FOLDER QUESTION ANSWER`` is that process.  It imports nothing of medvlm's model,
so the classes are those of the folder's own ``modeling_medvlm.py``.

Legend: L tokens of the prompt, S pixels at the largest scale, V words of the vocabulary.
"""

import copy
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from medvlm_cli.core.errors import MedVLMError

TOLERANCE = 1e-4
"""Largest difference of logits that passes, relative to their length.  Measured on one CPU: 0, whatever the dtype."""
TOLERANCE_16 = 0.02
"""The same for weights of 16 bits."""
_TEXT = "text"
_OF_A_RUN = re.compile(r"(LOCAL_)?(RANK|WORLD_SIZE)|GROUP_.*|ROLE_.*|MASTER_.*|TORCHELASTIC_.*|ACCELERATE_.*")
"""Variables that tell a process which rank of a run it is."""


def verify_loads(folder: Path, model: Any, processor: Any) -> float:
    """Load a folder by the standard Auto classes in a fresh process, and compare with the model in memory.

    One drawn picture and one question go through both processors and both models, on the CPU.

    Args:
        folder: what ``checkpoint.save`` wrote.
        model: what it was written from; its weights whole, on any device.  It is not run itself, because a trainer may
            have hooked it, but a copy of its structure with the same weights.
        processor: its processor.

    Returns:
        The distance of the two models' logits, relative to their length.

    Raises:
        MedVLMError: the folder does not load, or gives other token ids, pixels or logits.
    """
    with _without_zero():
        expected = _asked(_bare(model), processor, _picture())
    with tempfile.TemporaryDirectory(prefix=".fresh-", dir=folder.parent) as work:
        question, answer = Path(work) / "question.safetensors", Path(work) / "answer.safetensors"
        save_file({"picture": _picture()}, question, {_TEXT: _prompt(processor)})
        _run(folder, question, answer, Path(work))
        found = load_file(answer)
    for name in ("input_ids", "pixel_values"):
        if not torch.equal(found[name], expected[name]):
            raise _differs(folder, f"its processor gives other {name} for the same picture and question")
    theirs, ours = found["logits"].double(), expected["logits"].double()
    if theirs.shape != ours.shape:
        raise _differs(folder, f"its logits are {tuple(theirs.shape)}, the trained model's {tuple(ours.shape)}")
    distance = ((theirs - ours).norm() / ours.norm()).item()
    allowed = TOLERANCE_16 if model.dtype.itemsize == 2 else TOLERANCE
    if not distance <= allowed:  # NaN is not
        raise _differs(folder, f"its logits are {distance:.2g} of their length away, {allowed:g} is allowed")
    return distance


def _differs(folder: Path, what: str) -> MedVLMError:
    return MedVLMError(
        f"{folder}: transformers in a fresh process does not give the model that was trained: {what}",
        "report this: the weights in memory and in the folder are not the same model",
    )


@contextmanager
def _without_zero() -> Iterator[None]:
    """Make models whole: while arguments that name ZeRO-3 live, transformers splits every new one over all ranks."""
    from transformers.integrations import deepspeed as zero

    held = zero._hf_deepspeed_config_weak_ref
    zero.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        zero._hf_deepspeed_config_weak_ref = held


def _bare(model: Any) -> Any:
    """The model again, in evaluation mode and on the CPU; weights that lie there already are shared, not copied."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        bare = type(model)(copy.deepcopy(model.config))
    bare.load_state_dict({name: weight.detach().cpu() for name, weight in model.state_dict().items()}, assign=True)
    return bare.eval()


def _picture() -> torch.Tensor:
    """A picture, ``(96, 120, 3)`` uint8, the same on every machine: smooth colours and some noise."""
    rows, columns = torch.arange(96)[:, None, None], torch.arange(120)[None, :, None]
    colours = torch.tensor([1, 2, 3])
    noise = torch.randint(0, 64, (96, 120, 3), generator=torch.Generator().manual_seed(0))
    return ((rows * colours + columns * (4 - colours) + noise) % 256).to(torch.uint8)


def _prompt(processor: Any) -> str:
    from medvlm_cli.core.prompts import prompt_text

    return prompt_text(processor, [{"role": "user", "text": "What does the image show?"}])


@torch.no_grad()
def _asked(model: Any, processor: Any, picture: torch.Tensor, text: str | None = None) -> dict[str, torch.Tensor]:
    """``input_ids`` ``(1, L)``, ``pixel_values`` ``(1, 3, S, S)`` and ``logits`` ``(1, L, V)`` of the one sample."""
    from PIL import Image

    given = processor(images=Image.fromarray(picture.numpy()), text=text or _prompt(processor), return_tensors="pt")
    pixels = given["pixel_values"].to(model.dtype)
    return {
        "input_ids": given["input_ids"],
        "pixel_values": given["pixel_values"],
        "logits": model(input_ids=given["input_ids"], pixel_values=pixels).logits,
    }


def _run(folder: Path, question: Path, answer: Path, work: Path) -> None:
    """The fresh process: no rank of anything, no GPU, no network, its copy of the folder's code thrown away after."""
    environment = {name: value for name, value in os.environ.items() if not _OF_A_RUN.fullmatch(name)}
    environment |= {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "HF_MODULES_CACHE": str(work / "modules"),
        "OMP_NUM_THREADS": str(torch.get_num_threads()),  # sums of floats depend on it
        "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry),
    }
    command = [sys.executable, "-m", "medvlm_cli.core.model.fresh", str(folder), str(question), str(answer)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
        raise MedVLMError(
            f"{folder}: transformers in a fresh process cannot open it ({last})",
            "if memory was short, free some; else report this",
        )


def main(folder: str, question: str, answer: str) -> None:
    """Open ``folder`` as anybody would, ask it the question, write down the answer."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    with safe_open(question, "pt") as asked:
        text, picture = asked.metadata()[_TEXT], asked.get_tensor("picture")
    found = _asked(model, processor, picture, text)
    save_file({name: value.contiguous() for name, value in found.items()}, answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
