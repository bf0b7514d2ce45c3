"""An event loop whose clock leaps to what is due next: hours of waiting pass in no time, in the order of real ones."""

import asyncio
import selectors


class Clock:
    """The time of leaping loops, one after the other; stands in for the module ``time``."""

    now = 0.0

    def monotonic(self):
        return self.now


class _Selector(selectors.DefaultSelector):
    """Selects without waiting, and adds to the clock what it would have waited."""

    def __init__(self, clock):
        super().__init__()
        self._clock = clock

    def select(self, timeout=None):
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("everybody waits, and nothing is due")
            self._clock.now += timeout
        return ready


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, clock):
        self._leaping = clock
        super().__init__(_Selector(clock))

    def time(self):
        return self._leaping.now


def run(clock, coroutine):
    """As ``asyncio.run``, by this clock."""
    with asyncio.Runner(loop_factory=lambda: _Loop(clock)) as runner:
        return runner.run(coroutine)
