"""Which questions share a batch, which batches make a part, and what the journal keeps of a killed process."""

import random

import pytest

from medvlm_cli.core.answering import JOURNAL, WINDOW, Asked, Journal, batches, part
from medvlm_cli.core.generate import Answer


def questions(count, images):
    """So many questions, in an order of chance, about so many images."""
    chance = random.Random(count)
    asked = [Asked(f"q{number}", f"image{number % images}", chance.randrange(10, 200)) for number in range(count)]
    return chance.sample(asked, count)


def answer(text):
    return Answer("Q: A:", text, "stop", 1, 0.25)


def test_every_question_is_in_one_batch_and_all_but_the_last_are_full():
    cut = batches(questions(203, 40), 8)
    assert sorted(id_ for ids in cut for id_ in ids) == sorted(f"q{number}" for number in range(203))
    assert [len(ids) for ids in cut] == [8] * 25 + [3]


def test_the_order_in_which_questions_come_changes_no_batch():
    asked = questions(203, 40)
    assert batches(asked, 8) == batches(sorted(asked), 8) == batches(asked[::-1], 8)


def test_questions_of_a_window_are_sorted_by_length_the_longest_first():
    asked = questions(600, 40)
    length = {one.question_id: one.length for one in asked}
    lengths = [length[id_] for ids in batches(asked, 4) for id_ in ids]
    windows = [lengths[start : start + 4 * WINDOW] for start in range(0, 600, 4 * WINDOW)]
    assert windows == [sorted(window, reverse=True) for window in windows]


def test_questions_of_an_image_lie_in_one_window_or_at_the_border_of_two():
    asked = questions(2000, 100)
    image = {one.question_id: one.image_id for one in asked}
    place = {id_: number // WINDOW for number, ids in enumerate(batches(asked, 8)) for id_ in ids}
    windows = [{place[id_] for id_ in place if image[id_] == f"image{number}"} for number in range(100)]
    assert max(len(seen) for seen in windows) == 2
    assert sum(len(seen) == 2 for seen in windows) <= 2000 // (8 * WINDOW)


@pytest.mark.parametrize("count", [1, 2, 4, 7, 26, 40])
def test_parts_are_disjoint_complete_and_of_like_size(count):
    cut = batches(questions(203, 40), 8)
    made = [part(cut, number, count) for number in range(count)]
    assert [ids for one in made for ids in one] == cut
    assert max(map(len, made)) - min(map(len, made)) <= 1


def test_a_journal_gives_back_what_it_was_given(tmp_path):
    Journal(tmp_path).add({"a": answer("links: ü\ud83d\ude00"), "b": answer("")})
    Journal(tmp_path).add({"c": answer("two\nlines")})
    again = Journal(tmp_path)
    assert list(again.answers) == ["a", "b", "c"]
    assert again.answers["c"] == answer("two\nlines")
    assert list(again.left([["a", "b"], ["c", "d"]])) == [["c", "d"]]


@pytest.mark.parametrize("tail", [b'{"c": {"prompt', b"\0\0\0\0", b'{"c": 1}', b"\0\0\n", b"}\n"])
def test_a_line_that_is_not_whole_is_dropped_and_what_comes_after_is_kept(tmp_path, tail):
    Journal(tmp_path).add({"a": answer("x")})
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(tail)
    Journal(tmp_path).add({"b": answer("y")})
    assert list(Journal(tmp_path).answers) == ["a", "b"]
