"""The options that every verb has, declared once, and what they mean: workspace, output, settings, how to speak."""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_cli import render
from medvlm_cli.core import offline
from medvlm_cli.core.config import TrainConfig, as_dict
from medvlm_cli.core.errors import INCOMPLETE, ConfigError
from medvlm_cli.core.presets import Config, load
from medvlm_cli.core.ranks import found, leads, read_hostfile
from medvlm_cli.core.workspace import Workspace

OPTIONS: dict[str, tuple[Any, Any]] = {
    "workspace": (
        Annotated[
            Path | None,
            typer.Option(
                "-w", "--workspace", help="Folder of all inputs and outputs.", show_default="medvlm-workspace"
            ),
        ],
        None,
    ),
    "out": (Annotated[Path | None, typer.Option("-o", "--out", help="Write here, not into the workspace.")], None),
    "preset": (
        Annotated[str | None, typer.Option("-c", "--config", help="Preset by name, or a YAML file.")],
        None,
    ),
    "settings": (
        Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one setting; repeatable.")],
        None,
    ),
    "json": (Annotated[bool, typer.Option("--json", help="Print the result as JSON.")], False),
    "quiet": (Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no hints.")], False),
    "verbose": (Annotated[int, typer.Option("-v", "--verbose", count=True, help="Say more; twice for debug.")], 0),
    "log_file": (
        Annotated[Path | None, typer.Option("--log-file", metavar="FILE", help="Append all that is said, and debug.")],
        None,
    ),
    "offline": (Annotated[bool, typer.Option("--offline", help="Ask nothing outside of this machine.")], False),
    "dry_run": (Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")], False),
}

GpuType = Annotated[
    str,
    typer.Option(
        "--gpu-type",
        metavar="NAME",
        help="With --dry-run: devices to count on, as h100-80gb.",
        show_default="this machine's",
    ),
]
Hostfile = Annotated[Path | None, typer.Option("--hostfile", help="DeepSpeed host file of the machines to train on.")]
CacheFeatures = Annotated[
    bool, typer.Option("--cache-features", help="Encode each image once, and keep what the tower gives on disk.")
]
Parity = Annotated[
    str, typer.Option("--parity", metavar="NAME", help="Train as published: llama3-med.", show_default="none")
]
Track = Annotated[
    str, typer.Option("--track", metavar="NAME", help="Show the curves in wandb or trackio too.", show_default="none")
]


def given(config: Config, **options: Any) -> Config:
    """The settings, with the options that were given in place of what preset and ``--set`` say."""
    changed: Any = config
    spoken = {name: str(value) if isinstance(value, Path) else value for name, value in options.items() if value}
    return dataclasses.replace(changed, **spoken)


def devices(config: TrainConfig, gpus: int) -> int:
    """Devices to train on: all of the host file's machines, or else as many as were asked for.

    Raises:
        ConfigError: the host file cannot be read.
        OfflineError: other machines would train too, and nothing but this one may be asked.
    """
    hosts = read_hostfile(Path(config.hostfile)) if config.hostfile else {}
    rank = found()
    offline.refuse(*hosts, *([rank.address] if rank else []))
    return sum(hosts.values()) or gpus


@dataclass(frozen=True)
class Shared:
    """The shared options of one call."""

    workspace: Workspace
    out: Path | None
    preset: str | None
    settings: tuple[str, ...]
    json: bool
    quiet: bool
    dry_run: bool

    def config(self, kind: type[Config], *, own: bool = True) -> Config:
        """The settings of the verb, from the preset and ``--set``; of another verb, without ``--set``."""
        return load(kind, self.preset, self.settings if own else ())

    def output(self, *parts: str) -> Path:
        """Where to write: ``-o``, else the place in the workspace."""
        return self.out or self.workspace.path(*parts)

    def estimate(
        self, plan: dict[str, Any], config: Any, conversations: Path | None, default: str, parts: Any, gpu_type: str
    ) -> None:
        """Print what a stage of training would read, write and cost.

        Args:
            plan: ``verb``, ``writes`` and ``gpus``.
            config: the settings.
            conversations: dataset given; None takes the workspace's where it has one, and else assumed lengths.
            default: where it is in the workspace.
            parts: folder of a checkpoint, or a ``PretrainConfig``.
            gpu_type: of ``--gpu-type``.

        Raises:
            ConfigError: a type of device is named and nothing is estimated.
            MedVLMError: as ``core.estimate.estimate``.
        """
        if not self.dry_run:
            raise ConfigError("--gpu-type only tells --dry-run what to count on", "add --dry-run, or leave it out")
        from medvlm_cli.core.estimate import Question, estimate  # loads torch

        own = self.workspace.root / default
        rows = self.workspace.dataset(conversations, default, "medvlm synthesize") if conversations else own
        question = Question(
            stage=plan["verb"], config=config, parts=parts, conversations=rows if rows.exists() else None,
            out=Path(plan["writes"]), gpus=plan["gpus"], gpu_type=gpu_type,
        )  # fmt: skip
        reads = [str(place) for place in (question.conversations, parts) if isinstance(place, Path)]
        said = plan | {"reads": reads, "settings": as_dict(config), "dry_run": True} | estimate(question)
        render.result(said, as_json=self.json)

    def run(self, plan: dict[str, Any], config: Any, stage: Callable[[render.Tell], dict[str, Any]]) -> None:
        """Run a stage under a progress display and print its summary; with ``--dry-run`` print the plan alone.

        Args:
            plan: what will be read and written; its ``cost``, if it has one, is said before it is spent.
            config: the settings.
            stage: what to run.

        Raises:
            typer.Exit: with the code ``INCOMPLETE``, when the summary's ``retry`` counts rows that a retry may cure.
        """
        if self.dry_run:
            summary = plan | {"settings": as_dict(config), "dry_run": True}
        else:
            if plan.get("cost") and not self.quiet:
                render.hint("about " + render.listed(plan["cost"]))
            with render.progress(quiet=self.quiet or not leads()) as tell:  # of ranks, one speaks
                summary = stage(tell)
        render.result(summary, as_json=self.json)
        if summary.get("retry"):
            render.hint("some rows were rejected by faults that you can mend: see `rejects` in the output folder")
            raise typer.Exit(INCOMPLETE)


def shared_options(verb: Callable[..., Any]) -> Callable[..., Any]:
    """Let a verb that takes ``shared: Shared`` have every option of ``OPTIONS`` on the command line."""
    signature = inspect.signature(verb)
    own = [parameter for parameter in signature.parameters.values() if parameter.name != "shared"]
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=kind, default=default)
        for name, (kind, default) in OPTIONS.items()
    ]

    @functools.wraps(verb)
    def call(**given: Any) -> Any:
        options = {name: given.pop(name) for name in OPTIONS}
        render.set_up(json=options["json"], verbose=options.pop("verbose"), log_file=options.pop("log_file"))
        if options.pop("offline") or offline.is_offline():
            offline.go_offline()
        options["workspace"] = Workspace.find(options["workspace"])
        options["settings"] = tuple(options["settings"] or ())
        return verb(**given, shared=Shared(**options))

    parameters = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own] + extra
    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call
