"""A run as a preset: one YAML file, with which the same verb does the same again."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from medvlm_cli import __version__
from medvlm_cli.core.errors import DataError

RECIPE = "recipe.yaml"


def recipe(stage: str, config: Mapping[str, Any], base: Path | None = None) -> str:
    """Every setting of a run, those too that were left as they are, and the settings of what it was trained from.

    Args:
        stage: pretrain or finetune.
        config: the resolved settings, as ``core.config.as_dict`` gives them.
        base: folder of the checkpoint that it started from; its recipe says how that was made, where it has one.

    Returns:
        A preset: ``medvlm <stage> -c recipe.yaml`` on the same data.

    Raises:
        DataError: the recipe of the base is not what was written.
    """
    before = _sections(base / RECIPE) if base and (base / RECIPE).is_file() else {}
    lines = [f"# What medvlm {__version__} trained with: `medvlm {stage} -c {RECIPE}` on the same data does it again."]
    if stage in before:
        lines.append(f"# The {stage} before this one, whose checkpoint it started from, has a recipe of its own.")
    sections = before | {stage: dict(config)}
    return "\n".join([*lines, yaml.safe_dump(sections, sort_keys=False, allow_unicode=True)])


def _sections(path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not YAML ({str(error).splitlines()[0]})", f"remove {path}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: not a recipe", f"remove {path}")
    return found
