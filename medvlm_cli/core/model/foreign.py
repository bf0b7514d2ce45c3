"""Models that others made: whatever a library raises over their files, the user is told of which model and why."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from medvlm_cli.core.errors import MedVLMError

_NOT_ITS_FAULT = (MedVLMError, MemoryError, torch.OutOfMemoryError)


@contextmanager
def reading(refused: Callable[[str, Exception], MedVLMError]) -> Iterator[None]:
    """Turn what goes wrong inside into one error.

    Libraries raise anything over a file of the wrong shape: a config that is a list is a TypeError, and tokenizers
    raises plain Exceptions; so nothing but those calls belongs inside.

    Args:
        refused: from the first line of what the library said, and the error itself, makes the one to raise.
    """
    try:
        yield
    except _NOT_ITS_FAULT:
        raise
    except Exception as error:
        raise refused((str(error).strip() or type(error).__name__).splitlines()[0], error) from error
