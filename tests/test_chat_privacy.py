"""The real ``medvlm chat`` on images full of identifiers: none is printed, logged or saved."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.plugins.identifier_cases import IDENTIFIERS, found_in, save_picture, save_scan, save_slide, save_volume
from tests.plugins.scan_cases import files

NAME = f"{IDENTIFIERS['name']}_{IDENTIFIERS['record number']}_{IDENTIFIERS['date']}"


def chat(folder, *arguments):
    """A finished ``medvlm chat`` in a folder, with files for its history and settings of its own."""
    environment = os.environ | {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "medvlm_cli", "chat", *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, timeout=200, stdin=subprocess.DEVNULL
    )


@pytest.fixture(scope="module")
def run(tiny_checkpoint, tmp_path_factory):
    """One answer about a scan, a volume, a slide and two pictures, said as wordily as can be, and saved."""
    folder = tmp_path_factory.mktemp("chat")
    images = folder / "images"
    images.mkdir()
    save_scan(images / f"{NAME}.dcm", BurnedInAnnotation="YES")
    save_volume(images / f"{NAME}.nii.gz")
    save_slide(images / f"{NAME}.svs")
    save_picture(images / "photograph.jpg", orientation=6)
    save_picture(images / "drawing.png")
    paths = [path.relative_to(folder) for path in files(images)]
    options = ["-p", "What is shown?", "--json", "--save", "saved", "-vv", "--preview", "half"]
    done = chat(folder, *paths, *options, "--checkpoint", tiny_checkpoint, "--set", "max_new_tokens=4")
    assert done.returncode == 0, done.stderr[-2000:]
    made = [path for path in files(folder) if images not in path.parents]
    return SimpleNamespace(done=done, made=made, images=files(images), saved=folder / "saved")


def test_the_images_are_full_of_identifiers(run):
    assert len(run.images) == 5
    assert min(len(found_in(path.read_bytes())) for path in run.images if path.suffix != ".gz") >= 18


def test_nothing_that_is_printed_holds_an_identifier(run):
    assert found_in(run.done.stdout, run.done.stderr) == []
    names = [image["name"] for image in json.loads(run.done.stdout)["image"]]
    assert sorted(name.split("-")[0] for name in names) == ["dicom", "drawing.png", "nifti", "photograph.jpg", "slide"]


def test_words_in_the_pixels_are_warned_of(run):
    assert b"the file says that words are burned into its pixels" in run.done.stderr


def test_nothing_that_is_saved_holds_an_identifier(run):
    assert {path.suffix for path in files(run.saved)} >= {".arrow", ".json", ".md"}
    assert {path.name: hits for path in run.made if (hits := found_in(path.read_bytes()))} == {}
    assert found_in("\n".join(map(str, run.made))) == []


@pytest.mark.parametrize(("ending", "save"), [(".dcm", save_scan), (".nii", save_volume), (".jpg", save_picture)])
def test_an_error_names_what_was_typed_and_nothing_of_the_file(tmp_path, ending, save):
    whole = save(tmp_path / f"whole{ending}").read_bytes()
    (tmp_path / f"cut{ending}").write_bytes(whole[: len(whole) // 2])
    done = chat(tmp_path, f"cut{ending}", "-p", "What is shown?", "-vv", "--checkpoint", "none")
    assert done.returncode == 4
    assert f"cut{ending}: ".encode() in done.stderr
    assert found_in(done.stdout, done.stderr) == []
    assert b"Traceback" not in done.stderr
