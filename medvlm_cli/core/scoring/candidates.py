"""The nearest of thousands of candidate answers, by an index from words to the candidates that hold them."""

from collections.abc import Sequence

import numpy as np


class Candidates:
    """Candidate answers, each as its words between blanks."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index ``texts``, already normalised; of equal ones the first counts.

        Raises:
            ValueError: there is none.
        """
        if not texts:
            raise ValueError("no candidate: give one or more")
        self.texts = list(dict.fromkeys(texts))
        holders: dict[str, list[int]] = {}
        for number, text in enumerate(self.texts):
            for word in text.split():  # a word that a candidate holds twice counts twice
                holders.setdefault(word, []).append(number)
        self._holders = {word: np.array(numbers) for word, numbers in holders.items()}
        self._lengths = np.array([max(1, len(text.split())) for text in self.texts], dtype=np.float64)

    def nearest(self, said: str) -> str:
        """The candidate with the largest share of its words in ``said``; on ties the first.

        One without words has a share of 0, and where no candidate shares a word the first is the nearest.
        """
        found = [self._holders[word] for word in set(said.split()) if word in self._holders]
        if not found:
            return self.texts[0]
        counts = np.bincount(np.concatenate(found), minlength=len(self.texts))
        return self.texts[int(np.argmax(counts / self._lengths))]
