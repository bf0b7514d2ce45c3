import hashlib
import io
import json
import re

import pytest
from PIL import Image

from medvlm_cli.core.arrow import open_dataset, write_all
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.schemas import SCAN_FIGURES
from medvlm_cli.sources import folder


def png(width=6, height=4):
    out = io.BytesIO()
    Image.new("RGB", (width, height), "gray").save(out, "PNG")
    return out.getvalue()


def take(root, table=None, name="captions.csv", images=("a.png",), captions="", wanted="all"):
    """Rows and rejects of a folder with a captions file and some images."""
    root.mkdir(exist_ok=True)
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).write_bytes(png())
    if table is not None:
        (root / name).write_bytes(table if isinstance(table, bytes) else table.encode())
    config = FetchConfig(images=str(root), captions=captions, license=wanted)
    keys = folder.keys(config)
    assert len(set(keys)) == len(keys)
    found = [folder.harvest(key, config) for key in keys]
    assert [each.found for each in found] == [1] * len(keys)
    return [row for each in found for row in each.rows], [reject for each in found for reject in each.rejects]


def refused(root, table, **options):
    rows, (reject,) = take(root, table, **options)
    assert rows == []
    return reject.reason, reject.message


def test_a_row_of_a_csv_becomes_a_row_of_figures(tmp_path):
    table = (
        "id,image,caption,label,modality,license,mentions\n"
        'p1,a.png,"Axial CT, liver.",Figure 1,CT,CC BY 4.0,See Figure 1.| |Again.\n'
    )
    (row,), rejects = take(tmp_path, table)
    assert rejects == []
    assert row == {
        "figure_id": "p1", "source": "folder", "image": {"bytes": png(), "path": "a.png"},
        "image_sha256": hashlib.sha256(png()).digest(), "width": 6, "height": 4, "caption": "Axial CT, liver.",
        "label": "Figure 1", "mentions": [{"text": "See Figure 1.", "panel": None}, {"text": "Again.", "panel": None}],
        "modality": "ct", "modality_source": "given", "n_panels": 1, "license": "CC-BY-4.0", "commercial_ok": True,
        "retracted": False, "third_party": False, "article_id": None, "doi": None, "title": None, "url": None,
        "source_file": "a.png", "frame": None, "window_center": None, "window_width": None, "region": None,
        "burned_in": None,
    }  # fmt: skip


def test_rows_and_rejects_pass_the_writer(tmp_path):
    take(tmp_path / "in", "image,caption\na.png,One\nb.png,Two\n")
    config = FetchConfig(images=str(tmp_path / "in"))
    counts = write_all(
        tmp_path / "out", SCAN_FIGURES, lambda key: folder.harvest(key, config), stage="fetch", config={},
        keys=folder.keys(config), tell=lambda *_: None,
    )  # fmt: skip
    assert (counts.out, counts.rejected) == (1, 1)
    assert open_dataset(tmp_path / "out", SCAN_FIGURES).ids == ["a"]


def test_a_line_of_a_jsonl_becomes_a_row_of_figures(tmp_path):
    line = {"file": "a.png", "caption": "Brain MRI.", "mentions": ["See it.", {"text": "Left.", "panel": "A"}]}
    (row,), _ = take(tmp_path, json.dumps(line), name="captions.jsonl")
    assert (row["figure_id"], row["caption"], row["modality"], row["modality_source"]) == (
        "a",
        "Brain MRI.",
        "mri",
        "caption",
    )
    assert row["mentions"] == [{"text": "See it.", "panel": None}, {"text": "Left.", "panel": "A"}]
    assert (row["license"], row["commercial_ok"]) == ("unknown", False)


def test_a_byte_order_mark_before_a_jsonl_is_no_harm(tmp_path):
    rows, _ = take(tmp_path, '\ufeff{"image": "a.png", "caption": "One"}\r\n', name="captions.jsonl")
    assert [row["caption"] for row in rows] == ["One"]


@pytest.mark.parametrize("column", ["image", "file", "filename", "path", "Image", " FILE "])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spreadsheets_write_columns_and_delimiters_in_many_ways(tmp_path, column, delimiter):
    table = f"\ufeff{column}{delimiter}Caption\r\na.png{delimiter}A lung.\r\n\r\n"
    assert [row["caption"] for row in take(tmp_path, table)[0]] == ["A lung."]


