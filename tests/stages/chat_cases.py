"""Images and answers that the tests of ``chat`` share."""

import numpy as np
from PIL import Image

from medvlm_cli.core.config import ChatConfig
from medvlm_cli.sources.opening import open_image

CONFIG = ChatConfig(max_new_tokens=8)


def noise(path, seed):
    """An image file of 50 x 30 pixels of noise."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (30, 50, 3), np.uint8)).save(path)
    return path


def opened(folder, *seeds):
    """Images of noise, opened."""
    return [open_image(noise(folder / f"{seed}.png", seed)) for seed in seeds]


def said(pieces):
    """A whole answer."""
    return "".join(pieces).strip()
