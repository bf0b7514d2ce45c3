import io
import sys

import imagecodecs
import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    SecondaryCaptureImageStorage,
)

from medvlm_cli.core.config import WINDOWS
from medvlm_cli.sources import dicom as source
from medvlm_cli.sources import folder
from medvlm_cli.sources.scans import Choice
from tests.plugins.scan_cases import dataset, dicom, one, refused, seen, take


def window(values, center, width):
    """The pseudo code of DICOM PS3.3 C.11.2.1.2.1, value by value, for an output from 0 to 255."""
    out = []
    for x in np.asarray(values, dtype=float).ravel():
        if x <= center - 0.5 - (width - 1) / 2:
            y = 0.0
        elif x > center - 0.5 + (width - 1) / 2:
            y = 255.0
        else:
            y = ((x - (center - 0.5)) / (width - 1) + 0.5) * 255
        out.append(round(y))
    return np.array(out, np.uint8).reshape(np.shape(values))


HU = np.array([[-1024, -600, -100, 0], [40, 50, 400, 3000]], np.int16)


def sequence(**attributes):
    item = Dataset()
    for name, value in attributes.items():
        setattr(item, name, value)
    return Sequence([item])


def test_the_first_window_of_the_file_is_applied_after_rescale(tmp_path):
    scan = dicom(
        tmp_path / "x.dcm", (HU + 1024).astype(np.uint16), RescaleSlope=1, RescaleIntercept=-1024,
        WindowCenter=[40, 500], WindowWidth=[400, 2000],
    )  # fmt: skip
    row = one(tmp_path, scan)
    assert (row["window_center"], row["window_width"], row["width"], row["height"]) == (40, 400, 4, 2)
    np.testing.assert_array_equal(seen(row), window(HU, 40, 400))


def test_signed_values_with_a_slope_are_rescaled(tmp_path):
    scan = dicom(tmp_path / "x.dcm", HU, RescaleSlope=0.5, RescaleIntercept=-7, WindowCenter=0, WindowWidth=800)
    np.testing.assert_array_equal(seen(one(tmp_path, scan)), window(HU * 0.5 - 7, 0, 800))


@pytest.mark.parametrize("name", list(WINDOWS))
def test_a_window_by_name_is_in_hounsfield_units(tmp_path, name):
    scan = dicom(tmp_path / "x.dcm", HU, RescaleSlope=1, RescaleIntercept=0, WindowCenter=1, WindowWidth=2)
    row = one(tmp_path, scan, window=name)
    assert (row["window_center"], row["window_width"]) == WINDOWS[name]
    np.testing.assert_array_equal(seen(row), window(HU, *WINDOWS[name]))


def test_the_files_own_window_of_the_same_name_is_preferred(tmp_path):
    scan = dicom(
        tmp_path / "x.dcm", HU, WindowCenter=[40, -500], WindowWidth=[400, 1400],
        WindowCenterWidthExplanation=["MEDIASTINUM", "LUNG"],
    )  # fmt: skip
    assert one(tmp_path, scan, window="lung")["window_center"] == -500


def test_a_window_by_name_is_not_for_magnetic_resonance(tmp_path):
    scan = dicom(tmp_path / "x.dcm", HU, Modality="MR", WindowCenter=100, WindowWidth=300)
    assert one(tmp_path, scan, window="lung")["window_center"] == 100


def test_the_window_of_the_row_wins_over_the_setting(tmp_path):
    scan = dicom(tmp_path / "x.dcm", HU)
    row = one(tmp_path, scan, window="lung", columns={"window": "10,20"})
    np.testing.assert_array_equal(seen(row), window(HU, 10, 20))


def test_without_a_window_the_range_without_padding_is_shown(tmp_path):
    scan = dicom(tmp_path / "x.dcm", HU, PixelPaddingValue=-1024, PixelPaddingRangeLimit=-1000)
    row = one(tmp_path, scan)
    assert (row["window_center"], row["window_width"]) == (1200.5, 3601)  # -600 is black, 3000 white
    np.testing.assert_array_equal(seen(row), window(HU, 1200.5, 3601))
    assert seen(row)[[0, 1], [1, 3]].tolist() == [0, 255]


def test_one_window_maps_its_ends_to_black_and_white(tmp_path):
    scan = dicom(tmp_path / "x.dcm", np.full((2, 2), 7, np.uint16))
    assert seen(one(tmp_path, scan)).tolist() == [[0, 0], [0, 0]]


