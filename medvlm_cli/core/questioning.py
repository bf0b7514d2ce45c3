"""How a question of a benchmark is put to a model: presets by name, so that a score can say what was asked."""

import hashlib
import json
from dataclasses import asdict, dataclass

QUESTION = "{question}"
"""What stands for the benchmark's own words."""


@dataclass(frozen=True)
class Prompt:
    """The user's words around a question, by its kind."""

    open: str
    closed: str

    def text(self, question: str, kind: str) -> str:
        """What the user says; ``kind`` is open or closed."""
        return (self.closed if kind == "closed" else self.open).replace(QUESTION, question)


PROMPTS = {
    "llama3med": Prompt(QUESTION, QUESTION),
    "llavamed-options": Prompt(QUESTION, QUESTION + " Please choose from the following two options: [yes, no]"),
    "short": Prompt(*2 * [QUESTION + "\nReply with one word or a short phrase."]),
}
"""``llama3med`` asks the question as it stands.  ``llavamed-options`` ends every closed question, of yes and no or not,
in the words that the prompts of LLaVA-Med's published answers to VQA-RAD end in.  ``short`` asks for a short answer."""


def turns(question: str, kind: str, prompt: str, system: str) -> list[dict[str, str]]:
    """The turns that ask a question.

    Args:
        question: the benchmark's words.
        kind: open or closed.
        prompt: a name of ``PROMPTS``.
        system: text of a system turn; empty for none.
    """
    before = [{"role": "system", "text": system}] if system else []
    return [*before, {"role": "user", "text": PROMPTS[prompt].text(question, kind)}]


def told(prompt: str, system: str) -> dict[str, str]:
    """Name, words and SHA-256 of what is put around every question, for the record of a run."""
    words = asdict(PROMPTS[prompt]) | {"system": system}
    return {"preset": prompt, **words, "sha256": hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()}
