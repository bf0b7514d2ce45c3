"""Phantom figures: drawn by arithmetic from a seed, so that what they show is known and nothing needs downloading.

A phantom imitates one of five kinds of biomedical image and holds two findings, drawn independently of each other:
a large one (none, left or right), which any resolution shows, and a small lesion (smooth or speckled), whose nature
shows at full resolution: both kinds have the same total brightness, centre and spread.  The gap between one scale and
three is therefore there by construction.  It demonstrates the mechanism, not clinical value.

"Left" and "right" are sides of the picture, never of a patient.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medvlm_cli.core.phantom_draw import PAINTERS, SIDE, lesion_profile
from medvlm_cli.core.phantom_words import caption_for, key_words_for, mentions_for, questions_for, words_for

MODALITIES = tuple(PAINTERS)
AREAS = ("none", "left", "none", "right")
"""Where the large finding is: absent half the time, else left as often as right."""
LESIONS = ("smooth", "speckled")
DECK = len(MODALITIES) * len(AREAS) * len(LESIONS)
"""Every run of this many figures holds every combination once, in an order of its own."""
STREAMS = ("figures", "phantom-vqa", "tower")
"""Figures of different streams share no random number: what is asked about was never trained on."""

_ZONES = {  # centre and half width of where the small lesion may lie, and whether it is mirrored to the other side
    "ct": (0.54, -0.02, 0.12, 0.26, True),
    "chest_xray": (0.48, -0.17, 0.13, 0.27, True),
    "mri": (0.35, 0.0, 0.06, 0.36, True),
    "histology": (0.0, 0.0, 0.78, 0.78, False),
    "gross": (0.0, -0.12, 0.50, 0.34, False),
}


@dataclass(frozen=True)
class Phantom:
    """One figure and everything that is true of it.

    ``image`` is ``(SIDE, SIDE, 3)`` uint8; ``lesion_at`` the centre of the small lesion in pixels, column then line.
    """

    stream: str
    seed: int
    index: int
    modality: str
    area: str
    lesion: str
    lesion_at: tuple[float, float]
    image: np.ndarray

    @property
    def figure_id(self) -> str:
        """Names the stream, the seed and the index, and nothing that is to be seen."""
        name = "phantom" if self.stream == "figures" else f"phantom-{self.stream.removeprefix('phantom-')}"
        return f"{name}-{self.seed}-{self.index:06d}"


def generator(stream: str, seed: int, index: int, purpose: int) -> np.random.Generator:
    """The random numbers of one figure for one purpose (0 drawing, 1 words, 2 questions, 3 crops)."""
    return np.random.default_rng([0x70686D, STREAMS.index(stream), seed, index, purpose])


def findings(stream: str, seed: int, index: int) -> tuple[str, str, str]:
    """Modality, place of the large finding and kind of the small lesion of a figure.

    They are dealt from a shuffled deck, so that over every ``DECK`` figures each combination comes exactly once.
    """
    order = generator(stream, seed, index // DECK, 9).permutation(DECK)
    card = int(order[index % DECK])
    card, lesion = divmod(card, len(LESIONS))
    modality, area = divmod(card, len(AREAS))
    return MODALITIES[modality], AREAS[area], LESIONS[lesion]


def draw(stream: str, seed: int, index: int) -> Phantom:
    """Draw one figure; the same three arguments give the same bytes."""
    modality, area, lesion = findings(stream, seed, index)
    rng = generator(stream, seed, index, 0)
    across, down, wide, high, mirrored = _ZONES[modality]
    angle, reach = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform())
    x, y = across + wide * reach * np.cos(angle), down + high * reach * np.sin(angle)
    if mirrored and rng.random() < 0.5:
        x = -x
    if modality == "histology" and area != "none" and (x < 0) == (area == "left"):
        y = np.copysign(max(abs(y), 0.6), y)  # clear of the dark infiltrate: a speck in it would be clipped to black
    profile = lesion_profile(rng, lesion, (x, y))
    image = np.clip(PAINTERS[modality](rng, area, profile) * 255 + 0.5, 0, 255).astype(np.uint8)
    at = ((x + 1) * SIDE / 2 - 0.5, (y + 1) * SIDE / 2 - 0.5)
    return Phantom(stream, seed, index, modality, area, lesion, at, image)


def png(phantom: Phantom) -> bytes:
    """The figure as a PNG file, grey where the kind of image is grey."""
    image = Image.fromarray(phantom.image)
    if phantom.modality in ("ct", "mri", "chest_xray"):
        image = image.convert("L")
    out = io.BytesIO()
    image.save(out, "PNG", compress_level=1)
    return out.getvalue()


def caption(phantom: Phantom) -> str:
    """What an author would write below the figure."""
    rng = generator(phantom.stream, phantom.seed, phantom.index, 1)
    return caption_for(rng, phantom.modality, words_for(phantom.modality, phantom.area, phantom.lesion))


def mentions(phantom: Phantom, label: str) -> list[str]:
    """One to three sentences of a running text that cite the figure as ``label``."""
    rng = generator(phantom.stream, phantom.seed, phantom.index, 4)
    return mentions_for(rng, words_for(phantom.modality, phantom.area, phantom.lesion, label))


def questions(phantom: Phantom) -> dict[str, tuple[str, str]]:
    """Category -> question and answer; the wording depends on the index alone, never on the answer."""
    rng = generator(phantom.stream, phantom.seed, phantom.index, 2)
    return questions_for(rng, words_for(phantom.modality, phantom.area, phantom.lesion))


def tower_pairs(seed: int, figures: int) -> Iterator[tuple[np.ndarray, str]]:
    """What the tiny tower is trained on: pieces of figures of its own stream, and what each piece shows.

    Yields:
        ``(32, 32, 3)`` uint8, a figure shrunk to 32, 64 or 96 pixels and cut, and its caption.  Each figure gives its
        overview twice, its small lesion once at two and thrice at three times.
    """
    for index in range(figures):
        phantom = draw("tower", seed, index)
        rng = generator("tower", seed, index, 3)
        words = words_for(phantom.modality, phantom.area, phantom.lesion)
        large = "no {large}" if phantom.area == "none" else "{large} {area}"
        sides = {scale: _shrunk(phantom.image, 32 * scale) for scale in (1, 2, 3)}
        for _ in range(2):
            yield sides[1], f"{{name}}, {large}, {{lesion}} small lesion".format(**words)
        for scale in (2, 3, 3, 3):
            at = np.array(phantom.lesion_at) * (32 * scale / SIDE) - rng.uniform(5, 27, 2)
            left, top = np.clip(at.round().astype(int), 0, 32 * (scale - 1))
            yield sides[scale][top : top + 32, left : left + 32], "{name}, {lesion} small lesion".format(**words)


def tower_texts(seed: int, figures: int) -> Iterator[tuple[str, str, dict[str, tuple[str, str]]]]:
    """What the tiny language model is trained on: key words, caption and questions of figures that are never drawn."""
    for index in range(figures):
        modality, area, lesion = findings("tower", seed, index)
        words = words_for(modality, area, lesion)
        rng = generator("tower", seed, index, 1)
        yield key_words_for(rng, words), caption_for(rng, modality, words), questions_for(rng, words)


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))


_PANEL, _GAP, _MARGIN, _HEAD, _FOOT = 384, 8, 32, 132, 120  # pixels of the specimen


def specimen(image: bytes, question: str, answer: str) -> Image.Image:
    """The picture that explains the demo: a figure, its 1 + 4 + 9 tiles of 32 pixels, a question and its answer.

    Every tile pixel is shown as a square, so one sees what the tower is given at each scale.
    """
    figure = Image.open(io.BytesIO(image)).convert("RGB")
    wide = 4 * _PANEL + 3 * _MARGIN + 3 * _GAP  # the gaps between tiles
    sheet = Image.new("RGB", (wide + 2 * _MARGIN, _HEAD + _PANEL + 2 * _GAP + _FOOT), "white")
    pen = ImageDraw.Draw(sheet)
    title, plain = (ImageFont.load_default(size) for size in (30, 22))
    pen.text((_MARGIN, 22), "What the model is given at one, two and three times its tower's size", "#111827", title)
    titles = ["the figure, 192 pixels", "1x: 32 pixels, 1 tile", "2x: 64 pixels, 4 tiles", "3x: 96 pixels, 9 tiles"]
    left = _MARGIN
    for scale, words in enumerate(titles):
        pen.text((left, _HEAD - 40), words, "#4b5563", plain)
        if scale == 0:
            sheet.paste(figure.resize((_PANEL, _PANEL), Image.Resampling.BICUBIC), (left, _HEAD))
        for number in range(scale * scale):
            line, column = divmod(number, scale)
            whole = Image.fromarray(_shrunk(np.asarray(figure), 32 * scale))
            tile = whole.crop((32 * column, 32 * line, 32 * column + 32, 32 * line + 32))
            side = _PANEL // scale
            place = (left + column * (side + _GAP), _HEAD + line * (side + _GAP))
            sheet.paste(tile.resize((side, side), Image.Resampling.NEAREST), place)
        left += _PANEL + _MARGIN + max(0, scale - 1) * _GAP
    foot = _HEAD + _PANEL + 2 * _GAP + 24
    pen.text((_MARGIN, foot), f"Q   {question}", "#111827", title)
    pen.text((_MARGIN, foot + 42), f"A   {answer}", "#0f766e", title)
    return sheet
