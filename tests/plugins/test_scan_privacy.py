"""Nothing that a scan says of a patient leaves it: not in rows, rejects, messages, logs or what libraries print."""

import random

import imagecodecs
import numpy as np
import pytest
import tifffile
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGLosslessSV1, RLELossless

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.schemas import SCAN_FIGURES
from medvlm_cli.sources import folder
from medvlm_cli.stages.fetch import fetch
from tests.plugins.scan_cases import dataset, dicom, files, has_canary, nifti, one, refused, take

PIXELS = np.arange(64, dtype=np.int16).reshape(8, 8)
GOOD = {
    "DOE^JANE^CANARY.dcm": {},
    "CANARY-4711": {},
    "DOE_JANE/IM0001": {"Modality": "US"},
    "1.2.826.0.1.3680043.8.498.4711.1": {"BurnedInAnnotation": "YES"},
    "CANARY.png": {"WindowCenter": 30, "WindowWidth": 40, "WindowCenterWidthExplanation": "CANARY DOE"},
    "JANE1.dcm": {"BodyPartExamined": "canary doe?", "Modality": "DX"},
}


def bad_files(root):
    """Files that are refused, each in its own way, all named after the patient."""
    whole = dicom(root / "CANARY-cut.dcm", PIXELS).read_bytes()
    (root / "CANARY-cut.dcm").write_bytes(whole[:-50])
    (root / "CANARY-head.dcm").write_bytes(whole[:700])
    (root / "CANARY-empty.dcm").write_bytes(b"")
    (root / "CANARY-text.dcm").write_text("DOE^JANE^CANARY " * 100)
    (root / "CANARY-out.dcm").symlink_to(root.parent / "DOE-JANE.dcm")
    (root / "CANARY-syntax.dcm").write_bytes(whole.replace(b"1.2.840.10008.1.2.1\0", b"1.2.826.0.4711.4711\0"))
    dicom(root / "CANARY-photo.dcm", PIXELS, PhotometricInterpretation="CANARY DOE")
    dicom(root / "CANARY-depth.dcm", PIXELS, BitsAllocated=13)
    dicom(root / "CANARY-frames.dcm", PIXELS, NumberOfFrames=4711)
    dicom(root / "CANARY-slide.dcm", PIXELS, TotalPixelMatrixColumns=4711, TotalPixelMatrixRows=4711)
    dicom(root / "CANARY-label.dcm", PIXELS, ImageType=["ORIGINAL", "PRIMARY", "LABEL"])
    for name, syntax in (("jpeg", JPEGLosslessSV1), ("j2k", JPEG2000Lossless), ("rle", RLELossless)):
        scan = dataset(PIXELS, syntax=syntax)
        scan.PixelData = encapsulate([b"CANARY DOE JANE not a frame at all"])
        scan["PixelData"].is_undefined_length = True
        scan.save_as(root / f"CANARY-{name}.dcm", enforce_file_format=True)
    return [path.name for path in files(root) if path.name.startswith("CANARY-")] + [
        "CANARY-out.dcm",
        "CANARY-gone.dcm",
    ]


def test_no_word_about_a_patient_leaves_a_folder(tmp_path, caplog, capfd, recwarn):
    root = tmp_path / "in"
    lines = [{"image": name} for name in bad_files(root)]
    for name, attributes in GOOD.items():
        dicom(root / name, PIXELS, **attributes)
        lines.append({"image": name})
    dicom(root / "CANARY-unlisted.dcm", PIXELS)
    dicom(root / "DOE_JANE/CANARY", PIXELS)
    lines += [{"image": "DOE^JANE^CANARY.dcm", "caption": ""}, {"image": "CANARY-4711", "frame": "7"}]
    lines.append({"image": "CANARY-4711", "window": "CANARY"})
    nifti(root / "brain.nii.gz", PIXELS[..., None])
    words = {"description": "Aperio\r\nDOE JANE|CANARY-4711", "software": "CANARY", "photometric": "rgb"}
    tifffile.imwrite(root / "slide.svs", np.zeros((64, 64, 3), np.uint8), tile=(32, 32), metadata=None, **words)
    lines += [{"image": "brain.nii.gz"}, {"image": "slide.svs"}]
    take(root, *lines)  # writes the table

    recwarn.clear()  # writing them warns too
    caplog.clear()

    with caplog.at_level("DEBUG"):
        summary = fetch("folder", tmp_path / "out", FetchConfig(images=str(root)), lambda *_: None)
    dataset_ = open_dataset(tmp_path / "out", SCAN_FIGURES)
    rows, rejects = list(dataset_.rows()), list(dataset_.rejects())

    assert len(rows) == len(GOOD) + 2
    assert len(rejects) == len(lines) - len(rows) + 2
    assert {reject["reason"] for reject in rejects} == {
        "corrupt_image", "missing_image", "unsafe_path", "no_picture", "bad_row", "missing_caption", "not_listed"
    }  # fmt: skip
    leaks = {path.name: has_canary(path.read_bytes()) for path in files(tmp_path / "out")}
    assert {name: found for name, found in leaks.items() if found} == {}
    printed = "".join(capfd.readouterr()) + caplog.text
    told = [repr(rows), repr(rejects), repr(summary), str(folder.warning(rows)), printed]
    told += [str(each.message) for each in recwarn]
    assert [found for each in told if (found := has_canary(each))] == []
    assert summary["warning"].startswith("1 DICOM figures say that words are burned into their pixels, 1 of a kind")


