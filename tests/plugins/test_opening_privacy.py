"""Nothing that a file says of a patient is in what is opened of it, nor in what is said about it."""

import dataclasses
import logging

import numpy as np
import pytest
from pydicom.uid import JPEG2000Lossless, RLELossless

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import decode
from medvlm_cli.sources.opening import AS_IT_IS, View, open_image
from tests.plugins.identifier_cases import (
    ALL,
    FACE,
    IDENTIFIERS,
    PIXELS,
    found_in,
    save_picture,
    save_scan,
    save_slide,
    save_volume,
    scan,
    thumbnail,
)

NAME = f"{IDENTIFIERS['name']}_{IDENTIFIERS['record number']}_{IDENTIFIERS['date']}"
SCANS = {".dcm": save_scan, "": save_scan, ".nii": save_volume, ".svs": save_slide}
PICTURES = (".png", ".jpg", ".webp", ".gif", ".tif")


def everything(opened):
    """All that is in an opened image but its path, which the user typed and which is neither shown nor stored."""
    shown = dataclasses.replace(opened, path="")
    return (opened.data, repr(opened), str(dataclasses.asdict(shown) | {"data": None}))


def test_there_are_eighteen_kinds_and_all_are_found_where_they_are():
    assert len(IDENTIFIERS) == 18
    assert found_in(ALL) == list(IDENTIFIERS)
    assert found_in(ALL.upper().encode("utf-16-le")) == list(IDENTIFIERS)
    assert found_in(FACE.tobytes()) == found_in(thumbnail()) == ["photograph"]
    assert found_in("x") == []


@pytest.mark.parametrize("ending", SCANS)
def test_a_scan_is_opened_without_an_identifier(tmp_path, ending, caplog, capfd):
    path = SCANS[ending](tmp_path / f"{NAME}{ending}")
    assert found_in(path.read_bytes())
    caplog.clear()
    capfd.readouterr()
    with caplog.at_level(logging.DEBUG):
        opened = open_image(path)
    assert found_in(*everything(opened)) == []
    assert "".join(capfd.readouterr()) + caplog.text == ""
    kind = {".dcm": "dicom", "": "dicom", ".nii": "nifti", ".svs": "slide"}[ending]
    assert opened.name.startswith(f"{kind}-")
    assert len(opened.name) == len(kind) + 13


def test_the_name_of_a_scan_is_that_of_its_pixels(tmp_path):
    first, again = (open_image(save_scan(tmp_path / name)) for name in ("a.dcm", "b.dcm"))
    other = open_image(save_scan(tmp_path / "c.dcm", pixels=PIXELS + 1))
    assert first.name == again.name != other.name


@pytest.mark.parametrize("syntax", [RLELossless, JPEG2000Lossless])
def test_a_compressed_scan_is_opened_without_an_identifier(tmp_path, syntax):
    made = scan((PIXELS - PIXELS.min()).astype(np.uint16))
    made.compress(syntax)
    made.save_as(tmp_path / f"{NAME}.dcm", enforce_file_format=True)
    assert found_in(*everything(open_image(tmp_path / f"{NAME}.dcm"))) == []


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("ending", PICTURES)
def test_a_picture_keeps_its_pixels_and_loses_what_is_written_beside_them(tmp_path, ending, orientation, caplog, capfd):
    path = save_picture(tmp_path / f"x{ending}", orientation)
    assert len(found_in(path.read_bytes())) == 19 or ending in (".gif", ".tif", ".webp")
    assert found_in(path.read_bytes())
    with caplog.at_level(logging.DEBUG):
        opened = open_image(path)
    assert found_in(*everything(opened)) == []
    assert "".join(capfd.readouterr()) + caplog.text == ""
    np.testing.assert_array_equal(np.asarray(decode(opened.data, "x")), np.asarray(decode(path.read_bytes(), "x")))


def test_a_picture_whose_name_has_no_ending_is_called_after_its_contents(tmp_path):
    save_picture(tmp_path / "x.png").rename(tmp_path / NAME)
    opened = open_image(tmp_path / NAME)
    assert found_in(opened.name) == []
    assert opened.name == f"picture-{opened.sha256[:12]}"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # as core.images has it, which pytest undoes
@pytest.mark.parametrize("ending", [*SCANS, *PICTURES])
@pytest.mark.parametrize("kept", [0.05, 0.3, 0.7, 0.95])
def test_an_error_about_a_damaged_file_quotes_nothing_of_it(tmp_path, ending, kept, caplog, capfd):
    whole = {**SCANS, **dict.fromkeys(PICTURES, save_picture)}[ending](tmp_path / f"whole{ending}").read_bytes()
    path = tmp_path / f"x{ending}"
    path.write_bytes(whole[: int(len(whole) * kept)])
    with caplog.at_level(logging.DEBUG):
        told = told_of(path)
    assert found_in(told, caplog.text, *capfd.readouterr()) == []


def told_of(path, view=AS_IT_IS):
    """What is said of a file: an error, or what is opened."""
    try:
        return everything(open_image(path, view))
    except DataError as error:
        return str(error), repr(error), str(error.__cause__)


@pytest.mark.parametrize("ending", [".dcm", ".nii", ".png", ".jpg", ".tif"])
def test_an_error_about_a_file_of_words_quotes_none_of_them(tmp_path, ending):
    (tmp_path / f"x{ending}").write_bytes(ALL.encode() * 50)
    assert found_in(*told_of(tmp_path / f"x{ending}")) == []


@pytest.mark.parametrize("view", [View(window="lung"), View(window="brain"), View(frame="9"), View(region="0,0,9,9")])
def test_what_is_said_of_another_view_quotes_nothing(tmp_path, view):
    path = save_scan(tmp_path / "x.dcm", WindowCenter=[40, -600], WindowWidth=[80, 1500])
    assert found_in(*told_of(path, view)) == []
