"""Files of a benchmark by the end of their path, loose or packed, and nothing from outside the folder."""

import pytest

from medvlm_cli.benchmarks.files import DEPTH, Files
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.images import ImageTooBigError, UnsafePathError
from tests.plugins.benchmark_cases import zipped


def names(root, wanted):
    return [str(place).removeprefix(f"{root}/") for place in Files((root,)).find(wanted)]


def put(root, *paths, data=b"1"):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)


def test_the_least_deep_comes_first_and_archives_last(tmp_path):
    put(tmp_path, "b/a.jpg", "x/y/A.JPG")
    put(tmp_path, "all.zip", data=zipped({"a.jpg": b"2"}))
    assert names(tmp_path, "a.jpg") == ["b/a.jpg", "x/y/A.JPG", "all.zip, a.jpg"]


def test_all_parts_of_a_wanted_path_must_be_there(tmp_path):
    put(tmp_path, "imgs/xmlab1/source.jpg", "imgs/xmlab11/source.jpg", "imgs/axmlab1/source.jpg")
    assert names(tmp_path, "xmlab1/source.jpg") == ["imgs/xmlab1/source.jpg"]


def test_what_systems_keep_for_themselves_is_passed_over(tmp_path):
    put(tmp_path, ".cache/a.jpg", "__MACOSX/a.jpg", "._a.jpg")
    put(tmp_path, "all.zip", data=zipped({"__MACOSX/a.jpg": b"1", "x/.hidden/a.jpg": b"1"}))
    assert names(tmp_path, "a.jpg") == []


def test_a_file_below_the_depth_is_not_sought(tmp_path):
    put(tmp_path, "/".join("f" * DEPTH) + "/a.jpg", "/".join("f" * (DEPTH + 1)) + "/b.jpg")
    assert len(names(tmp_path, "a.jpg")) == 1
    assert names(tmp_path, "b.jpg") == []


def test_files_and_members_are_read_whole(tmp_path):
    put(tmp_path, "a.jpg", data=b"loose")
    put(tmp_path, "all.zip", data=zipped({"x/b.jpg": b"packed"}))
    files = Files((tmp_path,))
    assert [files.read(files.find(name)[0]) for name in ("a.jpg", "b.jpg")] == [b"loose", b"packed"]


def test_a_member_over_the_limit_is_not_unpacked(tmp_path):
    put(tmp_path, "all.zip", data=zipped({"bomb.jpg": bytes(1_000_000)}))
    files = Files((tmp_path,))
    with pytest.raises(ImageTooBigError, match=r"bomb\.jpg has 1,000,000 bytes, over the limit of 1,000"):
        files.read(files.find("bomb.jpg")[0], limit=1000)


def test_a_damaged_member_is_refused_by_name(tmp_path):
    data = bytearray(zipped({"a.jpg": bytes(range(256)) * 40}))
    data[60:90] = bytes(30)
    put(tmp_path, "all.zip", data=bytes(data))
    files = Files((tmp_path,))
    with pytest.raises(DataError, match=r"all\.zip, a\.jpg cannot be read"):
        files.read(files.find("a.jpg")[0])


def test_an_empty_member_is_refused(tmp_path):
    put(tmp_path, "all.zip", data=zipped({"a.jpg": b""}))
    files = Files((tmp_path,))
    with pytest.raises(DataError, match=r"a\.jpg is empty"):
        files.read(files.find("a.jpg")[0])


def test_a_cut_archive_is_refused_at_once(tmp_path):
    put(tmp_path, "imgs.zip", data=zipped({"a.jpg": b"1" * 1000})[:-30])
    with pytest.raises(DataError, match=r"imgs\.zip is not a whole zip archive"):
        Files((tmp_path,))


def test_links_out_of_the_folder_are_not_read(tmp_path):
    put(tmp_path, "outside/a.jpg", "inside/b.jpg")
    put(tmp_path, "outside/all.zip", data=zipped({"c.jpg": b"1"}))
    inside = tmp_path / "inside"
    (inside / "a.jpg").symlink_to(tmp_path / "outside" / "a.jpg")
    files = Files((inside,))
    with pytest.raises(UnsafePathError, match="leads out of"):
        files.read(files.find("a.jpg")[0])
    (inside / "all.zip").symlink_to(tmp_path / "outside" / "all.zip")
    with pytest.raises(UnsafePathError, match="leads out of"):
        Files((inside,))


def test_a_linked_folder_is_not_entered(tmp_path):
    put(tmp_path, "outside/a.jpg", "inside/b.jpg")
    (tmp_path / "inside" / "more").symlink_to(tmp_path / "outside")
    (tmp_path / "inside" / "round").symlink_to(tmp_path / "inside")
    assert names(tmp_path / "inside", "a.jpg") == []
    assert names(tmp_path / "inside", "b.jpg") == ["b.jpg"]
