import gzip
import json

import pytest

from medvlm_cli.core.errors import DataError
from medvlm_cli.sources.dead_links import REASONS, Ambiguous, Trouble, Wanted, match, wanted, wanted_by_roco

URL = "https://ftp.ncbi.nlm.nih.gov/pub/pmc/oa_package/83/41/PMC123.tar.gz"
DLINK = "ROCO_1\twget -r ftp://ftp.ncbi.nlm.nih.gov/pub/pmc/oa_package/8d/34/PMC123.tar.gz -P /path/to/Dir\ta-g01.jpg"


def row(**others):
    return {"pair_id": "17_F1", "pmc_tar_url": URL, "image_file_path": "PMC123/pone.0001.g001.jpg"} | others


def as_line(line):
    text = line if isinstance(line, str | bytes) else json.dumps(line)
    return text.encode() if isinstance(text, str) else text


def listed(tmp_path, *lines, read=wanted):
    path = tmp_path / "urls.jsonl"
    path.write_bytes(b"\n".join(map(as_line, lines)) + b"\n")
    return list(read(path))


def test_a_line_names_the_article_and_the_file(tmp_path):
    assert listed(tmp_path, row()) == [Wanted(1, "17_F1", "PMC123", "pone.0001.g001.jpg")]


@pytest.mark.parametrize(
    "url",
    [
        URL.replace("https", "ftp"),
        URL.replace("https", "http"),
        URL.replace("//ftp.", "//www."),
        URL.replace("/oa_package", "/deprecated/oa_package"),
    ],
)
def test_every_address_that_the_archives_had_is_understood(tmp_path, url):
    (found,) = listed(tmp_path, row(pmc_tar_url=url))
    assert found.pmcid == "PMC123"


@pytest.mark.parametrize("path", ["a.jpg", "PMC123/a.jpg", "PMC123/images/a.jpg"])
def test_folders_of_the_archive_are_left_out(tmp_path, path):
    (found,) = listed(tmp_path, row(image_file_path=path))
    assert found.file == "a.jpg"


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        ("{", "bad_row", "not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1))"),
        ("[1]", "bad_row", "not a JSON object"),
        (b"\xff\xfe", "bad_row", "not JSON (Expecting value: line 1 column 1 (char 0))"),
        (row(pair_id=None), "bad_row", "'pair_id', 'pmc_tar_url' and 'image_file_path' must be there, and text"),
        (row(pair_id=7), "bad_row", "'pair_id', 'pmc_tar_url' and 'image_file_path' must be there, and text"),
        ({"pair_id": "a"}, "bad_row", "'pair_id', 'pmc_tar_url' and 'image_file_path' must be there, and text"),
        (row(pair_id="../a"), "bad_row", "'../a' is no id"),
        (row(pair_id="a\x1b[2J"), "bad_row", "'a [2J' is no id"),
        (row(pair_id=" a"), "bad_row", "' a' is no id"),
        (row(pair_id=""), "bad_row", "'' is no id"),
        (row(pair_id="a" * 256), "bad_row", f"'{'a' * 80}' is no id"),
        (row(image_file_path="PMC123/../../a"), "unsafe_path", "'PMC123/../../a' is no path inside an archive"),
        (row(image_file_path="/etc/passwd"), "unsafe_path", "'/etc/passwd' is no path inside an archive"),
        (row(image_file_path="PMC123\\a.jpg"), "unsafe_path", "'PMC123\\a.jpg' is no path inside an archive"),
        (row(image_file_path="C:a.jpg"), "unsafe_path", "'C:a.jpg' is no path inside an archive"),
        (row(image_file_path="PMC123/a\n.jpg"), "unsafe_path", "'PMC123/a .jpg' is no path inside an archive"),
        (row(image_file_path="PMC123/a\u202e.jpg"), "unsafe_path", "'PMC123/a.jpg' is no path inside an archive"),
        (row(image_file_path="PMC123/\ud800.jpg"), "unsafe_path", "'PMC123/.jpg' is no path inside an archive"),
        (row(image_file_path="PMC123/"), "unsafe_path", "'PMC123/' is no path inside an archive"),
        (row(image_file_path="a" * 300), "unsafe_path", f"'{'a' * 200}' is no path inside an archive"),
        (row(image_file_path="PMC124/a.jpg"), "wrong_article", "'PMC124/a.jpg' is not in the archive of PMC123"),
    ],
)  # fmt: skip
def test_a_line_that_asks_for_no_figure_is_told(tmp_path, line, reason, message):
    (found,) = listed(tmp_path, line)
    assert isinstance(found, Trouble)
    assert (found.reason, found.message) == (reason, f"urls.jsonl, line 1: {message}")
    assert found.reason in REASONS


