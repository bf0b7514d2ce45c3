"""How a stage reports progress without knowing who shows it."""

from collections.abc import Callable, Mapping

Tell = Callable[[str, int, int | None], None]
"""Called with the name of the phase, how much is done, and of how much (None: not known).

One that has room for more has a method ``figures`` besides, see ``show``.
"""


def show(tell: Tell, figures: Mapping[str, float | None]) -> None:
    """Show figures of the phase under way, by name, where there is room for them; None is a figure not known."""
    room = getattr(tell, "figures", None)
    if room is not None:
        room(figures)
