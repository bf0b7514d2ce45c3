"""Names of models on the Hugging Face hub, with or without the commit that makes one the same for ever."""

import re
from pathlib import Path
from typing import NamedTuple

from huggingface_hub import resolve_revision

_ID = re.compile(r"(?P<name>[\w-][\w.-]*(?:/[\w.-]+)?)(?:@(?P<revision>[0-9a-f]{40}))?")


class HubId(NamedTuple):
    """A model on the hub."""

    name: str
    """``OWNER/NAME``; of a few old models only ``NAME``."""
    revision: str | None
    """All 40 hex digits of a commit, or None for whatever is there now."""

    def __str__(self) -> str:
        """As ``hub_id`` reads it."""
        return f"{self.name}@{self.revision}" if self.revision else self.name


def hub_id(text: str | Path) -> HubId | None:
    """What ``OWNER/NAME`` or ``OWNER/NAME@REVISION`` names; None where it is neither, or a path by its type."""
    found = _ID.fullmatch(text) if isinstance(text, str) else None
    return HubId(found["name"], found["revision"]) if found else None


def owned_id(text: str | Path) -> HubId | None:
    """As ``hub_id``, of what nobody but an owner can have made."""
    found = hub_id(text)
    return found if found and "/" in found.name else None


def pinned(where: HubId | None) -> HubId | None:
    """The model with the commit that it is now: the hub's, else that of the copy on this machine.

    Where nobody knows, it stays as it is; who loads it then says why it cannot be had.
    """
    if not where or where.revision:
        return where
    try:
        return where._replace(revision=resolve_revision(where.name).resolved)
    except Exception:  # no network and no copy, no such model: all the same here
        return where


def pinned_llm(text: str) -> HubId | None:
    """The language model of the hub that a setting names, ``pinned``; None where it names a folder, or neither."""
    return None if Path(text).is_dir() else pinned(hub_id(text))