def test_a_figure_is_called_after_its_pixels_and_its_row(tmp_path):
    row = one(tmp_path, dicom(tmp_path / "DOE^JANE.dcm", PIXELS))
    assert row["figure_id"].startswith("dicom-") and row["figure_id"].endswith("-2")
    assert (row["image"]["path"], row["source_file"]) == (row["figure_id"] + ".png", None)


def test_the_same_scan_twice_makes_two_ids(tmp_path):
    dicom(tmp_path / "a.dcm", PIXELS)
    rows, rejects = take(tmp_path, {"image": "a.dcm"}, {"image": "a.dcm"})
    assert rejects == []
    assert len({row["figure_id"] for row in rows}) == 2
    assert len({row["figure_id"][:18] for row in rows}) == 1


def test_an_id_of_the_table_is_kept(tmp_path):
    row = one(tmp_path, dicom(tmp_path / "a.dcm", PIXELS), columns={"id": "case 7/a"})
    assert (row["figure_id"], row["image"]["path"]) == ("case 7/a", "case_7_a.png")


def test_unlisted_scans_are_counted_and_not_named(tmp_path):
    dicom(tmp_path / "DOE.dcm", PIXELS)
    dicom(tmp_path / "x/JANE", PIXELS)
    dicom(tmp_path / "x/DICOMDIR", PIXELS)
    _, rejects = take(tmp_path, {"image": "gone.png"})
    assert [(reject.reason, reject.id) for reject in rejects[1:]] == [
        ("not_listed", "DICOM file 1 (not listed)"),
        ("not_listed", "DICOM file 2 (not listed)"),
    ]


@pytest.mark.parametrize("module", ["pydicom", "nibabel", "tifffile"])
def test_without_the_extra_each_file_is_a_reject_with_the_line_to_type(tmp_path, monkeypatch, module):
    monkeypatch.setitem(__import__("sys").modules, module, None)
    name = {"pydicom": "a.dcm", "nibabel": "a.nii.gz", "tifffile": "a.svs"}[module]
    (tmp_path / name).write_bytes(b"anything")
    reason, message = refused(tmp_path, tmp_path / name)
    assert reason == "missing_extra"
    assert message.endswith(f"needs {module}, which is not installed: pip install 'medvlm[medical]'")


def test_ordinary_pictures_need_no_extra(tmp_path, monkeypatch):
    for module in ("pydicom", "nibabel", "tifffile", "imagecodecs"):
        monkeypatch.setitem(__import__("sys").modules, module, None)
    tifffile.imwrite(tmp_path / "a.tif", PIXELS.astype(np.uint8))
    assert one(tmp_path, tmp_path / "a.tif")["width"] == 8


def mutilated(whole, chance):
    data = bytearray(whole)
    for _ in range(chance.randint(1, 12)):
        place = chance.randrange(132, len(data))
        kind = chance.random()
        if kind < 0.6:
            data[place] = chance.randrange(256)
        elif kind < 0.8:
            del data[place : place + chance.randint(1, 8)]
        else:
            data[place:place] = bytes(chance.randrange(256) for _ in range(chance.randint(1, 8)))
    return bytes(data[: chance.randrange(1, len(data))] if chance.random() < 0.1 else data)


def small(kind):
    """A small scan of some kind, as bytes."""
    if kind == "plain":
        return dataset(PIXELS, WindowCenter=3, WindowWidth=4, RescaleSlope=2, RescaleIntercept=1)
    if kind == "frames":
        return dataset(np.arange(256, dtype=np.uint8).reshape(4, 8, 8), NumberOfFrames=4)
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    if kind != "ljpeg":
        scan = dataset(pixels)
        scan.compress({"rle": RLELossless, "j2k": JPEG2000Lossless}[kind])
        return scan
    scan = dataset(pixels, syntax=JPEGLosslessSV1, BitsStored=12, HighBit=11)
    scan.PixelData = encapsulate([bytes(imagecodecs.ljpeg_encode(pixels, bitspersample=12))])
    scan["PixelData"].is_undefined_length = True
    return scan


@pytest.mark.parametrize("kind", ["plain", "frames", "rle", "j2k", "ljpeg"])
def test_mutilated_files_are_rows_or_rejects_and_tell_nothing(tmp_path, kind, caplog, capfd):
    chance = random.Random(kind)
    small(kind).save_as(tmp_path / "whole", enforce_file_format=True)
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "whole").unlink()
    names = [f"{number}.dcm" for number in range(150)]
    for name in names:
        (tmp_path / name).write_bytes(mutilated(whole, chance))
    with caplog.at_level("DEBUG"):
        rows, rejects = take(tmp_path, *({"image": name} for name in names))
    assert len(rows) + len(rejects) == 150
    assert len(rejects) > 20
    printed = "".join(capfd.readouterr()) + caplog.text
    assert has_canary(printed + "".join(map(str, rejects)) + "".join(map(str, rows))) == []
    assert printed == ""
