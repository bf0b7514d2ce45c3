"""A process that the kernel ends with SIGSYS when it asks for a socket of the internet, in Python or in any library.

``python -m tests.no_network FILE`` runs the commands of a JSON list of argument lists one after the other under that
rule, and ends with the first status that is not 0.  Sockets of the machine itself (AF_UNIX) are
granted.  Linux on x86-64 or ARM only, which is where ``AVAILABLE`` is true; no rights of root are needed.
"""

import ctypes
import json
import platform
import struct
import sys
from pathlib import Path

_SOCKET = {"x86_64": (0xC000003E, 41), "aarch64": (0xC00000B7, 198)}
"""Architecture as the kernel's audit names it, and the number of the system call ``socket``."""
AVAILABLE = sys.platform == "linux" and platform.machine() in _SOCKET
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _TRAP = 0x7FFF0000, 0x00030000
_INTERNET = (2, 10)
"""AF_INET and AF_INET6."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def forbid_internet():
    """From here on ``socket(AF_INET or AF_INET6, ...)`` ends this process and those it starts; cannot be undone."""
    architecture, number = _SOCKET[platform.machine()]
    steps = [
        (_LOAD, 0, 0, 4),  # the architecture
        (_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, 0),  # the number of the call
        (_EQUAL, 0, 3, number),
        (_LOAD, 0, 0, 16),  # its first argument, the family
        (_EQUAL, 2, 0, _INTERNET[0]),
        (_EQUAL, 1, 0, _INTERNET[1]),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _TRAP),
    ]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    library = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(steps), code)
    for call in ((_NO_NEW_PRIVILEGES, 1, 0, 0, 0), (_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0)):
        if library.prctl(*call):
            raise OSError(ctypes.get_errno(), "prctl")


def main(file):
    """Run all commands of a file in this process."""
    from medvlm_cli import app

    forbid_internet()
    for argv in json.loads(Path(file).read_text()):
        sys.argv = ["medvlm", *argv]
        try:
            app.main()
        except SystemExit as end:
            if end.code:
                raise


if __name__ == "__main__":
    main(sys.argv[1])
