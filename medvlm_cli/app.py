"""The command ``medvlm``: six verbs, and the one place that turns an error into text and an exit status."""

import errno
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Annotated, Any, NoReturn

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
    here = threading.current_thread() is threading.main_thread()  # elsewhere, whoever started it handles signals
    before = signal.signal(signal.SIGTERM, _end) if here else None
    try:
        code = _status()
        sys.stdout.flush()  # here, and not at the interpreter's end, where a reader that is gone has no status
    except BrokenPipeError:
        code = _PIPE
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)
    if code == _PIPE:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at its end
    raise SystemExit(code)


def _status() -> int:
    """Run, say what went wrong, and give the exit status."""
    try:
        app(standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except MedVLMError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
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


def _end(number: int, frame: FrameType | None) -> NoReturn:
    """SIGTERM unwinds, so that locks and unfinished files go; a second one ends the process at once."""
    signal.signal(number, signal.SIG_DFL)
    raise SystemExit(_ENDED)


def _open_streams() -> None:
    """Open the standard streams that the caller has closed, or the next files get their numbers and what they say."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            os.dup2(nowhere, number)
            setattr(sys, name, os.fdopen(number, "w" if number else "r"))
