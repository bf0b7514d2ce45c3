"""``medvlm synthesize``: options in, a call to the stage out.  No logic lives here."""

from pathlib import Path
from typing import Annotated

import typer

from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.options import Shared


def synthesize(
    figures: Annotated[
        list[Path] | None, typer.Argument(help="Datasets of figures.", show_default="all of the workspace")
    ] = None,
    *,
    shared: Shared,
) -> None:
    """Write conversations about the figures: a caption dialogue each, and instruction dialogues by a teacher.

    \b
    Examples:
      medvlm synthesize
      medvlm synthesize medvlm-workspace/figures/phantom -o phantom-only
      medvlm synthesize --dry-run --json
    """
    from medvlm_cli.stages.synthesize import synthesize as run

    config = shared.config(SynthesizeConfig)
    sources, out = shared.workspace.figures(figures), shared.output("conversations")
    plan = {"verb": "synthesize", "reads": [str(path) for path in sources], "writes": str(out)}
    shared.run(plan, config, lambda tell: run(sources, out, config, tell))
