"""Packages of the retired distribution, and archives made to get out of the folder or to fill the memory."""

import gzip
import io
import os
import re
import shutil
import tarfile
import threading
import tracemalloc
from collections import Counter

import pytest

from medvlm_cli.core.config import FetchConfig
from medvlm_cli.sources import package, pmc
from tests.corpus import Article, picture, unique
from tests.plugins.articles import article, figure

ID = '<article-id pub-id-type="pmcid">PMC1</article-id>'
XML = article(figure(1), ID)
JPEG = picture(1)
MOST_MEMORY = 120 << 20


def member(name, data=b"", **fields):
    info = tarfile.TarInfo(name)
    info.size = len(data)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, data


def header(name, size, kind=tarfile.REGTYPE):
    """The block before a member, with any size."""
    info, _ = member(name, size=0, type=kind)
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"%011o\0" % size if size >= 0 else b"\xff" + (256**11 + size).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def padded(data):
    return data + bytes(-len(data) % 512)


def tar(*members, form=tarfile.GNU_FORMAT):
    """An uncompressed archive of ``member``s and of raw blocks."""
    out = io.BytesIO()
    for one in members:
        if isinstance(one, bytes):
            out.write(one)
        else:
            info, data = one
            out.write(info.tobuf(form, errors="surrogateescape") + padded(data))
    return out.getvalue() + bytes(1024)


def packed(*members, **options):
    return gzip.compress(tar(*members, **options), 9)


def with_image(*members, **options):
    """A package whose article has one figure, ``g1.jpg``, which the members bring, or not."""
    return packed(member("PMC1/paper.nxml", XML), *members, **options)


def pax(name, data, **headers):
    """A member with extended headers, of which some lie."""
    info, _ = member(name, data)
    info.pax_headers = headers
    return info.create_pax_header(info.get_info(), "utf-8") + padded(data)


def raw_pax(records):
    """An extended header of any content."""
    return header("x", len(records), tarfile.XHDTYPE) + padded(records)


IMAGE = member("PMC1/g1.jpg", JPEG)


def link(kind, target="../secret.jpg"):
    return member("g1.jpg", type=kind, linkname=target)


SPARSE = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "999"}
MANY_ZEROS = bytes(40 << 20)

BROKEN = {
    "an article that is a symlink": lambda: packed(member("a.nxml", type=tarfile.SYMTYPE, linkname="../secret.xml")),
    "a sparse file without an end": lambda: with_image(pax("g1.jpg", b"9" * 512, **SPARSE)),
    "a size that PAX denies": lambda: with_image(pax("g1.jpg", JPEG, size="99999999")),
    "a negative size": lambda: with_image(header("g1.jpg", -512)),
    "a size of -1": lambda: with_image(header("g1.jpg", -1), IMAGE),
    "a negative size of PAX": lambda: with_image(raw_pax(b"13 size=-512\n") + header("g1.jpg", 0)),
    "a long name of negative size": lambda: with_image(header("n", -512, tarfile.GNUTYPE_LONGNAME)),
    "zeros": lambda: with_image(member("g1.jpg", MANY_ZEROS)),
    "zeros that are skipped": lambda: with_image(member("g1.mp4", MANY_ZEROS), IMAGE),
    "zeros behind the end": lambda: gzip.compress(tar(member("a.nxml", XML), IMAGE) + MANY_ZEROS),
    "a long name of zeros": lambda: packed(header("n", 30 << 20, tarfile.GNUTYPE_LONGNAME) + MANY_ZEROS),
    "a PAX header of zeros": lambda: with_image(header("n", 30 << 20, tarfile.XHDTYPE) + MANY_ZEROS),
    "20,000 members": lambda: with_image(IMAGE, header("m", 0) * 20_000),
    "a cut gzip": lambda: with_image(IMAGE)[:-400],
    "a gzip without its checksum": lambda: with_image(IMAGE)[:-8],
    "a wrong checksum": lambda: with_image(IMAGE)[:-8] + bytes(4) + with_image(IMAGE)[-4:],
    "a cut tar": lambda: gzip.compress(tar(member("a.nxml", XML), IMAGE)[:2500]),
    "no gzip": lambda: tar(member("a.nxml", XML), IMAGE),
    "no tar": lambda: gzip.compress(b"<html>Not found</html>" * 99),
    "nothing": lambda: b"",
    "an empty tar": lambda: packed(),
    "two articles": lambda: with_image(member("other.nxml", XML), IMAGE),
    "no article": lambda: packed(IMAGE),
    "an empty article": lambda: packed(member("a.nxml"), IMAGE),
}
NO_IMAGE = {
    "a symlink": lambda: with_image(link(tarfile.SYMTYPE)),
    "a hard link": lambda: with_image(link(tarfile.LNKTYPE)),
    "a hard link to a member": lambda: with_image(member("secret.png", JPEG), link(tarfile.LNKTYPE, "secret.png")),
    "a device": lambda: with_image(member("g1.jpg", type=tarfile.CHRTYPE, devmajor=1)),
    "a fifo": lambda: with_image(member("g1.jpg", type=tarfile.FIFOTYPE)),
    "a folder": lambda: with_image(member("g1.jpg", type=tarfile.DIRTYPE)),
    "a sparse file": lambda: with_image(header("g1.jpg", 0, tarfile.GNUTYPE_SPARSE)),
    "a sparse file in PAX": lambda: with_image(pax("g1.jpg", b"0\n", **SPARSE)),
    "a PAX record of no length, at which tarfile stops": lambda: with_image(raw_pax(b"0 a=b\n"), IMAGE),
    "an ESC in a name": lambda: with_image(member("g1\x1b[2J.jpg", JPEG)),
    "a NUL in a name": lambda: with_image(pax("x.jpg", JPEG, path="g1.jpg\0.jpg")),
    "a name that is no UTF-8": lambda: with_image(member("g1\udcff.jpg", JPEG)),
}
HARMLESS = {
    "a name that climbs": lambda: with_image(member("../../g1.jpg", JPEG)),
    "an absolute name": lambda: with_image(member("/g1.jpg", JPEG)),
    "a file through a symlink": lambda: with_image(
        member("d", type=tarfile.SYMTYPE, linkname="../.."), member("d/g1.jpg", JPEG)
    ),
}
HOSTILE = [
    *(pytest.param(build, "unreadable_article", id=name) for name, build in BROKEN.items()),
    *(pytest.param(build, "missing_image", id=name) for name, build in NO_IMAGE.items()),
    *(pytest.param(build, "rows", id=name) for name, build in HARMLESS.items()),
    pytest.param(lambda: with_image(member("g1.jpg")), "corrupt_image", id="an empty image"),
]


