"""Articles written by the tests, laid out as the bucket of PubMed Central lays them out, as old packages, or flat."""

import functools
import hashlib
import io
import json
import random
import tarfile

from PIL import Image

from tests.plugins.articles import article, figure, link

BUCKET = "pmc-oa-opendata"
LICENSE = '<permissions><license xlink:href="http://creativecommons.org/licenses/{}/"/></permissions>'
MODALITIES = (
    "Axial CT of the chest",
    "T1-weighted MRI of the brain",
    "Chest radiograph",
    "Histology of the liver (H&amp;E)",
)


@functools.lru_cache(maxsize=64)
def picture(seed: int, width: int = 64, height: int = 48) -> bytes:
    """A JPEG of noise; about 90 kB at 600 x 455."""
    random.seed(seed)
    image = Image.effect_noise((width, height), 60).convert("RGB")
    out = io.BytesIO()
    image.save(out, "JPEG", quality=75)
    return out.getvalue()


def unique(data: bytes, words: str) -> bytes:
    """A JPEG made another object by a comment in it."""
    text = words.encode()
    return data[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data[2:]


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


class Article:
    """One article: its XML, its images, and what the bucket's metadata says."""

    def __init__(self, number, version=1, figures=3, size=(64, 48), words=0, **metadata):
        self.number, self.version = number, version
        self.id, self.name = f"PMC{number}", f"PMC{number}.{version}"
        self.images = {
            f"a{number}-g{n}.jpg": unique(picture((number + n) % 16, *size), f"{self.name}/{n}")
            for n in range(1, figures + 1)
        }
        meta = f'<article-id pub-id-type="pmcid">{self.id}</article-id>'
        meta += f'<article-id pub-id-type="doi">10.1/{number}</article-id>'
        meta += f"<title-group><article-title>Article {number}</article-title></title-group>"
        meta += f"<pub-date><year>{2000 + number % 25}</year></pub-date>" + LICENSE.format("by/4.0")
        filler = "Words that say nothing of a figure. " * (words // 7)
        body = "".join(
            f"<p>{filler}We saw it (Fig. {link(n)}A).</p>"
            + figure(n, f"<p>{MODALITIES[(number + n) % 4]} of patient {number}.</p>", image=name)
            for n, name in enumerate(self.images, 1)
        )
        self.xml = article(body, meta)
        self.metadata = {
            "pmcid": self.id,
            "version": version,
            "doi": f"10.1/{number}",
            "title": f"Article {number}",
            "is_pmc_openaccess": True,
            "is_manuscript": False,
            "is_historical_ocr": False,
            "is_retracted": False,
            "license_code": "CC BY",
        } | metadata

    def objects(self):
        """Keys and bodies of everything the bucket holds of this article."""
        folder = {f"{self.name}.xml": self.xml, **self.images}
        address = {name: f"s3://{BUCKET}/{self.name}/{name}?md5={md5(data)}" for name, data in folder.items()}
        stated = {
            "xml_url": address[f"{self.name}.xml"],
            "media_urls": [address[name] for name in self.images],
        } | self.metadata
        described = json.dumps(stated).encode()
        return {
            f"metadata/{self.name}.json": described,
            f"{self.name}/{self.name}.json": described,
            f"{self.name}/{self.name}.pdf": b"%PDF-",
            **{f"{self.name}/{name}": data for name, data in folder.items()},
        }

    def package(self):
        """The article as a ``PMC1.tar.gz`` of the retired distribution."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w:gz") as archive:
            for name, data in {"paper.nxml": self.xml, **self.images}.items():
                member = tarfile.TarInfo(f"{self.id}/{name}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
        return out.getvalue()


def objects_of(articles):
    """Everything a bucket of these articles holds."""
    return {key: body for one in articles for key, body in one.objects().items()}


def write(folder, objects):
    """Lay objects out as files."""
    for key, body in objects.items():
        path = folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return folder