def test_monochrome1_is_inverted(tmp_path):
    values = np.arange(16, dtype=np.uint16).reshape(4, 4) * 100
    scan = dicom(
        tmp_path / "x.dcm", values, PhotometricInterpretation="MONOCHROME1", WindowCenter=700, WindowWidth=1000
    )
    np.testing.assert_array_equal(seen(one(tmp_path, scan)), 255 - window(values, 700, 1000))


@pytest.mark.parametrize(
    ("function", "formula"),
    [
        ("LINEAR_EXACT", lambda x: np.clip((x - 40) / 400 + 0.5, 0, 1) * 255),
        ("SIGMOID", lambda x: 255 / (1 + np.exp(-4 * (x - 40) / 400))),
    ],
)
def test_the_other_functions_of_a_window_are_applied(tmp_path, function, formula):
    scan = dicom(tmp_path / "x.dcm", HU, WindowCenter=40, WindowWidth=400, VOILUTFunction=function)
    np.testing.assert_array_equal(seen(one(tmp_path, scan)), np.rint(formula(HU.astype(float))))


def test_twelve_bits_in_sixteen_ignore_what_lies_above(tmp_path):
    values = np.array([[0, 1000], [2000, 4095]], np.uint16)
    scan = dicom(tmp_path / "x.dcm", values | 0xF000, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(seen(one(tmp_path, scan)), np.rint(values / 4095 * 255))


def test_twelve_signed_bits_in_sixteen_keep_their_sign(tmp_path):
    values = np.array([[-2048, -1], [0, 2047]], np.int16)
    scan = dicom(tmp_path / "x.dcm", values & 0x0FFF, BitsStored=12, HighBit=11)
    np.testing.assert_array_equal(seen(one(tmp_path, scan)), np.rint((values + 2048) / 4095 * 255))


def test_a_modality_table_comes_before_the_window(tmp_path):
    table = sequence(LUTDescriptor=[4, 1, 16], LUTData=np.array([0, 100, 1000, 4000], "<u2").tobytes())
    scan = dicom(
        tmp_path / "x.dcm", np.array([[0, 1, 2], [3, 4, 9]], np.uint16), ModalityLUTSequence=table,
        WindowCenter=500, WindowWidth=1000,
    )  # fmt: skip
    expected = window([[0, 0, 100], [1000, 4000, 4000]], 500, 1000)
    np.testing.assert_array_equal(seen(one(tmp_path, scan)), expected)


def test_a_voi_table_stands_in_for_a_window(tmp_path):
    table = sequence(LUTDescriptor=[4, 10, 12], LUTData=np.array([0, 1000, 2000, 4095], "<u2").tobytes())
    scan = dicom(tmp_path / "x.dcm", np.array([[0, 10, 11], [12, 13, 99]], np.uint16), VOILUTSequence=table)
    row = one(tmp_path, scan)
    assert (row["window_center"], row["window_width"]) == (None, None)
    np.testing.assert_array_equal(seen(row), np.rint(np.array([[0, 0, 1000], [2000, 4095, 4095]]) * 255 / 4095))


def test_a_table_for_signed_values_may_begin_below_zero(tmp_path):
    table = sequence(LUTData=np.array([10, 20, 30], "<u2").tobytes())
    table[0].add_new(0x00283002, "US", [3, 65534, 8])  # -2, as some write it
    scan = dicom(tmp_path / "x.dcm", np.array([[-9, -2], [-1, 0]], np.int16), VOILUTSequence=table)
    assert seen(one(tmp_path, scan)).tolist() == [[10, 10], [20, 30]]


def test_rescale_and_window_of_a_frame_are_taken_from_its_functional_group(tmp_path):
    frames = Sequence()
    for center in (100, 900):
        group = Dataset()
        group.FrameVOILUTSequence = sequence(WindowCenter=center, WindowWidth=200)
        frames.append(group)
    shared = sequence(PixelValueTransformationSequence=sequence(RescaleSlope=2, RescaleIntercept=-5, RescaleType="US"))
    values = np.arange(8, dtype=np.uint16).reshape(2, 2, 2) * 100
    scan = dicom(
        tmp_path / "x.dcm", values, PerFrameFunctionalGroupsSequence=frames, SharedFunctionalGroupsSequence=shared
    )
    row = one(tmp_path, scan, frame="1")
    assert (row["frame"], row["window_center"]) == (1, 900)
    np.testing.assert_array_equal(seen(row), window(values[1] * 2.0 - 5, 900, 200))


FRAMES = np.arange(5 * 8, dtype=np.uint8).reshape(5, 2, 4) * 6


@pytest.mark.parametrize(("setting", "frame"), [("middle", 2), ("first", 0), ("4", 4)])
def test_one_frame_is_taken(tmp_path, setting, frame):
    row = one(tmp_path, dicom(tmp_path / "x.dcm", FRAMES, WindowCenter=128, WindowWidth=256), frame=setting)
    assert row["frame"] == frame
    np.testing.assert_array_equal(seen(row), FRAMES[frame])


def test_the_frame_of_the_row_wins_over_the_setting(tmp_path):
    row = one(tmp_path, dicom(tmp_path / "x.dcm", FRAMES), frame="first", columns={"frame": "3"})
    assert row["frame"] == 3


def test_all_frames_are_rows_of_their_own(tmp_path):
    dicom(tmp_path / "x.dcm", FRAMES, WindowCenter=128, WindowWidth=256)
    rows, rejects = take(tmp_path, {"image": "x.dcm", "id": "p1"}, frame="all")
    assert rejects == []
    assert [row["figure_id"] for row in rows] == [f"p1/frame-{frame}" for frame in range(5)]
    np.testing.assert_array_equal([seen(row) for row in rows], FRAMES)


def test_the_id_of_a_frame_that_is_another_rows_id_is_refused(tmp_path):
    dicom(tmp_path / "x.dcm", FRAMES)
    dicom(tmp_path / "y.dcm", FRAMES[0])
    lines = {"image": "x.dcm", "id": "p1"}, {"image": "y.dcm", "id": "p1/frame-3"}
    rows, (reject,) = take(tmp_path, *lines, frame="all")
    assert (len(rows), reject.reason) == (5, "duplicate_id")


@pytest.mark.parametrize("frame", ["5", "99999"])
def test_a_frame_that_is_not_there_is_refused(tmp_path, frame):
    reason, message = refused(tmp_path, dicom(tmp_path / "x.dcm", FRAMES), frame=frame)
    assert (reason, f"frame {frame} was asked for, the file has 0 to 4" in message) == ("bad_row", True)


def test_too_many_frames_are_refused(tmp_path):
    scan = dicom(tmp_path / "x.dcm", np.zeros((1001, 1, 2), np.uint8))
    assert refused(tmp_path, scan, frame="all")[0] == "image_too_big"


RGB = np.random.default_rng(0).integers(0, 256, (6, 5, 3), np.uint8)


def test_rgb_stays_what_it_is(tmp_path):
    row = one(tmp_path, dicom(tmp_path / "x.dcm", RGB, Modality="US"), window="40,400")
    assert (row["window_center"], row["modality"], row["modality_source"]) == (None, "ultrasound", "dicom")
    np.testing.assert_array_equal(seen(row), RGB)


def test_planes_of_colour_are_put_together(tmp_path):
    scan = dataset(RGB, PlanarConfiguration=1)
    scan.PixelData = RGB.transpose(2, 0, 1).tobytes()
    scan.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(seen(one(tmp_path, tmp_path / "x.dcm")), RGB)


def test_ybr_becomes_rgb(tmp_path):
    ybr = np.array([[[100, 128, 228], [100, 128, 128]]], np.uint8)
    scan = dicom(tmp_path / "x.dcm", ybr, PhotometricInterpretation="YBR_FULL")
    (pixels,) = seen(one(tmp_path, scan))
    np.testing.assert_allclose(pixels, [[240, 29, 100], [100, 100, 100]], atol=1)


def test_a_palette_is_looked_up(tmp_path):
    entries = {}
    for place, name in enumerate(("Red", "Green", "Blue")):
        entries[f"{name}PaletteColorLookupTableDescriptor"] = [3, 0, 16]
        table = (np.array([0, 100, 200]) + place) << 8
        entries[f"{name}PaletteColorLookupTableData"] = table.astype("<u2").tobytes()
    places = np.array([[0, 1], [2, 2]], np.uint8)
    scan = dicom(tmp_path / "x.dcm", places, PhotometricInterpretation="PALETTE COLOR", **entries)
    assert seen(one(tmp_path, scan)).tolist() == [[[0, 1, 2], [100, 101, 102]], [[200, 201, 202], [200, 201, 202]]]


SMOOTH = (np.add.outer(np.arange(64), np.arange(48)) * 18).astype(np.uint16)


@pytest.mark.parametrize("syntax", [JPEG2000Lossless, RLELossless])
def test_lossless_compression_loses_nothing(tmp_path, syntax):
    scan = dataset(SMOOTH, WindowCenter=1000, WindowWidth=2000)
    scan.compress(syntax)
    scan.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(seen(one(tmp_path, tmp_path / "x.dcm")), window(SMOOTH, 1000, 2000))


def test_lossless_jpeg_loses_nothing(tmp_path):
    scan = dataset(SMOOTH, syntax=JPEGLosslessSV1, BitsStored=12, HighBit=11, WindowCenter=1000, WindowWidth=2000)
    frame = imagecodecs.ljpeg_encode(SMOOTH, bitspersample=12)
    scan.PixelData = encapsulate([bytes(frame)])
    scan["PixelData"].is_undefined_length = True
    scan.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(seen(one(tmp_path, tmp_path / "x.dcm")), window(SMOOTH, 1000, 2000))


def test_jpeg_frames_are_decoded_one_by_one(tmp_path):
    frames = []
    for shade in (30, 130, 230):
        out = io.BytesIO()
        Image.new("RGB", (16, 16), (shade, shade, 60)).save(out, "JPEG", quality=95)
        frames.append(out.getvalue())
    scan = dataset(
        np.zeros((3, 16, 16, 3), np.uint8), syntax=JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422"
    )
    scan.PixelData = encapsulate(frames)
    scan["PixelData"].is_undefined_length = True
    scan.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    row = one(tmp_path, tmp_path / "x.dcm", frame="2")
    np.testing.assert_allclose(seen(row)[8, 8], [230, 230, 60], atol=4)


def test_a_missing_decoder_names_the_line_to_type(tmp_path, monkeypatch):
    scan = dataset(SMOOTH)
    scan.compress(JPEG2000Lossless)
    scan.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    reason, message = refused(tmp_path, tmp_path / "x.dcm")
    assert reason == "missing_extra"
    assert message.endswith("needs imagecodecs, which is not installed: pip install 'medvlm[medical]'")


def encapsulated(path, frame, **attributes):
    """One compressed frame, of the size of ``SMOOTH`` unless the attributes say otherwise."""
    scan = dataset(SMOOTH, **attributes)
    scan.PixelData = encapsulate([bytes(frame)])
    scan["PixelData"].is_undefined_length = True
    scan.save_as(path, enforce_file_format=True)
    return path


def test_a_frame_that_claims_another_size_is_not_decoded(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(imagecodecs, "jpeg_decode", lambda *_, **__: asked.append(1))
    frame = bytearray(imagecodecs.jpeg8_encode((SMOOTH >> 4).astype(np.uint8)))
    place = frame.index(b"\xff\xc0")
    frame[place + 5 : place + 9] = b"\xff\xdc\xff\xdc"  # 65500 x 65500
    path = encapsulated(tmp_path / "x.dcm", frame, syntax=JPEGBaseline8Bit, BitsAllocated=8, BitsStored=8, HighBit=7)
    assert (refused(tmp_path, path)[0], asked) == ("corrupt_image", [])


def test_jpeg_in_rgb_stays_rgb(tmp_path):
    colour = np.broadcast_to(np.array([200, 30, 90], np.uint8), (*SMOOTH.shape, 3))
    frame = imagecodecs.jpeg8_encode(np.ascontiguousarray(colour), colorspace="RGB", outcolorspace="RGB")
    scan = dataset(np.ascontiguousarray(colour), syntax=JPEGBaseline8Bit)
    scan.PixelData = encapsulate([bytes(frame)])
    scan["PixelData"].is_undefined_length = True
    scan.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    np.testing.assert_allclose(seen(one(tmp_path, tmp_path / "x.dcm")), colour, atol=3)


def test_jpeg_ls_is_refused_by_name(tmp_path):
    path = encapsulated(tmp_path / "x.dcm", imagecodecs.jpegls_encode(SMOOTH), syntax=JPEGLSLossless)
    reason, message = refused(tmp_path, path)
    assert (reason, "JPEG-LS Lossless Image Compression, which is not read" in message) == ("corrupt_image", True)


@pytest.mark.parametrize("bits", [12, 16])
def test_lossless_jpeg_of_libjpeg_loses_nothing(tmp_path, bits):
    frame = imagecodecs.jpeg8_encode(SMOOTH, bitspersample=bits, lossless=True)
    options = {"BitsStored": bits, "HighBit": bits - 1, "WindowCenter": 1000, "WindowWidth": 2000}
    path = encapsulated(tmp_path / "x.dcm", frame, syntax=JPEGLosslessSV1, **options)
    np.testing.assert_array_equal(seen(one(tmp_path, path)), window(SMOOTH, 1000, 2000))


def test_signed_values_in_lossless_jpeg_keep_their_sign(tmp_path):
    signed = SMOOTH.astype(np.int16) - 900
    frame = imagecodecs.jpeg8_encode((signed & 0xFFF).astype(np.uint16), bitspersample=12, lossless=True)
    options = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1, "WindowCenter": 0, "WindowWidth": 2000}
    path = encapsulated(tmp_path / "x.dcm", frame, syntax=JPEGLosslessSV1, **options)
    np.testing.assert_array_equal(seen(one(tmp_path, path)), window(signed, 0, 2000))


def test_signed_values_in_jpeg_2000_keep_their_sign(tmp_path):
    signed = SMOOTH.astype(np.int16) - 900
    scan = dataset(signed, WindowCenter=0, WindowWidth=2000)
    scan.compress(JPEG2000Lossless)
    scan.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(seen(one(tmp_path, tmp_path / "x.dcm")), window(signed, 0, 2000))


def test_colour_in_jpeg_2000_is_rgb(tmp_path):
    colour = np.stack([SMOOTH >> 4, SMOOTH >> 5, 255 - (SMOOTH >> 4)], axis=-1).astype(np.uint8)
    scan = dataset(colour)
    scan.compress(JPEG2000Lossless)
    scan.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(seen(one(tmp_path, tmp_path / "x.dcm")), colour)


def test_the_same_file_gives_the_same_bytes(tmp_path):
    scan = dicom(tmp_path / "x.dcm", HU)
    assert one(tmp_path, scan) == one(tmp_path, scan)


@pytest.mark.parametrize("name", ["scan", "scan.png", "1.2.840.4711", "a/IM0001"])
def test_dicom_is_known_by_its_content(tmp_path, name):
    assert one(tmp_path, dicom(tmp_path / name, HU))["modality"] == "ct"


def test_a_file_without_preamble_is_read_where_its_name_says_dicom(tmp_path):
    whole = dicom(tmp_path / "x.dcm", HU).read_bytes()
    start = whole.index(b"\x08\x00\x16\x00")  # behind preamble and file meta information
    (tmp_path / "x.dcm").write_bytes(whole[start:])
    assert one(tmp_path, tmp_path / "x.dcm")["width"] == 4


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"Modality": "MR"}, ("mri", "dicom")),
        ({"Modality": "DX", "BodyPartExamined": "CHEST"}, ("chest_xray", "dicom")),
        ({"Modality": "CR", "BodyPartExamined": "HAND"}, ("xray", "dicom")),
        ({"Modality": "MG", "BodyPartExamined": "CHEST"}, ("xray", "dicom")),
        ({"Modality": "PT"}, ("pet", "dicom")),
        ({"Modality": "XA"}, ("angiography", "dicom")),
        ({"Modality": "SM"}, ("histology", "dicom")),
        ({"Modality": "OT"}, ("unknown", None)),
        ({"SOPClassUID": SecondaryCaptureImageStorage}, ("unknown", None)),
    ],
)
def test_the_modality_is_the_files_own(tmp_path, attributes, expected):
    row = one(tmp_path, dicom(tmp_path / "x.dcm", HU, **attributes))
    assert (row["modality"], row["modality_source"]) == expected


