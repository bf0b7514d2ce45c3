"""A run that is asked to stop ends where it can be taken up again."""

import signal
import threading
from types import FrameType
from typing import Any


class Stop:
    """Remembers SIGTERM and the first SIGINT, so that the step under way ends and is saved; a second SIGINT raises."""

    number = 0

    def __enter__(self) -> "Stop":
        self.before: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if number == self.number == signal.SIGINT:
            raise KeyboardInterrupt
        self.number = number

    def leave(self) -> None:
        """End the process as the signal asks, if one came."""
        if self.number == signal.SIGINT:
            raise KeyboardInterrupt
        if self.number:
            raise SystemExit(128 + self.number)
