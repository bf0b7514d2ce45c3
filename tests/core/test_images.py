import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import (
    MAX_PIXELS,
    MEAN,
    ImageTooBigError,
    UnsafePathError,
    decode,
    read_inside,
    to_rgb_square,
)


def encoded(image, kind="PNG", **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(width=24, height=16):
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
def test_every_allowed_format_is_read_as_rgb(kind):
    image = decode(encoded(picture(), kind), "a file")
    assert (image.mode, image.size) == ("RGB", (24, 16))


@pytest.mark.parametrize("kind", ["PPM", "PCX", "TGA", "ICO"])
def test_other_formats_of_pillow_are_refused(kind):
    with pytest.raises(DataError, match=r"captions\.csv, row 3: not a readable image"):
        decode(encoded(picture(32, 32), kind), "captions.csv, row 3")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_image_is_refused_by_name(kind, share):
    data = encoded(picture(200, 150), kind)
    with pytest.raises(DataError, match=r"scan\.img"):
        decode(data[: int(len(data) * share)], "scan.img")


@pytest.mark.parametrize(
    "data", [b"", b"\x89PNG\r\n\x1a\n", b"<html>no such page</html>", b"\xff\xd8\xff\xe0" + b"\0" * 99]
)
def test_what_is_no_image_is_refused_by_name(data):
    with pytest.raises(DataError, match=r"fig1\.jpg: not a readable image"):
        decode(data, "fig1.jpg")


def test_dicom_is_named_as_what_it_is():
    with pytest.raises(DataError, match=r"scan\.png: a DICOM file, for `medvlm fetch folder`"):
        decode(b"\0" * 128 + b"DICM" + b"\0" * 64, "scan.png")


def png_header(width, height):
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = b"IDAT" + zlib.compress(b"\0" * 64)
    parts = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, rows)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [7072, 13300, 100_000])
def test_an_image_over_the_limit_is_refused_before_it_is_decoded(side):
    assert side * side > MAX_PIXELS
    with pytest.raises(ImageTooBigError, match=r"bomb\.png"):
        decode(png_header(side, side), "bomb.png")