def test_the_modality_of_the_table_wins(tmp_path):
    row = one(tmp_path, dicom(tmp_path / "x.dcm", HU), columns={"modality": "mri"})
    assert (row["modality"], row["modality_source"]) == ("mri", "given")


def test_a_caption_may_say_chest_where_the_file_says_no_body_part(tmp_path):
    scan = dicom(tmp_path / "x.dcm", HU, Modality="DX")
    row = one(tmp_path, scan, columns={"caption": "Chest X-ray, frontal."})
    assert (row["modality"], row["modality_source"]) == ("chest_xray", "caption")


def test_the_label_of_a_slide_is_never_a_picture(tmp_path):
    scan = dicom(tmp_path / "x.dcm", RGB, Modality="SM", ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"])
    assert refused(tmp_path, scan)[0] == "no_picture"


def test_a_file_without_pixels_is_refused(tmp_path):
    scan = dataset(HU)
    del scan.PixelData, scan.Rows
    scan.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    assert refused(tmp_path, tmp_path / "x.dcm")[0] == "no_picture"


def test_more_pixels_than_the_limit_are_refused_before_they_are_decoded(tmp_path):
    scan = dataset(HU)
    scan.Rows = scan.Columns = 60_000
    scan.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    reason, message = refused(tmp_path, tmp_path / "x.dcm")
    assert (reason, "60000 x 60000 pixels, over the limit" in message) == ("image_too_big", True)


def test_nothing_but_the_allowed_attributes_is_read(tmp_path):
    path = dicom(tmp_path / "x.dcm", HU, WindowCenter=1, WindowWidth=2)
    with path.open("rb") as file:
        tags = source._opened(file, path).tags
    found = {element.keyword for element in tags}
    assert {"Rows", "Modality", "WindowCenter"} <= found <= set(source.TECHNICAL)


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path):
    scan = dicom(tmp_path / "x.dcm", HU, syntax="1.2.840.10008.1.2.1.99")
    reason, message = refused(tmp_path, scan)
    assert (reason, "deflated" in message) == ("corrupt_image", True)


