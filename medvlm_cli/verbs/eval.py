"""``medvlm eval``: options in, a call to the stage out.  No logic lives here."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_cli.core.config import EvalConfig, FetchConfig
from medvlm_cli.core.tell import Tell
from medvlm_cli.options import CacheFeatures, Shared, given


def evaluate(
    bench: Annotated[
        str, typer.Option("--bench", help="A benchmark by name, fetched when it is absent, or a dataset of questions.")
    ],
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Folder or hub id of the model.", show_default="finetune's")
    ] = None,
    cache_features: CacheFeatures = False,
    *,
    shared: Shared,
) -> None:
    """Ask a benchmark's questions, score the answers, and show them beside what needs no eyes.

    \b
    Examples:
      medvlm eval --bench phantom-vqa
      medvlm eval --bench phantom-vqa --checkpoint medvlm-workspace/checkpoints/finetune-1x --json
      medvlm eval --bench medvlm-workspace/questions/phantom-vqa --set batch=32 -o answers-32
    """
    config = given(shared.config(EvalConfig), cache_features=cache_features)
    model = shared.workspace.checkpoint(checkpoint, "finetune", "medvlm finetune")
    questions = Path(bench) if Path(bench, "manifest.json").is_file() else shared.workspace.path("questions", bench)
    out = shared.output("answers", model, questions.name)
    plan = {"verb": "eval", "reads": [str(questions), model], "writes": str(out)}

    def stage(tell: Tell) -> dict[str, Any]:  # torch loads here, not for --help
        from medvlm_cli.benchmarks import BENCHMARKS
        from medvlm_cli.core.plugins import resolve
        from medvlm_cli.stages.evaluate import evaluate as run
        from medvlm_cli.stages.fetch import fetch

        if not Path(questions, "manifest.json").is_file():
            resolve(bench, BENCHMARKS, "benchmark")
            fetch(bench, questions, shared.config(FetchConfig, own=False), tell)
        return run(questions, model, out, config, tell, shared.workspace.path("features"))

    shared.run(plan, config, stage)
