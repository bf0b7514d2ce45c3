"""How the phantom figures are drawn: five look-alikes of biomedical images, from arithmetic alone.

Each painter returns ``(SIDE, SIDE, 3)`` float32 values from 0 (black) to 1 (white), and is told where the large finding
and the small lesion go.  The painters keep strong edges away from the small lesion: with them a tower of three layers
cannot learn what the lesion is made of.

Coordinates: ``X`` and ``Y`` run from -1 (left, top) to 1 (right, bottom); a length of 1 is half the picture.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

SIDE = 192
"""Pixels along one side of a phantom: twice the 96 pixels of the tiny tower's finest scale."""

Field = np.ndarray
Rng = np.random.Generator
_AXIS = (np.arange(SIDE, dtype=np.float32) + 0.5) / (SIDE / 2) - 1
X, Y = np.meshgrid(_AXIS, _AXIS)
LESION_SIGMA = 4.6
"""Spread of the small lesion in pixels of the phantom: 2.3 at three times, 0.77 at once the tiny tower's input."""
SPECK_SIGMA = 1.2
SPECKS = 7


def oval(cx: float, cy: float, rx: float, ry: float, turn: float = 0.0, soft: float = 0.03) -> Field:
    """Coverage from 0 to 1 of an ellipse turned by ``turn`` radians, its edge ``soft`` wide."""
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    across, down = X - np.float32(cx), Y - np.float32(cy)
    u = (across * cos + down * sin) * np.float32(1 / rx)
    v = (down * cos - across * sin) * np.float32(1 / ry)
    radius = np.sqrt(u * u + v * v)
    return np.clip((1 - radius) * np.float32(min(rx, ry) / soft) + 0.5, 0, 1)


def haze(cx: float, cy: float, rx: float, ry: float) -> Field:
    """A Gaussian cloud of peak 1."""
    return np.exp(-(((X - np.float32(cx)) / np.float32(rx)) ** 2 + ((Y - np.float32(cy)) / np.float32(ry)) ** 2) / 2)


def over(base: Field, mask: Field, value: float | Field) -> Field:
    """Paint ``value`` on ``base`` where ``mask`` says."""
    return base + (value - base) * mask


@lru_cache(maxsize=32)  # the four clouds of each of the painters' eight powers
def _cloud(seed: int, power: float) -> Field:
    """A random field, mean 0 and deviation 1, its spectrum falling as ``1 / f ** power``; repeats after 256 pixels."""
    rng = np.random.default_rng([77, seed])
    fy, fx = np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(256)[None]
    falloff = np.maximum(np.hypot(fy, fx), 1 / 256) ** -power
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((256, 256))) * falloff)
    return np.pad(((field - field.mean()) / field.std()).astype(np.float32), (0, SIDE), mode="wrap")


def texture(rng: Rng, power: float) -> Field:
    """A random cut-out of one of four clouds; drawing a new cloud for every figure would cost most of its time."""
    field = _cloud(int(rng.integers(4)), power)
    top, left = rng.integers(0, 256, 2)
    field = field[top : top + SIDE, left : left + SIDE]
    return field[:, ::-1] if rng.random() < 0.5 else field


def lesion_profile(rng: Rng, kind: str, at: tuple[float, float]) -> Field:
    """The small lesion, of total brightness ``2 pi sigma ** 2`` whatever its kind, so that shrinking hides the kind.

    ``smooth`` is a Gaussian.  ``speckled`` is seven specks of about two pixels, laid out so that their centre and their
    spread are the Gaussian's.
    """
    x, y = (at[0] + 1) * SIDE / 2 - 0.5, (at[1] + 1) * SIDE / 2 - 0.5
    columns, lines = np.arange(SIDE, dtype=np.float32), np.arange(SIDE, dtype=np.float32)

    def bell(cx: float, cy: float, sigma: float) -> Field:
        across = np.exp(-((columns - np.float32(cx)) ** 2) / np.float32(2 * sigma**2))
        down = np.exp(-((lines - np.float32(cy)) ** 2) / np.float32(2 * sigma**2))
        return down[:, None] * across[None]

    if kind == "smooth":
        return bell(x, y, LESION_SIGMA)
    speck = SPECK_SIGMA
    turn = rng.uniform(0, 2 * np.pi)
    angles = turn + np.arange(SPECKS - 1) * 2 * np.pi / (SPECKS - 1) + rng.uniform(-0.2, 0.2, SPECKS - 1)
    reach = np.sqrt(2 * (LESION_SIGMA**2 - speck**2) * SPECKS / (SPECKS - 1)) * rng.uniform(0.85, 1.15, SPECKS - 1)
    places = np.stack([np.append(reach * np.cos(angles), 0), np.append(reach * np.sin(angles), 0)])
    places -= places.mean(1, keepdims=True)
    peak = LESION_SIGMA**2 / (SPECKS * speck**2)
    return np.sum([bell(x + dx, y + dy, speck) for dx, dy in places.T], axis=0) * np.float32(peak)


