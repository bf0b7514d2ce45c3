"""``synthesize``: figures with captions and mentions become conversations about them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medvlm_cli.core.arrow import Dataset, Harvest, Reject, open_dataset, write_all
from medvlm_cli.core.config import SynthesizeConfig, as_dict
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.plugins import resolve
from medvlm_cli.core.schemas import CONVERSATIONS, FIGURES
from medvlm_cli.core.tell import Tell
from medvlm_cli.teachers import TEACHERS

TEXT_COLUMNS = [field.name for field in FIGURES if field.name != "image"]


def synthesize(figures: Sequence[Path], out: Path, config: SynthesizeConfig, tell: Tell) -> dict[str, Any]:
    """Write ``captions`` (kind ``caption``, needs no teacher) and ``instruct`` (kind ``instruct``) below ``out``.

    Every figure becomes one conversation or one reject in each.

    Args:
        figures: figures/1 datasets; a figure id must be in one of them only.
        out: folder that gets the two conversations/1 datasets.
        config: settings.
        tell: told the phase, the figures done and their number.

    Returns:
        Counts of conversations and rejects of both datasets.

    Raises:
        ConfigError: there is no such teacher.
        DataError: a dataset is not one of figures, or two hold the same figure.
        BusyError: an output folder is locked, or holds another run.
    """
    caption = resolve("template", TEACHERS, "teacher").caption
    instruct = resolve(config.teacher, TEACHERS, "teacher").instruct
    datasets = [open_dataset(path, FIGURES) for path in figures]
    home = _homes(datasets)
    inputs = {f"figures {number}, {path.name}": path for number, path in enumerate(figures)}
    settings = as_dict(config)
    summary: dict[str, Any] = {"verb": "synthesize", "out": str(out)}
    for name, write in (("captions", caption), ("instruct", instruct)):

        def converse(figure_id: str, write: Callable[[dict], dict | Reject] = write) -> Harvest:
            made = write(home[figure_id].row(figure_id, TEXT_COLUMNS))
            return Harvest(1, [], [made]) if isinstance(made, Reject) else Harvest(1, [made], [])

        counts = write_all(
            out / name,
            CONVERSATIONS,
            converse,
            stage="synthesize",
            config=settings | {"dataset": name},
            inputs=inputs,
            keys=list(home),
            tell=tell,
        )
        summary[name] = {"conversations": counts.out, "rejected": counts.rejected, **counts.reasons}
    return summary


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
