"""``medvlm pretrain``: options in, a call to the stage out.  No logic lives here."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_cli.core.config import PretrainConfig
from medvlm_cli.core.tell import Tell
from medvlm_cli.options import CacheFeatures, GpuType, Hostfile, Parity, Shared, Track, devices, given


def pretrain(  # noqa: PLR0913 - each of the ways to train that there are is one option
    conversations: Annotated[
        Path | None, typer.Argument(help="Dataset of caption conversations.", show_default="the workspace's")
    ] = None,
    figures: Annotated[
        list[Path] | None, typer.Option("--figures", help="Dataset of figures; repeatable.", show_default="all")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Devices of this machine to train on.")] = 1,
    hostfile: Hostfile = None,
    cache_features: CacheFeatures = False,
    parity: Parity = "",
    track: Track = "",
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
    config = given(
        shared.config(PretrainConfig), hostfile=hostfile, cache_features=cache_features, parity=parity, track=track
    )
    gpus = devices(config, gpus)
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
