"""The command ``medvlm``: six verbs, and the one place that turns an error into text and an exit status."""

import errno
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Annotated, Any, NoReturn, TextIO

import typer
import typer.core

from medvlm_cli import __version__, render
from medvlm_cli.core import offline
from medvlm_cli.core.errors import ConfigError, MedVLMError, ResourceError
from medvlm_cli.core.workspace import Workspace
from medvlm_cli.options import shared_options
from medvlm_cli.verbs.chat import chat
from medvlm_cli.verbs.eval import evaluate
from medvlm_cli.verbs.fetch import fetch
from medvlm_cli.verbs.finetune import finetune
from medvlm_cli.verbs.pretrain import pretrain
from medvlm_cli.verbs.synthesize import synthesize

_PIPE, _INTERRUPTED, _ENDED = (128 + number for number in (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM))


class _Verbs(typer.core.TyperGroup):
    """The verbs; a reader of the result that is gone has a status of its own, where Typer would say 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run what the command line names."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise SystemExit(_PIPE) from None


app = typer.Typer(
    cls=_Verbs,
    help="Train, measure and talk to your own high-resolution biomedical vision-language model.",
    no_args_is_help=True,
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

VERBS: dict[str, Callable[..., None]] = {
    "fetch": fetch,
    "synthesize": synthesize,
    "pretrain": pretrain,
    "finetune": finetune,
    "eval": evaluate,
    "chat": chat,
}
for _name, _verb in VERBS.items():
    app.command(_name)(shared_options(_verb))

_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_REPORT = "please report it, with the lines above and what `medvlm --version --json` prints"


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --version: the environment, and what is wrong with it.")
    ] = False,
) -> None:
    """The verbs in the order of the work: fetch, synthesize, pretrain, finetune, eval, chat."""
    if as_json and not version:
        raise ConfigError("--json goes with a verb, or with --version", "give it after the verb: medvlm VERB --json")
    if version and as_json:
        from medvlm_cli.core.doctor import examine  # loads torch

        found = examine(Workspace.find(None).root)
        render.result(found, as_json=True)
        raise typer.Exit(ResourceError.exit_code if found["problems"] else 0)
    if version:
        print(f"medvlm {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; exit codes are those of ``core.errors``, and of the shell's convention for signals."""
    _open_streams()
    offline.silence()
    try:
        with _Asked() as asked:
            code = _status(asked)
            sys.stdout.flush()  # here, and not at the interpreter's end, where a reader that is gone has no status
    except BrokenPipeError:
        code = _PIPE
    except OSError as error:  # stdout or stderr is a file, and its disk takes no more
        if error.errno not in _REFUSED:
            raise
        code = ResourceError.exit_code
        with suppress(OSError):
            render.error(f"cannot say all that is to be said: {error.strerror}", "free some space", code)
        _close(sys.stderr)
    if code in (_PIPE, ResourceError.exit_code):
        _close(sys.stdout)
    raise SystemExit(code)


def _close(stream: TextIO) -> None:
    """Let what a stream still holds go nowhere, or the interpreter complains at its end and changes the status."""
    with suppress(OSError):
        stream.flush()
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Asked:
    """SIGTERM and SIGINT unwind, so that locks and unfinished files go; a second SIGTERM ends the process at once."""

    _SOON = 5.0
    """Seconds after a signal in which an error is what a library has made of it."""

    def __init__(self) -> None:
        self.number, self._at = 0, 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Asked":
        if threading.current_thread() is threading.main_thread():  # elsewhere, whoever started it handles signals
            self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._end)
            if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as in the background
                self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._end)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> NoReturn:
        self.number, self._at = number, time.monotonic()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        signal.signal(number, signal.SIG_DFL)
        raise SystemExit(_ENDED)

    def just_now(self) -> bool:
        """Whether a signal came a moment ago: C code that calls Python code may lose what the signal raised there."""
        return bool(self.number) and time.monotonic() - self._at < self._SOON


def _status(asked: _Asked) -> int:
    """Run, say what went wrong, and give the exit status."""
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        if asked.just_now() and not isinstance(error, BrokenPipeError):
            return 128 + asked.number
        if isinstance(error, MedVLMError):
            return _fail(error)
        if isinstance(error, OSError) and error.errno in _REFUSED:
            return _fail(ResourceError(str(error), "free some space, or give another folder with -o or -w"))
        return _bug(error)
    return 0


def _fail(error: MedVLMError) -> int:
    render.error(error.what, error.fix, error.exit_code)
    return error.exit_code


def _bug(error: Exception) -> int:
    """Show where a bug is, without secrets; an error that a user can mend never comes here."""
    render.hint(render.harmless("".join(traceback.format_exception(error))).rstrip())
    render.error(f"a bug of medvlm: {type(error).__name__}", _REPORT, 1)
    return 1


def _open_streams() -> None:
    """Open the standard streams that the caller has closed, or the next files get their numbers and what they say."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
