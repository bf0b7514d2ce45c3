"""Small copies of images, for what does not need the whole."""

from PIL import Image

_WIDE = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


def sampled(image: Image.Image, side: int, mode: str) -> Image.Image:
    """A copy in ``mode`` whose longer side is ``side`` pixels or less; transparent parts become white paper.

    Single pixels are taken, nothing is averaged: the time does not grow with the image, and white stays white.

    Args:
        image: of any mode; of those with more than 8 bits the range in use becomes 0 to 255.
        side: pixels.
        mode: ``L`` or ``RGB``.
    """
    longest = max(image.size)
    if longest > side:
        size = [max(1, round(length * side / longest)) for length in image.size]
        image = image.resize(size, Image.Resampling.NEAREST)
    if image.mode in _WIDE:
        image = image.convert("F")
        low, high = (float(level) for level in image.getextrema())  # type: ignore[arg-type]  # of one band: two numbers
        scale = 255 / (high - low) if high > low else 0.0
        image = image.point(lambda level: level * scale - low * scale).convert("L")
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert(mode)
