"""``medvlm fetch``: options in, a call to the stage out.  No logic lives here."""

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from medvlm_cli.core.config import FetchConfig
from medvlm_cli.options import Shared


def fetch(
    source: Annotated[str, typer.Argument(help="A source of figures, or a benchmark: see the examples.")],
    folder: Annotated[Path | None, typer.Argument(help="Folder of images (sources folder and own).")] = None,
    mirror: Annotated[
        list[Path] | None, typer.Option("--mirror", help="Folder of articles with their images (pmc); repeatable.")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option("--captions", help="CSV or JSONL that describes the folder's images.")
    ] = None,
    *,
    shared: Shared,
) -> None:
    """Get figures with captions and mentions, or a benchmark's questions, as an Arrow dataset.

    \b
    Examples:
      medvlm fetch phantom --set n=300
      medvlm fetch folder my-images --captions my-images/captions.csv
      medvlm fetch pmc --mirror articles
    """
    from medvlm_cli.stages.fetch import fetch as run
    from medvlm_cli.stages.fetch import kind_of

    config = dataclasses.replace(
        shared.config(FetchConfig),
        mirror=tuple(str(path) for path in mirror or ()),
        images=str(folder or ""),
        captions=str(captions or ""),
    )
    out = shared.output(kind_of(source), source)
    plan = {"verb": "fetch", "source": source, "writes": str(out)}
    shared.run(plan, config, lambda tell: run(source, out, config, tell))