def _grey(field: Field) -> Field:
    return np.repeat(field[..., None], 3, axis=2)


def _side(rng: Rng, area: str, left: tuple[float, float]) -> tuple[float, float]:
    """The centre of the large finding: ``left``, or its mirror image, shaken a little."""
    sign = -1 if area == "left" else 1
    return sign * abs(left[0]) + rng.uniform(-0.04, 0.04), left[1] + rng.uniform(-0.1, 0.1)


def paint_ct(rng: Rng, area: str, lesion: Field) -> Field:
    """An axial slice of the chest in a wide window, seen from the feet."""
    wide, high = rng.uniform(0.86, 0.94), rng.uniform(0.62, 0.7)
    mirror = rng.uniform(-0.02, 0.02)
    image = np.full((SIDE, SIDE), 0.02, np.float32)
    image = over(image, oval(mirror, 0.93, 1.25, 0.24, soft=0.02) - oval(mirror, 0.96, 1.25, 0.24, soft=0.02), 0.30)
    image = over(image, oval(mirror, 0, wide, high), 0.34)
    image = over(image, oval(mirror, 0, wide - 0.07, high - 0.06), 0.52)
    turn = np.arctan2(Y / high, X / wide)
    radius = np.hypot(X / (wide - 0.14), Y / (high - 0.105))
    ribs = np.clip(1 - np.abs(radius - 1) * 22, 0, 1) * np.clip(np.sin(11 * turn + rng.uniform(0, 6)) * 4 - 0.8, 0, 1)
    image = over(image, ribs, 0.88)
    lungs = np.maximum(oval(-0.43, -0.02, 0.33, high - 0.2, 0.10), oval(0.43, -0.02, 0.33, high - 0.2, -0.10))
    vessels = np.clip(texture(rng, 1.0), 0, 3) * 0.035
    breath = 0.13 + vessels + 0.05 * (Y + 0.5)
    if area != "none":
        breath = breath + 0.34 * haze(*_side(rng, area, (-0.44, 0.02)), 0.17, 0.2)
    breath = np.clip(breath, 0, 0.62)
    image = over(image, lungs, breath)
    image = over(image, oval(0.09, -0.12, 0.27, 0.26, 0.5), 0.60)
    image = over(image, oval(0.03, -0.10, 0.13, 0.12), 0.66)
    image = over(image, oval(0.14, 0.22, 0.075, 0.075), 0.68)
    image = over(image, np.maximum(oval(-0.08, 0.13, 0.05, 0.04), oval(0.04, 0.12, 0.045, 0.04)), 0.06)
    image = over(image, oval(0, 0.38, 0.135, 0.115), 0.90)
    image = over(image, np.maximum(oval(-0.12, 0.5, 0.1, 0.03, -0.5), oval(0.12, 0.5, 0.1, 0.03, 0.5)), 0.86)
    image = over(image, oval(0, 0.51, 0.06, 0.05), 0.48)
    image = over(image, oval(0, 0.585, 0.025, 0.06), 0.86)
    image = over(image, oval(0, 0.12 - high, 0.12, 0.03), 0.86)
    return _grey(image + lesion * 0.23 + _noise(rng, 0.010))


