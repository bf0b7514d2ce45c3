import gzip
import random

import nibabel
import numpy as np
import pytest

from tests.plugins.scan_cases import has_canary, nifti, one, refused, seen, take


def block(*shape):
    """Values that are all different, 0 the least."""
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def stretched(values, low, high):
    return np.rint(np.clip((values.astype(float) - low) / (high - low), 0, 1) * 255)


RANGE = {"window": "60,121"}  # 0 is black, 119 white, and every value between has a grey of its own, twice its own
SHAPE = (4, 5, 6)  # to the right, to the front, to the head


def grey(values):
    return np.rint(((values - 59.5) / 120 + 0.5) * 255)


def test_an_axial_slice_has_the_front_on_top_and_the_right_on_the_left(tmp_path):
    voxels = block(*SHAPE)
    row = one(tmp_path, nifti(tmp_path / "a.nii", voxels), **RANGE)
    assert (row["width"], row["height"], row["frame"], row["source_file"]) == (4, 5, 3, "a.nii")
    picture = seen(row)
    np.testing.assert_array_equal(picture[0, 0], grey(voxels[3, 4, 3]))  # right and front
    np.testing.assert_array_equal(picture[4, 3], grey(voxels[0, 0, 3]))  # left and back
    np.testing.assert_array_equal(picture, grey(voxels[::-1, ::-1, 3].T))


def test_a_coronal_slice_has_the_head_on_top_and_the_right_on_the_left(tmp_path):
    voxels = block(*SHAPE)
    row = one(tmp_path, nifti(tmp_path / "a.nii", voxels), axis="coronal", frame="1", **RANGE)
    picture = seen(row)
    assert (picture.shape, row["frame"]) == ((6, 4), 1)
    np.testing.assert_array_equal(picture[0, 0], grey(voxels[3, 1, 5]))
    np.testing.assert_array_equal(picture, grey(voxels[::-1, 1, ::-1].T))


def test_a_sagittal_slice_has_the_head_on_top_and_the_front_on_the_left(tmp_path):
    voxels = block(*SHAPE)
    row = one(tmp_path, nifti(tmp_path / "a.nii", voxels), columns={"axis": "Sagittal", "frame": "first"}, **RANGE)
    picture = seen(row)
    assert picture.shape == (6, 5)
    np.testing.assert_array_equal(picture[0, 0], grey(voxels[0, 4, 5]))
    np.testing.assert_array_equal(picture, grey(voxels[0, ::-1, ::-1].T))


@pytest.mark.parametrize("codes", ["LPS", "RPI", "PIR", "SAL", "ASR"])
@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_however_the_voxels_lie_the_picture_is_the_same(tmp_path, codes, axis):
    voxels = block(*SHAPE)
    plain = one(tmp_path / "1", nifti(tmp_path / "1/a.nii", voxels), axis=axis, **RANGE)
    turn = nibabel.orientations.axcodes2ornt(codes)
    turned = nibabel.Nifti1Image(voxels, np.eye(4)).as_reoriented(
        nibabel.orientations.ornt_transform(nibabel.orientations.axcodes2ornt("RAS"), turn)
    )
    assert "".join(nibabel.aff2axcodes(turned.affine)) == codes
    other = one(
        tmp_path / "2", nifti(tmp_path / "2/a.nii", np.asarray(turned.dataobj), turned.affine), axis=axis, **RANGE
    )
    assert plain["image"]["bytes"] == other["image"]["bytes"]


def test_every_slice_is_a_row_where_all_are_asked_for(tmp_path):
    voxels = block(*SHAPE)
    nifti(tmp_path / "a.nii.gz", voxels)
    rows, _ = take(tmp_path, {"image": "a.nii.gz"}, frame="all", **RANGE)
    assert [row["figure_id"] for row in rows] == [f"a.nii/frame-{index}" for index in range(6)]
    expected = [grey(voxels[::-1, ::-1, index].T) for index in range(6)]
    np.testing.assert_array_equal([seen(row) for row in rows], expected)


