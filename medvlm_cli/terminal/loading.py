"""The model loads while the user types: its libraries alone take seconds."""

import os
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Loaded = TypeVar("Loaded")


class Loading(Generic[Loaded]):
    """Something that a thread makes, from now on."""

    def __init__(self, make: Callable[[], Loaded], failed: Callable[[BaseException], None] | None = None) -> None:
        """Begin.

        Args:
            make: makes it.
            failed: called in the thread with what ``make`` raises.
        """
        self._make = make
        self._failed = failed
        self._made: list[Loaded] = []
        self.error: BaseException | None = None
        self._ended = threading.Event()  # not the thread's own state: a join that Ctrl-C cuts calls it ended
        threading.Thread(target=self._run, name="loading", daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether it is made, or failed."""
        return self._ended.is_set()

    def result(self) -> Loaded:
        """What was made, once it is; Ctrl-C ends the waiting.

        Raises:
            Exception: what the making raised.
        """
        while not self._ended.wait(0.1):  # a wait without an end holds Ctrl-C back
            pass
        if self.error is not None:
            raise self.error
        return self._made[0]

    def leave(self, code: int) -> None:
        """End the process at once, if the thread still works: libraries that start up abort when Python ends."""
        if not self.done:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _run(self) -> None:
        try:
            self._made.append(self._make())
        except BaseException as error:
            self.error = error
            if self._failed is not None:
                self._failed(error)
        finally:
            self._ended.set()
