"""What was typed, kept for the arrow keys: in a file that only its owner can read."""

import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from prompt_toolkit.history import FileHistory, History, InMemoryHistory


class PrivateHistory(FileHistory):
    """A history file of mode 0600, from the moment it is made."""

    def __init__(self, path: Path) -> None:
        """Make the file and its folder where they are not there.

        Raises:
            OSError: it cannot be made or written.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_CREAT | os.O_APPEND | os.O_RDWR, 0o600)
        try:
            if os.fstat(handle).st_mode & 0o077:  # made by something else
                os.fchmod(handle, 0o600)
        finally:
            os.close(handle)
        super().__init__(path)

    def store_string(self, string: str) -> None:
        """Keep a line; a full disk loses it and not the conversation."""
        with suppress(OSError):
            super().store_string(string)


def history(environment: Mapping[str, str]) -> tuple[History, str]:
    """The history of this user, and why it is not kept, if it is not.

    It is ``medvlm/chat_history`` in ``$XDG_STATE_HOME``, else in ``~/.local/state``; ``MEDVLM_HISTORY=off`` keeps none.
    """
    if environment.get("MEDVLM_HISTORY", "").lower() in ("off", "0", "no", "false"):
        return InMemoryHistory(), ""
    state = environment.get("XDG_STATE_HOME") or ""
    try:
        root = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
        return PrivateHistory(root / "medvlm" / "chat_history"), ""
    except (OSError, RuntimeError) as error:
        return InMemoryHistory(), f"what you type is not kept for the next time: {error}"
