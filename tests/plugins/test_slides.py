import itertools
import subprocess
import sys
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from medvlm_cli.sources import slides
from tests.plugins.scan_cases import has_canary, one, refused, seen, take

RNG = np.random.default_rng(0)
LABEL = np.full((64, 48, 3), 200, np.uint8)


def halved(pixels):
    """The mean of every 2 x 2 pixels."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    blocks = pixels[: 2 * height, : 2 * width].reshape(height, 2, width, 2, *pixels.shape[2:]).astype(float)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8)


def pyramid(path, pixels, levels=3, subifds=True, **options):
    """A tiled TIFF with every level half the one before, in SubIFDs or in pages of their own."""
    options = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib"} | options
    with tifffile.TiffWriter(path, bigtiff=options.pop("bigtiff", False)) as file:
        file.write(pixels, subifds=levels - 1 if subifds else 0, metadata=None, **options)
        for _ in range(levels - 1):
            pixels = halved(pixels)
            file.write(pixels, subfiletype=1, metadata=None, **options)
    return path


def aperio(path, pixels, **options):
    """As Aperio's scanners write: the slide, a thumbnail, a smaller level, then label and macro that name a patient."""
    options = {"photometric": "rgb", "metadata": None, "compression": "zlib"} | options
    words = "Aperio Image Library v12\r\nCANARY DOE JANE|Filename = CANARY-4711|Date = 01/02/70"
    with tifffile.TiffWriter(path) as file:
        file.write(pixels, tile=(64, 64), description=words, **options)
        file.write(halved(pixels)[:50, :60], description=words, **options)
        file.write(halved(pixels), tile=(64, 64), description=words, **options)
        file.write(LABEL, subfiletype=1, description="Aperio\r\nlabel CANARY", **options)
        file.write(LABEL[:, ::-1], subfiletype=9, description="Aperio\r\nmacro CANARY", **options)
    return path


SLIDE = RNG.integers(0, 256, (300, 404, 3), np.uint8)


@pytest.mark.parametrize(
    "options", [{}, {"subifds": False}, {"bigtiff": True}, {"tile": (32, 128)}, {"compression": "lzw"}]
)
def test_a_region_is_the_crop_of_the_slide(tmp_path, options):
    row = one(tmp_path, pyramid(tmp_path / "a.tif", SLIDE, **options), columns={"region": "100,37,131,201"})
    assert (row["region"], row["width"], row["height"]) == ([100, 37, 131, 201], 131, 201)
    assert (row["source_file"], row["image"]["path"], row["window_center"]) == ("a.tif", "a.png", None)
    np.testing.assert_array_equal(seen(row), SLIDE[37:238, 100:231])


def test_grey_and_planar_slides_are_read(tmp_path):
    pyramid(tmp_path / "grey.tif", SLIDE[..., 0], photometric="minisblack")
    with tifffile.TiffWriter(tmp_path / "planar.tif") as file:
        file.write(SLIDE.transpose(2, 0, 1), planarconfig="separate", photometric="rgb", tile=(64, 64), metadata=None)
    rows, rejects = take(
        tmp_path,
        {"image": "grey.tif", "region": "10,20,100,90"},
        {"image": "planar.tif", "region": "10,20,100,90"},
    )
    assert rejects == []
    np.testing.assert_array_equal(seen(rows[0]), SLIDE[20:110, 10:110, 0])
    np.testing.assert_array_equal(seen(rows[1]), SLIDE[20:110, 10:110])


def test_jpeg_tiles_in_ybr_become_rgb(tmp_path):
    ybr = np.broadcast_to(np.array([150, 110, 170], np.uint8), (256, 256, 3))
    path = pyramid(tmp_path / "a.svs", ybr, compression="jpeg", photometric="ycbcr", subifds=False)
    red, green, blue = 150 + 1.402 * 42, 150 - 0.344 * -18 - 0.714 * 42, 150 + 1.772 * -18
    picture = seen(one(tmp_path, path, columns={"region": "100,100,9,9"}))
    np.testing.assert_allclose(picture, np.broadcast_to([red, green, blue], (9, 9, 3)), atol=3)


