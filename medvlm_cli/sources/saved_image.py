"""An image of a saved conversation: what is kept of one that was opened, and how it is opened again."""

import dataclasses
from typing import TYPE_CHECKING, Any

from medvlm_cli.core.clean import clean
from medvlm_cli.core.errors import DataError
from medvlm_cli.sources.opening import Opened, View

if TYPE_CHECKING:
    from medvlm_cli.core.transcript import Figure

_VIEWED = ("window", "window_source", "frame", "frames", "region")


def facts_of(image: Opened) -> dict[str, Any]:
    """What may be told of an image, as JSON takes it; never its path."""
    values = {name: getattr(image, name) for name in ("name", "sha256", "width", "height", *_VIEWED)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def figure_of(image: Opened) -> "Figure":
    """What is kept of an image: everything but its path."""
    from medvlm_cli.core.transcript import Figure  # pyarrow loads here

    told = facts_of(image)
    facts = {name: told[name] for name in _VIEWED} | {"mode": image.mode, "burned_in": image.burned_in}
    facts |= {"view": dataclasses.asdict(image.view), "warnings": list(image.warnings)}
    return Figure(image.name, image.data, image.sha256, image.width, image.height, image.modality or "unknown", facts)


def opened_again(figure: "Figure") -> Opened:
    """An image as it was.  Its ``path`` is empty: the file that it came from is not known any more.

    Raises:
        DataError: what is stored of it is not what was saved.
    """
    facts = figure.facts
    try:
        window, region = facts["window"], facts["region"]
        return Opened(
            name=clean(figure.name),
            path="",
            view=View(**{name: str(value) for name, value in facts["view"].items()}),
            data=figure.data,
            sha256=figure.sha256,
            width=figure.width,
            height=figure.height,
            mode=str(facts["mode"]),
            window=None if window is None else (float(window[0]), float(window[1])),
            window_source=str(facts["window_source"]),
            frame=None if facts["frame"] is None else int(facts["frame"]),
            frames=int(facts["frames"]),
            region=None if region is None else (int(region[0]), int(region[1]), int(region[2]), int(region[3])),
            modality=None if figure.modality == "unknown" else figure.modality,
            burned_in=None if facts["burned_in"] is None else bool(facts["burned_in"]),
            warnings=tuple(clean(str(line)) for line in facts["warnings"]),
        )
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        what = f"the saved image {figure.name} is not described as medvlm does ({type(error).__name__}: {error})"
        raise DataError(what, "give a folder that /save made") from error
