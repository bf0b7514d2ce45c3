"""``medvlm --version --json``: everything a report of a bug needs, each question by itself, nothing secret."""

import errno
import fcntl
import json
import os
import re
import tomllib
from pathlib import Path

import pytest

from medvlm_cli.core import commit, doctor
from tests import inside

ROOT = Path(__file__).parents[1]
SECRET = "hf_of_a_person_123"


def examined(*argv, **environment):
    done = inside.medvlm(*(argv or ("--version", "--json")), **environment)
    return done.returncode, json.loads(done.stdout), done.stdout + done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return examined(MEDVLM_WORKSPACE=str(tmp_path_factory.mktemp("ws")), HF_TOKEN=SECRET)


def test_both_orders_print_the_same_keys(whole):
    assert examined("--json", "--version")[1].keys() == whole[1].keys()


def test_it_tells_of_every_topic_and_ends_with_0(whole):
    code, found, _ = whole
    assert code == 0
    assert set(found) == {
        "medvlm", "python", "platform", "torch", "cuda", "attention", "libraries", "floors", "workspace", "tokens",
        "offline", "problems",
    }  # fmt: skip
    assert not [topic for topic, answer in found.items() if isinstance(answer, dict) and "failed" in answer]


def test_of_every_attention_backend_it_says_that_it_works_or_why_not(whole):
    from medvlm_kernels import BACKENDS

    attention = whole[1]["attention"]
    assert set(attention) == set(BACKENDS)
    assert attention[attention["auto"]] == "ok" and attention["math"] == "ok"


def test_a_token_is_yes_or_no(whole):
    _, found, printed = whole
    assert found["tokens"]["HF_TOKEN"] is True and found["tokens"]["NCBI_API_KEY"] is False
    assert set(map(type, found["tokens"].values())) == {bool}
    assert SECRET not in printed


def test_the_version_alone_is_one_line():
    done = inside.medvlm("--version")
    assert re.fullmatch(r"medvlm \d+\.\d+\.\d+\n", done.stdout)
    assert done.returncode == 0


def test_json_without_a_verb_or_version_is_refused():
    done = inside.medvlm("--json")
    assert done.returncode == 2
    assert done.stderr.startswith("error: --json goes with a verb, or with --version")


def declared():
    """Floors of every dependency in pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    return dict(re.match(r"([\w-]+)>=([\d.]+)", line).groups() for line in lines if ">=" in line)


@pytest.mark.parametrize("name", doctor.FLOORS)
def test_what_is_installed_by_the_project_is_above_every_security_floor(name):
    assert doctor.is_safe(declared()[name], doctor.FLOORS[name][0])


@pytest.mark.parametrize(
    ("version", "floor", "safe"),
    [
        ("13.0.0", "13", True), ("12.3.0", "13", False), ("2.10.0+cu130", "2.10", True), ("2.9.1", "2.10", False),
        ("2.9.1+cu2.10", "2.10", False), ("0.22", "0.22.0", True), ("0.22.1rc1", "0.22", True), (None, "1", True),
        ("14.0.0", "14.0.1", False),
    ],
)  # fmt: skip
def test_versions_are_compared_by_their_numbers(version, floor, safe):
    assert doctor.is_safe(version, floor) is safe


@pytest.mark.parametrize(
    ("version", "filter_mended", "hang_mended"),
    [
        ((3, 11, 12), False, False), ((3, 11, 13), True, False), ((3, 11, 14), True, True), ((3, 12, 10), False, False),
        ((3, 12, 12), True, True), ((3, 13, 3), False, False), ((3, 13, 4), True, False), ((3, 13, 6), True, True),
        ((3, 14, 0), True, True),
    ],
)  # fmt: skip
def test_the_patch_level_of_python_is_known(version, filter_mended, hang_mended):
    found = doctor.python_found(version)
    assert (found["tar_filter_mended"], found["tar_hang_mended"]) == (filter_mended, hang_mended)


def test_a_library_below_its_floor_is_a_problem_and_ends_with_6(monkeypatch, tmp_path):
    monkeypatch.setitem(doctor.FLOORS, "Pillow", ("99", "older ones are old"))
    code, found, _ = examined(MEDVLM_WORKSPACE=str(tmp_path))
    assert code == 6
    assert [line.partition(":")[2] for line in found["problems"]] == [" below 99, older ones are old"]


def test_the_file_system_of_a_folder_does_all_and_is_left_as_it_was(tmp_path):
    (tmp_path / "own").write_text("mine")
    assert doctor.file_system(tmp_path) == dict.fromkeys(("rename", "flock", "fsync", "mmap", "append"), "ok")
    assert list(tmp_path.iterdir()) == [tmp_path / "own"]


def refused(*given, **more):
    raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))


@pytest.mark.parametrize(
    ("check", "owner", "name"),
    [("rename", Path, "replace"), ("flock", fcntl, "flock"), ("mmap", doctor.mmap, "mmap"), ("append", os, "writev")],
)
def test_what_a_file_system_refuses_is_told_and_the_rest_too(check, owner, name, tmp_path, monkeypatch):
    monkeypatch.setattr(owner, name, refused)
    found = doctor.file_system(tmp_path)
    assert "not supported" in found[check].lower() or "no locks" in found[check]
    assert "ok" in found.values() or check == "rename"  # by which every file comes to its name


def test_a_lock_that_two_processes_hold_is_a_problem(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", lambda file, how: None)  # as on a file system that only says so
    assert doctor.file_system(tmp_path)["flock"].startswith("two processes hold the same lock")


def test_a_workspace_that_is_not_there_is_looked_at_where_it_would_be_and_not_made(tmp_path, monkeypatch):
    code, found, _ = examined(MEDVLM_WORKSPACE=str(tmp_path / "a" / "b"))
    assert code == 0
    assert found["workspace"]["folder"] == str(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_question_that_fails_leaves_the_others(tmp_path, monkeypatch):
    def broken():
        raise RuntimeError("libcuda.so.1: cannot open\nand more")

    monkeypatch.setattr(doctor, "_torch", broken)
    found = doctor.examine(tmp_path)
    assert found["torch"] == {"failed": "RuntimeError: libcuda.so.1: cannot open"}
    assert found["workspace"]["disk"]["free_bytes"] > 0


def test_a_path_does_not_name_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "data").mkdir()
    assert doctor.examine(tmp_path / "data")["workspace"]["folder"] == "~/data"


def test_a_folder_that_takes_no_file_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor.tempfile, "TemporaryDirectory", refused)
    assert doctor.file_system(tmp_path)["write"].startswith("OSError: ")


def test_commit_is_what_is_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(commit, "write_bytes", refused)
    assert "ok" not in {said for name, said in doctor.file_system(tmp_path).items() if name != "append"}