@pytest.mark.parametrize(("said", "expected"), [("YES", True), ("NO", False), (None, None)])
def test_burned_in_words_are_recorded(tmp_path, said, expected):
    attributes = {"BurnedInAnnotation": said} if said else {}
    assert one(tmp_path, dicom(tmp_path / "x.dcm", HU, **attributes))["burned_in"] is expected


def test_burned_in_words_are_warned_about_in_one_line(tmp_path):
    kinds = [("CT", None), ("CT", "YES"), ("US", None), ("OT", None), ("US", "NO")]
    lines = []
    for place, (kind, said) in enumerate(kinds):
        scan = dicom(tmp_path / f"{place}.dcm", HU, Modality=kind, **({"BurnedInAnnotation": said} if said else {}))
        lines.append({"image": scan.name})
    rows, _ = take(tmp_path, *lines)
    assert folder.warning(rows).startswith(
        "1 DICOM figures say that words are burned into their pixels, 2 of a kind that often has such words say nothing"
    )


def test_no_warning_without_dicom():
    row = {"source_file": "a.png", "modality": "unknown", "modality_source": None, "burned_in": None}
    assert folder.warning([row]) is None


TILES = np.random.default_rng(1).integers(0, 256, (6, 4, 4, 3), np.uint8)


def slide(path, **attributes):
    """10 x 7 pixels in 3 x 2 tiles of 4 x 4."""
    given = {"Modality": "SM", "ImageType": ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]} | attributes
    return dicom(path, TILES, TotalPixelMatrixColumns=10, TotalPixelMatrixRows=7, **given)


