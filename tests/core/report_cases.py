"""Datasets of figures that the tests of the page, the tables and the credits share."""

import io

from PIL import Image

from medvlm_cli.core.arrow import Dataset, Harvest, open_dataset, write_all
from medvlm_cli.core.schemas import ARTICLE_FIGURES, FIGURES
from tests.core.arrow_cases import figure


def png(colour=(200, 40, 40), size=(30, 20)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def article(id_: str, **changes) -> dict:
    """A figure of an article with every column filled, and an image that can be decoded."""
    columns = {
        "image": {"bytes": png(), "path": "fig.png"}, "width": 30, "height": 20, "source": "pmc", "label": "Figure 2",
        "mentions": [{"text": "See Figure 2A.", "panel": "A"}], "modality_source": "caption", "n_panels": 2,
        "article_id": "PMC7", "doi": "10.1000/x7", "title": "A rare liver",
        "url": "https://pmc.ncbi.nlm.nih.gov/articles/PMC7/",
        "article_version": 3, "year": 2020, "journal": "J Liver", "authors": "Smith J, Doe A", "license_code": "CC BY",
        "source_key": "PMC7.3/fig2.jpg", "source_md5": "0" * 32, "n_panels_caption": 2, "n_panels_image": 1,
        "more_images": [], "lost_images": [],
        "in_subarticle": False,
    }  # fmt: skip
    return figure(id_, **(columns | changes))


def dataset(folder, rows: list[dict], rejects=(), schema=ARTICLE_FIGURES) -> Dataset:
    """A finished dataset of these rows; its run is named ``fetch``."""
    named = {field.name for field in schema}
    rows = [{name: value for name, value in row.items() if name in named} for row in rows]
    harvest = Harvest(len(rows) + len(rejects), rows, list(rejects))
    write_all(folder, schema, lambda key: harvest, stage="fetch", config={}, keys=["all"], tell=lambda *_: None)
    return open_dataset(folder, FIGURES)
