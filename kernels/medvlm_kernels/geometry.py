"""How a tower cuts a figure: numbers that follow from the sizes of tile and patch and from the scales.

Legend: P pixels along the side of a tile, K tiles along one side of a figure at one scale.
"""

from dataclasses import dataclass

ALIGNED = 8
"""Columns of a patch matrix come in multiples of this: rows of 2-byte numbers then start at multiples of 16 bytes."""


@dataclass(frozen=True)
class Geometry:
    """Sizes of a tower that reads figures at several scales.

    ViT-H/14-378 at 378, 756 and 1134 pixels is ``Geometry(378, 14, (1, 2, 3))``: 14 tiles of 27 x 27 patches.

    Raises:
        ValueError: the patches of a tile leave pixels over, or the factors are not whole and positive.
    """

    tile: int
    """P, pixels."""
    patch: int
    """Pixels along the side of one patch."""
    factors: tuple[int, ...]
    """K of each scale, in the order of the features' channels."""
    antialias: bool = False
    """Average over the source pixels when reducing to a smaller scale, which S2 does not."""

    def __post_init__(self) -> None:
        if self.patch < 1 or self.tile < self.patch or self.tile % self.patch:
            raise ValueError(f"a tile of {self.tile} pixels does not divide into patches of {self.patch}")
        if not self.factors or any(factor < 1 for factor in self.factors):
            raise ValueError(f"factors {self.factors} are not whole and positive: give for example (1, 2, 3)")

    @property
    def side(self) -> int:
        """Patches along the side of a tile; 27."""
        return self.tile // self.patch

    @property
    def tokens(self) -> int:
        """Patches of a tile, and tokens of a figure; 729."""
        return self.side**2

    @property
    def size(self) -> int:
        """Pixels along the side of the figure that is read, the largest scale; 1134."""
        return self.tile * max(self.factors)

    @property
    def tiles(self) -> int:
        """Tiles of a figure, all scales together; 14."""
        return sum(factor**2 for factor in self.factors)

    @property
    def columns(self) -> int:
        """Numbers of one patch: 3 channels of patch x patch pixels; 588."""
        return 3 * self.patch**2

    @property
    def width(self) -> int:
        """``columns`` rounded up to a multiple of ``ALIGNED``; 592."""
        return -(-self.columns // ALIGNED) * ALIGNED