def test_images_in_subfolders_and_windows_paths_are_found(tmp_path):
    rows, rejects = take(tmp_path, "image,caption\nx/a.png,One\ny\\b.png,Two\n", images=("x/a.png", "y/b.png"))
    assert ([row["figure_id"] for row in rows], rejects) == (["x/a", "y/b"], [])


@pytest.mark.parametrize(
    ("line", "reason", "message"),
    [
        ("a.png,", "missing_caption", "captions.csv, row 3: no caption for a.png"),
        ("a.png,  \u200b ", "missing_caption", "captions.csv, row 3: no caption for a.png"),
        ("a.png", "missing_caption", "captions.csv, row 3: no caption for a.png"),
        (",Words", "missing_image", "captions.csv, row 3: the row names no image"),
        ("b.png,Words", "missing_image", "captions.csv, row 3: .*b.png cannot be read"),
        ("../a.png,Words", "unsafe_path", "captions.csv, row 3: .*leads out of"),
        ("/etc/hostname,Words", "unsafe_path", "captions.csv, row 3: .*leads out of"),
        ("a.png,Words, and more", "bad_row", "captions.csv, row 3: 3 values for 2 columns; put the caption in quotes"),
    ],
)
def test_a_bad_row_is_a_reject_that_names_file_and_row_and_the_others_go_on(tmp_path, line, reason, message):
    table = f"image,caption\na.png,First.\n{line}\na.png,Last.\n"
    rows, rejects = take(tmp_path / "in", table)
    assert [row["caption"] for row in rows] == ["First.", "Last."]
    ((found, words),) = [(reject.reason, reject.message) for reject in rejects]
    assert found == reason
    assert re.search(message, words)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "corrupt_image"), (b"nonsense", "corrupt_image")],
)
def test_a_file_that_is_no_image_is_a_reject_that_names_row_and_file(tmp_path, content, reason):
    (tmp_path / "scan.png").write_bytes(content)
    found, message = refused(tmp_path, "image,caption\nscan.png,Words\n", images=())
    assert found == reason
    assert "captions.csv, row 2" in message and "scan.png" in message


def test_a_truncated_image_is_a_reject(tmp_path):
    image = Image.effect_noise((200, 200), 80)
    image.save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-2000])
    assert refused(tmp_path, "image,caption\ncut.jpg,Words\n", images=())[0] == "corrupt_image"


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "in").mkdir()
    (tmp_path / "in/link.png").symlink_to(tmp_path / "secret.png")
    assert refused(tmp_path / "in", "image,caption\nlink.png,Words\n", images=())[0] == "unsafe_path"


def test_images_that_no_row_names_are_rejects(tmp_path):
    images = ("a.png", "b.png", "x/c.png", ".hidden.png", ".thumbs/d.png")
    _, rejects = take(tmp_path, "image,caption\n./a.png,One\n", images=images)
    assert [(reject.reason, reject.id) for reject in rejects] == [
        ("not_listed", "b.png (not listed)"),
        ("not_listed", "x/c.png (not listed)"),
    ]


def test_scans_that_no_row_names_are_rejects_too(tmp_path):
    images = ("a.png", "scan.dcm", "brain.nii.gz", "x/slide.svs", "notes")
    _, rejects = take(tmp_path, "image,caption\na.png,One\n", images=images)
    assert [(reject.reason, reject.id) for reject in rejects] == [
        ("not_listed", "brain.nii.gz (not listed)"),
        ("not_listed", "DICOM file 1 (not listed)"),
        ("not_listed", "x/slide.svs (not listed)"),
    ]


def test_other_modalities_than_those_asked_for_are_rejects(tmp_path):
    (tmp_path / "captions.csv").write_text("image,caption,modality\na.png,One,ct\na.png,Two,mri\n")
    (tmp_path / "a.png").write_bytes(png())
    config = FetchConfig(images=str(tmp_path), modality=("mri",))
    first, second = (folder.harvest(key, config) for key in folder.keys(config))
    assert [(reject.reason, reject.message) for reject in first.rejects] == [
        ("modality_excluded", "captions.csv, row 2: modality ct is not among those asked for")
    ]
    assert [row["caption"] for row in second.rows] == ["Two"]


def test_ids_made_from_file_names_are_made_unique(tmp_path):
    table = "image,caption\na.png,One\na.png,Two\na.jpg,Three\n"
    rows, _ = take(tmp_path, table, images=("a.png", "a.jpg"))
    assert [row["figure_id"] for row in rows] == ["a", "a~3", "a~4"]


