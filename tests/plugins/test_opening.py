"""Images as ``chat`` opens them: what is shown of each kind of file, and what is said of it."""

import hashlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
import tifffile
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

from medvlm_cli.core.config import WINDOWS
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.images import decode
from medvlm_cli.sources.opening import View, open_image
from tests.plugins.scan_cases import dataset, dicom, nifti

SMOOTH = (np.add.outer(np.arange(80), np.arange(64)) * 14).astype(np.uint16)  # 0 to 1988
HU = SMOOTH.astype(np.int16) - 1024
PHOTO = np.random.default_rng(0).integers(0, 256, (80, 96, 3), np.uint8)


def pixels(opened):
    """RGB as the model is given it."""
    return np.asarray(decode(opened.data, opened.name))


def grey(opened):
    """The only channel of a grey picture."""
    red, green, blue = np.moveaxis(pixels(opened), -1, 0)
    np.testing.assert_array_equal(red, green)
    np.testing.assert_array_equal(red, blue)
    return red.astype(int)


def picture(path, values=PHOTO, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path, **options)
    return path


def reference(path, index=0):
    """The frame as pydicom's own functions show it, as 8 bits."""
    scan = pydicom.dcmread(path)
    stored = scan.pixel_array
    stored = stored[index] if "NumberOfFrames" in scan else stored
    values = apply_voi_lut(apply_modality_lut(stored, scan), scan, index=0).astype(float)
    low, high = values.min(), values.max()
    if "WindowWidth" in scan:  # pydicom maps a window to all that the stored bits could hold
        signed = scan.PixelRepresentation * 2 ** (scan.BitsStored - 1)
        ends = np.array([-signed, 2**scan.BitsStored - 1 - signed], float)
        low, high = ends * float(scan.get("RescaleSlope", 1)) + float(scan.get("RescaleIntercept", 0))
    shown = (values - low) / (high - low) * 255
    return 255 - shown if scan.PhotometricInterpretation == "MONOCHROME1" else shown


def compressed(path, syntax, **attributes):
    scan = dataset(SMOOTH, WindowCenter=1000, WindowWidth=1500, **attributes)
    scan.compress(syntax)
    scan.save_as(path, enforce_file_format=True)
    return path


def baseline(path):
    values = (SMOOTH >> 3).astype(np.uint8)
    scan = dataset(values, syntax=JPEGBaseline8Bit, WindowCenter=100, WindowWidth=150)
    scan.PixelData = encapsulate([bytes(imagecodecs.jpeg8_encode(values, level=95))])
    scan["PixelData"].is_undefined_length = True
    scan.save_as(path, enforce_file_format=True)
    return path


