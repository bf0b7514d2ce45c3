import hashlib
import io
import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.core.arrow import open_dataset, write_all
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.schemas import ARTICLE_FIGURES, FIGURES
from medvlm_cli.sources import pmc
from tests.plugins.articles import article, figure, link

PMC_ID = '<article-id pub-id-type="pmcid">PMC{}</article-id>'
BY = '<permissions><license xlink:href="http://creativecommons.org/licenses/by/4.0/"/></permissions>'


def jpeg(width=20, height=10, kind="JPEG"):
    out = io.BytesIO()
    Image.new("RGB", (width, height), "gray").save(out, kind)
    return out.getvalue()


def put(folder, files):
    """Write files below a folder: text, bytes, or a size for an image."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(*content) if isinstance(content, tuple) else content)
    return FetchConfig(mirror=(str(folder),), license="all")


def take(config):
    """What all articles of a mirror give together."""
    found = [pmc.harvest(key, config) for key in pmc.keys(config)]
    rows = [row for each in found for row in each.rows]
    rejects = [reject for each in found for reject in each.rejects]
    assert sum(each.found for each in found) == len(rows) + len(rejects)
    return rows, rejects


def reasons(config):
    rows, rejects = take(config)
    return Counter(reject.reason for reject in rejects) | Counter(rows=len(rows))


def test_a_figure_becomes_a_row_with_everything_the_schema_asks_for(tmp_path):
    body = f"<p>See {link(1, 'Fig 1A')}.</p>{figure(1, '<p>Axial CT of (A) liver, (B) lung.</p>')}"
    meta = PMC_ID.format(7) + '<article-id pub-id-type="doi">10.1/x</article-id>' + BY
    meta += "<title-group><article-title>On livers</article-title></title-group>"
    config = put(tmp_path, {"a.xml": article(body, meta), "g1.jpg": (20, 10)})
    (row,), rejects = take(config)
    assert rejects == []
    assert row == {
        "figure_id": "PMC7/f1", "source": "pmc", "image": {"bytes": jpeg(), "path": "g1.jpg"},
        "image_sha256": hashlib.sha256(jpeg()).digest(), "width": 20, "height": 10,
        "caption": "Axial CT of (A) liver, (B) lung.", "label": "Fig 1",
        "mentions": [{"text": "See Fig 1A.", "panel": "A"}],
        "modality": "ct", "modality_source": "caption", "n_panels": 2, "license": "CC-BY-4.0", "commercial_ok": True,
        "retracted": False, "third_party": False, "article_id": "PMC7", "doi": "10.1/x", "title": "On livers",
        "url": "https://pmc.ncbi.nlm.nih.gov/articles/PMC7/", "article_version": None, "year": None, "journal": None,
        "authors": None, "license_code": None, "source_key": "g1.jpg", "source_md5": hashlib.md5(jpeg()).hexdigest(),
        "n_panels_caption": 2, "n_panels_image": 1, "in_subarticle": False, "more_images": [], "lost_images": [],
    }  # fmt: skip


def test_rows_and_rejects_pass_the_writer(tmp_path):
    config = put(tmp_path / "in", {"a.xml": article(figure(1) + figure(2)), "g1.jpg": (20, 10)})
    counts = write_all(
        tmp_path / "out", ARTICLE_FIGURES, lambda key: pmc.harvest(key, config), stage="fetch", config={},
        keys=pmc.keys(config), tell=lambda *_: None,
    )  # fmt: skip
    assert (counts.out, counts.rejected) == (1, 1)
    assert open_dataset(tmp_path / "out", FIGURES).ids == ["in/a/f1"]


def test_every_fig_element_becomes_a_row_or_a_reject_with_one_of_twelve_reasons(tmp_path):
    figures = [
        figure(1),
        figure(2, more='<graphic xlink:href="g2b.jpg"/>'),
        figure(3, ""),
        "<fig id='f4'><caption><p>C</p></caption></fig>",
        figure(5, image="gone.jpg"),
        figure(6, image="../up.jpg"),
        figure(7, image="broken.jpg"),
        figure(8, image="Twin"),
        figure(9, more=f"<p>{figure(10)}</p>"),
    ]
    images = {f"g{n}.jpg": (20, 10) for n in (1, 2, "2b", 3, 9, 10)}
    files = {"broken.jpg": jpeg(200, 200)[:900], "twin.jpg": jpeg(), "TWIN.jpg": jpeg()}
    found = reasons(put(tmp_path, {"a.xml": article("".join(figures)), **images, **files}))
    assert found.total() == 10
    assert found == Counter(rows=4, missing_caption=1, no_graphic=1, missing_image=2, unsafe_path=1, corrupt_image=1)
    assert set(found) - {"rows"} <= set(pmc.REASONS) and len(pmc.REASONS) <= 12


def test_a_figure_with_several_images_is_one_row_that_keeps_them_all_and_names_the_lost(tmp_path):
    names = ("gone.jpg", "b.jpg", "cut.jpg", "c.jpg")
    body = figure(1, more="".join(f'<graphic xlink:href="{name}"/>' for name in names))
    files = {"g1.jpg": (20, 10), "b.jpg": (5, 5), "c.jpg": (7, 7), "cut.jpg": jpeg(200, 200)[:900]}
    (row,), rejects = take(put(tmp_path, {"a.xml": article(body, PMC_ID.format(1)), **files}))
    assert rejects == []
    assert (row["figure_id"], row["image"]) == ("PMC1/f1", {"bytes": jpeg(20, 10), "path": "g1.jpg"})
    assert row["more_images"] == [{"bytes": jpeg(5, 5), "path": "b.jpg"}, {"bytes": jpeg(7, 7), "path": "c.jpg"}]
    assert [words.partition(":")[0] for words in row["lost_images"]] == ["missing_image", "corrupt_image"]


def test_a_figure_none_of_whose_images_is_there_is_one_reject(tmp_path):
    body = figure(1, image="gone.jpg", more='<graphic xlink:href="gone-too.jpg"/>')
    assert reasons(put(tmp_path, {"a.xml": article(body)})) == Counter(missing_image=1)


def test_further_images_are_images_for_other_readers_too(tmp_path):
    import datasets

    body = figure(1, more='<graphic xlink:href="b.jpg"/>')
    config = put(tmp_path / "in", {"a.xml": article(body), "g1.jpg": (20, 10), "b.jpg": (5, 5)})
    write_all(
        tmp_path / "out", ARTICLE_FIGURES, lambda key: pmc.harvest(key, config), stage="fetch", config={},
        keys=pmc.keys(config), tell=lambda *_: None,
    )  # fmt: skip
    files = [str(path) for path in (tmp_path / "out/data").iterdir()]
    (row,) = datasets.load_dataset("arrow", data_files=files, cache_dir=str(tmp_path / "cache"))["train"]
    assert (row["image"].size, [image.size for image in row["more_images"]]) == ((20, 10), [(5, 5)])


@pytest.mark.parametrize(
    ("address", "files", "chosen"),
    [
        ("g.jpg", ["g.jpg", "g.png", "G.JPG"], "g.jpg"),
        ("g.jpg", ["G.JPG"], "G.JPG"),
        (
            "pone.01.g001",
            ["pone.01.g001.png", "pone.01.g001.jpg", "pone.01.g001.gif", "pone.01.jpg"],
            "pone.01.g001.jpg",
        ),
        ("g", ["g.gif", "g.tif", "g.webp", "g.png"], "g.png"),
        ("g", ["g.gif", "g.tif", "g.webp"], "g.webp"),
        ("g", ["g.gif", "g.tif"], "g.tif"),
        ("g", ["g.gif"], "g.gif"),
        ("g.tif", ["g.jpg"], "g.jpg"),
        ("g.eps", ["g.eps", "g.jpg"], "g.jpg"),
        ("g.gif", ["g.gif", "g.jpg"], "g.jpg"),
        ("images/g.jpg", ["images/g.jpg", "g.jpg"], "images/g.jpg"),
        ("images/g.jpg", ["g.jpg"], "g.jpg"),
        ("http://x.org/media/a/g%20%201.jpg?v=1", ["g  1.jpg"], "g  1.jpg"),
    ],
)
def test_the_file_of_an_address_is_found(tmp_path, address, files, chosen):
    sizes = {name: (number + 2, 3) for number, name in enumerate(files)}
    config = put(tmp_path, {"a.xml": article(figure(1, image=address)), **sizes})
    (row,), _ = take(config)
    assert row["width"] == sizes[chosen][0]


@pytest.mark.parametrize("address", ["g", "g.jpg", "g1.png", ""])
def test_an_address_with_no_file_of_its_stem_is_a_reject(tmp_path, address):
    config = put(tmp_path, {"a.xml": article(figure(1, image=address)), "g10.jpg": (2, 2), "fig-g.jpg": (2, 2)})
    assert take(config)[0] == []


@pytest.mark.parametrize(
    "address",
    ["../secret.jpg", "a/../../secret.jpg", "/etc/secret.jpg", "..\\secret.jpg", "C:/secret.jpg", "file:///etc/secret.jpg",
     "%2e%2e/secret.jpg", "data:image/png;base64,AAAA"],
)  # fmt: skip
def test_an_address_that_leads_out_is_refused(tmp_path, address):
    config = put(tmp_path / "mirror", {"a.xml": article(figure(1, image=address))})
    put(tmp_path, {"secret.jpg": (2, 2)})
    assert reasons(config) == Counter(unsafe_path=1)


def test_a_link_out_of_the_mirror_is_not_followed(tmp_path):
    config = put(tmp_path / "mirror", {"a.xml": article(figure(1)), "b.xml": article(figure(2))})
    put(tmp_path, {"secret.jpg": (2, 2), "secret.xml": article(figure(1), PMC_ID.format(99))})
    (tmp_path / "mirror" / "g1.jpg").symlink_to(tmp_path / "secret.jpg")
    (tmp_path / "mirror" / "c.xml").symlink_to(tmp_path / "secret.xml")
    assert reasons(config) == Counter(unsafe_path=1, missing_image=1, unreadable_article=1)


def test_of_alternatives_the_largest_sound_image_is_taken(tmp_path):
    graphics = "".join(f'<graphic xlink:href="{name}"/>' for name in ("a.jpg", "b.jpg", "c.jpg", "gone.jpg"))
    body = f"<fig id='f'><caption><p>C</p></caption><alternatives>{graphics}</alternatives></fig>"
    files = {"a.jpg": (10, 10), "b.jpg": (30, 20), "c.jpg": jpeg(300, 300)[:700]}
    (row,), rejects = take(put(tmp_path, {"a.xml": article(body), **files}))
    assert (row["image"]["path"], row["width"], rejects) == ("b.jpg", 30, [])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "corrupt_image"),
        (b"<html>404</html>", "corrupt_image"),
        (jpeg(300, 200)[:-300], "corrupt_image"),
        (jpeg(8000, 7000), "image_too_big"),
    ],
)
def test_a_bad_image_is_a_reject_that_names_the_file(tmp_path, content, reason):
    config = put(tmp_path / "mirror", {"x/a.xml": article(figure(1)), "x/g1.jpg": content})
    _, (reject,) = take(config)
    assert reject.reason == reason
    assert "mirror/x/g1.jpg" in reject.message


@pytest.mark.parametrize(
    "content", [b"", b"<article>", b"\xff\xfe\0", b"<html/>", b"<!DOCTYPE a [<!ENTITY x 'y'>]><article/>"]
)
def test_an_unreadable_article_is_a_reject_that_names_the_file_and_the_others_go_on(tmp_path, content):
    config = put(tmp_path / "mirror", {"bad.xml": content, "good.xml": article(figure(1)), "g1.jpg": (2, 2)})
    rows, (reject,) = take(config)
    assert [row["figure_id"] for row in rows] == ["mirror/good/f1"]
    assert (reject.id, reject.reason) == ("mirror/bad", "unreadable_article")
    assert "mirror/bad.xml" in reject.message


@pytest.mark.parametrize("kind", ["correction", "retraction"])
def test_figures_of_corrections_and_retractions_are_left_out(tmp_path, kind):
    config = put(tmp_path, {"a.xml": article(figure(1), attributes=f'article-type="{kind}"'), "g1.jpg": (2, 2)})
    assert reasons(config) == Counter(superseded=1)


def test_figures_of_translations_are_left_out(tmp_path):
    back = f'<sub-article article-type="translation">{figure(1)}</sub-article>'
    config = put(tmp_path, {"a.xml": article(figure(1), back=back), "g1.jpg": (2, 2)})
    assert reasons(config) == Counter(rows=1, translation=1)


def bucket(tmp_path, meta=BY, **metadata):
    facts = {"license_code": "CC BY", "is_retracted": False, "is_pmc_openaccess": True} | metadata
    name = "PMC5.1/PMC5.1"
    return put(
        tmp_path,
        {
            f"{name}.xml": article(figure(1), PMC_ID.format(5) + meta),
            f"{name}.json": json.dumps(facts).encode(),
            "PMC5.1/g1.jpg": (2, 2),
            "PMC5.1/supplement.xml": b"<model/>",
        },
    )


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ("CC-BY-4.0", True)),
        ({"license_code": "CC BY-NC"}, ("CC-BY-NC", False)),
        ({"license_code": "CC0"}, ("CC-BY-4.0", True)),
        ({"license_code": "TDM"}, ("unknown", False)),
        ({"license_code": None}, ("unknown", False)),
        ({"is_pmc_openaccess": False}, ("unknown", False)),
    ],
)
def test_the_buckets_metadata_decides_the_licence(tmp_path, facts, expected):
    (row,), _ = take(bucket(tmp_path, **facts))
    assert (row["license"], row["commercial_ok"]) == expected


def test_the_buckets_metadata_knows_of_retractions_in_either_place(tmp_path):
    config = bucket(tmp_path, is_retracted=True)
    assert reasons(config) == Counter(superseded=1)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "PMC5.1/PMC5.1.json").rename(tmp_path / "metadata/PMC5.1.json")
    assert reasons(config) == Counter(superseded=1)


def test_broken_metadata_clears_nothing(tmp_path):
    config = bucket(tmp_path)
    (tmp_path / "PMC5.1/PMC5.1.json").write_text("{")
    assert reasons(config) == Counter(unreadable_article=1)


@pytest.mark.parametrize(
    ("wanted", "licence", "credit", "kept"),
    [
        ("commercial", "by/4.0", "", 1),
        ("commercial", "by/4.0", "<attrib>Smith</attrib>", 0),
        ("commercial", "by-nc/4.0", "", 0),
        ("commercial", "", "", 0),
        ("noncommercial", "by-nc/4.0", "", 1),
        ("noncommercial", "by/4.0", "", 1),
        ("noncommercial", "", "", 0),
        ("all", "", "<attrib>Smith</attrib>", 1),
    ],
)
def test_the_licence_asked_for_is_kept_to(tmp_path, wanted, licence, credit, kept):
    meta = BY.replace("by/4.0", licence)
    config = put(tmp_path, {"a.xml": article(figure(1, more=credit), meta), "g1.jpg": (2, 2)})
    config = FetchConfig(mirror=config.mirror, license=wanted)
    assert reasons(config) == Counter({"rows": kept, "license_excluded": 1 - kept})


def test_somebody_elses_figure_is_not_cleared_by_the_articles_licence(tmp_path):
    body = figure(1, "<p>Reproduced with permission from Smith.</p>")
    (row,), _ = take(put(tmp_path, {"a.xml": article(body, BY), "g1.jpg": (2, 2)}))
    assert (row["third_party"], row["commercial_ok"]) == (True, False)


def test_articles_are_known_by_pmc_id_else_doi_else_path(tmp_path):
    doi = '<article-id pub-id-type="doi">10.1/x.y</article-id>'
    config = put(
        tmp_path / "mirror",
        {
            "PMC1.2/PMC1.2.xml": article(figure(1)),
            "PMC2/paper.nxml": article(figure(1), PMC_ID.format(2).replace("pmcid", "pmc").replace("PMC2", "2") + doi),
            "c.xml": article(figure(1), doi),
            "d/e.xml": article(figure(1) + f"<ref-list>{doi}</ref-list>"),
            ".hidden/f.xml": article(figure(1)),
        },
    )
    assert pmc.keys(config) == ["10.1/x.y", "PMC1", "PMC2", "mirror/d/e"]


def test_of_several_versions_the_newest_with_images_is_taken(tmp_path):
    versions = {
        f"PMC5.{n}/PMC5.{n}.xml": article(figure(1, f"<p>Version {n}.</p>"), PMC_ID.format(5)) for n in (1, 2, 10, 11)
    }
    images = {f"PMC5.{n}/g1.jpg": (n, 2) for n in (1, 2, 10)}  # 11 is an author manuscript, without media
    rows, rejects = take(put(tmp_path, versions | images))
    assert [(row["figure_id"], row["caption"], row["width"]) for row in rows] == [("PMC5/f1", "Version 10.", 10)]
    assert rejects == []


def test_two_mirrors_are_read_as_one_and_a_copy_counts_once(tmp_path):
    one = {"a.xml": article(figure(1), PMC_ID.format(1)), "b.xml": article(figure(1)), "g1.jpg": (2, 2)}
    put(tmp_path / "x/m", one)
    put(tmp_path / "y/m", one)
    config = FetchConfig(mirror=(str(tmp_path / "x/m"), str(tmp_path / "y/m")), license="all")
    assert [row["figure_id"] for row in take(config)[0]] == ["PMC1/f1", "m/b/f1", "m~2/b/f1"]


def test_articles_in_one_file_keep_apart(tmp_path):
    articles = b"".join(article(figure(1), PMC_ID.format(number)) for number in (8, 9))
    config = put(tmp_path, {"set.xml": b"<pmc-articleset>" + articles + b"</pmc-articleset>", "g1.jpg": (2, 2)})
    rows, _ = take(config)
    assert [row["article_id"] for row in rows] == ["PMC8", "PMC9"]
    assert len({row["figure_id"] for row in rows}) == 2


def test_a_changed_mirror_is_read_anew(tmp_path):
    config = put(tmp_path, {"a.xml": article(figure(1))})
    assert reasons(config) == Counter(missing_image=1)
    put(tmp_path, {"g1.jpg": (2, 2)})
    assert reasons(config) == Counter(rows=1)


@pytest.mark.parametrize(
    ("folder", "message"), [("gone", "gone is neither a folder nor a package"), (".", "holds no article")]
)
def test_a_mirror_that_is_missing_or_empty_is_refused_by_name(tmp_path, folder, message):
    with pytest.raises(DataError, match=message):
        pmc.keys(FetchConfig(mirror=(str(tmp_path / folder),)))


def test_mutilated_articles_never_end_the_run(tmp_path):
    body = "".join(figure(n, f"<title>T</title><p>See {link(n)} to {link(n + 1)}</p>") for n in range(1, 5))
    whole = np.frombuffer(article(f"<p>In {link(1, '1A-C')}-{link(3)}.</p>{body}", BY), dtype=np.uint8)
    random = np.random.default_rng(3)
    files = {f"{number}.xml": mutilated(whole, random) for number in range(300)}
    _, rejects = take(put(tmp_path, files))
    assert len(rejects) >= 300
    assert {reject.reason for reject in rejects} <= set(pmc.REASONS)


def mutilated(data, random):
    """The article with some bytes replaced by ones that matter to XML."""
    copy = data.copy()
    copy[random.integers(0, len(copy), 3)] = random.choice(np.frombuffer(b"<>&/\"' -1", dtype=np.uint8), 3)
    return copy.tobytes()
