"""The terms of the teachers: what a user accepts before a teacher is asked, and the tag that every row then carries."""

import functools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files

import yaml

from medvlm_cli.core.errors import ConfigError

UNKNOWN_TAG = "teacher-terms-unknown"
"""Of a row whose teacher's terms medvlm does not know: any model behind a server of the user's own."""


@dataclass(frozen=True)
class Terms:
    """What holds for the words of one family of models."""

    name: str
    tag: str
    title: str
    says: str
    names: str
    """Matches the names of the models that they hold for."""
    students: str = ""
    """Matches the names of the models that may learn from these words; empty: the terms name none."""


@functools.cache
def known_terms() -> tuple[Terms, ...]:
    """All terms that medvlm knows, in the order in which they are looked through."""
    table = yaml.safe_load(files("medvlm_cli.teachers").joinpath("terms.yaml").read_text("utf-8"))
    return tuple(
        Terms(str(name), **{**entry, "says": " ".join(entry["says"].split())}) for name, entry in table.items()
    )


@functools.cache
def terms_of(model: str) -> Terms | None:
    """The terms of a model by its name; None where medvlm knows none."""
    return next((terms for terms in known_terms() if re.search(terms.names, model)), None)


def forbidden(tags: Iterable[str], student: str) -> list[Terms]:
    """Of the terms behind some licence tags, those that forbid a student of this name to learn from the rows.

    Args:
        tags: as rows of conversations/1 carry them.
        student: name of the language model that learns, and its family: ``mistralai/Mistral-7B-Instruct-v0.2 mistral``.
    """
    found = set(tags)
    return [one for one in known_terms() if one.tag in found and one.students and not re.search(one.students, student)]


def tag_of(model: str) -> str:
    """The licence tag of rows that a model wrote."""
    terms = terms_of(model)
    return terms.tag if terms else UNKNOWN_TAG


def refuse_unaccepted(models: Iterable[str], accepted: Sequence[str]) -> None:
    """Stop before anything is asked where terms are not accepted.

    Raises:
        ConfigError: terms that hold are not named in ``accepted``; the message says what they ask.  Or a name in
            ``accepted`` is that of no terms.
    """
    known = [terms.name for terms in known_terms()]
    if unknown := [name for name in accepted if name not in known]:
        raise ConfigError(f"--accept-terms: there are no terms called {unknown[0]!r}", f"known: {', '.join(known)}")
    needed = {terms.name: terms for model in models if (terms := terms_of(model))}
    missing = [terms for name, terms in needed.items() if name not in accepted]
    if missing:
        said = "; ".join(f"{terms.title}: {terms.says}" for terms in missing)
        raise ConfigError(f"terms not accepted. {said}", f"if you may and want to: --accept-terms {','.join(needed)}")
