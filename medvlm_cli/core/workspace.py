"""Where every verb finds the last one's output: the defaults that make the bare commands work one after the other.

``figures/<source>/  questions/<benchmark>/  conversations/<name>/  checkpoints/{pretrain,finetune}/
answers/<checkpoint>/<benchmark>/``, below ``--workspace``, else ``$MEDVLM_WORKSPACE``, else ``./medvlm-workspace``.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from medvlm_cli.core import parts
from medvlm_cli.core.errors import ConfigError, DataError


@dataclass(frozen=True)
class Workspace:
    """A folder with a place for the output of every verb."""

    root: Path

    @classmethod
    def find(cls, given: Path | None) -> "Workspace":
        """The workspace given by option, else by ``$MEDVLM_WORKSPACE``, else ``./medvlm-workspace``.

        Raises:
            ConfigError: the path is a file.
        """
        root = given or Path(os.environ.get("MEDVLM_WORKSPACE") or "medvlm-workspace")
        if root.exists() and not root.is_dir():
            raise ConfigError(f"workspace {root} is not a folder", "give a folder with -w")
        return cls(root)

    def path(self, *parts: str) -> Path:
        """A path below the root; a checkpoint or source given by path adds its last part only."""
        return self.root.joinpath(*(Path(part).name for part in parts))

    def figures(self, given: list[Path] | None = None) -> list[Path]:
        """The figures datasets given, else every finished one of the workspace.

        Raises:
            DataError: there is none.
        """
        if given:
            return given
        folders = sorted(self.root.glob("figures/[!.]*"))  # a name with a dot is a run's state, not its result
        found = [path for path in folders if (path / "manifest.json").is_file() or parts.found(path)]
        if not found:
            raise DataError(f"no figures in {self.root / 'figures'}", "run `medvlm fetch phantom`, or another source")
        return found

    def questions(self) -> list[Path]:
        """Every finished benchmark of the workspace; there may be none."""
        return [path for path in sorted(self.root.glob("questions/[!.]*")) if (path / "manifest.json").is_file()]

    def dataset(self, given: Path | None, default: str, command: str) -> Path:
        """The dataset given, else the workspace's own.

        Raises:
            DataError: it is not there; ``command`` makes it.
        """
        path = given or self.root / default
        if not path.exists():
            raise DataError(f"no dataset at {path}", f"run `{command}` first")
        return path

    def checkpoint(self, given: str | None, default: str, command: str) -> str:
        """The checkpoint given (a folder or a hub id), else the workspace's own folder.

        Raises:
            DataError: the workspace has none; ``command`` makes it.
        """
        if given:
            return given
        path = self.root / "checkpoints" / default
        if not path.is_dir():
            raise DataError(f"no checkpoint at {path}", f"run `{command}` first, or give one with --checkpoint")
        return str(path)

    def newest_checkpoint(self, given: str | None) -> str:
        """The checkpoint given, else the one finished last, by the time its ``run.json`` states.

        Raises:
            DataError: the workspace has none.
        """
        if given:
            return given
        runs = self.root.glob("checkpoints/[!.]*/run.json")  # a name with a dot is a run's state, not its result
        finished = {_finished(path): path.parent for path in runs}
        if not finished:
            raise DataError(
                f"no checkpoint in {self.root / 'checkpoints'}",
                "run `make demo` in a clone, or give a folder, or owner/name of the hub, with --checkpoint",
            )
        return str(finished[max(finished)])


def _finished(run: Path) -> str:
    """When the run ended (ISO 8601), from its own record and not from a file time; a broken record sorts first."""
    try:
        return str(json.loads(run.read_text(encoding="utf-8")).get("finished", ""))
    except (OSError, ValueError):
        return ""
