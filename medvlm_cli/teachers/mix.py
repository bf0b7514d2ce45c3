"""Which teacher writes about which figure: decided by the figure's id alone, before anybody is asked.

With ``hash`` a figure's teacher depends on nothing but its id and the seed: not on order, shards, machines or what else
is fetched later, and raising a teacher's share only adds figures to it.  With ``quota`` every modality is divided
exactly, for tables; that hangs on the whole set of figures, so appending to it may move some.
"""

import hashlib
from collections.abc import Mapping, Sequence

from medvlm_cli.core.errors import ConfigError

TEACHERS = ("claude", "llama")
"""In the order in which they take the figures of smallest hash."""
PAPER = {"claude": 25.0, "llama": 75.0}
"""Percent; Llama3-Med, table 1."""


def parse(text: str) -> dict[str, float]:
    """Shares in percent from ``claude=25,llama=75``; teachers of no share are left out.

    Raises:
        ConfigError: another form, an unknown teacher, or shares that do not add up to 100.
    """
    shares: dict[str, float] = {}
    fix = "write --mix claude=25,llama=75, in percent"
    for part in text.split(","):
        name, equals, share = (piece.strip() for piece in part.partition("="))
        if name not in TEACHERS or not equals or name in shares:
            raise ConfigError(f"mix {text!r}: {part.strip()!r} is not teacher=percent", fix)
        try:
            shares[name] = float(share)
        except ValueError:
            raise ConfigError(f"mix {text!r}: {share!r} is not a number", fix) from None
    if not abs(sum(shares.values()) - 100) < 1e-6 or min(shares.values()) < 0:
        raise ConfigError(f"mix {text!r} adds up to {sum(shares.values()):g}, not 100", fix)
    return {name: shares[name] for name in TEACHERS if shares.get(name)}


def teacher_of(figure_id: str, shares: Mapping[str, float], seed: int) -> str:
    """The teacher of one figure; ``shares`` as ``parse`` gives them."""
    drawn = 100 * _number(figure_id, seed)
    edge = 0.0
    for name, share in shares.items():
        edge += share
        if drawn < edge:
            return name
    return list(shares)[-1]  # the last edge may be 99.99999999999999


def divide(figures: Sequence[tuple[str, str]], shares: Mapping[str, float], seed: int, mode: str) -> dict[str, str]:
    """The teacher of every figure.

    Args:
        figures: id and modality of each; ids are unique.
        shares: as ``parse`` gives them.
        seed: of the hash.
        mode: ``hash``, or ``quota``: of each modality every teacher's share is exact, rounded up or down.

    Returns:
        Figure id -> teacher, in the order of ``figures``.
    """
    if mode == "hash":
        return {figure_id: teacher_of(figure_id, shares, seed) for figure_id, _ in figures}
    groups: dict[str, list[str]] = {}
    for figure_id, modality in figures:
        groups.setdefault(modality, []).append(figure_id)
    teacher: dict[str, str] = {}
    for ids in groups.values():
        ordered = sorted(ids, key=lambda figure_id: (_number(figure_id, seed), figure_id))
        edge = 0.0
        for name, share in shares.items():
            first, edge = edge, edge + share
            for figure_id in ordered[round(len(ids) * first / 100) : round(len(ids) * edge / 100)]:
                teacher[figure_id] = name
    return {figure_id: teacher[figure_id] for figure_id, _ in figures}


def _number(figure_id: str, seed: int) -> float:
    """From 0 to 1, the same on every machine."""
    text = f"medvlm/mix/v1\0{seed}\0{figure_id}"
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8]) / 2**64
