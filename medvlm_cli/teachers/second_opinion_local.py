"""A language model on this machine as the judge of open answers: pinned, greedy, free."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from medvlm_cli.core.clean import clean
from medvlm_cli.core.commit import sha256_of
from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.model.foreign import reading
from medvlm_cli.core.model.hub_id import owned_id
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers.second_opinion import PROMPT, Case, Keep, read_reply

BATCH = 16
"""Cases that are judged together."""
NEW_TOKENS = 8
"""Of one answer: it is to be one word."""


class LocalJudge:
    """A causal language model of transformers; see ``second_opinion.Judge``.

    Its label has the hash of the folder's files, or the revision: another model gives other verdicts.

    Args:
        who: folder, or ``OWNER/NAME@REVISION`` with the 40 hex digits of a commit.
        tell: told that the model is loaded.

    Raises:
        ConfigError: neither, or no language model in it.
        RemoteError: the hub does not give it.
    """

    def __init__(self, who: str, tell: Tell) -> None:
        folder, pinned = Path(who), owned_id(who)
        if who and folder.is_dir():
            self._where, self._revision = str(folder), None
            self.label = f"local:{folder.resolve().name}@{_digest(folder)[:12]}"
        elif pinned and pinned.revision:
            self._where, self._revision = pinned
            self.label = f"local:{who}"
        else:
            raise ConfigError(
                f"--judge {clean(who)}: no such judge",
                "give claude, claude:MODEL, a folder with a language model, or OWNER/NAME@REVISION (40 hex digits)",
            )
        self._tell = tell

    def judge(self, cases: Sequence[Case], keep: Keep) -> None:
        """Judge every case, the shortest first, so that those of a batch are about as long."""
        self._tell("load judge", 0, None)
        model, tokenizer = self._load()
        bare = not tokenizer.chat_template  # a template begins with the special tokens itself
        ordered = sorted(cases, key=lambda case: len(case.text))
        for batch in _batches(ordered):
            texts = [_asked(tokenizer, case.text) for case in batch]
            given = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=bare).to(model.device)
            with torch.inference_mode():
                made = model.generate(
                    **{name: given[name] for name in ("input_ids", "attention_mask")},
                    do_sample=False,
                    max_new_tokens=NEW_TOKENS,
                    pad_token_id=tokenizer.pad_token_id,
                )
            said = tokenizer.batch_decode(made[:, given["input_ids"].shape[1] :], skip_special_tokens=True)
            for case, text in zip(batch, said, strict=True):
                keep(read_reply(case.key, text))

    def _load(self) -> tuple[Any, Any]:
        def refused(reason: str, error: Exception) -> ConfigError | RemoteError:
            if self._revision is None or not isinstance(error, OSError):
                what = f"--judge {self._where}: not a language model of transformers ({reason})"
                return ConfigError(what, "take another")
            return RemoteError(
                f"--judge {self._where}: the hub did not give it ({reason})", "check name, revision and HF_TOKEN"
            )

        with reading(refused):
            tokenizer = AutoTokenizer.from_pretrained(
                self._where, revision=self._revision, padding_side="left", trust_remote_code=False
            )
            model: Any = AutoModelForCausalLM.from_pretrained(
                self._where, revision=self._revision, dtype="auto", trust_remote_code=False, use_safetensors=True
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), tokenizer


def _batches(cases: Sequence[Case]) -> Iterator[Sequence[Case]]:
    for start in range(0, len(cases), BATCH):
        yield cases[start : start + BATCH]


def _asked(tokenizer: Any, text: str) -> str:
    """The whole prompt; all of it in the user's turn, since some templates have no system turn."""
    if not tokenizer.chat_template:
        return f"{PROMPT}\n\n{text}\n\nAnswer:"
    turns = [{"role": "user", "content": f"{PROMPT}\n\n{text}"}]
    return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))


def _digest(folder: Path) -> str:
    """SHA-256 over names and contents of the files of a model's folder."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")):
        digest.update(f"{path.name} {sha256_of(path)}\n".encode())
    return digest.hexdigest()
