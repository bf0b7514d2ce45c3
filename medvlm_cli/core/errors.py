"""Errors that a user can act on: what happened and where, then what to do.

Exit codes are those of the command line contract: 2 usage or configuration, 4 bad input data, 5 remote refused,
6 resources, 7 output folder locked or of another run.  Anything else that is raised is a bug and keeps its traceback.
"""


class MedVLMError(Exception):
    """What went wrong and how to mend it; ``app`` prints both and exits with ``exit_code``."""

    exit_code = 1

    def __init__(self, what: str, fix: str = "") -> None:
        super().__init__(f"{what}\n  fix: {fix}" if fix else what)
        self.what = what
        self.fix = fix


class ConfigError(MedVLMError):
    """An option, a preset or a setting is wrong."""

    exit_code = 2


class DataError(MedVLMError):
    """A file or a row of the input is not what it must be."""

    exit_code = 4


class RemoteError(MedVLMError):
    """A remote party refused: authentication, quota, terms, spend cap."""

    exit_code = 5


class ResourceError(MedVLMError):
    """Disk, memory or device are not enough."""

    exit_code = 6


class BusyError(MedVLMError):
    """The output folder is locked by another process, or holds another run."""

    exit_code = 7


class LockedError(BusyError):
    """Another process is writing there just now."""


INCOMPLETE = 3
"""Exit code of a verb that did all it could, but met faults that a retry may cure."""


class LaterError(MedVLMError):
    """Some of the input could not be had just now; everything else is kept, and a rerun asks for the rest."""

    exit_code = INCOMPLETE

    def __init__(self, what: str, fix: str = "", count: int = 0) -> None:
        super().__init__(what, fix)
        self.count = count