def whole():
    rows = [np.concatenate(TILES[start : start + 3], axis=1) for start in (0, 3)]
    return np.concatenate(rows, axis=0)[:7, :10]


def test_a_tiled_slide_is_put_together(tmp_path):
    row = one(tmp_path, slide(tmp_path / "x.dcm", DimensionOrganizationType="TILED_FULL"))
    assert (row["region"], row["frame"], row["modality"]) == ([0, 0, 10, 7], None, "histology")
    np.testing.assert_array_equal(seen(row), whole())


def test_a_region_of_a_tiled_slide_is_its_crop(tmp_path):
    row = one(tmp_path, slide(tmp_path / "x.dcm"), columns={"region": "2,3,6,4"})
    assert row["region"] == [2, 3, 6, 4]
    np.testing.assert_array_equal(seen(row), whole()[3:7, 2:8])


def test_sparse_tiles_are_refused(tmp_path):
    scan = slide(tmp_path / "x.dcm", DimensionOrganizationType="TILED_SPARSE")
    assert refused(tmp_path, scan)[0] == "corrupt_image"


def test_a_file_of_endless_elements_is_given_up(tmp_path):
    with (tmp_path / "zeros.dcm").open("wb") as file:
        file.truncate(1 << 30)  # a hole: it takes no room on the disk
    with pytest.raises(source.ScanError, match="no end of elements"):
        source.read_dicom(tmp_path / "zeros.dcm", Choice(None, "", "middle", "axial", 0, 0))