def tree(folder):
    return {path: (os.lstat(path).st_size, os.lstat(path).st_mtime_ns) for path in folder.rglob("*")}


def put(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return FetchConfig(mirror=(str(folder),), license="all")


def take(config):
    """Rows, and rejects, of all articles."""
    found = [pmc.harvest(key, config) for key in pmc.keys(config)]
    return [row for each in found for row in each.rows], [reject for each in found for reject in each.rejects]


def measured(config):
    """What ``take`` gives, and the most memory it took."""
    tracemalloc.start()
    try:
        return take(config), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("build", "expected"), HOSTILE)
def test_a_hostile_package_writes_nothing_takes_little_memory_and_does_not_end_the_run(
    tmp_path, monkeypatch, build, expected
):
    good = Article(2, figures=1)
    config = put(tmp_path / "packages", {"PMC1.tar.gz": build(), "PMC2.tar.gz": good.package()})
    put(tmp_path, {"secret.jpg": JPEG, "secret.xml": XML, "cwd/x": b""})
    monkeypatch.chdir(tmp_path / "cwd")
    before = tree(tmp_path)
    (rows, rejects), peak = measured(config)
    assert tree(tmp_path) == before
    assert peak < MOST_MEMORY
    assert Counter(row["article_id"] for row in rows)["PMC2"] == 1
    assert Counter(rows=len(rows) - 1) | Counter(reject.reason for reject in rejects) == Counter([expected])
    assert all(re.fullmatch(r"PMC1(/f1)?", reject.id) and reject.message.isprintable() for reject in rejects)


@pytest.mark.parametrize("kind", [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE])
def test_headers_of_any_size_are_not_read_into_memory(tmp_path, kind):
    bomb = with_image(header("n", 24 << 20, kind) + bytes(24 << 20), IMAGE)
    (rows, (reject,)), peak = measured(put(tmp_path, {"PMC1.tar.gz": bomb}))
    assert (rows, reject.reason) == ([], "unreadable_article")
    assert "a bomb" in reject.message
    assert peak < 8 << 20


def test_an_article_is_read_out_of_its_package_with_images_of_any_subfolder(tmp_path):
    body = figure(1, image="images/a.jpg") + figure(2, image="b") + figure(3, image="c.tif")
    files = {f"PMC1/{name}": unique(JPEG, name) for name in ("deep/er/a.jpg", "b.gif", "b.jpg", "c.jpg")}
    data = packed(member("PMC1/paper.nxml", article(body, ID)), *(member(*file) for file in files.items()))
    rows, rejects = take(put(tmp_path, {"oa/00/PMC1.tar.gz": data}))
    assert rejects == []
    assert [(row["figure_id"], row["image"]["path"], row["article_version"]) for row in rows] == [
        ("PMC1/f1", "a.jpg", None), ("PMC1/f2", "b.jpg", None), ("PMC1/f3", "c.jpg", None),
    ]  # fmt: skip
    assert [row["image"]["bytes"] for row in rows] == [
        files[f"PMC1/{name}"] for name in ("deep/er/a.jpg", "b.jpg", "c.jpg")
    ]


