"""What a teacher is told: one prompt, a few examples, and the words of one figure, the same for every teacher.

A caption is data and never an instruction.  It stands between two marker lines that carry a code; the code is a hash of
what stands between them, so it is the same on every machine and yet nobody can write it into a caption beforehand: the
caption would have to hold its own hash.
"""

import functools
import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from medvlm_cli.core.errors import ConfigError

NAME = "paper-v1"
"""The prompt that ships with medvlm: every rule of the paper's table 6, in our words."""

CAPTION_CHARS = 3000
SENTENCE_CHARS = 600
SENTENCES = 12
TOTAL_CHARS = 7000
"""Most characters of a caption, of a sentence, most sentences, and most of all: with the prompt and the examples about
6,000 tokens, so that an answer has room in the 8,192 of Llama 3."""

_CUT = " [...]"
_MARK = "material"
_ROLE = re.compile(r"(?im)^(\W{0,4})(user|assistant|human|system|ai)(\W{0,4}):")
_MARKS = re.compile(r"(?i)<(?=/?material)|<image>|<\|")
_DROPPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""Unicode categories that a reader does not see: controls, format characters (bidirectional, zero-width, tags),
surrogates, private and unassigned ones."""


@dataclass(frozen=True)
class Shot:
    """One example: the user's message as it is sent, and the conversation that answers it."""

    user: str
    assistant: str


@dataclass(frozen=True)
class Prompt:
    """What all requests begin with."""

    name: str
    system: str
    shots: tuple[Shot, ...]

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 over name-free words, in hex: another word is another prompt."""
        return hashlib.sha256(json.dumps([self.system, self.words()], ensure_ascii=True).encode()).hexdigest()

    @property
    def prompt_id(self) -> str:
        """The first 12 hex digits of ``sha256``."""
        return self.sha256[:12]

    def words(self) -> list[list[str]]:
        """The examples as JSON takes them."""
        return [[shot.user, shot.assistant] for shot in self.shots]

    @functools.cached_property
    def opening(self) -> tuple[dict[str, str], ...]:
        """The examples as messages, made once: every request shares them."""
        said = ((("user", shot.user), ("assistant", shot.assistant)) for shot in self.shots)
        return tuple({"role": role, "content": text} for pair in said for role, text in pair)


def load(prompt_file: Path | None = None, shots_file: Path | None = None) -> Prompt:
    """The prompt that ships with medvlm, with a user's own text or examples in its place.

    Args:
        prompt_file: a system prompt, UTF-8 text.
        shots_file: examples in the form of ``paper-v1.yaml``: a list of ``caption``, ``mentions``, ``modality`` and
            ``turns``, each turn with ``user`` and ``assistant``.

    Raises:
        ConfigError: a file is not there, not UTF-8, empty, or not of this form; the message names file and example.
    """
    shipped = files("medvlm_cli.teachers")
    system = _text(prompt_file) if prompt_file else shipped.joinpath(f"{NAME}.md").read_text("utf-8")
    if not system.strip():
        raise ConfigError(f"{prompt_file}: empty", "write what the teacher is to do")
    text = _text(shots_file) if shots_file else shipped.joinpath(f"{NAME}.yaml").read_text("utf-8")
    name = NAME if prompt_file is None and shots_file is None else f"own-{(prompt_file or shots_file or Path()).stem}"
    return Prompt(name, system.strip(), tuple(_shots(text, str(shots_file or f"{NAME}.yaml"))))


def from_words(name: str, system: str, shots: Iterable[Sequence[str]]) -> Prompt:
    """A prompt of words that were recorded, as ``Prompt.words`` gives them."""
    return Prompt(name, system.strip(), tuple(Shot(user, assistant) for user, assistant in shots))


def messages(prompt: Prompt, user: str) -> list[dict[str, Any]]:
    """The messages of a request: the examples as turns, then the user's message.  The system prompt goes by itself."""
    return [*prompt.opening, {"role": "user", "content": user}]


