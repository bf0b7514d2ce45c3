"""Which words of a line are files."""

import pytest

from medvlm_cli.terminal.paths import dropped, mentioned, missing, places


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The folder the user is in, with two images."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.png").touch()
    (tmp_path / "it's b.png").touch()
    (tmp_path / "c d.png").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("argument", "found"),
    [
        ("a.png", ["a.png"]),
        ("c d.png", ["c d.png"]),
        ("  it's b.png ", ["it's b.png"]),
        ('"it\'s b.png"', ["it's b.png"]),
        (r"it\'s\ b.png a.png", ["it's b.png", "a.png"]),
        ("https://example.org/x.png", ["https://example.org/x.png"]),
        ("gone's.png", ["gone's.png"]),
        ("", []),
    ],
)
def test_an_argument_is_read_whole_or_as_a_shell_would(argument, found):
    assert places(argument) == found


def test_the_home_folder_and_a_dropped_address_are_paths(folder):
    assert places("~/a.png") == [str(folder / "a.png")]
    assert places(f"file://{folder}/it%27s%20b.png") == [str(folder / "it's b.png")]


@pytest.mark.parametrize("line", ["a.png", "'a.png'", 'a.png "it\'s b.png"', "./a.png", "~/a.png"])
def test_a_line_of_nothing_but_files_is_dropped(line):
    assert dropped(line)


@pytest.mark.parametrize(
    "line", ["What is a.png?", "gone.png", "", ".", "Describe it.", "a.png gone.png", "\0", "x" * 9999]
)
def test_a_question_is_not_dropped(line):
    assert dropped(line) == []


@pytest.mark.parametrize("line", ["gone.png", "/home/u/scan.dcm", "~/x.nii.gz", '"x.jpg"'])
def test_a_name_alone_that_is_not_there_is_missing(line):
    assert missing(line)


@pytest.mark.parametrize("line", ["a.png", "What is gone.png?", ".png", "no.", "https://example.org/x.png", "10.5"])
def test_other_lines_miss_nothing(line):
    assert missing(line) == ""


def test_files_among_the_words_of_a_question_are_found():
    assert mentioned("Compare 'a.png' with gone.png and b.txt?") == ["a.png"]
    assert mentioned("Is it in (./a.png)?") == ["a.png"]
