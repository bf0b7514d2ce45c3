"""Phantom figures: drawn by arithmetic from a seed, so that what they show is known and nothing needs downloading.

A phantom imitates one of five kinds of biomedical image and holds two findings, drawn independently of each other:
a large one (none, left or right), which any resolution shows, and a small lesion (smooth or speckled), whose nature only
the full resolution shows: both kinds have the same total brightness, centre and spread.  The gap between one scale and
three is therefore there by construction.  It demonstrates the mechanism, not clinical value.

"Left" and "right" are sides of the picture, never of a patient.
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medvlm_cli.core.phantom_draw import PAINTERS, SIDE, lesion_profile

MODALITIES = tuple(PAINTERS)
AREAS = ("none", "left", "none", "right")
"""Where the large finding is: absent half the time, else left as often as right."""
LESIONS = ("smooth", "speckled")
DECK = len(MODALITIES) * len(AREAS) * len(LESIONS)
"""Every run of this many figures holds every combination once, in an order of its own."""
STREAMS = ("figures", "phantom-vqa", "tower")
"""Figures of different streams share no random number: what is asked about was never trained on."""

NAMES = {"ct": "CT", "mri": "MRI", "chest_xray": "X-ray", "histology": "histology", "gross": "gross photograph"}
"""What each kind of image is called in an answer."""
LARGE = {
    "ct": "opacity", "chest_xray": "opacity", "mri": "hyperintensity", "histology": "infiltrate", "gross": "haemorrhage"
}  # fmt: skip
"""What the large finding is called."""

_ZONES = {  # centre and half width of where the small lesion may lie, and whether it is mirrored to the other side
    "ct": (0.43, -0.02, 0.17, 0.30, True),
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


_SHOWN = {
    "ct": ("Axial CT of the chest.", "Chest CT in the axial plane.", "CT image of the thorax."),
    "mri": ("Axial MRI of the brain.", "Brain MRI in the axial plane.", "MRI image of the head."),
    "chest_xray": ("Frontal chest X-ray.", "X-ray of the chest, frontal view.", "Chest X-ray image."),
    "histology": ("Histology of a tissue section.", "Histology image, H&E stain.", "Tissue histology, H&E stain."),
    "gross": ("Gross photograph of an organ.", "Gross photograph of the cut organ.", "Gross photograph, whole specimen."),
}
_PRESENT = (
    "The {large} is on the {area}.",
    "There is {a} {large} on the {area}.",
    "{A} {large} is seen on the {area}.",
)
_ABSENT = ("No {large} is seen.", "There is no {large}.", "No {large} is present.")
_SMALL = (
    "The small lesion is {lesion}.",
    "There is a {lesion} small lesion.",
    "A small lesion is present, which is {lesion}.",
)
_CITED = (
    ("As shown in {label}, the small lesion was {lesion}.", "The small lesion was {lesion} ({label})."),
    ("{label} shows that the {large} was on the {area}.", "The {large} was on the {area} ({label})."),
    ("{label} shows no {large}.", "There was no {large} ({label})."),
    ("{label} is {a_name}.", "We obtained {a_name} ({label})."),
)


def _fill(phantom: Phantom, label: str = "") -> dict[str, str]:
    large, name = LARGE[phantom.modality], NAMES[phantom.modality]
    article = "an" if large[0] in "aeio" else "a"
    return {
        "large": large, "a": article, "A": article.capitalize(), "area": phantom.area, "lesion": phantom.lesion,
        "label": label, "a_name": f"an {name}" if name in ("MRI", "X-ray") else f"a {name}",
    }  # fmt: skip


def caption(phantom: Phantom) -> str:
    """Three sentences: what is shown, the large finding, the small lesion; the wording and the order vary."""
    rng = generator(phantom.stream, phantom.seed, phantom.index, 1)
    large = _ABSENT if phantom.area == "none" else _PRESENT
    told = [large[rng.integers(len(large))], _SMALL[rng.integers(len(_SMALL))]]
    shown = _SHOWN[phantom.modality]
    told = told[::-1] if rng.random() < 0.5 else told
    return " ".join([shown[rng.integers(len(shown))], *told]).format(**_fill(phantom))


def mentions(phantom: Phantom, label: str) -> list[str]:
    """One to three sentences of a text that cites the figure as ``label``, each on another finding."""
    rng = generator(phantom.stream, phantom.seed, phantom.index, 4)
    kinds = [_CITED[0], _CITED[2] if phantom.area == "none" else _CITED[1], _CITED[3]]
    chosen = rng.permutation(3)[: rng.integers(1, 4)]
    return [kinds[kind][rng.integers(2)].format(**_fill(phantom, label)) for kind in chosen]


def tower_pairs(seed: int, figures: int) -> Iterator[tuple[np.ndarray, str]]:
    """What the tiny tower is trained on: pieces of figures of its own stream, and what each piece shows.

    Yields:
        ``(32, 32, 3)`` uint8, a figure shrunk to 32, 64 or 96 pixels and cut, and its caption.  Each figure gives its
        overview, its small lesion at two and three times, and one other place at three times.
    """
    for index in range(figures):
        phantom = draw("tower", seed, index)
        rng = generator("tower", seed, index, 3)
        words = _fill(phantom)
        large = "no {large}" if phantom.area == "none" else "{large} {area}"
        whole = f"{NAMES[phantom.modality]}, {large}, {{lesion}} small lesion".format(**words)
        yield _shrunk(phantom.image, 32), whole
        for scale in (2, 3, 3):
            image = _shrunk(phantom.image, 32 * scale)
            at = np.array(phantom.lesion_at) * (32 * scale / SIDE) - rng.uniform(5, 27, 2)
            left, top = np.clip(at.round().astype(int), 0, 32 * (scale - 1))
            yield image[top : top + 32, left : left + 32], f"{NAMES[phantom.modality]}, {phantom.lesion} small lesion"


def _shrunk(image: np.ndarray, side: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((side, side), Image.Resampling.BICUBIC))
