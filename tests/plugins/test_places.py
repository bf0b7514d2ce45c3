"""Which file an address means, and which addresses lead nowhere good; no file is touched here."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medvlm_cli.sources.places import MissError, Names, flag, names_of, split


@pytest.mark.parametrize(
    ("name", "files", "chosen"),
    [
        ("g.jpg", ["g.gif", "g.jpg"], ["g.jpg"]),
        ("g", ["g.gif", "g.jpg"], ["g.jpg"]),
        ("g.gif", ["g.gif", "g.jpg"], ["g.jpg"]),
        ("g.gif", ["g.gif", "g.tif"], ["g.tif"]),
        ("g.gif", ["g.gif", "G.gif"], ["g.gif"]),
        ("g.jpg", ["g.jpg", "G.jpg", "G.JPG"], ["g.jpg"]),
        ("G.JPG", ["g.jpg", "G.jpg", "G.JPG"], ["G.JPG"]),
        ("g.JPG", ["g.jpg", "G.jpg"], ["G.jpg", "g.jpg"]),
        ("g.jpg", ["g.jpeg"], ["g.jpeg"]),
        ("g.jpeg", ["g.jpg", "g.jpeg"], ["g.jpeg"]),
        ("g", ["g.jpg", "g.jpeg"], ["g.jpeg", "g.jpg"]),
        ("g", ["g.tif", "g.tiff", "g.webp"], ["g.webp"]),
        ("g.tif", ["g.tif", "g.jpg"], ["g.tif"]),
        ("g.eps", ["g.jpg", "g.png"], ["g.jpg"]),
        ("g.pdf", ["g.pdf", "g.png"], ["g.png"]),
        ("g.pdf", ["g.pdf"], ["g.pdf"]),
        ("g", ["g.jpg", "G.jpg"], ["G.jpg", "g.jpg"]),
        ("pone.1.g001", ["pone.1.g001.tif", "pone.1.jpg"], ["pone.1.g001.tif"]),
        ("a.b.jpg", ["a.jpg", "b.jpg"], []),
        ("g.mp4", ["g.jpg"], []),
        ("g.jpg", ["g.nxml", "g"], []),
        ("", ["g.jpg", ".jpg"], []),
        ("g1", ["g10.jpg", "g1a.jpg", "fig-g1.jpg"], []),
        ("ﬁg.jpg", ["fig.jpg"], []),
    ],
)
def test_the_files_a_name_may_mean(name, files, chosen):
    assert sorted(Names(files).choose(name)) == chosen


def test_several_files_that_fit_equally_well_are_a_miss_that_names_them():
    with pytest.raises(MissError, match=re.escape("a.xml: 'g' may be any of g.jpeg, g.jpg")) as caught:
        Names(["g.jpg", "g.jpeg"]).find("g", "a.xml", "PMC1.1")
    assert caught.value.reason == "missing_image"


def test_no_file_is_a_miss_that_names_the_folder():
    with pytest.raises(MissError, match=re.escape("a.xml: no file 'g' in PMC1.1/")) as caught:
        names_of(("h.jpg",)).find("g", "a.xml", "PMC1.1")
    assert caught.value.reason == "missing_image"


@given(st.lists(st.text(max_size=8), max_size=8), st.text(max_size=8))
def test_what_is_chosen_is_one_of_the_files_and_an_image_in_its_own_name_is_always_found(files, name):
    chosen = Names(files).choose(name)
    assert set(chosen) <= set(files)
    assert Names([*files, f"{name}.jpg"]).choose(f"{name}.jpg") == [f"{name}.jpg"]


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("g.jpg", ["g.jpg"]),
        ("images/g.jpg", ["images", "g.jpg"]),
        ("./g.jpg", [".", "g.jpg"]),
        ("a%20b.jpg", ["a b.jpg"]),
        ("100%.jpg", ["100%.jpg"]),
        ("größe.jpg", ["größe.jpg"]),
        ("..g.jpg", ["..g.jpg"]),
        ("https://x.org/a/b/g.jpg?download=1#x", ["g.jpg"]),
        ("HTTP://x.org/g.jpg", ["g.jpg"]),
        ("http://x.org/a%2F..%2Fg.jpg", ["g.jpg"]),
    ],
)
def test_the_parts_of_an_address(address, parts):
    assert split(address, "a.xml") == parts


@pytest.mark.parametrize(
    "address",
    [
        "..", "../g.jpg", "a/../g.jpg", "a/..", "/g.jpg", "//host/g.jpg", "C:g.jpg", "c:/g.jpg",
        "a\\g.jpg", "\\\\host\\g", "C%3Ag.jpg", "%43:/g.jpg", "http://x.org/C:g.jpg",
        "%2e%2e/g.jpg", "%2Fetc%2Fg.jpg", "%5c%5chost", "..%2fg.jpg", "a%00.jpg", "a\n.jpg",
        "a\x1b[2J.jpg", "a\u202eg.jpg",
        "file:g.jpg", "FILE:///g.jpg", "data:image/png;base64,AAAA", "s3://bucket/g.jpg", "gopher://x/g.jpg",
        "javascript://x/g.jpg", "://g.jpg", "http://x.org/..", "http://x.org/a%5cb.jpg", "http://[/g.jpg",
        "http://x.org]/g.jpg", "http://\u2100.org/g.jpg",
    ],
)  # fmt: skip
def test_an_address_that_leads_elsewhere_is_unsafe(address):
    with pytest.raises(MissError) as caught:
        split(address, "a.xml")
    assert caught.value.reason == "unsafe_path"


@pytest.mark.parametrize("address", ["", "images/", "http://x.org", "http://x.org/", "https://x.org/a/?x=g.jpg"])
def test_an_address_that_names_no_file_is_a_miss(address):
    with pytest.raises(MissError) as caught:
        split(address, "a.xml")
    assert caught.value.reason == "missing_image"


PIECES = st.sampled_from(
    ["..", ".", "/", "\\", "%2e", "%2E", "%2f", "%5c", "%00", "%25", "://",
     "http", "https", "file", "ftp", ":", "[", "]",
     "%3a", "@", "?", "#", "C", "g", ".jpg", " ", "\0", "\n", "\x1b", "\u2028", "\u202e", "\u2100", "\udcff", "é"]
)  # fmt: skip


@given(st.lists(PIECES, max_size=12).map("".join) | st.text(max_size=40))
def test_no_part_of_any_address_climbs_is_absolute_or_holds_what_no_name_should(address):
    try:
        parts = split(address, "a.xml")
    except MissError as error:
        assert error.reason in ("unsafe_path", "missing_image")
        return
    assert parts and parts[-1]
    assert ".." not in parts
    assert parts[0] or len(parts) == 1
    assert all("/" not in part and "\\" not in part and part.isprintable() for part in parts)
    assert not re.match(r"[A-Za-z]:", parts[0])


@pytest.mark.parametrize(
    ("value", "yes"),
    [(True, True), ("true", True), ("True", True), (1, True), ("yes", True), (False, False), (None, False),
     ("false", False), (0, False), ("no", False), ("", False), ([], False), ({}, False)],
)  # fmt: skip
def test_a_yes_is_known_in_whatever_way_it_is_written(value, yes):
    assert flag({"is_retracted": value}, "is_retracted") is yes


def test_a_flag_that_is_absent_is_no():
    assert flag({}, "is_retracted") is False
