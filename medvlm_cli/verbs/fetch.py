"""``medvlm fetch``: options in, a call to the stage out.  No logic lives here."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_cli.core.config import FetchConfig
from medvlm_cli.options import Shared


def fetch(  # noqa: PLR0913 - one option for each way to select, and the source decides which of them it reads
    source: Annotated[str, typer.Argument(help="A source of figures, or a benchmark: see the examples.")],
    files: Annotated[
        list[Path] | None, typer.Argument(help="Folder of images (folder, own), or published files (llava-med ...).")
    ] = None,
    local: Annotated[
        list[Path] | None,
        typer.Option("--from", "--mirror", help="Local folder to read instead of the network; repeatable."),
    ] = None,
    captions: Annotated[
        Path | None, typer.Option("--captions", help="CSV or JSONL that describes the folder's images.")
    ] = None,
    query: Annotated[str | None, typer.Option("--query", help="Search PubMed Central for this.")] = None,
    pmcids: Annotated[Path | None, typer.Option("--pmcids", help="File of PMC ids.")] = None,
    inventory: Annotated[bool, typer.Option("--inventory", help="Select from the bucket's daily inventory.")] = False,
    since: Annotated[
        str | None, typer.Option("--since", metavar="DATE", help="Of the inventory, what changed since.")
    ] = None,
    license_: Annotated[
        str | None,
        typer.Option(
            "--license", help="commercial, noncommercial or all.", show_default="pmc: commercial; folder: all"
        ),
    ] = None,
    modality: Annotated[str | None, typer.Option("--modality", help="Keep these only: ct,mri.")] = None,
    part: Annotated[
        str | None, typer.Option("--part", help="alignment, instruct-60k or instruct-60k-im (llava-med).")
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Make the I-th of N parts, from 0.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="local, or ray: all parts as tasks of a cluster.", show_default="local"),
    ] = None,
    *,
    shared: Shared,
) -> None:
    """Get figures with captions and mentions, or a benchmark's questions, as an Arrow dataset.

    \b
    Examples:
      medvlm fetch phantom --set n=100
      medvlm fetch pmc --dry-run
      medvlm fetch pmc --from articles
      medvlm fetch folder my-images --captions my-images/captions.csv
    """
    from medvlm_cli.stages.fetch import destination, estimate
    from medvlm_cli.stages.fetch import fetch as run

    given = {
        "mirror": tuple(str(path) for path in local or ()),
        "files": tuple(str(path) for path in files or ()),
        "images": str(files[0]) if files else "",
        "captions": str(captions or ""),
        "query": query,
        "pmcids": str(pmcids) if pmcids else None,
        "inventory": inventory or None,
        "since": since,
        "license": license_,
        "modality": tuple(name.strip() for name in modality.split(",")) if modality else None,
        "part": part,
        "shard": shard,
        "engine": engine,
    }
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    config = dataclasses.replace(shared.config(FetchConfig), **settings)
    out = shared.output(*destination(source, config))
    plan = {"verb": "fetch", "source": source, "writes": str(out)}
    if shared.dry_run or not shared.quiet:  # nobody is asked what nobody is told
        plan |= estimate(source, out, config)
    shared.run(plan, config, lambda tell: run(source, out, config, tell))
