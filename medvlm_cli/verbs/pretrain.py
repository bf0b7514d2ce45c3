"""``medvlm pretrain``: options in, a call to the stage out.  No logic lives here."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_cli.core.config import PretrainConfig
from medvlm_cli.core.ranks import read_hostfile
from medvlm_cli.core.tell import Tell
from medvlm_cli.options import GpuType, Shared


def pretrain(  # noqa: PLR0913 - each of the ways to train that there are is one option
    conversations: Annotated[
        Path | None, typer.Argument(help="Dataset of caption conversations.", show_default="the workspace's")
    ] = None,
    figures: Annotated[
        list[Path] | None, typer.Option("--figures", help="Dataset of figures; repeatable.", show_default="all")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Devices of this machine to train on.")] = 1,
    hostfile: Annotated[
        Path | None, typer.Option("--hostfile", help="DeepSpeed host file of the machines to train on.")
    ] = None,
    cache_features: Annotated[
        bool, typer.Option("--cache-features", help="Encode each image once, and keep what the tower gives on disk.")
    ] = False,
    parity: Annotated[
        str, typer.Option("--parity", metavar="NAME", help="Train as published: llama3-med.", show_default="none")
    ] = "",
    track: Annotated[
        str,
        typer.Option("--track", metavar="NAME", help="Show the curves in wandb or trackio too.", show_default="none"),
    ] = "",
    gpu_type: GpuType = "",
    *,
    shared: Shared,
) -> None:
    """Align the connector on figure captions, with the tower and the language model frozen.

    \b
    Examples:
      medvlm pretrain
      medvlm pretrain --dry-run --gpus 4 --gpu-type h100-80gb
      medvlm pretrain --gpus 2 -o medvlm-workspace/checkpoints/pretrain-2
      medvlm pretrain --set scales=32 -o medvlm-workspace/checkpoints/pretrain-1x
    """
    config = shared.config(PretrainConfig)
    config = dataclasses.replace(
        config,
        cache_features=config.cache_features or cache_features,
        parity=parity or config.parity,
        track=track or config.track,
        hostfile=str(hostfile or config.hostfile),
    )
    gpus = sum(read_hostfile(Path(config.hostfile)).values()) if config.hostfile else gpus
    out = shared.output("checkpoints", "pretrain")
    if shared.dry_run or gpu_type:
        plan = {"verb": "pretrain", "writes": str(out), "gpus": gpus}
        return shared.estimate(plan, config, conversations, "conversations/captions", config, gpu_type)
    captions = shared.workspace.dataset(conversations, "conversations/captions", "medvlm synthesize")
    sources = shared.workspace.figures(figures)
    plan = {"verb": "pretrain", "reads": [str(captions), *map(str, sources)], "writes": str(out), "gpus": gpus}

    def stage(tell: Tell) -> dict[str, Any]:  # torch loads here, not for --help
        from medvlm_cli.stages.pretrain import pretrain as run

        return run(captions, sources, out, config, tell, gpus=gpus)

    shared.run(plan, config, stage)