def paint_xray(rng: Rng, area: str, lesion: Field) -> Field:
    """A frontal chest film."""
    image = np.full((SIDE, SIDE), 0.05, np.float32)
    shoulder = -0.86 + 0.36 * np.clip(np.abs(X) - 0.22, 0, 1) ** 1.3
    torso = np.clip((Y - shoulder) * 12, 0, 1) * np.clip((0.93 - np.abs(X) + 0.03 * Y) * 14, 0, 1)
    neck = np.clip((0.2 - np.abs(X)) * 14, 0, 1)
    image = over(image, np.maximum(torso, neck), 0.50 + 0.10 * Y)
    dome = np.where(X < 0, 0.46 + 0.9 * (X + 0.42) ** 2, 0.52 + 0.9 * (X - 0.42) ** 2) + rng.uniform(-0.03, 0.03)
    above = np.clip((dome - Y) * 16, 0, 1)
    lungs = np.maximum(oval(-0.45, 0.03, 0.34, 0.80, 0.09, 0.05), oval(0.45, 0.03, 0.34, 0.80, -0.09, 0.05)) * above
    air = 0.20 + 0.02 * texture(rng, 1.3) + 0.10 * np.exp(-((np.abs(X) - 0.17) ** 2) / 0.02 - (Y - 0.05) ** 2 / 0.06)
    if area != "none":
        air = air + 0.30 * haze(*_side(rng, area, (-0.46, 0.08)), 0.16, 0.19)
    image = over(image, lungs, np.clip(air, 0, 0.62))
    arch = Y - 0.10 + 0.55 * (np.abs(X) - 0.28) ** 2 - 0.35 * np.abs(X)
    wave = np.cos((arch + rng.uniform(-0.04, 0.04)) * (2 * np.pi / 0.19))
    cage = np.clip((0.84 - np.abs(X)) * 8, 0, 1) * np.clip((np.abs(X) - 0.10) * 8, 0, 1) * np.clip((0.62 - Y) * 5, 0, 1)
    cage = cage * np.clip((Y + 0.66) * 8, 0, 1)
    image = image + 0.075 * np.clip(wave * 1.6, -0.3, 1) * cage
    image = over(image, oval(0.0, -0.1, 0.135, 0.95, soft=0.05), 0.62)
    image = over(image, oval(0.15, 0.26, 0.34, 0.27, 0.45, 0.05), 0.70)
    image = over(image, oval(0.10, -0.28, 0.11, 0.10, soft=0.05), 0.66)
    image = over(image, 1 - np.maximum(above, np.abs(X) > 0.93), 0.74 + 0.06 * Y)
    bones = np.cos(Y * (2 * np.pi / 0.15)) * np.clip((0.085 - np.abs(X)) * 22, 0, 1)
    image = image + 0.035 * bones
    image = over(image, np.clip((0.055 - np.abs(X)) * 22, 0, 1) * np.clip((-0.22 - Y) * 9, 0, 1), 0.40)
    clavicle = Y + 0.60 + 0.16 * np.abs(X) - 0.10 * np.sin(np.abs(X) * 5)
    collar = np.clip(1 - np.abs(clavicle) * 26, 0, 1) * ((np.abs(X) > 0.09) & (np.abs(X) < 0.78))
    image = image + 0.17 * collar
    return _grey(image + lesion * 0.23 + _noise(rng, 0.010))


