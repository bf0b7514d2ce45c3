"""A conversation on disk: what ``chat`` saves, to be read by people, learnt from by ``finetune``, and taken up again.

``<folder>/conversations`` and ``<folder>/figures`` are datasets that join; ``conversation.md`` and ``images`` are for
people; ``chat.json`` is all there is to say, and what ``read_transcript`` goes by.  No path of the user's is stored: it
may name a patient.  The folder is the user's alone (mode 0700).
"""

import hashlib
import io
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from medvlm_cli.core import commit, record
from medvlm_cli.core.arrow import Harvest, Reject, open_dataset, write_all
from medvlm_cli.core.clean import clean
from medvlm_cli.core.errors import BusyError, DataError, ResourceError
from medvlm_cli.core.images import decode
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES

STATE = "chat.json"
FORMAT = "chat/1"
_MOST_BYTES = 64 << 20  # of chat.json: far more than any context holds
_WORSE = ("stop", "length", "interrupted")


@dataclass(frozen=True)
class Figure:
    """An image of a conversation; ``facts`` is what else is known of it, as JSON takes it."""

    name: str
    data: bytes = field(repr=False)
    sha256: str
    width: int
    height: int
    modality: str = "unknown"
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Its ``figure_id``, after its contents."""
        return f"chat/{self.sha256[:16]}"


@dataclass(frozen=True)
class Answered:
    """How an answer came about: how it ended, and the SHA-256 of the images that it was about, in order."""

    finish: str
    images: tuple[str, ...]


@dataclass(frozen=True)
class Transcript:
    """Everything of a conversation."""

    model: str
    """Name of the checkpoint that answered."""
    license_tag: str
    """Under which terms its words are."""
    system: str
    turns: Sequence[Mapping[str, str]]
    answered: Sequence[Answered]
    """One for every pair of turns."""
    figures: Sequence[Figure]
    settings: Mapping[str, Any]

    def not_learnable(self) -> str:
        """Why ``finetune`` cannot learn from it, in a few words; empty where it can."""
        shown = tuple(figure.sha256 for figure in self.figures)
        if not self.turns:
            return "nothing was asked"
        if len(shown) != 1:
            return f"it is about {len(shown) or 'no'} images, and a model learns from one a conversation"
        if any(one.images != shown for one in self.answered):
            return "some of its answers are about another image"
        return ""


def save_transcript(transcript: Transcript, out: Path) -> Path:
    """Write a conversation; the folder appears whole, by one rename.

    A conversation that ``finetune`` cannot learn from is among the rejects of its dataset, with the reason.

    Args:
        transcript: what to write.
        out: folder to make.

    Returns:
        ``out``.

    Raises:
        BusyError: there is something already.
        DataError: an image cannot be decoded.
        ResourceError: the disk refuses, or the folder cannot be made.
    """
    try:
        _refuse_existing(out)
        with commit.refusals(out.parent):
            commit.make_folder(out.parent)
            _write(transcript, out)
    except OSError as error:  # a path through a file, a name that is too long
        raise ResourceError(f"{out} cannot be written ({error.strerror})", "give another folder") from error
    return out


def _write(transcript: Transcript, out: Path) -> None:
    making = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))  # mode 0700
    try:
        _write_datasets(transcript, making)
        commit.make_folder(making / "images")
        for number, figure in enumerate(transcript.figures, start=1):
            commit.write_bytes(making / "images" / f"{number}.png", _png(figure))
        commit.write_text(making / "conversation.md", _markdown(transcript))
        commit.write_text(making / STATE, json.dumps(_state(transcript), indent=1) + "\n")
        _refuse_existing(out)
        commit.rename(making, out)
    except BaseException:
        commit.remove_tree(making)
        raise


def _refuse_existing(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise BusyError(f"{out} is there already", "give another name: what is saved is never changed")


def _write_datasets(transcript: Transcript, folder: Path) -> None:
    config = {"model": transcript.model, "settings": dict(transcript.settings), "system": transcript.system}
    figures = {figure.id: figure for figure in transcript.figures}
    row = _conversation(transcript)
    name = row["conversation_id"]
    reason = transcript.not_learnable()
    if reason:
        harvest = Harvest(1, [], [Reject(name, "not_learnable", reason, json.dumps(row["turns"]))])
    else:
        harvest = Harvest(1, [row], [])
    write_all(
        folder / "figures", FIGURES, lambda key: Harvest(1, [_figure(figures[key])], []),
        stage="chat", config=config, keys=list(figures), tell=_untold,
    )  # fmt: skip
    write_all(
        folder / "conversations", CONVERSATIONS, lambda key: harvest,
        stage="chat", config=config, keys=[name], tell=_untold,
    )  # fmt: skip
    for dataset in (folder / "figures", folder / "conversations"):
        run = record.read_json(dataset / record.RUN) or {}
        record.write_run(dataset, run | {"argv": ["medvlm", "chat"]})  # arguments hold paths


def _untold(what: str, done: int, total: int | None) -> None:
    """Progress of a moment."""


def _figure(figure: Figure) -> dict[str, Any]:
    known = {
        "figure_id": figure.id, "source": "chat", "image": {"bytes": figure.data, "path": None},
        "image_sha256": hashlib.sha256(figure.data).digest(), "width": figure.width, "height": figure.height,
        "caption": "", "label": figure.name, "mentions": [], "modality": figure.modality, "license": "unknown",
        "commercial_ok": False, "retracted": False, "third_party": False,
    }  # fmt: skip
    return dict.fromkeys(FIGURES.names) | known


def _conversation(transcript: Transcript) -> dict[str, Any]:
    turns = [{"role": turn["role"], "text": turn["text"]} for turn in transcript.turns]
    if turns:
        turns[0]["text"] = f"<image>\n{turns[0]['text']}"
    figure = transcript.figures[0].id if transcript.figures else ""
    teacher = f"chat:{transcript.model}"
    digest = hashlib.sha256(json.dumps([teacher, figure, turns]).encode()).hexdigest()
    ends = [one.finish for one in transcript.answered]
    known = {
        "conversation_id": f"chat-{digest[:16]}", "figure_id": figure, "kind": "instruct", "turns": turns,
        "teacher": teacher, "teacher_planned": teacher, "license_tags": ["unknown", transcript.license_tag],
        "prompt_id": hashlib.sha256(transcript.system.encode()).hexdigest()[:12], "split": "train",
        "stop_reason": max(ends, key=_WORSE.index, default=None),
    }  # fmt: skip
    return dict.fromkeys(CONVERSATIONS.names) | known


def _png(figure: Figure) -> bytes:
    out = io.BytesIO()
    image = decode(figure.data, figure.name)
    image.info.clear()  # Pillow would write what else the file held
    image.save(out, "PNG")
    return out.getvalue()


def _markdown(transcript: Transcript) -> str:
    """The conversation for people.  Words keep their Markdown, but for what would load or run something."""
    parts = [
        "# Conversation",
        f"Answers by `{_harmless(transcript.model)}`. Research use only, not a medical device.",
        *(
            f"![image {number}](images/{number}.png)\n\n{_harmless(figure.name)}, {figure.width} x {figure.height}"
            for number, figure in enumerate(transcript.figures, start=1)
        ),
        *([f"**System**\n\n{_harmless(transcript.system)}"] if transcript.system else []),
    ]
    for turn in transcript.turns:
        who = "Question" if turn["role"] == "user" else "Answer"
        parts.append(f"**{who}**\n\n{_harmless(turn['text'])}")
    return "\n\n".join(parts) + "\n"


def _harmless(text: str) -> str:
    """Words without control characters, and without HTML and pictures, which a viewer would run or load."""
    return re.sub(r"<(?=[\w/!?])|(?<=!)\[", lambda hit: "\\" + hit[0], clean(text))


def _state(transcript: Transcript) -> dict[str, Any]:
    figures = [
        {"id": figure.id, "name": figure.name, "sha256": figure.sha256, "modality": figure.modality,
         "facts": dict(figure.facts)}
        for figure in transcript.figures
    ]  # fmt: skip
    return {
        "format": FORMAT,
        "model": transcript.model,
        "license_tag": transcript.license_tag,
        "system": transcript.system,
        "settings": dict(transcript.settings),
        "figures": figures,
        "turns": [{"role": turn["role"], "text": turn["text"]} for turn in transcript.turns],
        "answered": [asdict(one) for one in transcript.answered],
    }


def read_transcript(place: Path) -> Transcript:
    """A conversation that ``save_transcript`` wrote.

    Args:
        place: its folder, or a file in it.

    Raises:
        DataError: there is none, or it is not what was written.
    """
    path = place / STATE
    try:
        folder = place if place.is_dir() else place.parent
        path = folder / STATE
        if not path.is_file() or not place.exists():
            raise DataError(f"{place}: no saved conversation, {STATE} is not there", "give a folder that /save made")
        if path.stat().st_size > _MOST_BYTES:
            raise DataError(f"{path}: over {_MOST_BYTES:,} bytes", "give a folder that /save made")
        return _transcript(json.loads(path.read_text(encoding="utf-8")), folder, path)
    except OSError as error:
        raise DataError(f"{place} cannot be read ({error.strerror})", "give a folder that /save made") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"{path}: not a conversation that medvlm saved ({type(error).__name__}: {error})"
        raise DataError(what, "give a folder that /save made") from error


def _transcript(state: Mapping[str, Any], folder: Path, path: Path) -> Transcript:
    if state["format"] != FORMAT:
        raise ValueError(f"format is {state['format']!r}, not {FORMAT!r}")
    turns = [{"role": turn["role"], "text": str(turn["text"])} for turn in state["turns"]]
    if [turn["role"] for turn in turns] != ["user", "assistant"] * (len(turns) // 2):
        raise ValueError("its turns do not alternate between user and assistant")
    answered = [
        Answered(_WORSE[_WORSE.index(one["finish"])], tuple(map(str, one["images"]))) for one in state["answered"]
    ]
    if 2 * len(answered) != len(turns):
        raise ValueError(f"{len(turns)} turns, {len(answered)} answers")
    figures = []
    dataset = open_dataset(folder / "figures", FIGURES)
    for stated in state["figures"]:
        data = dataset.row(str(stated["id"]), ["image"])["image"]["bytes"]
        if hashlib.sha256(data).hexdigest() != stated["sha256"]:
            raise DataError(f"{path}: the image {stated['id']} is not the one that was saved", "save it again")
        image = decode(data, f"{dataset.folder}, figure {stated['id']}")
        known = str(stated["name"]), data, str(stated["sha256"]), image.width, image.height
        figures.append(Figure(*known, str(stated["modality"]), dict(stated["facts"])))
    return Transcript(
        model=str(state["model"]), license_tag=str(state["license_tag"]), system=str(state["system"]), turns=turns,
        answered=answered, figures=figures, settings=dict(state["settings"]),
    )  # fmt: skip
