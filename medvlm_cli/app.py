"""The command ``medvlm``: six verbs, and the one place that turns an error into text and an exit status."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from medvlm_cli import __version__, render
from medvlm_cli.core.errors import MedVLMError, ResourceError
from medvlm_cli.options import shared_options
from medvlm_cli.verbs.chat import chat
from medvlm_cli.verbs.eval import evaluate
from medvlm_cli.verbs.fetch import fetch
from medvlm_cli.verbs.finetune import finetune
from medvlm_cli.verbs.pretrain import pretrain
from medvlm_cli.verbs.synthesize import synthesize

app = typer.Typer(
    help="Train, measure and talk to your own high-resolution biomedical vision-language model.",
    no_args_is_help=True,
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


def _version(wanted: bool) -> None:
    if wanted:
        print(f"medvlm {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """The verbs in the order of the work: fetch, synthesize, pretrain, finetune, eval, chat."""


def main() -> None:
    """Run the command line; exit codes are those of ``core.errors``, and of the shell's convention for signals."""
    try:
        app(standalone_mode=True)
    except MedVLMError as error:
        _fail(error)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
            raise SystemExit(141) from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES):
            raise
        _fail(ResourceError(str(error), "free some space, or give another folder with -o or -w"))
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def _fail(error: MedVLMError) -> None:
    render.error(error.what, error.fix, error.exit_code)
    raise SystemExit(error.exit_code)
