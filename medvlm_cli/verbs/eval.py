"""``medvlm eval``: options in, a call to a stage out.  No logic lives here."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_cli import render
from medvlm_cli.core import parts
from medvlm_cli.core.clean import clean
from medvlm_cli.core.config import EvalConfig, FetchConfig
from medvlm_cli.core.errors import INCOMPLETE, ConfigError
from medvlm_cli.core.tell import Tell
from medvlm_cli.core.workspace import Workspace
from medvlm_cli.options import CacheFeatures, Shared, given

PUBLISHED = ("vqa-rad", "slake", "pathvqa")
"""Benchmarks that ``--bench all`` fetches where they are absent."""
_USES = (
    "say what to score: --bench NAME asks a model, --predictions FILE --references FILE scores answers made elsewhere"
)


def evaluate(  # noqa: PLR0913 - what is asked, who answers, who scores: one option for each
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[compare A B]", help="Compare two runs: folders of answers, or files with --references."
        ),
    ] = None,
    bench: Annotated[
        str | None,
        typer.Option("--bench", help="A benchmark by name, fetched when absent; a dataset of questions; or all."),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", help="Folder or hub id of the model.", show_default="finetune's")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Score these answers: JSON lines of LLaVA tools, or a dataset.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option("--references", help="Their questions: JSON list of LLaVA data, or a dataset.")
    ] = None,
    candidates: Annotated[
        Path | None, typer.Option("--candidates", help="JSON list that the published open accuracy chooses from.")
    ] = None,
    protocol: Annotated[
        str | None,
        typer.Option("--protocol", help="llama3med, llavamed-batch, strict or all.", show_default="all"),
    ] = None,
    as_printed: Annotated[
        bool, typer.Option("--as-printed", help="With --predictions: the published script's own table.")
    ] = False,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            help="transformers.  vLLM is not offered: it has no tower of three scales.",
            show_default="transformers",
        ),
    ] = None,
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Answer the I-th of N parts, from 0.")
    ] = None,
    gpus: Annotated[int, typer.Option("--gpus", min=1, help="Processes to answer in, a GPU each.")] = 1,
    judge: Annotated[
        str | None,
        typer.Option(
            "--judge",
            metavar="WHO",
            help="A second opinion on open answers: claude[:MODEL], a folder, or OWNER/NAME@REVISION.",
        ),
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", metavar="USD", help="A paid judge may cost this at most.")
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
      medvlm eval --bench medvlm-workspace/questions/phantom-vqa --set prompt=short -o answers-short
      medvlm eval --predictions answers-short --references medvlm-workspace/questions/phantom-vqa
      medvlm eval compare medvlm-workspace/answers/finetune/phantom-vqa answers-short
    """
    own = {"cache_features": cache_features, "engine": engine, "shard": shard, "judge": judge, "max_cost": max_cost}
    config = given(shared.config(EvalConfig), **own)
    asks = {"--bench": bench, "--checkpoint": checkpoint, "--shard": shard, "--cache-features": cache_features}
    asks |= {"--gpus": gpus > 1}
    if words:
        scores = {"--predictions": predictions, "--candidates": candidates, "--protocol": protocol}
        if words[0] == "compare":
            _refuse("eval compare", asks | scores | {"--as-printed": as_printed, "--judge": judge})
        return _compare(words, references, config, shared)
    if predictions and references:
        _refuse("--predictions", asks)
        if as_printed:
            if protocol not in (None, "llama3med"):
                raise ConfigError(f"--as-printed is the table of llama3med, not of {protocol}", "leave one of them out")
            _refuse("--as-printed", {"-o": shared.out, "--judge": judge})
            return _print(predictions, references, candidates, config, shared)
        return _score(predictions, references, candidates, protocol or "all", config, shared)
    if predictions or not bench:
        raise ConfigError("--references is missing" if predictions else "nothing to do", _USES)
    if references or protocol or as_printed:
        what = "--references, --protocol and --as-printed go with --predictions"
        raise ConfigError(what, "leave them out: --bench scores by every protocol")
    _ask(bench, checkpoint, config, (candidates, gpus), shared)


def _refuse(beside: str, options: Mapping[str, Any]) -> None:
    """Refuse options that would do nothing."""
    if given := [name for name, value in options.items() if value]:
        raise ConfigError(f"{', '.join(given)} {'does' if len(given) == 1 else 'do'} not go with {beside}", _USES)