ENCODINGS = {
    "uncompressed": lambda path: dicom(path, SMOOTH, WindowCenter=1000, WindowWidth=1500),
    "rescaled CT": lambda path: dicom(
        path, SMOOTH, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=[40, -600], WindowWidth=[400, 1500]
    ),
    "signed CT": lambda path: dicom(path, HU, RescaleSlope=1, RescaleIntercept=0, WindowCenter=40, WindowWidth=400),
    "RLE": lambda path: compressed(path, RLELossless),
    "JPEG 2000": lambda path: compressed(path, JPEG2000Lossless),
    "JPEG baseline": baseline,
    "MONOCHROME1": lambda path: dicom(
        path, SMOOTH, PhotometricInterpretation="MONOCHROME1", WindowCenter=1000, WindowWidth=1500
    ),
    "MONOCHROME1 without a window": lambda path: dicom(path, SMOOTH, PhotometricInterpretation="MONOCHROME1"),
    "CT without a window": lambda path: dicom(path, SMOOTH, RescaleSlope=1, RescaleIntercept=-1024),
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_scan_is_within_one_grey_level_of_pydicoms_own_picture(tmp_path, encoding):
    path = ENCODINGS[encoding](tmp_path / "x.dcm")
    opened = open_image(path)
    assert np.abs(grey(opened) - reference(path)).max() <= 1
    assert np.ptp(grey(opened)) == 255


@pytest.mark.parametrize(("frame", "index"), [("middle", 2), ("first", 0), ("last", 4), ("3", 3)])
def test_a_frame_is_within_one_grey_level_of_pydicoms_own_picture(tmp_path, frame, index):
    frames = np.stack([np.roll(SMOOTH, 9 * number) for number in range(5)])
    path = dicom(tmp_path / "x.dcm", frames, WindowCenter=1000, WindowWidth=1500)
    opened = open_image(path, View(frame=frame))
    assert (opened.frame, opened.frames) == (index, 5)
    assert np.abs(grey(opened) - reference(path, index)).max() <= 1


@pytest.mark.parametrize(
    ("asked", "attributes", "window", "source"),
    [
        ("", {"WindowCenter": [40, 500], "WindowWidth": [400, 2000]}, (40, 400), "as the file says"),
        ("7,80", {"WindowCenter": 40, "WindowWidth": 400}, (7, 80), "as asked"),
        ("lung", {}, WINDOWS["lung"], "as asked"),
        ("", {}, (482.5, 3013), "no window is given: the range of its values"),
        (
            "lung",
            {"WindowCenter": [40, -500], "WindowWidth": [400, 1400], "WindowCenterWidthExplanation": ["BODY", "LUNG"]},
            (-500, 1400),
            "the file's own of this name",
        ),
        ("lung", {"Modality": "MR", "WindowCenter": 40, "WindowWidth": 400}, (40, 400), "as the file says"),
    ],
)
def test_the_window_used_is_told_and_whose_it_is(tmp_path, asked, attributes, window, source):
    values = HU.copy()
    values[-1, -1] = 1988
    opened = open_image(dicom(tmp_path / "x.dcm", values, **attributes), View(window=asked))
    assert (opened.window, opened.window_source) == (window, source)


def test_a_window_by_name_that_is_not_for_this_scan_is_warned_of(tmp_path):
    path = dicom(tmp_path / "x.dcm", HU, Modality="MR", BurnedInAnnotation="NO")
    assert open_image(path, View(window="lung")).warnings == (
        "the window lung is for CT, which this is not: it is not applied",
    )


@pytest.mark.parametrize(
    ("said", "warned"),
    [
        ("YES", "the file says that words are burned into its pixels: they may name the patient"),
        (None, "the file does not say that no words are burned into its pixels: they may name the patient"),
    ],
)
def test_words_in_the_pixels_are_warned_of(tmp_path, said, warned):
    attributes = {"BurnedInAnnotation": said} if said else {}
    opened = open_image(dicom(tmp_path / "x.dcm", HU, Modality="US", **attributes))
    assert (opened.burned_in, opened.modality) == ({"YES": True, None: None}[said], "ultrasound")
    assert opened.warnings == (warned,)


def test_a_scan_without_words_in_its_pixels_needs_no_warning(tmp_path):
    opened = open_image(dicom(tmp_path / "x.dcm", HU, BurnedInAnnotation="NO"))
    assert (opened.burned_in, opened.warnings) == (False, ())


@pytest.mark.parametrize(("axis", "shape"), [("axial", (70, 80)), ("coronal", (90, 80)), ("sagittal", (90, 70))])
def test_a_volume_is_cut_in_the_plane_asked_for(tmp_path, axis, shape):
    voxels = np.random.default_rng(0).integers(0, 1000, (80, 70, 90)).astype(np.int16)
    opened = open_image(nifti(tmp_path / "x.nii.gz", voxels), View(axis=axis, frame="5"))
    assert (opened.height, opened.width) == shape
    assert (opened.frame, opened.frames) == (5, {"axial": 90, "coronal": 70, "sagittal": 80}[axis])
    assert opened.window_source == "no window is given: the range of its values"


def test_a_volume_that_looks_like_ct_is_shown_in_the_soft_tissue_window_and_that_is_said(tmp_path):
    opened = open_image(nifti(tmp_path / "x.nii", np.repeat(HU[..., None], 3, axis=2)))
    assert opened.window == WINDOWS["soft-tissue"]
    assert opened.window_source == "soft-tissue, because it looks like CT and no window is given"


def slide(path):
    pixels = np.random.default_rng(0).integers(0, 256, (256, 320, 3), np.uint8)
    words = {"photometric": "rgb", "metadata": None}
    tifffile.imwrite(path, pixels, tile=(64, 64), **words)
    return path, pixels


def test_a_region_of_a_slide_is_cut_out(tmp_path):
    path, whole = slide(tmp_path / "x.svs")
    opened = open_image(path, View(region="64,10,100,90"))
    assert (opened.region, opened.mode) == ((64, 10, 100, 90), "RGB")
    np.testing.assert_array_equal(pixels(opened), whole[10:100, 64:164])


@pytest.mark.parametrize("name", ["x.tif", "x.png"])
def test_deep_greyscale_is_shown_over_its_range_or_in_a_window(tmp_path, name):
    path = tmp_path / name
    tifffile.imwrite(path, SMOOTH) if name == "x.tif" else Image.fromarray(SMOOTH).save(path)
    plain, windowed = open_image(path), open_image(path, View(window="1000,501"))
    assert (plain.window, plain.window_source) == ((994.5, 1989), "no window is given: the range of its values")
    assert np.abs(grey(plain) - SMOOTH / SMOOTH.max() * 255).max() <= 0.5
    assert (windowed.window, windowed.window_source) == ((1000, 501), "as asked")
    assert np.abs(grey(windowed) - np.clip((SMOOTH - 999.5) / 500 + 0.5, 0, 1) * 255).max() <= 0.5


def test_a_window_by_name_is_not_for_deep_greyscale_that_is_no_ct(tmp_path):
    opened = open_image(picture(tmp_path / "x.png", SMOOTH), View(window="lung"))
    assert opened.window == (994.5, 1989)
    assert opened.warnings == ("the window lung is for CT, which this does not look like: it is not applied",)


FORMATS = ["png", "jpg", "webp", "gif", "tif", "bmp"]


@pytest.mark.parametrize("ending", FORMATS)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_picture_keeps_its_pixels_and_its_name(tmp_path, ending, mode):
    path = tmp_path / f"a picture.{ending}"
    Image.fromarray(PHOTO).convert(mode).save(path)
    opened = open_image(path)
    np.testing.assert_array_equal(pixels(opened), np.asarray(decode(path.read_bytes(), "x")))
    assert (opened.name, opened.width, opened.height, opened.warnings) == (path.name, 96, 80, ())
    assert opened.sha256 == hashlib.sha256(opened.data).hexdigest()
    assert (opened.window, opened.window_source, opened.frame, opened.frames) == (None, "", None, 1)


@pytest.mark.parametrize("ending", ["png", "jpg"])
def test_a_picture_without_metadata_keeps_its_bytes(tmp_path, ending):
    path = picture(tmp_path / f"x.{ending}")
    assert open_image(path).data == path.read_bytes()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_a_picture_is_upright(tmp_path, ending, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = picture(tmp_path / f"x.{ending}", PHOTO, exif=exif)
    opened = open_image(path)
    expected = np.asarray(decode(path.read_bytes(), "x"))
    np.testing.assert_array_equal(pixels(opened), expected)
    assert (opened.height, opened.width) == expected.shape[:2]


@pytest.mark.parametrize("orientation", [1, 6])
def test_a_jpeg_is_prepared_as_the_file_itself_would_be(tmp_path, orientation):
    from medvlm_cli.core.images import prepare

    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = orientation, "a description"
    path = picture(tmp_path / "x.jpg", PHOTO, exif=exif, comment=b"a comment", quality=90)
    opened = open_image(path)
    assert len(opened.data) < path.stat().st_size
    np.testing.assert_array_equal(
        prepare(opened.data, "x", 64, "squash"), prepare(path.read_bytes(), "x", 64, "squash")
    )


def test_a_progressive_jpeg_in_cmyk_keeps_its_pixels(tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(PHOTO).convert("CMYK").save(path, progressive=True, comment=b"a comment")
    opened = open_image(path)
    assert (opened.data[:2], opened.mode) == (b"\xff\xd8", "CMYK")
    np.testing.assert_array_equal(pixels(opened), np.asarray(decode(path.read_bytes(), "x")))


def test_transparent_parts_are_white_paper(tmp_path):
    path = tmp_path / "x.webp"
    Image.new("RGBA", (70, 70), (9, 9, 9, 0)).save(path, lossless=True, exact=True)
    assert np.unique(pixels(open_image(path))).tolist() == [255]


def test_of_an_animation_the_first_frame_is_shown_and_that_is_said(tmp_path):
    first, second = (Image.new("L", (70, 70), shade) for shade in (30, 200))
    first.save(tmp_path / "x.gif", save_all=True, append_images=[second])
    opened = open_image(tmp_path / "x.gif")
    assert np.unique(pixels(opened)).tolist() == [30]
    assert "the file has several frames or pages: the first is shown" in opened.warnings


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        (PHOTO[:63], "96 x 63 pixels are few: there is little to see"),
        (np.tile(PHOTO, (1, 5, 1)), "480 x 80 pixels are a long strip: the model looks at a square"),
        (np.full((70, 70, 3), (9, 8, 7), np.uint8), "the image has one colour only: there is nothing to see"),
        (np.random.default_rng(0).integers(254, 256, (70, 70), np.uint8), "the image is almost blank"),
    ],
)
def test_an_image_that_says_little_is_warned_of(tmp_path, values, warned):
    assert open_image(picture(tmp_path / "x.png", values)).warnings == (warned,)


def test_a_blank_slice_is_warned_of(tmp_path):
    opened = open_image(dicom(tmp_path / "x.dcm", HU, BurnedInAnnotation="NO"), View(window="3000,10"))
    assert opened.warnings == ("the image has one colour only: there is nothing to see",)


def test_what_has_no_meaning_for_a_picture_is_warned_of(tmp_path):
    view = View(window="lung", frame="3", axis="coronal", region="0,0,5,5")
    said = open_image(picture(tmp_path / "x.png"), view).warnings
    assert [words.split(" is for ")[0] for words in said] == ["a window", "a slice", "an axis", "a region"]


@pytest.mark.parametrize(
    ("view", "message"),
    [
        (View(window="long"), "window is 'long'"),
        (View(frame="-1"), "frame is '-1'"),
        (View(frame="all"), "frame is 'all'"),
        (View(axis="upwards"), "axis is 'upwards'"),
        (View(region="1,2,3"), "region is '1,2,3'"),
        (View(region="top"), "region is 'top'"),
    ],
)
def test_a_view_that_is_none_is_refused_before_the_file_is_opened(tmp_path, view, message):
    with pytest.raises(ConfigError, match=message) as caught:
        open_image(tmp_path / "not there.dcm", view)
    assert caught.value.fix


def test_a_frame_that_is_not_there_is_refused(tmp_path):
    path = dicom(tmp_path / "x.dcm", np.stack([SMOOTH] * 3))
    with pytest.raises(DataError, match=r"x\.dcm: frame 3 was asked for, the file has 0 to 2"):
        open_image(path, View(frame="3"))


def bomb(path, width=13_300, height=13_300):
    """A PNG whose header claims more pixels than anybody has memory for; 200 kB of zeros inflate to 177 MB."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" * (1 + width)
    squeezer = zlib.compressobj(9)
    body = b"".join(squeezer.compress(row) for _ in range(height)) + squeezer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b""))
    return path


def test_a_bomb_is_refused_before_it_is_inflated(tmp_path):
    path = bomb(tmp_path / "x.png")
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from medvlm_cli.core.errors import DataError; from medvlm_cli.sources.opening import open_image\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "try: open_image(Path(sys.argv[1]))\n"
        "except DataError as error: print(error.what.rpartition(': ')[2])\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    words, grown = done.stdout.splitlines()
    assert words == "13300 x 13300 pixels, over the limit of 50,000,000"
    assert int(grown) < 60  # MB


@pytest.mark.parametrize("ending", FORMATS)
def test_a_truncated_picture_is_refused(tmp_path, ending):
    path = picture(tmp_path / f"x.{ending}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"not a readable image \((cut short|damaged|unknown format)\)") as caught:
        open_image(path)
    assert str(path) in caught.value.what


@pytest.mark.parametrize("name", ["gone.png", "gone.dcm", "gone.nii.gz", "a/gone.tif"])
def test_a_file_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(DataError, match="No such file or directory") as caught:
        open_image(tmp_path / name)
    assert str(tmp_path / name) in caught.value.what


def test_what_is_no_regular_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    with pytest.raises(DataError, match=r"x\.png is not a file"):
        open_image(tmp_path / "x.png")
    with pytest.raises(DataError, match="is not a file"):
        open_image(tmp_path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"")
    with pytest.raises(DataError, match=r"x\.dcm is empty"):
        open_image(tmp_path / "x.dcm")


def test_a_link_may_lead_anywhere(tmp_path):
    target = picture(tmp_path / "far/away.png")
    (tmp_path / "here").mkdir()
    (tmp_path / "here/link.png").symlink_to(target)
    assert open_image(tmp_path / "here/link.png").name == "link.png"


@pytest.mark.parametrize(("module", "name"), [("pydicom", "x.dcm"), ("nibabel", "x.nii"), ("tifffile", "x.svs")])
def test_a_missing_extra_is_named_with_the_line_to_type(tmp_path, monkeypatch, module, name):
    monkeypatch.setitem(sys.modules, module, None)
    (tmp_path / name).write_bytes(b"anything")
    with pytest.raises(DataError, match=f"needs {module}, which is not installed: pip install 'medvlm\\[medical\\]'"):
        open_image(tmp_path / name)


def test_a_missing_decoder_names_the_extra(tmp_path, monkeypatch):
    path = compressed(tmp_path / "x.dcm", JPEG2000Lossless)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    with pytest.raises(DataError, match=r"needs imagecodecs.*pip install 'medvlm\[medical\]'"):
        open_image(path)


def loaded_by(path):
    """Heavy modules that opening a file loads; what it gave or raised does not matter."""
    code = (
        "import sys; from pathlib import Path; from medvlm_cli.sources.opening import open_image\n"
        "try: open_image(Path(sys.argv[1]))\n"
        "except Exception: pass\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'pydicom', 'nibabel', 'tifffile', 'imagecodecs', 'aiohttp'}\n"
        "print(*sorted(heavy & set(sys.modules)))\n"
    )
    return subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True).stdout.split()


def test_a_picture_loads_nothing_but_the_decoder_of_pictures(tmp_path):
    assert loaded_by(picture(tmp_path / "x.png")) == []
    assert loaded_by(tmp_path / "gone.png") == []


def test_a_scan_loads_no_pytorch(tmp_path):
    assert loaded_by(dicom(tmp_path / "x.dcm", HU)) == ["pydicom"]


def test_files_of_many_faults_are_opened_or_refused(tmp_path):
    chance = np.random.default_rng(0)
    sound = [picture(tmp_path / f"x.{ending}", PHOTO[:70, :70]).read_bytes() for ending in ("jpg", "png")]
    outcomes = [outcome(tmp_path / "x", broken(sound[number % 2], chance)) for number in range(300)]
    assert min(outcomes.count("refused"), outcomes.count("opened")) > 20
    assert outcomes.count("refused") + outcomes.count("opened") == 300


def broken(data, chance):
    changed = bytearray(data)
    for place in chance.integers(2, len(changed), 3):
        changed[place] = chance.integers(256)
    return bytes(changed[: chance.integers(len(changed) // 2, 2 * len(changed))])


def outcome(path, data):
    """``opened``, with the pixels of the file itself, or ``refused``; nothing else may be raised."""
    Path(path).write_bytes(data)
    try:
        opened = open_image(path)
    except DataError:
        return "refused"
    same = np.array_equal(pixels(opened), np.asarray(decode(data, "x")))
    return "opened" if same else "other pixels"


def test_a_comment_between_the_scans_of_a_jpeg_goes(tmp_path):
    out = io.BytesIO()
    Image.fromarray(PHOTO).save(out, "JPEG", progressive=True)
    data = out.getvalue()
    place = data.rindex(b"\xff\xda")
    comment = b"\xff\xfe\0\x0ba comment"
    (tmp_path / "x.jpg").write_bytes(data[:place] + comment + data[place:] + b"a comment")
    assert open_image(tmp_path / "x.jpg").data == data