def test_jpeg_2000_tiles_are_read(tmp_path):
    path = pyramid(tmp_path / "a.svs", SLIDE, compression="jpeg2000", subifds=False)
    picture = seen(one(tmp_path, path, columns={"region": "100,100,50,40"}))
    np.testing.assert_allclose(picture, SLIDE[100:140, 100:150], atol=12)


def test_a_thumbnail_is_made_of_the_level_that_is_just_large_enough(tmp_path):
    row = one(tmp_path, pyramid(tmp_path / "a.tif", SLIDE), thumbnail=202)
    assert (row["region"], row["width"], row["height"]) == ([0, 0, 404, 300], 202, 150)
    np.testing.assert_array_equal(seen(row), halved(SLIDE))


def test_a_slide_without_smaller_levels_is_averaged_tile_by_tile(tmp_path):
    large = np.kron(RNG.integers(0, 256, (50, 40, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    noisy = np.clip(large + RNG.integers(-9, 10, large.shape), 0, 255).astype(np.uint8)
    path = pyramid(tmp_path / "a.svs", noisy, levels=1, subifds=False)
    expected = np.rint(noisy.reshape(50, 10, 40, 10, 3).astype(float).mean(axis=(1, 3)))
    np.testing.assert_array_equal(seen(one(tmp_path, path, thumbnail=50)), expected)


def test_squares_that_the_edge_cuts_are_averaged_over_what_is_there(tmp_path):
    pixels = RNG.integers(0, 256, (107, 95, 3), np.uint8)
    path = pyramid(tmp_path / "a.svs", pixels, levels=1, subifds=False, tile=(16, 16))
    rows = [pixels[:, start : start + 4].astype(float).mean(axis=1, keepdims=True) for start in range(0, 95, 4)]
    wide = np.concatenate(rows, axis=1)
    means = [wide[start : start + 4].mean(axis=0, keepdims=True) for start in range(0, 107, 4)]
    np.testing.assert_allclose(seen(one(tmp_path, path, thumbnail=26, columns={})), resized(means, 26), atol=1)


def resized(means, longest):
    image = Image.fromarray(np.rint(np.concatenate(means)).astype(np.uint8))
    scale = longest / max(image.size)
    size = (round(image.width * scale), round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.BICUBIC))


def test_a_region_larger_than_a_thumbnail_is_shrunk(tmp_path):
    row = one(tmp_path, pyramid(tmp_path / "a.tif", SLIDE), thumbnail=100, columns={"region": "0,0,400,200"})
    assert (row["region"], row["width"], row["height"]) == ([0, 0, 400, 200], 100, 50)
    np.testing.assert_array_equal(seen(row), halved(halved(SLIDE))[:50, :100])


def test_a_level_is_given_as_it_is(tmp_path):
    path = pyramid(tmp_path / "a.tif", SLIDE)
    row = one(tmp_path, path, thumbnail=16, columns={"region": "40,20,200,100", "level": "1"})
    np.testing.assert_array_equal(seen(row), halved(SLIDE)[10:60, 20:120])


def test_a_list_names_a_region_in_jsonl(tmp_path):
    pyramid(tmp_path / "a.tif", SLIDE)
    rows, _ = take(tmp_path, {"image": "a.tif", "region": [5, 6, 7, 8]})
    assert [row["region"] for row in rows] == [[5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"region": "400,0,5,5"}, "the region leaves the slide, which has 404 x 300 pixels"),
        ({"region": "1,2,3"}, "column 'region' must be left,top,width,height"),
        ({"region": "-1,2,3,4"}, "column 'region' must be left,top,width,height"),
        ({"region": "1,2,0,4"}, "a width or a height of 0"),
        ({"level": "3"}, "level 3 was asked for, the slide has 0 to 2"),
        ({"level": "low"}, "column 'level' must be a number from 0"),
    ],
)
def test_what_is_not_in_the_slide_is_refused(tmp_path, columns, words):
    reason, message = refused(tmp_path, pyramid(tmp_path / "a.tif", SLIDE), columns=columns)
    assert (reason, words in message) == ("bad_row", True)


