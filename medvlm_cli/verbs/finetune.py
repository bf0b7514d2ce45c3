"""``medvlm finetune``: options in, a call to the stage out.  No logic lives here."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_cli.core.config import FetchConfig, FinetuneConfig, PretrainConfig
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.tell import Tell
from medvlm_cli.options import CacheFeatures, GpuType, Hostfile, Parity, Shared, Track, devices, given


def finetune(  # noqa: PLR0913 - each of the ways to train that there are is one option
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
    hostfile: Hostfile = None,
    cache_features: CacheFeatures = False,
    benchmark: Annotated[
        str,
        typer.Option("--benchmark", metavar="NAME", help="Learn this benchmark's train split.", show_default="none"),
    ] = "",
    parity: Parity = "",
    track: Track = "",
    gpu_type: GpuType = "",
    *,
    shared: Shared,
) -> None:
    """Tune the language model and the connector on instruction conversations.

    \b
    Examples:
      medvlm finetune
      medvlm finetune --dry-run --gpus 4 --gpu-type h100-80gb
      medvlm finetune --gpus 4
      medvlm finetune --set adapter=lora -o medvlm-workspace/checkpoints/finetune-lora
      medvlm finetune --from medvlm-workspace/checkpoints/pretrain-1x -o medvlm-workspace/checkpoints/finetune-1x
    """
    config = given(
        shared.config(FinetuneConfig),
        hostfile=hostfile,
        cache_features=cache_features,
        parity=parity,
        track=track,
        benchmark=benchmark,
    )
    gpus = devices(config, gpus)
    before, learnt, out = _places(config.benchmark, shared)
    if config.benchmark and (conversations or figures):
        raise ConfigError("a benchmark brings its own conversations and figures", "leave these, or --benchmark, out")
    if shared.dry_run or gpu_type:
        made = Path(base) if base else shared.workspace.path("checkpoints", before)
        parts = made if base or made.is_dir() else shared.config(PretrainConfig, own=False)
        plan = {"verb": "finetune", "writes": str(out), "gpus": gpus}
        return shared.estimate(plan, config, conversations, learnt, parts, gpu_type)
    if config.benchmark:
        start = Path(shared.workspace.checkpoint(base, before, f"medvlm {before}"))
        return _on_benchmark({"verb": "finetune", "writes": str(out), "gpus": gpus}, config, start, shared)
    instruct = shared.workspace.dataset(conversations, learnt, "medvlm synthesize")
    start = Path(shared.workspace.checkpoint(base, before, f"medvlm {before}"))
    sources = shared.workspace.figures(figures)
    reads = [str(instruct), str(start), *map(str, sources)]
    plan = {"verb": "finetune", "reads": reads, "writes": str(out), "gpus": gpus}

    def stage(tell: Tell) -> dict[str, Any]:  # torch loads here, not for --help
        from medvlm_cli.stages.finetune import finetune as run

        return run(instruct, sources, start, out, config, tell, gpus=gpus)

    shared.run(plan, config, stage)


def _places(benchmark: str, shared: Shared) -> tuple[str, str, Path]:
    """Name of the checkpoint to start from, dataset of conversations, and where to write."""
    if not benchmark:
        return "pretrain", "conversations/instruct", shared.output("checkpoints", "finetune")
    name = Path(benchmark).name
    return "finetune", f"conversations/{name}-train", shared.output("checkpoints", f"finetune-{name}")


def _on_benchmark(plan: dict[str, Any], config: FinetuneConfig, start: Path, shared: Shared) -> None:
    """Fetch the benchmark when it is absent, and learn its train split."""
    bench = config.benchmark
    given = Path(bench, "manifest.json").is_file()
    questions = Path(bench) if given else shared.workspace.path("questions", bench)
    plan["reads"] = [str(questions), str(start)]

    def stage(tell: Tell) -> dict[str, Any]:  # torch loads here, not for --help
        from medvlm_cli.benchmarks import BENCHMARKS
        from medvlm_cli.core.plugins import resolve
        from medvlm_cli.core.ranks import leads
        from medvlm_cli.stages.fetch import fetch
        from medvlm_cli.stages.finetune import finetune_on_benchmark as run

        if leads() and not (questions / "manifest.json").is_file():
            resolve(bench, BENCHMARKS, "benchmark")
            fetch(bench, questions, shared.config(FetchConfig, own=False), tell)
        return run(questions, shared.workspace.root, start, Path(plan["writes"]), config, tell, gpus=plan["gpus"])

    shared.run(plan, config, stage)
