"""Images drawn for the tests: photographs, grids of them, charts."""

import numpy as np
from PIL import Image, ImageDraw


def photograph(height=455, width=600, seed=0, tint=(1.0, 1.0, 1.0)):
    """Smooth waves and noise from edge to edge, grey unless tinted: as dense and as rich in tones as a scan."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(seed).normal(0, 12, (height, width))
    grey = (120 + 60 * np.sin(x / 23 + seed) + 40 * np.cos(y / 17) + noise).clip(20, 235)
    return Image.fromarray((grey[..., None] * tint).clip(0, 255).astype(np.uint8))


def grid(rows, columns, gutter, gap=8, size=(600, 455), margin=0):
    """Photographs in rows and columns, ``gap`` pixels of the colour ``gutter`` between them."""
    sheet = Image.new("RGB", size, gutter)
    width = (size[0] - 2 * margin - (columns - 1) * gap) // columns
    height = (size[1] - 2 * margin - (rows - 1) * gap) // rows
    for number in range(rows * columns):
        row, column = divmod(number, columns)
        where = margin + column * (width + gap), margin + row * (height + gap)
        sheet.paste(photograph(height, width, seed=number), where)
    return sheet


def line_chart():
    """Axes and two curves on white paper."""
    sheet = Image.new("RGB", (600, 455), "white")
    draw = ImageDraw.Draw(sheet)
    draw.line([(60, 20), (60, 400), (580, 400)], fill="black", width=2)
    for colour, slope in (("red", 0.5), ("blue", 0.3)):
        draw.line([(x, 400 - slope * (x - 60) - 30 * np.sin(x / 40)) for x in range(60, 580, 4)], fill=colour, width=3)
    return sheet


def bar_chart(bars=3):
    """Wide grey bars on white paper, as tall as the sheet nearly."""
    sheet = Image.new("RGB", (600, 455), "white")
    draw = ImageDraw.Draw(sheet)
    width = 600 // bars
    for bar in range(bars):
        draw.rectangle([bar * width + 12, 20 + 15 * bar, (bar + 1) * width - 12, 440], fill=(110, 110, 110))
    return sheet


def two_charts():
    """Two line charts beside each other."""
    sheet = Image.new("RGB", (1200, 455), "white")
    for column in (0, 1):
        sheet.paste(line_chart(), (600 * column, 0))
    return sheet


def scan(centres=((300, 227),)):
    """Round bodies on the black ground of a scanner."""
    y, x = np.mgrid[:455, :600]
    body = np.zeros((455, 600), dtype=bool)
    for column, row in centres:
        body |= (x - column) ** 2 / 130**2 + (y - row) ** 2 / 200**2 < 1
    return Image.fromarray(np.asarray(photograph().convert("L")) * body)
