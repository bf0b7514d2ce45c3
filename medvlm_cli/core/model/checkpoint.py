"""A trained model as a plain Hugging Face folder: written whole or not at all, and checked when it is read.

``config.json``, ``generation_config.json``, safetensors, tokenizer, processor and chat template are what transformers
writes; beside them lie ``README.md``, the model card, ``run.json``, which says how the model came about and holds the
SHA-256 of every weight file, and ``modeling_medvlm.py``, the model's code for who has no medvlm.  medvlm writes that
file and never runs the one it finds in a folder.
"""

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from medvlm_kernels import reference
from transformers import LlavaProcessor

from medvlm_cli.core import commit
from medvlm_cli.core.errors import DataError, MedVLMError, RemoteError
from medvlm_cli.core.model import standalone
from medvlm_cli.core.model.card import card
from medvlm_cli.core.model.foreign import reading
from medvlm_cli.core.model.fresh import verify_loads
from medvlm_cli.core.model.hub_id import HubId, owned_id
from medvlm_cli.core.model.standalone import forget_conversions
from medvlm_cli.core.model.vlm import MedVLMConfig, MedVLMForConditionalGeneration

RUN = "run.json"
CODE = "modeling_medvlm.py"
AUTO_MAP = {
    "AutoConfig": "modeling_medvlm.MedVLMConfig",
    "AutoModel": "modeling_medvlm.MedVLMModel",
    "AutoModelForImageTextToText": "modeling_medvlm.MedVLMForConditionalGeneration",
}
"""Which class of ``CODE`` is what, in ``config.json``; vLLM needs AutoModel too."""
_MAKE_ONE = "make one with `medvlm pretrain` and `medvlm finetune`, or a small one with `make demo`"
_PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
_TAKEN = "from medvlm_kernels.reference import merge_scale, split_scale"


def save(
    model: MedVLMForConditionalGeneration,
    processor: LlavaProcessor,
    folder: Path,
    run: Mapping[str, Any],
    proven: bool = False,
) -> None:
    """Write a model; the folder appears by one rename, with everything in it on the disk.

    Args:
        model: all of it is written, the frozen tower too.
        processor: its processor.
        folder: what to make; one that is there is replaced.
        run: JSON-able; what ``run.json`` says about how the model came about.
        proven: load what was written in a fresh process and compare its logits first, see ``fresh``.  Takes as much
            main memory as the weights once more, twice where they lie on a GPU.

    Raises:
        MedVLMError: the fresh process gives something else.  What was written then lies in ``<folder>.refused``, and a
            folder that was there before is as it was.
        ResourceError: the disk is full, or refuses otherwise.
    """
    making, old = folder.with_name(f".{folder.name}.tmp"), folder.with_name(f".{folder.name}.old")
    commit.make_folder(folder.parent)
    with commit.refusals(folder.parent):
        commit.remove_tree(making)
        try:
            _write(model, processor, making, run)
        except BaseException:
            commit.remove_tree(making)  # 17 GB for an 8B model
            raise
        if proven:
            _prove(model, processor, making, folder.with_name(f"{folder.name}.refused"))
        commit.remove_tree(old)
        if folder.exists():
            commit.rename(folder, old)  # a folder cannot be renamed onto one that holds something
        commit.rename(making, folder)
        commit.remove_tree(old)


def _prove(model: MedVLMForConditionalGeneration, processor: LlavaProcessor, making: Path, refused: Path) -> None:
    """Keep what does not load as it should under another name: it holds hours of training."""
    try:
        verify_loads(making, model, processor)
    except MedVLMError as error:
        commit.remove_tree(refused)
        commit.rename(making, refused)
        raise type(error)(error.what, f"{error.fix}; what was written lies in {refused}") from error
    except BaseException:
        commit.remove_tree(making)
        raise


def _write(
    model: MedVLMForConditionalGeneration, processor: LlavaProcessor, folder: Path, run: Mapping[str, Any]
) -> None:
    """Everything of a checkpoint, durably."""
    forget_conversions(model)
    model.config.auto_map = dict(AUTO_MAP)
    model.save_pretrained(folder)
    (folder / CODE).write_text(code(), encoding="utf-8")
    processor.save_pretrained(folder)
    readable = (folder / "config.json").stat().st_mode
    weights = {}
    for path in sorted(folder.glob("*.safetensors")):
        path.chmod(readable)  # safetensors keeps them from everyone but the owner
        weights[path.name] = {"sha256": commit.sha256_of(path), "bytes": path.stat().st_size}
    (folder / "README.md").write_text(card(model.config, run), encoding="utf-8")
    (folder / RUN).write_text(json.dumps({**run, "weights": weights}, indent=2) + "\n", encoding="utf-8")
    commit.settle_folder(folder)