def test_the_camera_orientation_is_applied():
    image = Image.new("RGB", (30, 10), "white")
    image.paste("black", (0, 0, 15, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned a quarter to the left when it was taken
    turned = decode(encoded(image, "JPEG", exif=exif, quality=95), "photo.jpg")
    assert turned.size == (10, 30)
    assert turned.getpixel((5, 2))[0] < 20 < 200 < turned.getpixel((5, 27))[0]


def test_transparency_is_laid_over_white():
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    image.putpixel((0, 0), (255, 0, 0, 255))
    flat = decode(encoded(image), "a.png")
    assert [flat.getpixel((0, 0)), flat.getpixel((3, 3))] == [(255, 0, 0), (255, 255, 255)]


def test_a_transparent_palette_colour_is_laid_over_white():
    image = Image.new("P", (2, 1))
    image.putpalette([0, 0, 0, 10, 200, 30])
    image.putpixel((1, 0), 1)
    flat = decode(encoded(image, transparency=0), "a.png")
    assert [flat.getpixel((0, 0)), flat.getpixel((1, 0))] == [(255, 255, 255), (10, 200, 30)]


def test_grey_with_alpha_is_laid_over_white():
    flat = decode(encoded(Image.new("LA", (2, 2), (0, 0))), "a.png")
    assert flat.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_stretched_from_its_darkest_to_its_brightest_value(kind):
    values = np.array([[1000, 1500], [1750, 2000]], dtype=np.uint16)  # 12 bits of values in 16
    grey = np.asarray(decode(encoded(Image.fromarray(values), kind), "scan"))
    assert grey[..., 0].tolist() == [[0, 128], [191, 255]]
    assert (grey[..., 0] == grey[..., 1]).all()


def test_float_grey_with_holes_is_read():
    values = np.array([[0.0, np.nan], [0.5, 1.0]], dtype=np.float32)
    assert np.asarray(decode(encoded(Image.fromarray(values), "TIFF"), "scan"))[..., 0].tolist() == [[0, 0], [128, 255]]


def test_a_constant_sixteen_bit_image_is_black():
    values = np.full((3, 3), 4000, dtype=np.uint16)
    assert np.asarray(decode(encoded(Image.fromarray(values)), "scan")).max() == 0


def test_cmyk_is_converted():
    image = decode(encoded(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "TIFF"), "print.tif")
    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(data, "heart.gif").getpixel((0, 0)) == (255, 0, 0)


def test_running_out_of_memory_is_not_taken_for_a_broken_image(monkeypatch):
    def full(*_args, **_options):
        raise MemoryError

    data = encoded(picture())
    monkeypatch.setattr(Image, "open", full)
    with pytest.raises(MemoryError):
        decode(data, "a.png")


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_mutated_images_raise_data_errors_only():
    random = np.random.default_rng(7)
    sources = [
        np.frombuffer(encoded(picture(), kind), dtype=np.uint8) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP")
    ]
    outcomes = {outcome(mutated(source, random)) for source in sources for _ in range(60)}
    assert outcomes == {"read", "refused"}


def mutated(data, random):
    copy = data.copy()
    copy[random.integers(0, len(copy), 6)] = random.integers(0, 256, 6)
    return copy.tobytes()


def outcome(data):
    try:
        decode(data, "x")
    except DataError:
        return "refused"
    return "read"


@pytest.mark.parametrize("mode", ["squash", "pad", "crop"])
@pytest.mark.parametrize("size", [(40, 10), (10, 40), (5000, 1), (7, 7)])
def test_a_square_has_the_size_asked_for(mode, size):
    pixels = to_rgb_square(Image.new("RGB", size, "red"), 32, mode)
    assert (pixels.shape, pixels.dtype) == ((32, 32, 3), np.uint8)
    assert pixels[15, 15].tolist() == [255, 0, 0]


def test_padding_is_the_mean_colour_above_and_below_a_wide_image():
    pixels = to_rgb_square(Image.new("RGB", (40, 20), "red"), 8, "pad")
    assert [row[0].tolist() == [int(mean * 255) for mean in MEAN] for row in pixels] == [True] * 2 + [False] * 4 + [
        True
    ] * 2


def test_cropping_keeps_the_middle():
    image = Image.new("RGB", (30, 10), "red")
    image.paste("blue", (10, 0, 20, 10))
    assert to_rgb_square(image, 8, "crop").reshape(-1, 3).tolist() == [[0, 0, 255]] * 64


def test_squashing_averages_what_it_makes_smaller():
    stripes = Image.fromarray(np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))).convert("RGB")
    pixels = to_rgb_square(stripes, 8, "squash")[:, 1:-1]
    assert pixels.min() > 120 and pixels.max() < 135


def test_a_file_in_the_folder_is_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"abc")
    assert read_inside(tmp_path, tmp_path / "a.png") == b"abc"


@pytest.mark.parametrize("name", ["../secret.txt", "link.png", "../missing.txt", "loop/../../secret.txt"])
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    (tmp_path / "secret.txt").write_text("secret")
    root = tmp_path / "root"
    (root / "loop").mkdir(parents=True)
    (root / "link.png").symlink_to(tmp_path / "secret.txt")
    with pytest.raises(UnsafePathError, match="leads out of"):
        read_inside(root, root / name)


def test_an_empty_file_a_folder_a_pipe_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "ring").symlink_to(tmp_path / "ring")
    names = ["empty", "folder", "pipe", "missing", "ring", "nul\0"]
    assert [refusal(tmp_path, name) for name in names] == [DataError] * 6


def refusal(root, name):
    with pytest.raises(DataError) as error:
        read_inside(root, root / name)
    return error.type


def test_a_file_over_the_limit_is_refused_unread(tmp_path):
    (tmp_path / "big").write_bytes(b"x" * 11)
    with pytest.raises(ImageTooBigError, match="11 bytes, over the limit of 10"):
        read_inside(tmp_path, tmp_path / "big", limit=10)