def test_words_in_the_column_of_regions_are_no_region(tmp_path):
    assert one(tmp_path, pyramid(tmp_path / "a.tif", SLIDE), columns={"region": "left lobe"})["region"] == [
        0,
        0,
        404,
        300,
    ]


def test_label_and_macro_are_never_read(tmp_path):
    pixels = RNG.integers(0, 100, (200, 240, 3), np.uint8)
    path = aperio(tmp_path / "a.svs", pixels)
    rows, rejects = take(
        tmp_path, {"image": "a.svs", "region": "0,0,240,200"}, *({"image": "a.svs", "level": n} for n in range(5))
    )
    np.testing.assert_array_equal(seen(rows[0]), pixels)
    np.testing.assert_array_equal(seen(rows[2]), halved(pixels))
    assert [reject.reason for reject in rejects] == ["bad_row"] * 3
    assert all(seen(row).max() < 200 for row in rows)
    assert has_canary(repr(rows) + repr(rejects)) == []
    assert path.exists()


def test_a_label_without_a_name_is_told_by_its_shape(tmp_path):
    options = {"photometric": "rgb", "metadata": None, "description": "Aperio"}
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        file.write(SLIDE, tile=(64, 64), **options)
        file.write(SLIDE[:40, :40], **options)
        file.write(halved(SLIDE), tile=(64, 64), **options)
        file.write(LABEL, tile=(16, 16), **options)
    rows, rejects = take(tmp_path, *({"image": "a.svs", "level": n} for n in range(3)))
    assert [seen(row).shape[:2] for row in rows] == [(300, 404), (150, 202)]
    assert len(rejects) == 1


@pytest.mark.parametrize("words", ["Aperio", "Aperio\r\nlabel 500x600"])
def test_a_label_larger_than_the_slide_is_not_taken_for_it(tmp_path, words):
    options = {"photometric": "rgb", "metadata": None, "compression": "zlib"}
    with tifffile.TiffWriter(tmp_path / "a.svs") as file:
        file.write(SLIDE, tile=(64, 64), description="Aperio", **options)
        file.write(SLIDE[:40, :40], description="Aperio", **options)
        file.write(np.full((500, 600, 3), 7, np.uint8), subfiletype=1, description=words, **options)
    np.testing.assert_array_equal(seen(one(tmp_path, tmp_path / "a.svs")), SLIDE)


def test_a_label_that_only_its_description_tells_is_not_taken_for_the_slide(tmp_path):
    options = {"photometric": "rgb", "metadata": None, "tile": (64, 64)}
    with tifffile.TiffWriter(tmp_path / "a.scn.tif") as file:
        file.write(SLIDE, **options)
        file.write(halved(SLIDE), subfiletype=1, **options)
        file.write(np.full((500, 600, 3), 7, np.uint8), description="Label", **options)
    assert one(tmp_path, tmp_path / "a.scn.tif")["region"] == [0, 0, 404, 300]


def test_directories_without_end_are_not_followed(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "_MAX_DIRECTORIES", 2)
    reason, message = refused(tmp_path, pyramid(tmp_path / "a.svs", SLIDE, subifds=False))
    assert (reason, "more than 2 directories" in message) == ("corrupt_image", True)


def test_a_tile_that_claims_more_than_a_tile_is_not_decoded(tmp_path):
    path = pyramid(tmp_path / "a.svs", SLIDE, levels=1, subifds=False, compression="jpeg", photometric="ycbcr")
    data = bytearray(path.read_bytes())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = b"\xff\xdc\xff\xdc"  # 65500 x 65500
    path.write_bytes(data)
    reason, message = refused(tmp_path, path)
    assert (reason, "claims more pixels than a tile" in message) == ("image_too_big", True)