def test_the_values_are_scaled_by_the_header(tmp_path):
    voxels = block(4, 5, 1)
    path = nifti(tmp_path / "a.nii", voxels)
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([2.5, -10], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(data)
    row = one(tmp_path, path, window="0,101")
    expected = np.rint(np.clip((voxels[::-1, ::-1, 0].T * 2.5 - 10 + 0.5) / 100 + 0.5, 0, 1) * 255)
    np.testing.assert_array_equal(seen(row), expected)


def test_without_a_window_the_middle_99_percent_are_shown(tmp_path):
    voxels = np.random.default_rng(0).normal(500, 100, (20, 20, 3)).astype(np.float32)
    voxels[0, 0, 0] = 1e6
    low, high = np.percentile(voxels, (0.5, 99.5))
    row = one(tmp_path, nifti(tmp_path / "a.nii", voxels))
    assert (row["window_center"], row["window_width"]) == pytest.approx(((low + high + 1) / 2, high - low + 1))
    np.testing.assert_allclose(seen(row), stretched(voxels[::-1, ::-1, 1].T, low, high), atol=1)


@pytest.mark.parametrize(("window", "expected"), [("", (50, 400)), ("lung", (-600, 1500)), ("7,70", (7, 70))])
def test_what_looks_like_ct_gets_a_window_of_ct(tmp_path, window, expected):
    voxels = np.linspace(-1024, 2000, 64).reshape(4, 4, 4).astype(np.int16)
    row = one(tmp_path, nifti(tmp_path / "a.nii", voxels), window=window)
    assert (row["window_center"], row["window_width"]) == expected


def test_a_window_by_name_is_not_for_what_has_no_air(tmp_path):
    row = one(tmp_path, nifti(tmp_path / "a.nii", block(4, 4, 4)), window="lung")
    assert row["window_center"] != -600


def test_nan_is_black_and_does_not_count(tmp_path):
    voxels = np.array([[[0.0], [10.0]], [[np.nan], [np.inf]]], np.float32)
    row = one(tmp_path, nifti(tmp_path / "a.nii", voxels))
    assert seen(row).tolist() == [[255, 255], [0, 0]]  # inf and 10 above nan and 0
    assert row["window_center"] == pytest.approx(5.5)


def test_a_volume_of_nothing_but_nan_is_black(tmp_path):
    row = one(tmp_path, nifti(tmp_path / "a.nii", np.full((2, 2, 2), np.nan, np.float32)))
    assert seen(row).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(("columns", "volume"), [({}, 0), ({"volume": "2"}, 2)])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_of_a_series_one_volume_is_taken(tmp_path, columns, volume, ending):
    voxels = block(3, 2, 4, 5)
    row = one(tmp_path, nifti(tmp_path / f"a{ending}", voxels), columns=columns, **RANGE)
    np.testing.assert_array_equal(seen(row), grey(voxels[::-1, ::-1, 2, volume].T))


def test_a_volume_that_is_not_there_is_refused(tmp_path):
    reason, message = refused(tmp_path, nifti(tmp_path / "a.nii", block(3, 2, 4, 5)), volume=5)
    assert (reason, "volume 5 was asked for, the file has 0 to 4" in message) == ("bad_row", True)


def test_colour_stays_colour(tmp_path):
    voxels = np.zeros((2, 2, 1), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    voxels[1, 1, 0] = (10, 20, 30)
    row = one(tmp_path, nifti(tmp_path / "a.nii", voxels))
    assert seen(row).tolist() == [[[10, 20, 30], [0, 0, 0]], [[0, 0, 0], [0, 0, 0]]]
    assert row["window_center"] is None


def test_version_2_and_big_endian_are_read(tmp_path):
    voxels = block(*SHAPE)
    nibabel.save(nibabel.Nifti2Image(voxels, np.eye(4)), tmp_path / "a.nii")
    header = nibabel.Nifti1Header(endianness=">")
    nibabel.save(nibabel.Nifti1Image(voxels.astype(">i2"), np.eye(4), header), tmp_path / "b.nii")
    assert (tmp_path / "b.nii").read_bytes()[:4] == b"\0\0\x01\x5c"
    rows, rejects = take(tmp_path, {"image": "a.nii"}, {"image": "b.nii"}, **RANGE)
    assert (len(rows), rejects) == (2, [])
    assert rows[0]["image"]["bytes"] == rows[1]["image"]["bytes"]


def test_a_gzip_bomb_is_refused_without_unpacking_it(tmp_path):
    header = nibabel.Nifti1Header()
    header.set_data_shape((1000, 1000, 600))  # 1.2 GB, packed in 1 MB
    header.set_data_dtype(np.int16)
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(1 << 20)))
    reason, message = refused(tmp_path, tmp_path / "a.nii.gz")
    assert (reason, "over the limit" in message) == ("image_too_big", True)


