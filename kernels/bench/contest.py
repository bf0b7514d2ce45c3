"""Paths that take turns: each is timed once a round on the same figures, with its memory and its error."""

import dataclasses
import functools
import importlib.util
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import peers
import torch
from measure import Device, relative_error

INPUTS = 4
"""Sets of figures that rounds rotate through, so that no cache holds them."""


@dataclass
class Contender:
    """One path, and what was seen of it at the present number of images."""

    path: str
    precision: str
    encode: peers.Encode
    padded: bool = False
    """Reads 3:1 figures with padding above and below."""
    built_bytes: int = 0
    """Bytes that it keeps besides its weights since it was first run."""
    seconds: list[float] = field(default_factory=list)
    rises: list[int] = field(default_factory=list)
    error: float | None = None


@dataclass
class Row:
    """One line of the table."""

    path: str
    precision: str
    images: int
    seconds: float
    """Of one call."""
    seconds_of_rounds: list[float]
    peak_bytes: int | None
    """The most that an encode takes above weights and figures."""
    error: float | None
    padded: bool
    flop_rate: float | None = None
    """FLOP a second; None for padded figures, some of whose tiles are not computed."""
    share: float | None = None
    """``flop_rate`` over that of a large matrix product."""
    ratio: float | None = None
    """Seconds of the baseline over ``seconds``."""

    def cells(self) -> list[str]:
        """What the table prints."""
        each = self.seconds / self.images
        return [
            self.path, self.precision, str(self.images), f"{1 / each:.3g}", f"{1000 * each:.4g}",
            "-" if self.ratio is None else f"{self.ratio:.2f}",
            "-" if self.flop_rate is None else f"{self.flop_rate / 1e12:.3g}",
            "-" if self.share is None else f"{self.share:.0%}",
            "n/a" if self.peak_bytes is None else f"{self.peak_bytes / 1e6:.1f}",
            "-" if self.error is None else f"{self.error:.2e}",
        ]  # fmt: skip

    def told(self) -> dict[str, Any]:
        """What the JSON holds."""
        each = self.seconds / self.images
        return dataclasses.asdict(self) | {"images_per_second": 1 / each, "ms_per_image": 1000 * each}


class Contest:
    """Where paths are built, run in turn and compared; what fails is noted and the rest goes on."""

    def __init__(self, device: Device, shape: peers.Shape) -> None:
        self.device, self.shape = device, shape
        self.failures: list[dict[str, str]] = []
        self.truths: dict[bool, torch.Tensor] = {}
        """Features of the first figure in float32, by whether it is padded."""

    def note(self, where: str, what: str) -> None:
        """Keep and show that something was left out."""
        self.failures.append({"where": where, "what": what})
        self.progress(f"left out: {where}: {what}")

    def attempt(self, where: str, call: Callable[[], Any]) -> Any:
        """The result of ``call``; None, noted, if it fails: one path that does not work must not end a bench."""
        try:
            return call()
        except Exception as error:
            self.note(where, f"{type(error).__name__}: {error}".strip().splitlines()[0][:300])
            return None

    def timed(self, what: str, call: Callable[[], Any]) -> Any:
        """The result of ``call``, with a line of progress."""
        began = time.monotonic()
        result = call()
        self.progress(f"{what}: {time.monotonic() - began:.1f} s")
        return result

    def progress(self, line: str) -> None:
        """A line for whoever waits."""
        print(line, file=sys.stderr, flush=True)

    def has(self, module: str) -> bool:
        """Whether a library is there; noted if not."""
        if importlib.util.find_spec(module):
            return True
        self.note(module, "not installed")
        return False

    def figures(self, images: int, padded: bool, seed: int = 0) -> torch.Tensor:
        """``(images, 3, Z, Z)`` uint8 on the device: noise; padded, the middle third of it and the mean colour."""
        size = self.shape.geometry.size
        drawn = torch.empty(images, 3, size, size, dtype=torch.uint8)
        for number, figure in enumerate(drawn):
            figure.random_(0, 256, generator=torch.Generator().manual_seed(1000 * seed + number))
        if padded:
            colour = torch.tensor(peers.PAD_COLOUR, dtype=torch.uint8).view(3, 1, 1)
            drawn[:, :, : size // 3] = colour
            drawn[:, :, -(size // 3) :] = colour
        return drawn.to(self.device.kind)

    def build(self, path: str, precision: str, make: Callable[[], peers.Encode]) -> Contender | None:
        """A path ready to run; None, noted, where that fails."""
        name = f"build {path} {precision}"
        encode = self.attempt(name, lambda: self.timed(name, make))
        return Contender(path, precision, encode) if encode else None

    def set_truths(self, encode: peers.Encode) -> None:
        """Keep the features of the first figure, padded and not, computed in float32 throughout."""
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
        for padded in (False, True):
            figures = self.figures(1, padded)
            self.truths[padded] = self.timed("features in float32", lambda f=figures: encode(f)).cpu()

    def rows(self, contenders: list[Contender], images: int, rounds: int) -> list[Row]:
        """Time every path once a round, in an order that rotates, and sum up."""
        inputs = {
            padded: [self.figures(images, padded, seed) for seed in range(min(INPUTS, rounds))]
            for padded in {one.padded for one in contenders}
        }
        running = list(contenders)
        for one in contenders:
            one.seconds, one.rises, one.error = [], [], None
        for number in range(-self.device.cuda, rounds):  # round -1 warms up
            start = max(0, number) % max(1, len(running))
            for one in running[start:] + running[:start]:
                figures = inputs[one.padded][max(0, number) % len(inputs[one.padded])]
                where = f"{one.path} {one.precision}, {images} images"
                turn = self._warm if number < 0 else self._turn
                if not self.attempt(where, functools.partial(turn, one, figures)):
                    running.remove(one)
            self.progress(f"{images} images, round {number + 1} of {rounds}")
        return [self._row(one, images) for one in contenders if one.seconds]

    def compare(self, rows: list[Row], baseline: tuple[str, str], peaks: dict[str, dict[str, float]]) -> None:
        """Fill in what a row is beside the baseline of the same number of images, and beside a matrix product."""
        for row in rows:
            same = (one for one in rows if (one.path, one.precision) == baseline and one.images == row.images)
            first = next(same, None)
            row.ratio = first.seconds / row.seconds if first else None
            if not row.padded:
                row.flop_rate = self.shape.flops * row.images / row.seconds
                row.share = row.flop_rate / max(peaks[row.precision].values()) if row.precision in peaks else None

    def _warm(self, one: Contender, figures: torch.Tensor) -> bool:
        before = self.device.held_bytes() or 0
        one.encode(figures)
        self.device.ready()
        one.encode(figures)
        self.device.ready()
        one.built_bytes += max(0, (self.device.held_bytes() or 0) - before)
        return True

    def _turn(self, one: Contender, figures: torch.Tensor) -> bool:
        features = torch.empty(0)

        def run() -> torch.Tensor:
            nonlocal features
            seconds, features = self.device.seconds(lambda: one.encode(figures))
            one.seconds.append(seconds)
            return features

        rise = self.device.rise(run)
        one.rises += [] if rise is None else [rise + one.built_bytes]
        if one.error is None and one.padded in self.truths:  # of the first set of figures, whose first figure it is
            one.error = relative_error(features[:1].cpu(), self.truths[one.padded])
        return True

    def _row(self, one: Contender, images: int) -> Row:
        seconds, rise = self.device.best(one.seconds), min(one.rises, default=None)
        return Row(one.path, one.precision, images, seconds, one.seconds, rise, one.error, one.padded)
