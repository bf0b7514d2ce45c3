"""Images of strangers, decoded under limits: in a worker of ``core.crew`` no decoder takes for ever, or all memory.

A signal whose action is the default ends the process even in the midst of C code, which a Python handler could not.
"""

import os
import pickle
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import ImageTooBigError, decode


@dataclass
class Limits:
    """What holds for this process; ``core.crew`` sets it in its workers."""

    bounded: bool = False
    """Memory is limited, and decoding may be timed."""
    careful: bool = False
    """Every image is decoded in a child process first, because one of them kills its decoder."""


limits = Limits()


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """End this process if the body takes longer; only in a worker, and only in its main thread.  Deadlines nest."""
    if not limits.bounded or threading.current_thread() is not threading.main_thread():
        yield
        return
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    signal.setitimer(signal.ITIMER_REAL, min(seconds, left or seconds))
    began = time.monotonic()
    try:
        yield
    finally:
        outer = max(0.001, left - (time.monotonic() - began)) if left else 0.0
        signal.setitimer(signal.ITIMER_REAL, outer)


def decode_bounded(data: bytes, where: str, seconds: float) -> Image.Image:
    """As ``core.images.decode``, within ``seconds`` and the worker's memory.

    Args:
        data: contents of an image file.
        where: how to name the image in an error.
        seconds: longest that it may take.

    Raises:
        ImageTooBigError: too many pixels, or more memory than the worker has.
        DataError: not an image, corrupt, or its decoder crashed or took too long.
    """
    if limits.careful:
        _try_in_child(data, where, seconds)
    try:
        with deadline(seconds):
            return decode(data, where)
    except MemoryError as error:
        raise ImageTooBigError(f"{where}: decoding takes more memory than a worker has") from error


def _try_in_child(data: bytes, where: str, seconds: float) -> None:
    """Decode in a forked child; what kills it becomes an error."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.closerange(3, sending)  # with the worker's pipes open here, nobody would see that it has ended
            os.closerange(sending + 1, os.sysconf("SC_OPEN_MAX"))
            os.write(sending, pickle.dumps(_outcome(data, where, seconds)))
        finally:
            os._exit(0)  # nothing of the parent may go on here
    os.close(sending)
    with os.fdopen(receiving, "rb") as answer:
        told = answer.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) or not told:
        name = signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "an exit"
        why = f"took over {seconds:g} s" if name == "SIGALRM" else f"ended in {name}"
        raise DataError(f"{where}: decoding {why}")
    failed = pickle.loads(told)  # of our own making
    if failed is not None:
        kind, what = failed
        raise kind(what)


def _outcome(data: bytes, where: str, seconds: float) -> tuple[type[DataError], str] | None:
    try:
        with deadline(seconds):
            decode(data, where)
    except MemoryError:
        return ImageTooBigError, f"{where}: decoding takes more memory than a worker has"
    except DataError as error:
        return type(error), error.what
    return None
