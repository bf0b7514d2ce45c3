"""``medvlm finetune``: options in, a call to the stage out.  No logic lives here."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_cli.core.config import FinetuneConfig
from medvlm_cli.core.tell import Tell
from medvlm_cli.options import Shared


def finetune(
    conversations: Annotated[
        Path | None, typer.Argument(help="Dataset of instruction conversations.", show_default="the workspace's")
    ] = None,
    figures: Annotated[
        list[Path] | None, typer.Option("--figures", help="Dataset of figures; repeatable.", show_default="all")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--from", metavar="DIR", help="Checkpoint to start from.", show_default="pretrain's")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Devices of this machine to train on.")] = 1,
    *,
    shared: Shared,
) -> None:
    """Tune the language model and the connector on instruction conversations.

    \b
    Examples:
      medvlm finetune
      medvlm finetune --gpus 4
      medvlm finetune --from medvlm-workspace/checkpoints/pretrain-1x -o medvlm-workspace/checkpoints/finetune-1x
    """
    config = shared.config(FinetuneConfig)
    instruct = shared.workspace.dataset(conversations, "conversations/instruct", "medvlm synthesize")
    start = Path(shared.workspace.checkpoint(base, "pretrain", "medvlm pretrain"))
    sources, out = shared.workspace.figures(figures), shared.output("checkpoints", "finetune")
    reads = [str(instruct), str(start), *map(str, sources)]
    plan = {"verb": "finetune", "reads": reads, "writes": str(out), "gpus": gpus}

    def stage(tell: Tell) -> dict[str, Any]:  # torch loads here, not for --help
        from medvlm_cli.stages.finetune import finetune as run

        return run(instruct, sources, start, out, config, tell, gpus=gpus)

    shared.run(plan, config, stage)