def paint_mri(rng: Rng, area: str, lesion: Field) -> Field:
    """An axial slice of the brain: dark fluid, grey cortex brighter than white matter (FLAIR-like)."""
    wide, high = rng.uniform(0.66, 0.72), rng.uniform(0.80, 0.86)
    image = np.full((SIDE, SIDE), 0.02, np.float32)
    image = over(image, oval(0, 0, wide + 0.16, high + 0.13), 0.58)
    image = over(image, oval(0, 0, wide + 0.09, high + 0.06), 0.10)
    turn = np.arctan2(Y / high, X / wide)
    folds = texture(rng, 2.0)
    radius = np.hypot(X / wide, Y / high) + 0.012 * folds
    brain = np.clip((1 - radius) * 26, 0, 1)
    image = over(image, brain, 0.53)
    depth = 0.80 + 0.085 * np.sin(13 * turn + 2.2 * folds) + 0.02 * np.sin(29 * turn)
    white = np.clip((depth - radius) * 16, 0, 1) * np.clip((np.abs(X) - 0.035 - 0.02 * folds) * 14, 0, 1)
    inside = 0.36 + 0.012 * folds
    if area != "none":
        inside = inside + 0.28 * haze(*_side(rng, area, (-0.36, -0.02)), 0.13, 0.17)
    image = over(image, white, inside)
    sulci = np.clip(1 - np.abs(np.sin(6.5 * turn + 1.1 * folds + 0.8)) * 9, 0, 1) * np.clip((radius - 0.78) * 9, 0, 1)
    image = over(image, sulci * brain, 0.14)
    image = over(image, np.clip((0.016 - np.abs(X)) * 60, 0, 1) * (np.abs(Y) > 0.34) * brain, 0.14)
    image = over(image, np.maximum(oval(-0.17, 0.13, 0.07, 0.09, 0.3), oval(0.17, 0.13, 0.07, 0.09, -0.3)), 0.50)
    horns = np.maximum(oval(-0.10, -0.14, 0.045, 0.17, -0.38), oval(0.10, -0.14, 0.045, 0.17, 0.38))
    horns = np.maximum(horns, np.maximum(oval(-0.16, 0.33, 0.05, 0.15, 0.45), oval(0.16, 0.33, 0.05, 0.15, -0.45)))
    image = over(image, np.maximum(horns, oval(0, 0.1, 0.02, 0.13)), 0.07)
    return _grey(image + lesion * 0.23 + _noise(rng, 0.010))


def paint_histology(rng: Rng, area: str, lesion: Field) -> Field:
    """A section in haematoxylin and eosin: pink stroma, glands with purple nuclei around a white lumen."""
    fibre = texture(rng, 1.6)
    pink = np.array([0.93, 0.76, 0.85], np.float32) + np.float32(0.022) * fibre[..., None]
    sheet = Image.new("RGBA", (2 * SIDE, 2 * SIDE), (0, 0, 0, 0))
    pen = ImageDraw.Draw(sheet)
    for cx, cy, size in _gland_places(rng, lesion):
        _draw_gland(pen, rng, cx, cy, size)
    _draw_nuclei(pen, rng, rng.uniform(0, 2 * SIDE, (36, 2)), lesion, (176, 132, 190, 220))
    drawn = np.asarray(sheet.resize((SIDE, SIDE), Image.Resampling.BOX), np.float32) / 255
    image = pink * (1 - drawn[..., 3:]) + drawn[..., :3] * drawn[..., 3:]
    if area != "none":
        cloud = haze(*_side(rng, area, (-0.5, 0.0)), 0.22, 0.26)
        grain = np.clip(cloud * (0.62 + 0.10 * texture(rng, 0.6)), 0, 0.8)
        image = over(image, grain[..., None], np.array([0.36, 0.22, 0.52], np.float32))
    stain = lesion[..., None] * np.array([0.12, 0.26, 0.38], np.float32)  # brown pigment: a colour no cell has
    return image - stain + _noise(rng, 0.010)[..., None]


def _gland_places(rng: Rng, lesion: Field) -> list[tuple[float, float, float]]:
    """Centres and radii, in pixels of the doubled sheet, of glands that touch neither each other nor the lesion."""
    spot_y, spot_x = np.unravel_index(int(lesion.argmax()), lesion.shape)
    taken = [(float(2 * spot_x), float(2 * spot_y), 40.0)]
    for cx, cy, size in zip(*rng.uniform(0, 2 * SIDE, (2, 14)).tolist(), rng.uniform(44, 66, 14).tolist(), strict=True):
        if all(math.hypot(cx - x, cy - y) > size + s + 4 for x, y, s in taken):
            taken.append((cx, cy, size))
    return taken[1:]


