"""``medvlm chat``: one answer with ``-p``, else a conversation in the terminal."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from medvlm_cli import render
from medvlm_cli.core.config import ChatConfig
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.options import Shared


def chat(
    images: Annotated[list[Path] | None, typer.Argument(metavar="[IMAGE]...", help="Images to talk about.")] = None,
    prompt: Annotated[str | None, typer.Option("-p", "--prompt", help="Ask this, print the answer, and end.")] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Folder or hub id of the model.", show_default="the newest")
    ] = None,
    *,
    shared: Shared,
) -> None:
    """Talk to the model about an image; research use only, not a medical device.

    \b
    Examples:
      medvlm chat image.png
      medvlm chat image.png -p "What is shown?"
      echo "What is shown?" | medvlm chat image.png --json
    """
    from medvlm_cli.stages.chat import NOTICE, open_images  # light: a bad image fails before the model loads

    config = shared.config(ChatConfig)
    opened = open_images(images or [])
    model = shared.workspace.newest_checkpoint(checkpoint)
    if prompt is None and not sys.stdin.isatty():
        prompt = sys.stdin.read()
    if prompt is not None and not prompt.strip():
        raise ConfigError("no question is given", "give one with -p or on stdin, or call it in a terminal without -p")
    if shared.dry_run:
        render.result({"verb": "chat", "reads": [model, *map(str, images or [])], "dry_run": True}, as_json=shared.json)
        return
    if not shared.quiet:
        render.hint(NOTICE)

    from medvlm_cli.stages.chat import ChatSession  # torch loads here

    session = ChatSession(model, config, opened)
    if prompt is None:
        render.converse(session)
    elif shared.json:
        for _ in session.ask(prompt):
            pass
        render.result(session.summary(), as_json=True)
    else:
        render.stream(session.ask(prompt))