def test_a_file_that_claims_more_than_it_has_costs_little(tmp_path, monkeypatch):
    header = nibabel.Nifti1Header()
    header.set_data_shape((512, 512, 1000))
    header["magic"], header["vox_offset"] = b"n+1", 352
    (tmp_path / "a.nii").write_bytes(header.binaryblock + bytes(1000))
    reason, message = refused(tmp_path, tmp_path / "a.nii")
    assert (reason, message) == ("corrupt_image", "captions.csv, row 2: the NIfTI file is cut short")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"nonsense", "magic number"), (bytes(344) + b"ni1\0" + bytes(9), "pair"), (b"\x1f\x8b\x08rubbish", "damaged")],
)
def test_what_is_no_nifti_is_refused(tmp_path, content, words):
    (tmp_path / "a.nii").write_bytes(content)
    reason, message = refused(tmp_path, tmp_path / "a.nii")
    assert (reason, words in message) == ("corrupt_image", True)


def test_complex_voxels_are_refused(tmp_path):
    assert refused(tmp_path, nifti(tmp_path / "a.nii", np.ones((2, 2, 2), np.complex64)))[0] == "corrupt_image"


def test_too_many_slices_are_refused(tmp_path):
    path = nifti(tmp_path / "a.nii", np.zeros((1, 1, 1001), np.uint8))
    assert refused(tmp_path, path, frame="all")[0] == "image_too_big"


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_mutilated_files_are_rows_or_rejects_and_tell_nothing(tmp_path, ending, caplog, capfd):
    chance = random.Random(0)
    whole = nifti(tmp_path / "whole.nii", block(6, 5, 4)).read_bytes()
    names = []
    for number in range(250):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(352 if chance.random() < 0.8 else len(data))] = chance.randrange(256)
        data = data[: chance.randrange(1, len(data))] if chance.random() < 0.2 else data
        packed = bytearray(gzip.compress(bytes(data))) if ending == ".nii.gz" else data
        if ending == ".nii.gz" and chance.random() < 0.3:
            packed[chance.randrange(len(packed))] ^= 1 << chance.randrange(8)
        (tmp_path / f"{number}{ending}").write_bytes(packed)
        names.append(f"{number}{ending}")
    (tmp_path / "whole.nii").unlink()
    with caplog.at_level("DEBUG"):
        rows, rejects = take(tmp_path, *({"image": name} for name in names))
    assert len(rows) + len(rejects) == 250
    assert len(rejects) > 50
    out = "".join(capfd.readouterr()) + caplog.text + "".join(map(str, rows)) + "".join(map(str, rejects))
    assert has_canary(out) == []


def test_the_module_reads_no_text_of_the_header(tmp_path):
    row = one(tmp_path, nifti(tmp_path / "a.nii", block(*SHAPE)))
    assert has_canary(repr(row)) == []
