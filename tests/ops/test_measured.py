"""Choices that are measured: kept, so that a later run chooses the same."""

import json

import pytest
import torch
from medvlm_kernels import measured

DEVICE = torch.device("cpu")  # a name in a key; nothing is run on it


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDVLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(measured, "stack", lambda device: "a card, torch 1")
    return tmp_path / "cache"


def times(monkeypatch, **seconds):
    """Let ways take given times; every measurement is counted."""
    counted = []

    def time(ways, device):
        counted.append(set(ways))
        return {name: seconds[name] for name in ways}

    monkeypatch.setattr(measured, "_time", time)
    return counted


def test_the_fastest_way_is_chosen_and_kept(monkeypatch, folder):
    counted = times(monkeypatch, a=2.0, b=1.0)
    ways = dict.fromkeys("ab", lambda: None)
    assert [measured.fastest("shape", ways, DEVICE) for _ in range(2)] == ["b", "b"]
    assert len(counted) == 1
    assert json.loads((folder / "measured.json").read_text()) == {"shape on a card, torch 1": "b"}


def test_a_choice_survives_a_change_of_speed_and_other_choices_beside_it(monkeypatch):
    ways = dict.fromkeys("ab", lambda: None)
    times(monkeypatch, a=2.0, b=1.0)
    measured.fastest("one", ways, DEVICE)
    times(monkeypatch, a=1.0, b=2.0)
    assert measured.fastest("two", ways, DEVICE) == "a"
    assert measured.fastest("one", ways, DEVICE) == "b"


def test_a_way_that_is_gone_is_measured_anew(monkeypatch):
    times(monkeypatch, a=2.0, b=1.0)
    measured.fastest("one", dict.fromkeys("ab", lambda: None), DEVICE)
    assert measured.fastest("one", {"a": lambda: None}, DEVICE) == "a"


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00", '{"one on a card, torch 1": ["a"]}'])
def test_a_damaged_file_of_choices_is_replaced(monkeypatch, folder, content):
    folder.mkdir()
    (folder / "measured.json").write_text(content)
    times(monkeypatch, a=1.0)
    assert measured.fastest("one", {"a": lambda: None}, DEVICE) == "a"
    assert json.loads((folder / "measured.json").read_text()) == {"one on a card, torch 1": "a"}


def test_a_folder_that_cannot_be_written_to_costs_only_the_next_measurement(monkeypatch, folder):
    folder.write_text("a file where the folder should be")
    counted = times(monkeypatch, a=1.0)
    assert [measured.fastest("one", {"a": lambda: None}, DEVICE) for _ in range(2)] == ["a", "a"]
    assert len(counted) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_less_work_is_measured_as_faster():
    small, large = (torch.randn(size, size, device="cuda") for size in (64, 4096))
    ways = {"large": lambda: large @ large, "small": lambda: small @ small}
    assert measured.fastest("products", ways, torch.device("cuda")) == "small"
