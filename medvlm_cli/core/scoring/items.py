"""One question as every protocol scores it, wherever it comes from."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """A question with its gold answers."""

    question_id: str
    """Unique among the items that are scored together."""
    image_id: str
    """Questions of one image are drawn together by the bootstrap; the question's own id where no image is known."""
    kind: str
    """``open`` or ``closed``."""
    question: str
    golds: tuple[str, ...]
    """One or more right answers; the published protocols, which know one, take the first."""
    choices: tuple[str, ...] = ()
    """What a closed question lets one choose from, where that is known."""
    category: str = ""
    answer_type: str = ""
    """Word for word what a reference file says; the published script silently skips all but ``OPEN`` and ``CLOSED``."""
