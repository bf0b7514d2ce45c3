"""What processes side by side are told to do in tests."""

import os
import signal
import time

from medvlm_cli.core.errors import DataError


def count(goal, tell):
    """Tell progress up to a number; gives its square."""
    for number in range(goal + 1):
        tell("count", number, goal)
    return goal * goal


def fail_or_wait(fails, tell):
    """Meet an error that a user can act on, or wait far longer than any test does."""
    if fails:
        raise DataError("question q20: no image", "mend it")
    time.sleep(600)


def die_or_wait(dies, tell):
    """Kill this process, or wait far longer than any test does."""
    if dies:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def divide(tell):
    """A bug."""
    return 1 / 0


def visible(tell):
    """The GPUs that this process sees."""
    return os.environ["CUDA_VISIBLE_DEVICES"]
