"""Questions about phantom figures that no training run ever sees; what a figure shows is known, because we drew it.

Categories: ``modality`` (open), ``presence`` of the large finding (closed), its ``side`` (closed) and ``small lesion``
(closed): whether the lesion is smooth or speckled, which only the full resolution shows.  Over every 40 figures each
answer is exactly as common as its rivals, and the wording of a question depends on the figure's index alone, so a
question gives nothing of its answer away.
"""

from medvlm_cli.core.arrow import Harvest
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.phantom import draw, png, questions

BENCHMARK = "phantom-vqa"
CHOICES = {"modality": [], "presence": ["yes", "no"], "side": ["left", "right"], "small lesion": ["smooth", "speckled"]}
"""The named choices of each category; open questions have none."""


def keys(config: FetchConfig) -> list[str]:
    """The indices of ``config.questions`` figures, in order; each has three or four questions."""
    return [str(index) for index in range(config.questions)]


def harvest(key: str, config: FetchConfig) -> Harvest:
    """Draw a figure of the benchmark's own stream, and ask one question of each category that applies."""
    phantom = draw(BENCHMARK, config.seed, int(key))
    image = {"bytes": png(phantom), "path": f"{phantom.figure_id}.png"}
    rows = [
        {
            "question_id": f"{phantom.figure_id}/{category.replace(' ', '-')}", "benchmark": BENCHMARK, "split": "test",
            "kind": "closed" if CHOICES[category] else "open", "image": image, "image_id": phantom.figure_id,
            "question": question, "choices": CHOICES[category], "answers": [answer], "category": category,
        }
        for category, (question, answer) in questions(phantom).items()
    ]  # fmt: skip
    return Harvest(len(rows), rows, [])
