"""``synthesize``: figures with captions and mentions become conversations about them."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from medvlm_cli.core.arrow import Dataset, Harvest, Reject, open_dataset, write_all
from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.plugins import resolve
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES, QUESTIONS
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers import TEACHERS

TEXT_COLUMNS = [field.name for field in FIGURES if field.name != "image"]
TEMPLATE_BANNER = "demo data, not a reproduction: the template teacher wrote it by fixed rules, no language model did"


def synthesize(
    figures: Sequence[Path],
    out: Path,
    config: SynthesizeConfig,
    tell: Tell,
    questions: Sequence[Path] = (),
    announce: Callable[[dict[str, Any]], None] = lambda plan: None,
) -> dict[str, Any]:
    """Write ``captions`` (kind ``caption``, needs no teacher) and ``instruct`` (kind ``instruct``) below ``out``.

    Every figure becomes one conversation or one reject in each.

    Args:
        figures: figures/1 datasets; a figure id must be in one of them only.
        out: folder that gets the datasets; with a teacher that is asked also ``replies``, all it said.
        config: settings.
        tell: told the phase, the figures done and their number.
        questions: questions/1 datasets; what shares words with them is a reject.
        announce: told the plan, with its price, before anybody is asked.

    Returns:
        Counts of conversations and rejects of both datasets.

    Raises:
        ConfigError: there is no such teacher, or nobody to ask, or no cap; the captions are written all the same.
        DataError: a dataset is not one of figures, or two hold the same figure.
        LaterError: some figures have no answer yet, or the cap is reached; the same command goes on.
        RemoteError: a teacher refuses or does not answer, or is not on this machine and the run is offline.
        BusyError: an output folder is locked, or holds another run.
    """
    _known(config.teacher)
    datasets = [open_dataset(path, FIGURES) for path in figures]
    home = _homes(datasets)
    inputs = {f"figures {number}, {path.name}": path for number, path in enumerate(figures)}
    summary: dict[str, Any] = {"verb": "synthesize", "out": str(out)}
    caption = resolve("template", TEACHERS, "teacher").caption
    settings = {"dataset": "captions"}
    summary["captions"] = _by_template(caption, out / "captions", home, inputs, settings, tell)
    if config.teacher == "template":
        instruct = resolve("template", TEACHERS, "teacher").instruct
        settings = {"dataset": "instruct", "teacher": "template"}
        summary["instruct"] = _by_template(instruct, out / "instruct", home, inputs, settings, tell)
        return summary | {"note": TEMPLATE_BANNER}
    from medvlm_cli.teachers.commission import Commission  # the providers' clients, that a template needs not

    commission = Commission(datasets, home, _benchmarks(questions), out, config)
    return summary | commission.fulfil(inputs, announce, tell)


def plan(
    figures: Sequence[Path], out: Path, config: SynthesizeConfig, questions: Sequence[Path] = ()
) -> dict[str, Any]:
    """What ``synthesize`` would ask and what that would cost; asks nobody and writes nothing.

    Args and errors are those of ``synthesize``.
    """
    _known(config.teacher)
    datasets = [open_dataset(path, FIGURES) for path in figures]
    home = _homes(datasets)
    if config.teacher == "template":
        return {"figures": len(home), "teachers": {"template": {"rows": len(home), "expected USD": 0.0}}}
    from medvlm_cli.teachers.commission import Commission

    return Commission(datasets, home, _benchmarks(questions), out, config).plan()


def status(out: Path) -> dict[str, Any]:
    """How far a run is, by its ledger alone; asks nobody.

    Raises:
        DataError: there is no ledger.
    """
    from medvlm_cli.teachers.status import status as told

    return told(ledger_folder(out))


def cancel(out: Path, config: SynthesizeConfig) -> dict[str, Any]:
    """End the Message Batches that are under way; what they have answered is kept by the next run.

    Raises:
        DataError: there is no ledger.
        RemoteError: the API refuses or does not answer.
    """
    from medvlm_cli.teachers.status import cancel as end

    return end(ledger_folder(out), config)


def export(out: Path, style: str, figures: Sequence[Path], tell: Tell) -> dict[str, Any]:
    """Write ``instruct`` as the JSON file that other programs read, beside it, and its images into ``images``.

    The JSON is written last and names files of that folder: where it lies, they do.

    Args:
        out: folder of the conversations.
        style: ``llava-med`` or ``llama3-med``.
        figures: figures/1 datasets that hold every figure which the conversations are about.
        tell: told how many images are written.

    Raises:
        ConfigError: there is no such style.
        DataError: the dataset is not finished, or a figure is in none of the datasets.
    """
    from medvlm_cli.teachers import export as writer

    writer.known(style)
    dataset = open_dataset(out / "instruct", CONVERSATIONS)
    home = _homes([open_dataset(path, FIGURES) for path in figures])
    wanted: dict[str, str] = {}
    for row in dataset.rows(["conversation_id", "figure_id"]):
        wanted.setdefault(row["figure_id"], row["conversation_id"])
    for figure_id, conversation_id in wanted.items():
        if figure_id not in home:
            what = f"conversation {conversation_id}: its figure {figure_id} is in none of the datasets of figures"
            raise DataError(what, f"name those it was written from: `medvlm synthesize DIR ... --export {style}`")

    def image_of(figure_id: str) -> bytes:
        return home[figure_id].row(figure_id, ["image"])["image"]["bytes"]

    names = writer.write_images(writer.stems(wanted), image_of, out / "images", tell)
    path = out / f"instruct.{style}.json"
    rows = writer.export(_with_modalities(dataset, home), names.__getitem__, style, path)
    return {"verb": "synthesize", "export": style, "rows": rows, "out": str(path), "images": str(out / "images")}


def _with_modalities(dataset: Dataset, home: dict[str, Dataset]) -> Iterator[dict[str, Any]]:
    """The conversations; where they do not say of what kind their figure is, the figure does."""
    for row in dataset.rows():
        if not row.get("modalities"):
            row["modalities"] = [home[row["figure_id"]].row(row["figure_id"], ["modality"])["modality"]]
        yield row


def ledger_folder(out: Path) -> Path:
    """Where the ledger of ``out`` lies: outlives the datasets, because what it holds was paid for."""
    return out / ".instruct.state"


def _known(teacher: str) -> None:
    """Refuse a teacher that nobody knows, with the names."""
    if teacher != "mix" and not teacher.startswith("replay:"):
        resolve(teacher, TEACHERS, "teacher")


def _benchmarks(questions: Sequence[Path]) -> list[Dataset]:
    return [open_dataset(path, QUESTIONS) for path in questions]


def _by_template(
    write: Callable[[dict], dict | Reject],
    out: Path,
    home: dict[str, Dataset],
    inputs: dict[str, Path],
    settings: dict[str, Any],
    tell: Tell,
) -> dict[str, Any]:
    """One dataset that needs no teacher; every figure gives a row or a reject."""

    def converse(figure_id: str) -> Harvest:
        made = write(home[figure_id].row(figure_id, TEXT_COLUMNS))
        return Harvest(1, [], [made]) if isinstance(made, Reject) else Harvest(1, [made], [])

    counts = write_all(
        out, CONVERSATIONS, converse, stage="synthesize", config=settings, inputs=inputs, keys=list(home), tell=tell
    )
    return {"conversations": counts.out, "rejected": counts.rejected, **counts.reasons}


def _homes(datasets: Sequence[Dataset]) -> dict[str, Dataset]:
    """Which dataset holds which figure.

    Raises:
        DataError: two datasets hold the same figure.
    """
    home: dict[str, Dataset] = {}
    for dataset in datasets:
        for figure_id in dataset.ids:
            if figure_id in home:
                raise DataError(
                    f"figure {figure_id} is in {home[figure_id].folder} and in {dataset.folder}",
                    "name the datasets to use: `medvlm synthesize DIR ...`",
                )
            home[figure_id] = dataset
    return home
