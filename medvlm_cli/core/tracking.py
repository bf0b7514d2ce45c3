"""Where a training can be watched besides its log: TensorBoard's files in the checkpoint, and trackers of others.

All of it is written by the first rank, from the rows of steps/1.  What fails here while a training runs never stops it.
"""

import contextlib
import importlib
import importlib.util
import io
import json
import logging
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from medvlm_cli.core.commit import make_folder, remove_tree, rename
from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.record import redact

TRACKERS = ("wandb", "trackio")
SERIES = {
    "loss": "train/loss",
    "held_out_loss": "held_out/loss",
    "lr": "train/lr",
    "grad_norm": "train/grad_norm",
    "tokens_per_second": "speed/tokens_per_second",
    "images_per_second": "speed/images_per_second",
    "mfu": "speed/mfu",
    "seconds": "speed/seconds_per_step",
    "padding": "data/padding",
    "peak_bytes": "memory/peak_bytes",
}
"""What is drawn: column of steps/1 -> name of the curve; a value that is null has no point."""
EVENTS = "events.out.tfevents.medvlm"
"""Name of the finished events file: TensorBoard's own has the name of the machine in it, and checkpoints travel."""
_FLUSH_SECONDS = 10

log = logging.getLogger(__name__)


def check_tracker(name: str) -> None:
    """See to it, before anything else is done, that a tracker can be opened.

    Args:
        name: of ``TRACKERS``, or empty for none.

    Raises:
        ConfigError: there is no such tracker, or it is not installed.
    """
    if not name:
        return
    if name not in TRACKERS:
        raise ConfigError(f"--track {name}: no such tracker", f"give one of {', '.join(TRACKERS)}")
    if importlib.util.find_spec(name) is None:
        raise ConfigError(f"--track {name}: {name} is not installed", f"pip install {name}, or leave --track out")


class Tracking:
    """Curves of one training, in TensorBoard where it is installed and in the tracker that was asked for."""

    def __init__(self, state: Path, track: str, run: Mapping[str, Any]) -> None:
        """Open the tracker.

        Args:
            state: folder of the training's state; TensorBoard's files are made in it.
            track: of ``TRACKERS``, or empty.
            run: ``stage``, ``fingerprint`` and ``config`` of the training.

        Raises:
            ConfigError: as ``check_tracker``; or the tracker refuses, for example because nobody has logged in.
        """
        check_tracker(track)
        self.folder = state / "tensorboard"
        self._board: Any = None
        self._tracker = _Tracker(track, run) if track else None
        self._seen = 0

    def start(self, rows: Sequence[Mapping[str, Any]], seen: int) -> None:
        """Go on behind what is logged.

        The events are written anew from the log, so that a kill loses none and a resumed training doubles none.  A
        tracker cannot forget: it gets no step a second time.

        Args:
            rows: steps/1, what the training goes on from.
            seen: the last step that was logged before, although it may have to be repeated now.
        """
        remove_tree(self.folder)
        self._board, self._seen = _board(self.folder), seen
        ended = time.time()
        began = ended - sum(row["seconds"] for row in rows)
        for row in rows:
            began += row["seconds"]
            self._draw(row, began)

    def add(self, row: Mapping[str, Any]) -> None:
        """Draw the row of the next step."""
        self._draw(row, time.time())
        if self._tracker and row["step"] > self._seen:
            self._tracker.add(row)

    def _draw(self, row: Mapping[str, Any], when: float) -> None:
        if self._board:
            for name, value in _values(row).items():
                self._board.add_scalar(name, value, row["step"], walltime=when)

    def close(self) -> None:
        """Write what is still in memory."""
        for one in (self._board, self._tracker):
            if one:
                one.close()
        self._board, self._tracker = None, None

    def export(self, out: Path) -> None:
        """Close, and move TensorBoard's events into the folder of the checkpoint."""
        self.close()
        files = sorted(self.folder.glob("events.*"))  # one
        if files:
            make_folder(out / "tensorboard")
            rename(files[0], out / "tensorboard" / EVENTS)
        remove_tree(self.folder)


class _Tracker:
    """A run in wandb or trackio, both of which are called alike; it goes on where a run of the same settings stopped.

    Only settings and figures are sent: no text, no image, no path of the data, no output of the program.
    """

    def __init__(self, name: str, run: Mapping[str, Any]) -> None:
        self.name = name
        known = f"{run['stage']}-{run['fingerprint'][:12]}"
        config = json.loads(redact(json.dumps(run["config"], default=str)))
        with _without_words():
            try:
                self.module: Any = importlib.import_module(name)
                more = _wandb(self.module, known) if name == "wandb" else {"embed": False, "auto_log_gpu": False}
                project = os.environ.get(f"{name.upper()}_PROJECT", "medvlm")
                self.run = self.module.init(project=project, name=known, config=config, resume="allow", **more)
            except Exception as error:  # theirs are of any class
                raise ConfigError(f"--track {name}: {_said(error)}", _FIXES[name]) from None

    def add(self, row: Mapping[str, Any]) -> None:
        """Send a row; after the first failure nothing more is sent."""
        if self.run is None:
            return
        try:
            self.run.log(_values(row), step=row["step"])
        except Exception as error:  # a training is worth more than its curve
            log.warning("--track %s: %s; nothing more is sent", self.name, _said(error))
            self.run = None

    def close(self) -> None:
        """Send what is still in memory."""
        if self.run is not None:
            with _without_words(), contextlib.suppress(Exception):
                self.module.finish()  # its own, so that it does not do so again, and says so, when the process ends


_FIXES = {
    "wandb": "log in with `wandb login`, or set WANDB_MODE=offline and send it later with `wandb sync`",
    "trackio": "leave TRACKIO_SPACE_ID unset to keep it on this machine, or log in with `hf auth login`",
}


def _wandb(module: Any, known: str) -> dict[str, Any]:
    """What only wandb is told: which run goes on, and to ask and to collect nothing."""
    os.environ.setdefault("WANDB_SILENT", "true")  # or it would ask for a key in the middle of a start
    quiet = {
        "silent": True,
        "console": "off",
        "disable_git": True,
        "save_code": False,
        "x_disable_meta": True,
        "host": "-",
    }
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    mode = {"mode": "offline"} if offline and "WANDB_MODE" not in os.environ else {}
    return {"id": known, "settings": module.Settings(**quiet), **mode}


@contextlib.contextmanager
def _without_words() -> Iterator[None]:
    """Keep what a tracker prints off standard output, which belongs to the result."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _said(error: BaseException) -> str:
    """The first line of an error of a tracker, without what looks like a key."""
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    for name, value in os.environ.items():
        if len(value) > 7 and name.endswith(("_KEY", "_TOKEN")):
            text = text.replace(value, "***")
    return redact(text)


def _values(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: row[column] for column, name in SERIES.items() if row.get(column) is not None}


def _board(folder: Path) -> Any:
    """A writer of TensorBoard's events, or None where TensorBoard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        return None
    # Its writer would import TensorFlow, seconds and gigabytes, wherever that is installed; this stops it.
    sys.modules.setdefault("tensorboard.compat.notf", ModuleType("notf"))
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        log.warning("tensorboard: %s; no curves are drawn", error)
        return None
    # purge_step: a TensorBoard that is open drops what it has read of the file before
    return SummaryWriter(str(folder), purge_step=1, flush_secs=_FLUSH_SECONDS)
