"""A metric of a score sheet as people read it: in percent, to two places."""

from collections.abc import Mapping
from typing import Any

Cell = Mapping[str, Any] | None
"""``{value, low, high, rows, images}`` from 0 to 1; None where no row has the metric."""


def percent(cell: Cell) -> float | None:
    """The value."""
    return round(100 * cell["value"], 2) if cell else None


def span(cell: Cell) -> str | None:
    """The interval, ``27.01 to 35.44``."""
    return f"{100 * cell['low']:.2f} to {100 * cell['high']:.2f}" if cell else None
