"""Images made to exhaust, crash or stall whoever decodes them, in workers of a crew."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from medvlm_cli.core.crew import Crew
from medvlm_cli.core.decoding import decode_bounded
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import MAX_PIXELS, ImageTooBigError
from tests.core import crew_cases

MOST_MEMORY = 1 << 30
LARGE = (7000, 7100)
"""Just below the limit of pixels."""


@pytest.fixture(scope="module")
def crew():
    with Crew(1) as crew:
        yield crew


def encoded(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(width, height, depth, colour, *extra, rows=None):
    """A black PNG made row by row: far larger than any memory holds, yet tiny.  ``rows``: fewer than it says."""
    row = bytes(1 + (width * depth * {0: 1, 2: 3, 6: 4}[colour] + 7) // 8) if rows != 0 else b""
    packer = zlib.compressobj(9)
    pixels = b"".join([*(packer.compress(row) for _ in range(height if rows is None else rows)), packer.flush()])
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(width, height):
    """The head of a TIFF of 1 bit a pixel without compression, with hardly any pixels."""
    tags = {256: width, 257: height, 258: 1, 259: 1, 262: 1, 273: 8, 277: 1, 278: height, 279: width * height // 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + bytes(4)


def gif(width, height):
    """A GIF whose page is 10 x 10 and whose first frame is not."""
    page = b"GIF89a" + struct.pack("<HHBBB", 10, 10, 0x80, 0, 0) + bytes(6)
    frame = b"," + struct.pack("<HHHHB", 0, 0, width, height, 0)
    return page + frame + b"\x02\x02\x44\x01\x00;"


BLOATED = {b"zTXt": b"name\0\0", b"iCCP": b"name\0\0", b"iTXt": b"name\0\1\0\0\0"}
"""Chunks of compressed text, with what stands before the text."""


def bloated(kind):
    """A small PNG with a chunk that inflates to a thousand times its size."""
    packer = zlib.compressobj(9)
    inflated = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(400)), packer.flush()])
    return png(4, 3, 8, 2, chunk(kind, BLOATED[kind] + inflated))


BOMBS = {
    "png of 13,300 x 13,300": lambda: png(13_300, 13_300, 1, 0),
    "png of 30,000 x 30,000": lambda: png(30_000, 30_000, 1, 0),
    "png of 2,000,000,000 squared": lambda: png(2_000_000_000, 2_000_000_000, 8, 2, rows=0),
    "tiff of 30,000 x 30,000": lambda: tiff(30_000, 30_000),
    "gif with a frame of 60,000 x 60,000": lambda: gif(60_000, 60_000),
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_is_too_big_before_it_is_decoded(crew, bomb):
    data = BOMBS[bomb]()
    assert len(data) < 200_000
    (told,), peak = crew.submit(crew_cases.decode_all, [data]).result(60)
    assert told == "ImageTooBigError"
    assert peak < 300 << 20


@pytest.mark.filterwarnings("ignore:Image size")
def test_a_bomb_says_how_large_it_is():
    with pytest.raises(ImageTooBigError, match=r"a.png: 13300 x 13300 pixels, over the limit of 50,000,000"):
        decode_bounded(png(13_300, 13_300, 1, 0), "a.png", 20)


@pytest.mark.parametrize("kind", BLOATED)
def test_text_that_inflates_a_thousandfold_takes_no_memory(crew, kind):
    (told,), peak = crew.submit(crew_cases.decode_all, [bloated(kind)]).result(60)
    assert told in ((4, 3), "DataError")
    assert peak < 300 << 20


def small_files_of_large_images():
    """Name and file of images just below the limit, in the modes that take most memory."""
    rgba = Image.new("RGBA", LARGE)
    yield "webp", encoded(rgba, "WEBP", lossless=True, method=0)
    yield "png", png(*LARGE, 8, 6)
    yield "grey png", png(*LARGE, 16, 0)
    yield "float tiff", encoded(Image.new("F", LARGE), "TIFF", compression="tiff_deflate")


@pytest.mark.parametrize(("name", "data"), [pytest.param(*case, id=case[0]) for case in small_files_of_large_images()])
def test_the_largest_image_allowed_takes_less_than_a_gigabyte(name, data):
    assert LARGE[0] * LARGE[1] <= MAX_PIXELS
    with Crew(1) as crew:
        (told,), peak = crew.submit(crew_cases.decode_all, [data]).result(60)
    assert told == LARGE
    assert peak < MOST_MEMORY


def mutated(count, seed):
    """Images of every format with some bytes changed, cut out or put in; most of them near the head."""
    random = np.random.default_rng(seed)
    noise = Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    info = PngImagePlugin.PngInfo()
    info.add_text("k", "v" * 200, zip=True)
    whole = [
        encoded(noise, "JPEG"),
        encoded(noise, "JPEG", progressive=True),
        encoded(noise, "PNG", pnginfo=info, icc_profile=bytes(200)),
        encoded(noise.convert("P"), "GIF", save_all=True, append_images=[noise.convert("P").rotate(90)]),
        encoded(noise, "TIFF", compression="tiff_lzw"),
        encoded(noise, "TIFF", compression="jpeg"),
        encoded(noise, "WEBP"),
    ]
    return [mutation(whole[n % len(whole)], random) for n in range(count)]


def mutation(data, random):
    copy = bytearray(data)
    for _ in range(random.integers(1, 6)):
        at = int(len(copy) * random.random() ** 3)
        kind = random.integers(4)
        if kind == 0:
            copy[at : at + 1] = random.bytes(1)
        elif kind == 1:
            copy[at : at + 4] = random.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\1\0\0\0"])
        elif kind == 2:
            del copy[at : at + int(random.integers(1, 50))]
        else:
            copy[at:at] = random.bytes(int(random.integers(1, 50)))
    return bytes(copy)


def test_three_hundred_mutilated_images_give_pixels_or_a_data_error_and_the_worker_lives(crew):
    before = crew.submit(crew_cases.pid).result(60)
    told, peak = crew.submit(crew_cases.decode_all, mutated(300, seed=5)).result(120)
    assert {type(one) if isinstance(one, tuple) else one for one in told} <= {tuple, "DataError", "ImageTooBigError"}
    assert 60 < sum(isinstance(one, str) for one in told) < 300
    assert peak < MOST_MEMORY
    assert crew.submit(crew_cases.pid).result(60) == before


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (b"kill", r"a\.png: decoding ended in SIGKILL"),
        (b"crash", r"a\.png: decoding ended in SIGSEGV"),
        (b"sleep", r"a\.png: decoding took over 0\.3 s"),
        (b"leave", r"a\.png: decoding ended in an exit"),
    ],
)
def test_an_image_that_kills_its_worker_becomes_an_error_that_says_how(crew, kind, message):
    bad, good = (crew.submit(crew_cases.decode_hostile, data, 0.3) for data in (kind, png(4, 3, 8, 2)))
    with pytest.raises(DataError, match=message):
        bad.result(60)
    assert good.result(60) == (4, 3)


@pytest.mark.parametrize("careful", [False, True])
def test_an_image_that_takes_more_memory_than_a_worker_has_is_too_big(crew, careful):
    with pytest.raises(ImageTooBigError, match="more memory than a worker has"):
        crew.submit(crew_cases.decode_hostile, b"hoard", 5, careful).result(60)


def test_a_careful_worker_decodes_what_is_sound_and_says_of_the_rest_what_is_wrong(crew):
    images = [png(4, 3, 8, 2), b"no image", png(13_300, 13_300, 1, 0)]
    told, _ = crew.submit(crew_cases.decode_all, images, 20, True).result(60)
    assert told == [(4, 3), "DataError", "ImageTooBigError"]


def test_outside_a_worker_an_image_is_simply_decoded():
    assert decode_bounded(png(4, 3, 8, 2), "a.png", 1e-9).size == (4, 3)
