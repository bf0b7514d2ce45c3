"""Instructions in captions and sentences: they stay data in the prompt, and no row holds what a teacher obeyed."""

import re
from types import SimpleNamespace

import pytest

from medvlm_cli.teachers.prompt import user_text
from tests import anthropic_server, inside, synthesis
from tests.attacks.injections import INJECTIONS, obedient, write_figures

INNOCENT = range(101, 111)


def told_by(one):
    """The user's message about its figure."""
    return user_text(one.harvest().rows[0], 0)[0]


@pytest.mark.parametrize("one", INJECTIONS, ids=lambda one: f"{one.number} {one.wanted}")
def test_no_instruction_leaves_the_block_of_data(one):
    first, *inside_, last = told_by(one).split("\n")
    assert re.fullmatch("<material [0-9a-f]{16}>", first) and last == f"</{first[1:]}"
    words = "\n".join(inside_)
    assert (
        re.search(r"(?i)</?material|<\||<image>|^\W{0,4}(?:user|assistant|system|human)\W{0,4}:", words, re.M) is None
    )
    assert all(re.match(r"Figure Caption:$|In Context Mentioning #\d+:$|", line) for line in inside_)
    assert words.count("Figure Caption:") == 1


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run of ``medvlm synthesize`` with the teacher that obeys."""
    out = tmp_path_factory.mktemp("injections")
    figures = write_figures(out / "figures", INNOCENT)
    with pytest.MonkeyPatch.context() as patch, anthropic_server.serving() as server:
        patch.setattr(anthropic_server, "reply_for", obedient)
        done = inside.synthesize(figures, out / "out", server, *synthesis.FREE)
    rows = synthesis.rows(out / "out")
    return SimpleNamespace(done=done, rows={row["figure_id"]: row for row in rows}, asked=len(server.answered))


def test_seventy_were_asked_about_and_the_innocent_have_rows(run):
    assert (len(INJECTIONS), sum(one.is_caption for one in INJECTIONS)) == (70, 50)
    assert run.done.returncode in (0, 3), run.done.stderr[-2000:]
    assert run.asked >= 80
    assert {f"PMC{number}/fig1" for number in INNOCENT} <= set(run.rows)


@pytest.mark.parametrize("one", INJECTIONS, ids=lambda one: f"{one.number} {one.wanted}")
def test_no_row_holds_what_the_teacher_obeyed(run, one):
    turns = run.rows.get(one.figure_id, {"turns": []})["turns"]
    assert one.canary not in " ".join(turn["text"] for turn in turns).lower()
