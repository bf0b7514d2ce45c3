"""Twelve archives and six XML files that attack, fetched by the real command in one go: none succeeds.

An attack would succeed by a file outside the output, by words or pixels of a file that is not in its archive, by a
connection, or by ending the run.
"""

import subprocess
import sys
import tarfile
from types import SimpleNamespace

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.schemas import ARTICLE_FIGURES
from tests import synthesis
from tests.attacks.listening import listening
from tests.corpus import Article, picture
from tests.plugins.articles import article, figure
from tests.plugins.test_package import (
    IMAGE,
    MANY_ZEROS,
    SPARSE,
    header,
    link,
    member,
    packed,
    pax,
    put,
    tree,
    with_image,
)

SECRET = "TOPSECRETWORDS"
STOLEN = picture(9)
"""Pixels of a file outside of every archive."""
OTHER = picture(5)
ARCHIVES = {
    "a name that climbs": (
        lambda _: with_image(member("../planted", OTHER), member("../../x.jpg", OTHER), IMAGE),
        "rows",
    ),
    "an absolute name": (lambda root: with_image(member(f"{root}/planted.jpg", OTHER), IMAGE), "rows"),
    "a link to a folder and a file through it": (
        lambda root: with_image(
            member("way", type=tarfile.SYMTYPE, linkname=str(root)), member("way/planted.jpg", OTHER), IMAGE
        ),
        "rows",
    ),
    "a hard link": (lambda root: with_image(link(tarfile.LNKTYPE, f"{root}/stolen.jpg")), "missing_image"),
    "a device": (lambda _: with_image(member("g1.jpg", type=tarfile.BLKTYPE, devmajor=8)), "missing_image"),
    "a pipe": (lambda _: with_image(member("g1.jpg", type=tarfile.FIFOTYPE)), "missing_image"),
    "a size that PAX denies": (lambda _: with_image(pax("g1.jpg", b"x" * 99, size="99999999")), "unreadable_article"),
    "a path of PAX": (lambda root: with_image(pax("x.jpg", OTHER, path=f"{root}/planted.jpg"), IMAGE), "rows"),
    "a bomb of gzip": (lambda _: with_image(member("g1.jpg", MANY_ZEROS)), "unreadable_article"),
    "10,001 members": (lambda _: with_image(IMAGE, header("m", 0) * 10_001), "unreadable_article"),
    "two members of one name": (lambda _: with_image(IMAGE, member("other/g1.jpg", OTHER)), "rows"),
    "a sparse file": (lambda _: with_image(pax("g1.jpg", b"9" * 512, **SPARSE)), "unreadable_article"),
}
"""Name -> how the archive is made in a folder, and what becomes of its article."""

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10 if n else "ha" * 10}">' for n in range(10))
XML = {
    "an entity that is a file": ('<!DOCTYPE article [<!ENTITY x SYSTEM "file://{secret}">]>', "&x;"),
    "an entity that is an address": ('<!DOCTYPE article [<!ENTITY x SYSTEM "http://127.0.0.1:{port}/x">]>', "&x;"),
    "a billion laughs": (f"<!DOCTYPE article [{LAUGHS}]>", "&l9;"),
    "a long entity many times": (f'<!DOCTYPE article [<!ENTITY x "{"ha" * 50_000}">]>', "&x;" * 50_000),
    "a document type from an address": ('<!DOCTYPE article SYSTEM "http://127.0.0.1:{port}/x.dtd">', "words"),
    "ten thousand elements inside each other": ("", "<bold>" * 10_000 + "ha" + "</bold>" * 10_000),
}
"""Name -> document type, and caption of the only figure."""


def paper(name, secret, port):
    """The package of an article that attacks by its XML."""
    head, caption = XML[name]
    head = head.replace("{secret}", str(secret)).replace("{port}", str(port))
    return packed(member("PMC1/paper.nxml", article(figure(1, f"<p>{caption}</p>"), head=head)), IMAGE)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of ``medvlm fetch pmc`` over all of them and a good article."""
    root = tmp_path_factory.mktemp("articles")
    put(root, {"stolen.jpg": STOLEN, "secret.txt": SECRET.encode(), "cwd/x": b""})
    with listening(SECRET.encode()) as listener:
        packages = {f"PMC{n}.tar.gz": build(root) for n, (build, _) in enumerate(ARCHIVES.values(), 101)}
        packages |= {
            f"PMC{n}.tar.gz": paper(name, root / "secret.txt", listener.port) for n, name in enumerate(XML, 201)
        }
        put(root / "mirror", packages | {"PMC300.tar.gz": Article(300, figures=1).package()})
        before = tree(root)
        command = [sys.executable, "-m", "medvlm_cli", "fetch", "pmc", "--from", root / "mirror", "-o", root / "out"]
        done = subprocess.run(
            [*command, "--license", "all"],
            cwd=root / "cwd",
            capture_output=True,
            env=synthesis.environment(),
            timeout=250,
        )
    after = {path: size for path, size in tree(root).items() if root / "out" not in (path, *path.parents)}
    dataset = open_dataset(root / "out", ARTICLE_FIGURES)
    told = {row["figure_id"].partition("/")[0]: row for row in dataset.rows()}
    told |= {reject["id"].partition("/")[0]: reject for reject in dataset.rejects()}
    return SimpleNamespace(
        out=root / "out", changed=after.items() ^ before.items(), done=done, told=told, connections=listener.connections
    )


def became(run, number):
    return run.told[f"PMC{number}"].get("reason", "rows")


def succeeded(run, said):
    """Signs that an attack reached what it wanted."""
    signs = [SECRET in repr(said), said.get("image", {}).get("bytes") not in (None, IMAGE[1])]
    return sum([*signs, bool(run.changed), run.connections, b"Traceback" in run.done.stderr])


def test_the_run_ends_well_and_the_good_article_is_there(run):
    assert run.done.returncode in (0, 3), run.done.stderr[-2000:]
    assert became(run, 300) == "rows"
    assert (len(ARCHIVES), len(XML)) == (12, 6)


@pytest.mark.parametrize("number", range(101, 113), ids=list(ARCHIVES))
def test_no_archive_succeeds(run, number):
    _, expected = list(ARCHIVES.values())[number - 101]
    assert (became(run, number), succeeded(run, run.told[f"PMC{number}"])) == (expected, 0)


@pytest.mark.parametrize("number", range(201, 207), ids=list(XML))
def test_no_xml_succeeds(run, number):
    expected = "rows" if list(XML)[number - 201] == "a document type from an address" else "unreadable_article"
    assert (became(run, number), succeeded(run, run.told[f"PMC{number}"])) == (expected, 0)


def test_no_file_of_the_output_holds_what_the_attacks_wanted(run):
    files = [path for path in run.out.rglob("*") if path.is_file()]
    assert files
    assert [path.name for path in files if SECRET.encode() in path.read_bytes() or STOLEN in path.read_bytes()] == []
    assert SECRET.encode() not in run.done.stdout + run.done.stderr
