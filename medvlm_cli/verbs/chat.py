"""``medvlm chat``: one answer with ``-p``, else a conversation in the terminal."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from medvlm_cli import render
from medvlm_cli.core.config import ChatConfig
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.options import Shared


def chat(  # noqa: PLR0913 - what a scan needs, window, slice, region, is typed beside its name and not into a preset
    images: Annotated[
        list[str] | None, typer.Argument(metavar="[IMAGE]...", help="Images to talk about: files, or addresses.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "-p",
            "--prompt",
            help="Ask this, print the answer, and end; stdin is read only without it.",
        ),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Folder or hub id of the model.", show_default="the newest")
    ] = None,
    system: Annotated[str, typer.Option("--system", metavar="TEXT", help="Tell the model this first.")] = "",
    seed: Annotated[int | None, typer.Option("--seed", help="Of the sampling, if temperature is above 0.")] = None,
    preview: Annotated[
        str, typer.Option("--preview", help="How to show images: auto, kitty, sixel, half or none.")
    ] = "auto",
    window: Annotated[
        str, typer.Option("--window", metavar="NAME|C,W", help="Window of scans: lung, brain, or centre,width.")
    ] = "",
    slice_: Annotated[
        str, typer.Option("--slice", metavar="N", help="Slice or frame of scans: a number from 0, first, last.")
    ] = "middle",
    region: Annotated[str, typer.Option("--region", metavar="L,T,W,H", help="Part of a whole-slide image.")] = "",
    resume: Annotated[Path | None, typer.Option("--resume", help="Go on with a conversation that was saved.")] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Write the conversation to this new folder.")] = None,
    allow_url: Annotated[bool, typer.Option("--allow-url", help="An image may be an https:// address.")] = False,
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
    from medvlm_cli.sources.opening import View, open_place  # light: a bad image fails before the model loads
    from medvlm_cli.terminal.preview import WAYS
    from medvlm_cli.terminal.talk import Wishes, ask_once, check_places, consoles

    if preview not in WAYS:
        raise ConfigError(f"--preview {preview}", f"give one of {', '.join(WAYS)}")
    config = shared.config(ChatConfig)
    view = View(window=window, frame=slice_, region=region)
    opened = [open_place(image, view, allow_url=allow_url) for image in images or []]
    if prompt is None and (sys.stdin is None or not sys.stdin.isatty()):
        prompt = sys.stdin.buffer.read().decode("utf-8", "replace") if sys.stdin else ""
    if prompt is not None and not prompt.strip():
        raise ConfigError("no question is given", "give one with -p or on stdin, or call it in a terminal without -p")
    if prompt is None and shared.json:
        raise ConfigError("--json is for one answer", "give the question with -p or on stdin")
    model = shared.workspace.newest_checkpoint(checkpoint)
    check_places(model, save)
    if shared.dry_run:
        render.result({"verb": "chat", "reads": [model, *(images or [])], "dry_run": True}, as_json=shared.json)
        return
    wishes = Wishes(
        checkpoint=model, config=config, seed=seed, system=system, preview=preview, view=view, allow_url=allow_url,
        resume=resume, save=save, quiet=shared.quiet, json=shared.json,
    )  # fmt: skip
    if prompt is not None:
        code = ask_once(wishes, opened, prompt, *consoles())
    else:
        from medvlm_cli.terminal.conversation import converse

        code = converse(wishes, opened, *consoles())
    if code:
        raise typer.Exit(code)