def _ask(bench: str, checkpoint: str | None, config: EvalConfig, rest: tuple[Path | None, int], shared: Shared) -> None:
    """Have a model answer a benchmark, or all of them."""
    if config.shard and rest[1] > 1:
        raise ConfigError("--shard is one part, --gpus makes all of them", "give one of the two")
    if config.shard:
        parts.parse(config.shard)
    model = shared.workspace.checkpoint(checkpoint, "finetune", "medvlm finetune")
    sets = _benchmarks(bench, shared.workspace)
    several, first = bench == "all", next(iter(sets.values()))
    out = shared.output("answers", model) if several else shared.output("answers", model, first.name)
    plan = {"verb": "eval", "reads": [*map(str, sets.values()), model], "writes": str(out)}
    failed: dict[str, str] = {}

    def stage(tell: Tell) -> dict[str, Any]:  # torch loads here, not for --help
        from medvlm_cli.stages.evaluate import Beside, evaluate_all
        from medvlm_cli.stages.evaluate import evaluate as run

        beside = Beside(
            features=shared.workspace.path("features"), hashes=shared.workspace.path("hashes"),
            training=_training(shared.workspace), candidates=rest[0], gpus=rest[1],
        )  # fmt: skip
        if not several:
            return run(_questions(bench, first, shared, tell), model, out, config, tell, beside)
        there = {name: partial(_questions, name, folder, shared, tell) for name, folder in sets.items()}
        summary = evaluate_all(there, model, out, config, tell, beside)
        failed.update(summary["failed"])
        return summary

    shared.run(plan, config, stage)
    if failed:
        raise typer.Exit(INCOMPLETE)


def _score(
    predictions: Path, references: Path, candidates: Path | None, protocol: str, config: EvalConfig, shared: Shared
) -> None:
    """Score answers made elsewhere."""
    plan = {"verb": "eval", "reads": [str(path) for path in (predictions, references, candidates) if path]}
    plan |= {"writes": str(shared.out)} if shared.out else {}

    def stage(tell: Tell) -> dict[str, Any]:  # numpy and pyarrow load here, torch does not
        from medvlm_cli.stages.score import score as run

        return run(predictions, references, config, candidates=candidates, out=shared.out, tell=tell, protocol=protocol)

    shared.run(plan, config, stage)


def _print(predictions: Path, references: Path, candidates: Path | None, config: EvalConfig, shared: Shared) -> None:
    """Print the table of the published script."""
    from medvlm_cli.stages.score import printed

    with render.progress(quiet=shared.quiet) as tell:
        text = printed(predictions, references, config, candidates=candidates, tell=tell)
    if shared.json:
        return render.result({"verb": "eval", "printed": text}, as_json=True)
    typer.echo(clean(text))


def _compare(words: list[str], references: Path | None, config: EvalConfig, shared: Shared) -> None:
    """Compare two sets of answers."""
    if len(words) != 3 or words[0] != "compare":
        raise ConfigError(f"eval {' '.join(words)}: not `eval compare A B`", _USES)
    one, other = Path(words[1]), Path(words[2])
    plan = {"verb": "eval", "reads": [str(one), str(other)]} | ({"writes": str(shared.out)} if shared.out else {})

    def stage(tell: Tell) -> dict[str, Any]:  # numpy and pyarrow load here, torch does not
        from medvlm_cli.stages.compare import compare as run

        own = shared.workspace.questions()
        return run(one, other, config, shared.out, tell, references=references, workspace_questions=own)

    shared.run(plan, config, stage)


def _benchmarks(bench: str, workspace: Workspace) -> dict[str, Path]:
    """Name and folder of what is asked: the published three and those of the workspace for ``all``, else one."""
    if bench != "all":
        return {bench: Path(bench) if Path(bench, "manifest.json").is_file() else workspace.path("questions", bench)}
    own = {folder.name: folder for folder in workspace.questions()}
    return {name: workspace.path("questions", name) for name in PUBLISHED} | own


def _questions(bench: str, folder: Path, shared: Shared, tell: Tell) -> Path:
    """The folder of a benchmark's questions, fetched where it is absent."""
    if not (folder / "manifest.json").is_file():
        from medvlm_cli.benchmarks import BENCHMARKS
        from medvlm_cli.core.plugins import resolve
        from medvlm_cli.stages.fetch import fetch

        resolve(bench, BENCHMARKS, "benchmark")
        fetch(bench, folder, shared.config(FetchConfig, own=False), tell)
    return folder


def _training(workspace: Workspace) -> list[Path]:
    """Every finished dataset of the workspace that a model may have learnt from, other benchmarks included."""
    kinds = ("figures", "benchmark-figures", "conversations")
    folders = (path for kind in kinds for path in sorted(workspace.root.glob(f"{kind}/[!.]*")))
    made = [path for path in folders if (path / "manifest.json").is_file() or parts.found(path)]
    return [*made, *workspace.questions()]