def test_a_line_that_is_nested_too_deeply_is_told(tmp_path):
    (found,) = listed(tmp_path, "[" * 15_000)
    assert found.reason == "bad_row"
    assert found.message.startswith("urls.jsonl, line 1: not JSON (maximum recursion depth exceeded")


@pytest.mark.parametrize(
    "url",
    [
        URL.replace("ftp.ncbi.nlm.nih.gov", "evil.example"),
        URL.replace("ftp.ncbi.nlm.nih.gov", "ftp.ncbi.nlm.nih.gov.evil.example"),
        URL.replace("ftp.ncbi", "user@ftp.ncbi"),
        URL.replace("https", "file"),
        URL.replace("PMC123", "PMC0123"),
        URL.replace("PMC123", "PMC12345678901"),
        URL.replace("PMC123", "PMC１２３"),
        URL.replace("/83/", "/../"),
        URL + "?x=1",
        URL + "\n",
        "PMC123",
        "",
    ],
)
def test_an_address_of_anything_else_is_told(tmp_path, url):
    (found,) = listed(tmp_path, row(pmc_tar_url=url))
    assert (found.reason, found.id, found.line) == ("bad_address", "17_F1", 1)


def test_a_repeated_id_is_told_and_the_first_stays(tmp_path):
    first, second, third = listed(tmp_path, row(), row(image_file_path="b.jpg"), row(pair_id="18_F1"))
    assert first.file == "pone.0001.g001.jpg"
    assert (second.reason, second.message) == (
        "duplicate_id",
        "urls.jsonl, line 2: '17_F1' is the id of an earlier line",
    )
    assert third.line == 3


def test_an_id_of_a_line_that_is_no_good_may_come_again(tmp_path):
    bad, good = listed(tmp_path, row(pmc_tar_url=""), row())
    assert (bad.reason, good.figure_id) == ("bad_address", "17_F1")


def test_every_line_that_is_not_blank_is_told_in_order(tmp_path):
    found = listed(tmp_path, row(), "", "x" * 1_000_000, "  ", "nonsense", row(pair_id="18_F1"))
    assert [(type(each), each.line) for each in found] == [(Wanted, 1), (Trouble, 3), (Trouble, 5), (Wanted, 6)]
    assert found[1] == Trouble(3, "urls.jsonl:3", "bad_row", "urls.jsonl, line 3: longer than 16384 bytes", None)
    assert (found[2].id, found[2].raw) == ("urls.jsonl:5", "nonsense")


def test_a_compressed_list_is_read(tmp_path):
    path = tmp_path / "urls.jsonl.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + json.dumps(row()).encode() + b"\r\n"))
    assert list(wanted(path)) == [Wanted(1, "17_F1", "PMC123", "pone.0001.g001.jpg")]


def test_a_list_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        list(wanted(tmp_path / "urls.jsonl"))


def test_a_line_of_roco_names_the_article_and_the_file(tmp_path):
    assert listed(tmp_path, DLINK, read=wanted_by_roco) == [Wanted(1, "ROCO_1", "PMC123", "a-g01.jpg")]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (json.dumps(row()), "bad_row"),
        ("ROCO_1\ta.jpg", "bad_row"),
        (DLINK + "\tmore", "bad_row"),
        (DLINK.replace("a-g01.jpg", "../a.jpg"), "unsafe_path"),
        (DLINK.replace("ftp.ncbi", "ftp.evil"), "bad_address"),
    ],
)
def test_a_line_of_roco_that_asks_for_no_figure_is_told(tmp_path, line, reason):
    (found,) = listed(tmp_path, line, read=wanted_by_roco)
    assert found.reason == reason


@pytest.mark.parametrize(
    ("media", "found"),
    [
        (["a.g001.jpg", "A.g001.JPG", "a.g001.png"], "a.g001.jpg"),
        (["A.G001.jpg", "a.g001.png"], "A.G001.jpg"),
        (["a.g001.gif", "a.g001.tif", "a.g001.webp"], "a.g001.webp"),
        (["a.g001.gif", "a.g001.tif"], "a.g001.tif"),
        (["a.g001.gif"], "a.g001.gif"),
        (["a.g0011.jpg", "xa.g001.jpg", "a.g001.pdf", "a.jpg"], None),
        ([], None),
        (["A.g001.jpg", "a.G001.jpg"], Ambiguous(("A.g001.jpg", "a.G001.jpg"))),
        (["a.g001.jpeg", "A.g001.JPEG"], Ambiguous(("A.g001.JPEG", "a.g001.jpeg"))),
    ],
)
def test_a_dead_name_finds_the_file_that_took_its_place(media, found):
    assert match("a.g001.jpg", media) == found


def test_a_thumbnail_finds_its_full_image():
    assert match("a.gif", ["a.gif", "a.jpg"]) == "a.jpg"
