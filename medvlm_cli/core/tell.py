"""How a stage reports progress without knowing who shows it."""

from collections.abc import Callable

Tell = Callable[[str, int, int | None], None]
"""Called with the name of the phase, how much is done, and of how much (None: not known)."""
