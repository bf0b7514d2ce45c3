"""``prepare`` against what it stands for: ``to_rgb_square`` of ``decode``, which is Pillow throughout."""

import io
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from medvlm_cli.core import images
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import ImageTooBigError, decode, prepare, to_rgb_square

MODES = ["squash", "pad", "crop"]


def encoded(image, kind="JPEG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def texture(width, height, seed=0):
    """Colours that change slowly, with some noise."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((smooth + random.normal(0, 4, smooth.shape)).clip(0, 255).astype(np.uint8))


def black_and_white(width, height):
    """Noise without greys: what clips in a first pass of resampling shows in the second."""
    values = np.random.default_rng(0).integers(0, 2, (height, width, 3), dtype=np.uint8) * 255
    return Image.fromarray(values)


def by_pillow(data, size, mode):
    return to_rgb_square(decode(data, "x"), size, mode)


def levels_apart(data, size, mode):
    """The largest difference to what Pillow gives, in grey levels."""
    ours = prepare(data, "x", size, mode)
    assert (ours.shape, ours.dtype, ours.flags.c_contiguous) == ((size, size, 3), np.uint8, True)
    return int(np.abs(ours.astype(int) - by_pillow(data, size, mode)).max())


@pytest.fixture
def no_way_round(monkeypatch):
    """Let it be an error to decode with Pillow."""

    def decode(*_arguments):
        raise AssertionError("decoded by Pillow")

    monkeypatch.setattr(images, "decode", decode)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1), (7, 3), (60, 45), (96, 96), (97, 95), (95, 97), (120, 130), (300, 100), (100, 300), (500, 400), (3, 900)],
)
def test_a_jpeg_of_any_size_is_within_one_level_of_pillow(width, height, mode):
    assert levels_apart(encoded(texture(width, height), quality=90), 96, mode) <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("quality", [30, 75, 100])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:2:2", "4:4:4"])
@pytest.mark.parametrize("progressive", [False, True])
def test_every_kind_of_jpeg_is_within_one_level_of_pillow(mode, quality, subsampling, progressive):
    data = encoded(texture(301, 203), quality=quality, subsampling=subsampling, progressive=progressive)
    assert levels_apart(data, 96, mode) <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("width", "height"), [(60, 45), (301, 203)])
def test_a_grey_jpeg_is_within_one_level_of_pillow(width, height, mode):
    assert levels_apart(encoded(texture(width, height).convert("L")), 96, mode) <= 1


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize(("width", "height"), [(60, 45), (301, 203)])
def test_the_camera_orientation_is_applied(width, height, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert levels_apart(encoded(texture(width, height), exif=exif, quality=95), 64, "pad") <= 1


@pytest.mark.parametrize(
    "block", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", b"Exif\0\0garbage of some kind"]
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_broken_exif_block_is_ignored(block):
    data = encoded(texture(60, 45), exif=block)
    assert levels_apart(data, 64, "squash") <= 1


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("width", "height"), [(50_000, 10), (10, 50_000)])
def test_a_strip_is_within_one_level_of_pillow(width, height, mode):
    assert levels_apart(encoded(texture(width, height)), 96, mode) <= 1


@pytest.mark.parametrize(
    ("width", "height"), [(50, 130), (130, 50), (200, 400), (400, 200), (190, 210), (250, 500), (97, 99)]
)
def test_the_passes_come_in_the_order_of_pillow(width, height):
    data = encoded(black_and_white(width, height), quality=100, subsampling="4:4:4")
    assert levels_apart(data, 96, "squash") <= 1


@pytest.mark.parametrize(("width", "height"), [(600, 455), (900, 1000), (1500, 1134)])
def test_line_art_is_within_one_level_of_pillow_where_a_pass_enlarges_or_makes_little_smaller(width, height):
    page = Image.new("RGB", (width, height), "white")
    for top in range(0, height, 14):
        ImageDraw.Draw(page).text((3, top), "Axial view of the upper abdomen. " * 9, fill=(20, 30, 90))
    assert levels_apart(encoded(page, quality=95), 1134, "squash") <= 1


def test_a_large_photograph_is_within_one_level_of_pillow_at_full_size():
    assert levels_apart(encoded(texture(3000, 2000), quality=90), 1134, "squash") <= 1


@settings(max_examples=150, deadline=None, derandomize=True, database=None)
@given(
    width=st.integers(1, 400),
    height=st.integers(1, 400),
    size=st.integers(1, 150),
    mode=st.sampled_from(MODES),
    quality=st.integers(30, 100),
    subsampling=st.sampled_from(["4:2:0", "4:2:2", "4:4:4"]),
    seed=st.integers(0, 1 << 32),
)
def test_any_photograph_at_any_size_is_within_one_level_of_pillow(
    width, height, size, mode, quality, subsampling, seed
):
    data = encoded(texture(width, height, seed), quality=quality, subsampling=subsampling)
    assert levels_apart(data, size, mode) <= 1


@pytest.mark.parametrize("shape", [(60, 45), (301, 203)])
@pytest.mark.parametrize("grey", [False, True])
def test_a_sound_jpeg_goes_the_fast_way(no_way_round, shape, grey):
    image = texture(*shape).convert("L") if grey else texture(*shape)
    assert prepare(encoded(image), "x", 96, "squash").shape == (96, 96, 3)


@pytest.mark.parametrize("quality", [30, 90, 100])
@pytest.mark.parametrize("subsampling", ["4:2:0", "4:4:4"])
def test_at_its_own_size_a_jpeg_is_exactly_what_pillow_decodes(no_way_round, quality, subsampling):
    data = encoded(texture(200, 200), quality=quality, subsampling=subsampling)
    ours = prepare(data, "x", 200, "squash")
    np.testing.assert_array_equal(ours, np.asarray(Image.open(io.BytesIO(data))))


def other_images():
    palette = texture(50, 40).quantize(16)
    deep = Image.fromarray(np.arange(2000, dtype=np.uint16).reshape(40, 50))
    return {
        "CMYK JPEG": encoded(texture(50, 40).convert("CMYK")),
        "palette PNG": encoded(palette, "PNG", transparency=3),
        "PNG with alpha": encoded(Image.merge("RGBA", [*texture(50, 40).split(), deep.convert("L")]), "PNG"),
        "16-bit TIFF": encoded(deep, "TIFF"),
        "WEBP": encoded(texture(50, 40), "WEBP"),
        "GIF": encoded(palette, "GIF"),
        "two in one": encoded(texture(50, 40), "MPO", save_all=True, append_images=[texture(50, 40, 1)]),
    }


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", list(other_images()))
def test_what_is_no_plain_jpeg_is_as_pillow_gives_it(kind, mode):
    data = other_images()[kind]
    np.testing.assert_array_equal(prepare(data, "x", 96, mode), by_pillow(data, 96, mode))


def test_a_jpeg_with_a_fault_that_pillow_forgives_is_as_pillow_gives_it():
    data = encoded(texture(60, 45))
    scan = data.index(b"\xff\xda")
    forgiven = data[:scan] + b"\0\0\0" + data[scan:]  # stray bytes before a marker: a warning of the decoder
    np.testing.assert_array_equal(prepare(forgiven, "x", 96, "squash"), by_pillow(forgiven, 96, "squash"))


def refusal(function, *arguments):
    with pytest.raises(DataError) as caught:
        function(*arguments)
    return type(caught.value), str(caught.value)


@pytest.mark.parametrize("progressive", [False, True])
def test_300_truncated_jpegs_are_refused_as_decode_refuses_them(progressive):
    data = encoded(texture(120, 90), progressive=progressive)
    cuts = [data[:end] for end in np.linspace(0, len(data) - 1, 300).astype(int)]
    ours = [refusal(prepare, cut, "fig1.jpg", 96, "squash") for cut in cuts]
    assert ours == [refusal(decode, cut, "fig1.jpg") for cut in cuts]


def test_a_jpeg_over_the_limit_is_refused_before_it_is_decoded():
    data = bytearray(encoded(texture(16, 16)))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xea\x60\xea\x60"  # 60,000 x 60,000
    assert refusal(prepare, bytes(data), "bomb.jpg", 96, "crop") == refusal(decode, bytes(data), "bomb.jpg")


def test_a_sound_jpeg_over_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr(images, "MAX_PIXELS", 60 * 45 - 1)
    with pytest.raises(ImageTooBigError, match=r"large\.jpg: 60 x 45 pixels"):
        prepare(encoded(texture(60, 45)), "large.jpg", 96, "crop")


def outcome(function, *arguments):
    try:
        return function(*arguments)
    except DataError as error:
        return type(error), str(error)


def mutated(data, random):
    copy = np.frombuffer(data, dtype=np.uint8).copy()
    places = random.integers(2, len(copy), random.integers(1, 5))  # the first two bytes say that it is a JPEG
    copy[places] = random.integers(0, 256, len(places))
    return copy.tobytes()


def same_outcome(data):
    """'read' or 'refused' where ``prepare`` and ``decode`` agree; else what they said."""
    ours, theirs = outcome(prepare, data, "x", 48, "squash"), outcome(by_pillow, data, 48, "squash")
    if isinstance(theirs, np.ndarray) and isinstance(ours, np.ndarray):
        return "read" if np.abs(ours.astype(int) - theirs).max() <= 1 else "different"
    return "refused" if (ours == theirs) is True else (ours, outcome(decode, data, "x"))


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:4:4", "quality": 100}])
def test_what_becomes_of_mutated_jpegs_is_what_pillow_says(options):
    random = np.random.default_rng(11)
    sources = [encoded(texture(60, 45), **options), encoded(texture(60, 45).convert("L"), **options)]
    assert {same_outcome(mutated(source, random)) for source in sources for _ in range(200)} == {"read", "refused"}


def test_images_are_read_without_torch():
    program = "import sys, medvlm_cli.core.images; sys.exit('torch' in sys.modules or 'simplejpeg' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=60).returncode == 0