def test_the_first_of_two_members_of_one_name_counts(tmp_path):
    first, second = unique(JPEG, "first"), unique(JPEG, "second")
    config = put(tmp_path, {"PMC1.tar.gz": with_image(member("a/g1.jpg", first), member("b/g1.jpg", second))})
    (row,), _ = take(config)
    assert row["image"]["bytes"] == first


def test_an_only_xml_is_the_article_and_beside_an_nxml_a_supplement(tmp_path):
    only = packed(member("a.xml", XML), IMAGE)
    beside = packed(member("a.nxml", article(figure(1))), member("s.xml", b"<model/>"), member("t.xml", b"<m/>"), IMAGE)
    rows, rejects = take(put(tmp_path, {"PMC1.tar.gz": only, "PMC2.tgz": beside}))
    assert [row["figure_id"] for row in rows] == ["PMC1/f1", "PMC2/f1"]
    assert rejects == []


def test_packages_and_folders_are_read_together_and_a_folder_with_a_version_counts_before_a_package(tmp_path):
    articles = [Article(n, version=2, figures=1) for n in (1, 2, 3)]
    put(tmp_path / "m", {f"oa/{one.id}.tar.gz": one.package() for one in articles[:2]})
    config = put(tmp_path / "m", {key: body for one in articles[1:] for key, body in one.objects().items()})
    rows, rejects = take(config)
    assert [(row["figure_id"], row["article_version"]) for row in rows] == [
        ("PMC1/f1", None),
        ("PMC2/f1", 2),
        ("PMC3/f1", 2),
    ]
    assert rejects == []


def test_one_package_is_given_by_its_path(tmp_path):
    put(tmp_path, {"oa/PMC1.tar.gz": with_image(IMAGE), "oa/PMC2.tar.gz": with_image(IMAGE)})
    config = FetchConfig(mirror=(str(tmp_path / "oa/PMC2.tar.gz"),), license="all")
    assert [row["figure_id"] for row in take(config)[0]] == ["PMC2/f1"]


def test_packages_of_other_names_are_known_by_their_path(tmp_path):
    data = packed(member("a.nxml", article(figure(1))), IMAGE)
    rows, _ = take(put(tmp_path / "m", {"x/p.tar.gz": data, "y/p.tar.gz": data, "\udcff.tgz": data}))
    assert [row["figure_id"] for row in rows] == ["m/?.tgz/f1", "m/x/p.tar.gz/f1", "m/y/p.tar.gz/f1"]


def test_a_package_that_is_a_link_out_of_the_mirror_or_a_pipe_is_not_read(tmp_path):
    put(tmp_path, {"elsewhere.tar.gz": with_image(IMAGE)})
    config = put(tmp_path / "m", {"PMC2.tar.gz": with_image(IMAGE)})
    (tmp_path / "m/PMC1.tar.gz").symlink_to(tmp_path / "elsewhere.tar.gz")
    os.mkfifo(tmp_path / "m/PMC3.tar.gz")
    reading = threading.Thread(target=lambda: told.extend(take(config)), daemon=True)
    told = []
    reading.start()
    reading.join(20)
    assert not reading.is_alive()
    assert [row["figure_id"] for row in told[0]] == ["PMC2/f1"]
    assert [(reject.id, reject.reason) for reject in told[1]] == [
        ("PMC1", "unreadable_article"), ("PMC3", "unreadable_article")
    ]  # fmt: skip


def test_a_changed_package_is_read_anew(tmp_path):
    config = put(tmp_path, {"PMC1.tar.gz": with_image()})
    assert take(config)[0] == []
    put(tmp_path, {"PMC1.tar.gz": with_image(IMAGE)})
    assert len(take(config)[0]) == 1


def test_a_bad_image_is_a_reject_that_names_the_package(tmp_path):
    config = put(tmp_path / "m", {"oa/PMC1.tar.gz": with_image(member("g1.jpg", JPEG[:900]))})
    _, (reject,) = take(config)
    assert (reject.reason, "m/oa/PMC1.tar.gz, g1.jpg" in reject.message) == ("corrupt_image", True)


@pytest.mark.parametrize("suffix", [".jpg", ".nxml"])
def test_a_member_over_the_limit_of_its_kind_is_too_big(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(package, "MAX_IMAGE_BYTES", len(XML) + 10)
    monkeypatch.setattr(package, "MAX_XML_BYTES", len(XML) - 10 * (suffix == ".nxml"))
    _, (reject,) = take(put(tmp_path, {"PMC1.tar.gz": with_image(IMAGE)}))
    assert reject.reason == {".jpg": "image_too_big", ".nxml": "unreadable_article"}[suffix]


def test_a_large_package_of_real_content_is_read_whole(tmp_path):
    noise = [member(f"v{n}.mp4", os.urandom(4 << 20)) for n in range(10)]
    (row,), _ = take(put(tmp_path, {"PMC1.tar.gz": gzip.compress(tar(member("a.nxml", XML), *noise, IMAGE), 1)}))
    assert row["figure_id"] == "PMC1/f1"
    shutil.rmtree(tmp_path)