def test_an_id_given_twice_is_a_reject(tmp_path):
    rows, (reject,) = take(tmp_path, "id,image,caption\nx,a.png,One\nx,a.png,Two\n")
    assert ([row["caption"] for row in rows], reject.reason) == (["One"], "duplicate_id")
    assert reject.id != "x"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "captions.jsonl, row 2: not JSON"),
        ("[1]", "captions.jsonl, row 2: not a JSON object"),
        ('{"image": "a.png", "caption": ["x"]}', "captions.jsonl, row 2: no caption for a.png"),
        ('{"image": "\\u0000", "caption": "x"}', "captions.jsonl, row 2: .* cannot be read"),
        ('{"image": "\\ud800.png", "caption": "x\\ud800"}', "captions.jsonl, row 2: .* cannot be read"),
    ],
)
def test_a_bad_line_of_a_jsonl_is_a_reject_that_names_it(tmp_path, line, message):
    table = f'{{"image": "a.png", "caption": "One"}}\n{line}\n\n'
    rows, (reject,) = take(tmp_path, table, name="captions.jsonl")
    assert len(rows) == 1
    assert re.search(message, reject.message)
    assert (reject.id + reject.message + (reject.raw or "")).encode()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("image,text\na.png,Words\n", "no column 'caption'; it has image, text"),
        ("scan,caption\na.png,Words\n", r"no column 'image' \(or file, filename, path\); it has scan, caption"),
        ("a.png,Words\n", "it has a.png, Words"),
        ("", "no column 'image' .* it has no columns"),
        (b"image,caption\na.png,Good\na.png,M\xfcller\n", "line 3: not UTF-8"),
        ("image,caption\na.png,Words\n".encode("utf-16"), "line 1: not UTF-8"),
        ('image,caption\na.png,Good\na.png,"never closed\n', "row 3: not CSV"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_by_name(tmp_path, table, message):
    with pytest.raises(DataError, match=rf"captions\.csv.*(?:{message})"):
        take(tmp_path, table)


def test_a_jsonl_without_captions_is_refused_with_the_columns_it_has(tmp_path):
    with pytest.raises(DataError, match=r"captions\.jsonl: no column 'caption'; it has file, text"):
        take(tmp_path, '{"file": "a.png", "text": "x"}', name="captions.jsonl")


def test_a_captions_file_elsewhere_can_be_named(tmp_path):
    (tmp_path / "other.csv").write_text("image,caption\na.png,Elsewhere.\n")
    rows, _ = take(tmp_path / "in", captions=str(tmp_path / "other.csv"))
    assert [row["caption"] for row in rows] == ["Elsewhere."]


@pytest.mark.parametrize(
    ("tables", "message"), [([], "it holds none"), (["a.csv", "b.jsonl"], "it holds 2: a.csv, b.jsonl")]
)
def test_a_folder_without_one_captions_file_is_refused(tmp_path, tables, message):
    made = [(tmp_path / name).write_text("image,caption\n") for name in tables]
    assert len(made) == len(tables)
    with pytest.raises(DataError, match=message) as caught:
        take(tmp_path)
    assert caught.value.fix == "write one that says what each image shows, a row an image, or name it: --captions FILE"


@pytest.mark.parametrize(
    ("images", "captions", "error", "message"),
    [
        ("", "", ConfigError, "no folder of images is given"),
        ("gone", "", DataError, "gone is not a folder"),
        (".", "gone.csv", DataError, "gone.csv is not there"),
    ],
)
def test_a_missing_folder_or_captions_file_is_refused_by_name(tmp_path, monkeypatch, images, captions, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        folder.keys(FetchConfig(images=images, captions=captions))


def test_the_licence_asked_for_is_kept_to(tmp_path):
    table = "image,caption,license\na.png,One,CC BY 4.0\na.png,Two,CC BY-NC\na.png,Three,\n"
    rows, rejects = take(tmp_path, table, wanted="commercial")
    assert ([row["caption"] for row in rows], [reject.reason for reject in rejects]) == (
        ["One"],
        ["license_excluded"] * 2,
    )


def test_every_reason_given_is_a_declared_one(tmp_path):
    table = "image,caption\n,x\na.png,\n../x,x\na.png,b,c\nbroken.png,x\n"
    (tmp_path / "broken.png").write_bytes(b"x")
    _, rejects = take(tmp_path, table, images=("a.png", "other.png"))
    assert {reject.reason for reject in rejects} == {
        "missing_image", "missing_caption", "unsafe_path", "bad_row", "corrupt_image", "not_listed",
    }  # fmt: skip
    assert {reject.reason for reject in rejects} <= set(folder.REASONS)
