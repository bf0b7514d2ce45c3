"""Terms of teachers: accepted before anybody is asked, carried by every row, and told where a student may not learn."""

import pytest

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.teachers.terms import forbidden, refuse_unaccepted, tag_of, terms_of


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("claude-opus-5-5", "claude"),
        ("meta-llama/Meta-Llama-3-70B-Instruct", "llama3"),
        ("meta-llama/Meta-Llama-3-8B", "llama3"),
        ("meta-llama/Llama-3.1-70B-Instruct", "llama3.1"),
        ("meta-llama/Llama-3.3-70B-Instruct", "llama3.1"),
        ("/models/Meta-Llama-3-70B-Instruct-FP8", "llama3"),
        ("llama3:70b", "llama3"),
        ("llama3", "llama3"),
        ("llama3.3:latest", "llama3.1"),
        ("Qwen/Qwen3-32B", None),
        ("tiny", None),
    ],
)
def test_terms_go_by_the_name_of_the_model(model, name):
    terms = terms_of(model)
    assert (terms and terms.name) == name
    assert tag_of(model) == (terms.tag if terms else "teacher-terms-unknown")


def test_what_is_not_accepted_is_refused_with_what_it_says_and_how_to_accept():
    with pytest.raises(
        ConfigError, match=r"(?s)Meta Llama 3 Community License: .*1\.b\.v.*--accept-terms claude,llama3$"
    ):
        refuse_unaccepted(["claude-opus-5-5", "meta-llama/Meta-Llama-3-70B-Instruct"], ["claude"])


def test_a_name_of_no_terms_is_refused_with_the_names_there_are():
    with pytest.raises(ConfigError, match=r"no terms called 'lama3'\n?.*known: claude, llama3, llama3.1"):
        refuse_unaccepted(["Qwen/Qwen3-32B"], ["claude", "lama3"])


def test_what_is_accepted_or_unknown_passes():
    refuse_unaccepted(["claude-opus-5-5", "meta-llama/Meta-Llama-3-70B-Instruct"], ["llama3", "claude"])
    refuse_unaccepted(["Qwen/Qwen3-32B"], [])


@pytest.mark.parametrize(
    ("tags", "student", "names"),
    [
        (["CC-BY-4.0", "llama3-community-license"], "mistralai/Mistral-7B-Instruct-v0.2 mistral", ["llama3"]),
        (["CC-BY-4.0", "llama3-community-license"], "Qwen/Qwen3-8B own", ["llama3"]),
        (["CC-BY-4.0", "llama3-community-license"], "meta-llama/Meta-Llama-3-8B-Instruct llama3", []),
        (["CC-BY-4.0", "llama3.1-community-license"], "Qwen/Qwen3-8B own", []),
        (["CC-BY-4.0"], "Qwen/Qwen3-8B own", []),
        (["anthropic-commercial-terms"], "Qwen/Qwen3-8B own", []),
    ],
)
def test_a_student_that_may_not_learn_from_a_teacher_is_known(tags, student, names):
    assert [terms.name for terms in forbidden(tags, student)] == names
