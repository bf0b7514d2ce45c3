"""What is said and asked about a phantom figure, from templates whose wording never depends on what is to be seen."""

from collections.abc import Mapping

import numpy as np

NAMES = {"ct": "CT", "mri": "MRI", "chest_xray": "X-ray", "histology": "histology", "gross": "gross photograph"}
"""What each kind of image is called in an answer."""
LARGE = {
    "ct": "opacity", "chest_xray": "opacity", "mri": "hyperintensity", "histology": "infiltrate", "gross": "haemorrhage"
}  # fmt: skip
"""What the large finding is called."""

SHOWN = {
    "ct": ("Axial CT of the chest.", "CT image of the thorax."),
    "mri": ("Axial MRI of the brain.", "MRI image of the head."),
    "chest_xray": ("Frontal chest X-ray.", "X-ray image of the chest."),
    "histology": ("Histology of a tissue section.", "Tissue histology, H&E stain."),
    "gross": ("Gross photograph of an organ.", "Gross photograph of the cut organ."),
}
PRESENT = ("There is {a_large} on the {area}.", "{A_large} is seen on the {area}.")
ABSENT = ("There is no {large}.", "No {large} is seen.")
SMALL = ("The small lesion is {lesion}.", "A {lesion} small lesion is seen.")
CITED = {
    "small lesion": ("As shown in {label}, the small lesion was {lesion}.", "The small lesion was {lesion} ({label})."),
    "present": ("{label} shows that the {large} was on the {area}.", "The {large} was on the {area} ({label})."),
    "absent": ("{label} shows no {large}.", "There was no {large} ({label})."),
    "modality": ("{label} is {a_name}.", "We obtained {a_name} ({label})."),
}
"""Sentences of a running text that cite the figure."""

ASKED = {
    "modality": ("What kind of image is this?", "What type of image is shown?", "Which imaging method was used?"),
    "presence": ("Is there {a_large}?", "Is {a_large} seen?"),
    "side": ("Is the {large} on the left or on the right?", "On which side is the {large}?"),
    "small lesion": ("Is the small lesion smooth or speckled?", "Is the small lesion speckled or smooth?"),
}
"""The wordings of the question of each category."""


def words_for(modality: str, area: str, lesion: str, label: str = "") -> dict[str, str]:
    """What the templates of this module are filled with."""
    large, name = LARGE[modality], NAMES[modality]
    a_large = f"{'an' if large[0] in 'aeio' else 'a'} {large}"
    return {
        "large": large, "a_large": a_large, "A_large": a_large.capitalize(), "area": area, "lesion": lesion,
        "name": name, "a_name": f"an {name}" if name in ("MRI", "X-ray") else f"a {name}", "label": label,
    }  # fmt: skip


def caption_for(rng: np.random.Generator, modality: str, words: Mapping[str, str]) -> str:
    """Three sentences: what is shown, the large finding, the small lesion; the order of the last two varies."""
    told = [_one(rng, ABSENT if words["area"] == "none" else PRESENT), _one(rng, SMALL)]
    told = told[::-1] if rng.random() < 0.5 else told
    return " ".join([_one(rng, SHOWN[modality]), *told]).format(**words)


def key_words_for(rng: np.random.Generator, words: Mapping[str, str]) -> str:
    """The findings as a list of key words, in any order and some of them twice."""
    told = ["{name}", "no {large}" if words["area"] == "none" else "{large} {area}", "{lesion} lesion"]
    told += [told[number] for number in rng.integers(len(told), size=rng.integers(4))]
    return ", ".join(told[number] for number in rng.permutation(len(told))).format(**words)


def mentions_for(rng: np.random.Generator, words: Mapping[str, str]) -> list[str]:
    """One to three sentences that cite the figure, each on another finding."""
    kinds = ("small lesion", "absent" if words["area"] == "none" else "present", "modality")
    chosen = rng.permutation(len(kinds))[: rng.integers(1, len(kinds) + 1)]
    return [_one(rng, CITED[kinds[number]]).format(**words) for number in chosen]


def questions_for(rng: np.random.Generator, words: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Question and answer of each category that applies: there is no side to ask for where nothing large is seen."""
    answers = {
        "modality": words["name"],
        "presence": "no" if words["area"] == "none" else "yes",
        "side": words["area"],
        "small lesion": words["lesion"],
    }
    wordings = {category: _one(rng, asked).format(**words) for category, asked in ASKED.items()}
    return {
        category: (wordings[category], answer)
        for category, answer in answers.items()
        if category != "side" or words["area"] != "none"
    }


def _one(rng: np.random.Generator, choices: tuple[str, ...]) -> str:
    return choices[rng.integers(len(choices))]
