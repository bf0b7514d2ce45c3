import pytest

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.core.plugins import resolve

REGISTRY = {"phantom": "json", "folder": "json:loads", "pmc": "json.decoder"}


def test_a_name_gives_the_module_it_stands_for():
    assert resolve("pmc", REGISTRY, "source").__name__ == "json.decoder"


def test_a_name_gives_the_member_behind_the_colon():
    assert resolve("folder", REGISTRY, "source")("[1]") == [1]


def test_an_unknown_name_is_refused_with_all_names_and_the_nearest_one():
    with pytest.raises(ConfigError) as error:
        resolve("fantom", REGISTRY, "source")
    assert error.value.what == "no source 'fantom'; there are folder, phantom, pmc"
    assert error.value.fix == "did you mean 'phantom'?"


def test_an_unknown_name_like_no_other_is_refused_without_a_guess():
    with pytest.raises(ConfigError) as error:
        resolve("zzzzzz", REGISTRY, "teacher")
    assert error.value.fix == ""
