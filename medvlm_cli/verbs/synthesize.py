"""``medvlm synthesize``: options in, a call to the stage out.  No logic lives here."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_cli import render
from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.options import Shared


def synthesize(  # noqa: PLR0913 - each way to reach a teacher, and each promise about money, is one option
    figures: Annotated[
        list[Path] | None, typer.Argument(help="Datasets of figures.", show_default="all of the workspace")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            "--teacher", help="mix, claude, llama, template (no model; demo data), or replay:PATH.", show_default="mix"
        ),
    ] = None,
    mix: Annotated[
        str | None,
        typer.Option("--mix", help="Shares in percent, by hash of the figure.", show_default="claude=25,llama=75"),
    ] = None,
    mix_mode: Annotated[
        str | None,
        typer.Option("--mix-mode", help="hash, or quota: exact in every modality.", show_default="hash"),
    ] = None,
    llama_endpoint: Annotated[
        list[str] | None,
        typer.Option("--llama-endpoint", metavar="URL", help="OpenAI-compatible server; repeatable."),
    ] = None,
    launch: Annotated[
        str | None, typer.Option("--launch", metavar="MODEL", help="Start vLLM with this model, and end it.")
    ] = None,
    max_cost: Annotated[
        float | None, typer.Option("--max-cost", metavar="USD", help="Spend at most this; a paid teacher asks for it.")
    ] = None,
    accept_terms: Annotated[
        str | None, typer.Option("--accept-terms", metavar="NAMES", help="Terms you accept: claude,llama3,llama3.1.")
    ] = None,
    prompt: Annotated[Path | None, typer.Option("--prompt", help="A system prompt of your own.")] = None,
    shots: Annotated[Path | None, typer.Option("--shots", help="Few-shot examples of your own, YAML.")] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", help="Let claude or llama[:MODEL] mark every conversation.")
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="local, or ray: ask Llama from a cluster.", show_default="local"),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Say what it would ask and cost; no network.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Say how far a run is; no network.")] = False,
    cancel: Annotated[bool, typer.Option("--cancel", help="End the Message Batches under way.")] = False,
    export: Annotated[
        str | None,
        typer.Option("--export", metavar="STYLE", help="Write JSON as llava-med or llama3-med has it."),
    ] = None,
    *,
    shared: Shared,
) -> None:
    """Write conversations about the figures: a caption dialogue each, and instruction dialogues by two teachers.

    \b
    Examples:
      medvlm synthesize --teacher template
      medvlm synthesize --plan
      medvlm synthesize --export llama3-med
      medvlm synthesize medvlm-workspace/figures/phantom --teacher template -o phantom-only
    """
    from medvlm_cli.stages import synthesize as stage

    wanted = {"--plan or --dry-run": plan or shared.dry_run, "--status": status, "--cancel": cancel}
    asked = [name for name, given in (wanted | {"--export": export is not None}).items() if given]
    if len(asked) > 1:
        raise ConfigError(f"{' and '.join(asked)}: two things at once", "give one of them")
    given = {
        "teacher": teacher,
        "mix": mix,
        "mix_mode": mix_mode,
        "llama_endpoint": tuple(llama_endpoint) if llama_endpoint else None,
        "launch": launch,
        "max_cost": max_cost,
        "accept_terms": tuple(name.strip() for name in accept_terms.split(",")) if accept_terms else None,
        "prompt": str(prompt) if prompt else None,
        "shots": str(shots) if shots else None,
        "judge": judge,
        "engine": engine,
    }
    settings: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if shared.preset is None and not any(one.partition("=")[0].strip() == "teacher" for one in shared.settings):
        settings.setdefault("teacher", "mix")  # a preset that nobody named does not choose who writes
    config = dataclasses.replace(shared.config(SynthesizeConfig), **settings)
    out = shared.output("conversations")
    if status or cancel:
        return render.result(stage.status(out) if status else stage.cancel(out, config), as_json=shared.json)
    sources, questions = shared.workspace.figures(figures), shared.workspace.questions()
    if export is not None:
        style = export
        return shared.run({}, config, lambda tell: stage.export(out, style, sources, tell))
    told = {"verb": "synthesize", "reads": [str(path) for path in sources], "writes": str(out)}
    if plan or shared.dry_run:
        return render.result(told | stage.plan(sources, out, config, questions), as_json=shared.json)

    def announce(planned: dict[str, Any]) -> None:
        if not shared.quiet:
            render.aside(planned)

    return shared.run(told, config, lambda tell: stage.synthesize(sources, out, config, tell, questions, announce))