def _draw_gland(pen: ImageDraw.ImageDraw, rng: Rng, cx: float, cy: float, size: float) -> None:
    """A ring of cells: pale cytoplasm, a row of dark nuclei at its outer edge, a white lumen."""
    angles = np.linspace(0, 2 * np.pi, 36)
    wobble = 1 + 0.10 * np.sin(2 * angles + rng.uniform(0, 6)) + 0.05 * np.sin(3 * angles + rng.uniform(0, 6))
    rim = np.stack([cx + size * wobble * np.cos(angles), cy + size * wobble * np.sin(angles)], 1)
    centre = np.array([cx, cy])
    pen.polygon([*map(tuple, rim)], fill=(158, 112, 184, 255))
    pen.polygon([*map(tuple, centre + (rim - centre) * 0.70)], fill=(226, 176, 212, 255))
    pen.polygon([*map(tuple, centre + (rim - centre) * 0.40)], fill=(250, 244, 248, 255))
    cells = int(size * 0.5)
    for angle in np.arange(cells) * 2 * np.pi / cells + rng.uniform(0, 1):
        reach = size * (0.84 + 0.03 * np.sin(7 * angle))
        x, y = cx + reach * np.cos(angle), cy + reach * np.sin(angle)
        pen.ellipse([x - 5.5, y - 5.5, x + 5.5, y + 5.5], fill=(132, 86, 168, 255))


def _draw_nuclei(
    pen: ImageDraw.ImageDraw, rng: Rng, places: np.ndarray, lesion: Field, ink: tuple[int, int, int, int]
) -> None:
    """Spindle nuclei of the stroma, pixels of the doubled sheet; none beside the small lesion."""
    spot_y, spot_x = np.unravel_index(int(lesion.argmax()), lesion.shape)
    for x, y in places:
        if np.hypot(x - 2 * spot_x, y - 2 * spot_y) > 48:
            wide = rng.uniform(3, 7)
            pen.ellipse([x - wide, y - 2.5, x + wide, y + 2.5], fill=ink)


def paint_gross(rng: Rng, area: str, lesion: Field) -> Field:
    """A sliced organ on a blue cloth, with a ruler below."""
    cloth = np.array([0.16, 0.36, 0.56], np.float32) + np.float32(0.012) * texture(rng, 0.8)[..., None]
    turn = np.arctan2(Y + 0.12, X)
    lobes = 1 + 0.05 * np.sin(3 * turn + rng.uniform(0, 6)) + 0.03 * np.sin(5 * turn + rng.uniform(0, 6))
    radius = np.hypot(X / rng.uniform(0.80, 0.86), (Y + 0.12) / rng.uniform(0.60, 0.68)) / lobes
    shade = np.clip((1.03 - np.hypot(X / 0.86 - 0.03, (Y + 0.06) / 0.68) / lobes) * 10, 0, 1)
    image = over(cloth, 0.45 * shade[..., None], 0.02)
    flesh = np.array([0.52, 0.25, 0.20], np.float32) + np.float32(0.022) * texture(rng, 1.4)[..., None]
    if area != "none":
        stain = haze(*_side(rng, area, (-0.40, -0.10)), 0.18, 0.2)[..., None]
        flesh = over(flesh, 0.88 * stain, np.array([0.13, 0.03, 0.06], np.float32))
    body = np.clip((1 - radius) * 24, 0, 1)
    rim = np.clip(1 - np.abs(radius - 0.965) * 24, 0, 1)
    image = over(image, body[..., None], flesh)
    image = over(image, 0.55 * rim[..., None], np.array([0.70, 0.42, 0.34], np.float32))
    image = image + lesion[..., None] * np.array([0.19, 0.21, 0.19], np.float32)
    return _ruler(image) + _noise(rng, 0.010)[..., None]


def _ruler(image: Field) -> Field:
    """A pale ruler along the lower edge, a tick every 8 pixels and a longer one every 40."""
    top = SIDE - 26
    image[top : SIDE - 6, 10 : SIDE - 10] = (0.90, 0.89, 0.82)
    for number, column in enumerate(range(16, SIDE - 12, 8)):
        image[top : top + (11 if number % 5 == 0 else 6), column] = 0.12
    return image


def _noise(rng: Rng, deviation: float) -> Field:
    return texture(rng, 0.0) * np.float32(deviation)


PAINTERS: dict[str, Callable[[Rng, str, Field], Field]] = {
    "ct": paint_ct,
    "mri": paint_mri,
    "chest_xray": paint_xray,
    "histology": paint_histology,
    "gross": paint_gross,
}
