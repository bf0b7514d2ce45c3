"""Functions for workers of a crew, which import them by name; some of them kill the process that runs them."""

import ctypes
import os
import resource
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from medvlm_cli.core import decoding, images
from medvlm_cli.core.crew import Crew
from medvlm_cli.core.errors import DataError


def echo(value):
    return value


def pid(_=None):
    return os.getpid()


def raise_key_error(_=None):
    raise KeyError("mine")


class StubbornError(Exception):
    """Pickles, and does not come back: it wants two arguments."""

    def __init__(self, one, two):
        super().__init__(f"{one}{two}")


def raise_stubborn(_=None):
    raise StubbornError(1, 2)


def unreturnable(_=None):
    return lambda: None


def nap(seconds):
    time.sleep(seconds)
    return seconds


def kill(_=None):
    os.kill(os.getpid(), signal.SIGKILL)


def segfault(_=None):
    ctypes.string_at(0)


def dawdle(_=None):
    with decoding.deadline(0.2):
        time.sleep(60)


def hoard(_=None):
    return len([np.empty(100 << 20) for _ in range(100)])  # address space only, which costs no time


def hoard_once(size):
    """Grows the worker for good, so that a second call fits into a fresh one only."""
    hoard_once.kept = [*getattr(hoard_once, "kept", []), np.empty(size, np.uint8)]
    return len(hoard_once.kept)


def limits(_=None):
    """Seconds left, room of memory, what a terminal's Ctrl-C does, and whether images get a child each."""
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    return left, soft, signal.getsignal(signal.SIGINT) == signal.SIG_IGN, decoding.limits.careful


def nested(outer, inner):
    """Seconds of the outer deadline that are left within and after the inner one."""
    with decoding.deadline(outer):
        with decoding.deadline(inner):
            within, _ = signal.getitimer(signal.ITIMER_REAL)
            time.sleep(0.3)
        after, _ = signal.getitimer(signal.ITIMER_REAL)
    return within, after


def outlast_outer():
    """An inner deadline that is longer than what the outer has left."""
    with decoding.deadline(0.2), decoding.deadline(60):
        time.sleep(0.4)


@contextmanager
def _care(careful):
    """With ``careful``, as a worker does that takes up what was in flight when another died."""
    before, decoding.limits.careful = decoding.limits.careful, careful or decoding.limits.careful
    try:
        yield
    finally:
        decoding.limits.careful = before


def decode_all(images, seconds=20, careful=False):
    """What each image became, a size or the class of an error, and the worker's largest memory in bytes."""
    with _care(careful):
        told = [_told(data, seconds) for data in images]
    (peak,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return told, int(peak.split()[1]) << 10


def _told(data, seconds):
    try:
        return decoding.decode_bounded(data, "a.png", seconds).size
    except DataError as error:
        return type(error).__name__


def decode_hostile(data, seconds, careful=False):
    """The size of an image, read by a decoder that does what the image is named after."""
    decoding.decode = _hostile
    try:
        with _care(careful):
            return decoding.decode_bounded(data, "a.png", seconds).size
    finally:
        decoding.decode = images.decode


def leave(_=None):
    os._exit(1)


def _hostile(data, where):
    hostile = {b"kill": kill, b"crash": segfault, b"sleep": nap, b"hoard": hoard, b"leave": leave}
    if data in hostile:
        hostile[data](60)
    return images.decode(data, where)


def main():
    """A crew whose parent waits to be killed; prints the workers' ids."""
    with Crew(2) as crew:
        waiting = [crew.submit(nap, 0.3) for _ in range(2)]
        print(*{crew.submit(pid).result() for _ in range(20)}, flush=True)
        waiting[0].result()
        crew.submit(nap, 600).result()


if __name__ == "__main__":
    sys.exit(main())