def user_text(figure: Mapping[str, Any], seed: int) -> tuple[str, tuple[str, ...]]:
    """The user's message about a figure, as in the paper's table 7, and codes of what was cut to make it fit.

    Args:
        figure: a row of figures/1; its ``caption`` and ``mentions`` are read.
        seed: goes into the code of the marker lines.
    """
    caption = plain(figure["caption"])
    sentences = [plain(mention["text"]) for mention in figure["mentions"]]
    kept = list(dict.fromkeys(filter(None, sentences)))
    cut = []
    if len(kept) > SENTENCES:
        kept, cut = kept[:SENTENCES], ["cut_sentences"]
    if len(caption) > CAPTION_CHARS:
        caption = _short(caption, CAPTION_CHARS)
        cut.append("cut_caption")
    if any(len(text) > SENTENCE_CHARS for text in kept):
        kept = [_short(text, SENTENCE_CHARS) for text in kept]
        cut.append("cut_sentence")
    while len(caption) + sum(map(len, kept)) > TOTAL_CHARS:  # the longest first; of equals the last
        kept.pop(max(range(len(kept)), key=lambda number: (len(kept[number]), number)))
        cut.append("cut_total")
    parts = [f"Figure Caption:\n{caption}"]
    parts += [f"In Context Mentioning #{number}:\n{text}" for number, text in enumerate(kept, 1)]
    return wrapped("\n\n".join(parts), seed), tuple(dict.fromkeys(cut))


def wrapped(text: str, seed: int) -> str:
    """A text of strangers between two marker lines of a code that it cannot hold."""
    inside = "\n".join(plain(line) for line in text.split("\n"))
    code = hashlib.sha256(f"medvlm/nonce/v1\0{seed}\0{inside}".encode()).hexdigest()[:16]
    return f"<{_MARK} {code}>\n{inside}\n</{_MARK} {code}>"


def plain(text: str) -> str:
    """A text without what a reader cannot see and without what could pass for markup of ours, on one line."""
    if not text.isascii() or not text.isprintable():
        text = "".join(one if one.isspace() or unicodedata.category(one) not in _DROPPED else " " for one in text)
    flat = " ".join(text.split())
    if "<" in flat:
        flat = _MARKS.sub(lambda match: "(image)" if match[0].lower() == "<image>" else f"( {match[0][1:]}", flat)
    return _ROLE.sub(r"\1\2\3 -", flat) if ":" in flat[:24] else flat


def _short(text: str, most: int) -> str:
    """The beginning of a text up to a word's end."""
    if len(text) <= most:
        return text
    kept = text[: most - len(_CUT)]
    return (kept.rpartition(" ")[0] or kept) + _CUT


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigError(f"{path}: cannot be read ({reason})", "give a text file in UTF-8") from error


def _shots(text: str, where: str) -> Iterable[Shot]:
    fix = "give a list of examples, each with caption, mentions, modality and turns (user, assistant)"
    try:
        examples = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: not YAML ({str(error).splitlines()[0]})", fix) from error
    if not isinstance(examples, list):
        raise ConfigError(f"{where}: not a list of examples", fix)
    for number, example in enumerate(examples, 1):
        try:
            mentions = [{"text": _word(sentence)} for sentence in example.get("mentions") or []]
            user = user_text({"caption": _word(example["caption"]), "mentions": mentions}, 0)[0]
            turns = [(_word(turn["user"]), _word(turn["assistant"])) for turn in example["turns"]]
            unknown = set(example) - {"caption", "mentions", "modality", "turns"}
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"{where}: example {number} is not of the right form ({error})", fix) from error
        if unknown or not turns:
            what = f"unknown key {sorted(map(str, unknown))[0]!r}" if unknown else "no turns"
            raise ConfigError(f"{where}: example {number}: {what}", fix)
        yield Shot(user, "\n".join(f"User: {question}\nAssistant: {answer}" for question, answer in turns))


def _word(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError(f"{value!r} is not text")
    return " ".join(value.split())