def test_a_tile_of_far_too_many_bytes_is_not_read(tmp_path):
    path = pyramid(tmp_path / "a.svs", SLIDE, levels=1, subifds=False)
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages[0].tags["TileByteCounts"]
        tag.overwrite([60_000_000, *tag.value[1:]], dtype=4)
    reason, message = refused(tmp_path, path)
    assert (reason, "more bytes than its pixels" in message) == ("image_too_big", True)


def test_an_ordinary_tiff_stays_what_it_is(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", SLIDE, photometric="rgb")
    row = one(tmp_path, tmp_path / "a.tif", columns={"region": "left lobe", "level": "low", "frame": "x"})
    assert (row["region"], row["image"]["path"]) == (None, "a.tif")
    assert row["image"]["bytes"] == (tmp_path / "a.tif").read_bytes()


def test_a_tile_that_is_not_there_is_white(tmp_path):
    path = pyramid(tmp_path / "a.svs", np.zeros((128, 128, 3), np.uint8), levels=1, subifds=False)
    with tifffile.TiffFile(path, mode="r+") as file:
        tag = file.pages[0].tags["TileByteCounts"]
        tag.overwrite([0, *tag.value[1:]])
    picture = seen(one(tmp_path, path))
    assert (picture[:64, :64].min(), picture[64:].max(), picture[:, 64:].max()) == (255, 0, 0)


@pytest.mark.parametrize(
    "make", [lambda data: data[: len(data) // 2], lambda data: b"II*\0" + bytes(50), lambda data: b"x"]
)
def test_a_damaged_slide_is_a_reject(tmp_path, make):
    path = pyramid(tmp_path / "a.svs", SLIDE, subifds=False)
    path.write_bytes(make(path.read_bytes()))
    assert refused(tmp_path, path)[0] == "corrupt_image"


def test_a_slide_of_sixteen_bits_is_refused(tmp_path):
    path = pyramid(
        tmp_path / "a.svs", SLIDE[..., 0].astype(np.uint16), levels=1, subifds=False, photometric="minisblack"
    )
    assert refused(tmp_path, path)[0] == "corrupt_image"


def test_tiles_too_large_for_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "MAX_TILE_PIXELS", 1000)
    assert refused(tmp_path, pyramid(tmp_path / "a.svs", SLIDE, subifds=False))[0] == "image_too_big"


def test_more_pixels_than_are_read_for_one_picture_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(slides, "MAX_READ_PIXELS", 10_000)
    path = pyramid(tmp_path / "a.svs", SLIDE, levels=1, subifds=False)
    assert refused(tmp_path, path, thumbnail=16)[0] == "image_too_big"


SMALL_MEMORY = """
import resource, sys
import numpy, tifffile, imagecodecs
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.sources import folder
config = FetchConfig(images=sys.argv[1])
keys = folder.keys(config)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 600 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for key in keys:
    made = folder.harvest(key, config)
    print([(row["width"], row["height"]) for row in made.rows], [reject.message for reject in made.rejects])
try:
    tifffile.imread(sys.argv[1] + "/a.tif")
    print("read whole")
except MemoryError:
    print("no memory")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is Linux's")
def test_a_slide_larger_than_memory_is_read_by_tiles(tmp_path):
    tile = zlib.compress(bytes([90]) * (3 << 20))
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for side in (20_000, 5_000):
            shape = {"shape": (side, side, 3), "dtype": np.uint8, "tile": (1024, 1024), "photometric": "rgb"}
            tiles = itertools.repeat(tile, (-(-side // 1024)) ** 2)
            file.write(tiles, compression="zlib", metadata=None, **shape)
    (tmp_path / "captions.csv").write_text('image,caption,region\na.tif,All,\na.tif,Part,"18000,18000,2000,900"\n')
    command = [sys.executable, "-c", SMALL_MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines() == ["[(1024, 1024)] []", "[(1024, 461)] []", "no memory"], done.stderr