def code() -> str:
    """``standalone`` with the two operations in it that it takes from the kernels: one file, without medvlm."""
    taken = (reference.split_scale, reference.merge_scale, reference._wide)
    text = inspect.getsource(standalone).replace(f"{_TAKEN}\n", "", 1)
    head, rest = text.split("\n\n\n", 1)
    return "\n\n\n".join(
        [f"{head}\nLEAST = {reference.LEAST}", *(inspect.getsource(part).rstrip() for part in taken), rest]
    )


def load(
    where: str | Path, device: torch.device | str, dtype: torch.dtype
) -> tuple[MedVLMForConditionalGeneration, LlavaProcessor]:
    """Read a model, in evaluation mode.  Code that the folder brings along is not run.

    Args:
        where: folder, or hub id, with ``@`` and a commit where it is to be the same for ever.
        device: where to put it.
        dtype: of all weights.

    Raises:
        DataError: there is no checkpoint, it is unfinished, a weight file is not what was written, or it is of another
            kind.
        RemoteError: the hub did not give it.
    """
    folder, local = Path(where), Path(where).is_dir()
    found = HubId(str(where), None) if local else owned_id(where)
    if found is None:
        raise DataError(f"{where}: there is no checkpoint", _MAKE_ONE)
    if local:
        verify(folder)
    name, revision = found

    def refused(reason: str, error: Exception) -> DataError | RemoteError:
        if local:
            return DataError(f"{where}: the checkpoint cannot be read ({reason})", _MAKE_ONE)
        return RemoteError(f"{where}: no such folder, and the hub did not give it ({reason})", _MAKE_ONE)

    with reading(refused):
        model: Any = MedVLMForConditionalGeneration.from_pretrained(
            name, revision=revision, dtype=dtype, use_safetensors=True
        )
        processor = LlavaProcessor.from_pretrained(name, revision=revision or "main", trust_remote_code=False)
    return model.to(device).eval(), processor


def verify(folder: Path) -> None:
    """Check that a folder holds a finished model of ours, with the weights that were written.

    A folder without ``run.json``, from the hub for example, is not compared with anything.

    Raises:
        DataError: it does not; the message names the file.
    """
    if not (folder / "config.json").is_file():
        raise DataError(f"{folder}: not a finished checkpoint, it has no config.json", _MAKE_ONE)
    kind = _json(folder / "config.json").get("model_type")
    if kind != MedVLMConfig.model_type:
        raise DataError(f"{folder}: a model of type {kind!r}, not {MedVLMConfig.model_type!r}", _MAKE_ONE)
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        if pickles:
            fix = "convert them to safetensors where you trust them: a pickle runs code when it is opened"
            raise DataError(f"{folder}: its weights are pickles ({', '.join(pickles)})", fix)
        raise DataError(f"{folder}: it has no weights", _MAKE_ONE)
    if not (folder / RUN).is_file():
        return
    weights = _json(folder / RUN).get("weights", {})
    facts = weights.values() if isinstance(weights, dict) else [weights]
    if not all(isinstance(one, dict) and {"bytes", "sha256"} <= one.keys() for one in facts):
        raise DataError(f"{folder / RUN}: what it says of weights is not what medvlm writes", _MAKE_ONE)
    for name, written in weights.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: the weight file is missing", "copy the checkpoint again, or train again")
        if path.stat().st_size != written["bytes"] or commit.sha256_of(path) != written["sha256"]:
            what = f"{path.stat().st_size} bytes, {written['bytes']} were written"
            raise DataError(
                f"{path}: not the weights that were saved ({what}, or the SHA-256 differs)",
                "the file is damaged: copy the checkpoint again, or train again",
            )


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise DataError(f"{path}: not JSON ({error})", _MAKE_ONE) from error
    if not isinstance(content, dict):
        raise DataError(f"{path}: not a JSON object", _MAKE_ONE)
    return content
