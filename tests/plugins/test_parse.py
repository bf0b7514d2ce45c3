"""Replies of teachers become questions and answers: what a reader would copy out, whole, and nothing else.

The golden corpus is ``labelled_replies``; the rules of ``parse`` and ``lines`` are tested one by one below it.  The
same hand wrote corpus and parser, so the recall here is a bound from above.  Of 35 replies written by hand after the
parser was (from ``llama/stage-direction`` on) it recovered 119 of 132 turns and invented 5 at the first try.
"""

from collections import Counter

import pytest

from medvlm_cli.teachers.parse import parse
from tests.plugins.base_conversations import CONVERSATIONS
from tests.plugins.labelled_replies import CORPUS, NOTHING, WELL_FORMED, made, written_by_hand
from tests.plugins.reply_kinds import MADE, STYLES, written

TWO = (("Is it large?", "It fills half of the image."), ("Is its border sharp?", "On one side it is."))
PLAIN = written(TWO)


def turns(pairs):
    """Questions, and answers with the question each belongs to: an answer to another question is another turn."""
    return Counter(turn for question, answer in pairs for turn in ((question,), (question, answer)))


def tally(replies):
    """Recoverable, recovered and invented turns, by kind."""
    table = {}
    for one in replies:
        wanted, found = turns(one.pairs), turns(parse(one.text, one.truncated).pairs)
        row = (wanted.total(), (wanted & found).total(), (found - wanted).total())
        table[one.kind] = tuple(map(sum, zip(table.get(one.kind, (0, 0, 0)), row, strict=True)))
    return table


def told(table):
    """A line for every kind that is not perfect."""
    faulty = {kind: row for kind, row in table.items() if row[1] < row[0] or row[2]}
    return "\n".join(f"{kind}: {row[1]} of {row[0]} recovered, {row[2]} invented" for kind, row in faulty.items())


# ---------------------------------------------------------------------- the corpus


def test_the_corpus_is_as_large_and_as_mixed_as_it_claims():
    by_hand = written_by_hand()
    assert len(CONVERSATIONS) >= 25
    assert all(2 <= len(pairs) <= 4 for pairs in CONVERSATIONS)
    assert len(CORPUS) >= 330
    assert len(by_hand) >= 40
    assert len({*STYLES, *MADE, *NOTHING} - set(WELL_FORMED)) >= 30
    assert len({one.text for one in CORPUS}) == len(CORPUS), "every reply is another"
    assert sum(one.lost > 0 for one in CORPUS) >= 30
    assert all("⟦" not in one.text and "⟧" not in one.text for one in by_hand)


def test_at_least_98_of_100_recoverable_turns_are_recovered():
    """Measured: 3,164 of 3,168 (the table of two columns is the miss)."""
    table = tally(CORPUS)
    recoverable, recovered, _ = map(sum, zip(*table.values(), strict=True))
    assert recovered / recoverable >= 0.98, told(table)


def test_at_least_98_of_100_turns_of_the_replies_written_by_hand_are_recovered():
    table = tally(written_by_hand())
    recoverable, recovered, _ = map(sum, zip(*table.values(), strict=True))
    assert recovered / recoverable >= 0.98, told(table)


def test_no_kind_that_is_made_is_lost_as_a_whole():
    table = {kind: row for kind, row in tally(made()).items() if row[1] < 0.9 * row[0]}
    assert not table, told(table)


def test_no_turn_is_invented():
    table = tally(CORPUS)
    assert sum(invented for _, _, invented in table.values()) == 0, told(table)


@pytest.mark.parametrize("kind", NOTHING)
def test_of_a_reply_that_is_no_conversation_nothing_is_had(kind):
    assert [parse(text).pairs for text in NOTHING[kind]] == [()] * len(NOTHING[kind])


# ---------------------------------------------------------------------- roles


@pytest.mark.parametrize("style", STYLES)
def test_every_way_to_mark_a_role_gives_the_words_alone(style):
    assert parse(written(TWO, style)).pairs == TWO


def test_a_role_within_a_line_is_words():
    answer = "The label says Assistant: ready. It says User: none, too."
    assert parse(f"User: What does it say?\nAssistant: {answer}").pairs == (("What does it say?", answer),)


def test_a_role_without_a_colon_at_the_beginning_of_a_line_is_words():
    answer = "Of the pixels.\nUser settings and human readers change it.\nAI tools do not."
    assert parse(f"User: Of what?\nAssistant: {answer}").pairs == (("Of what?", answer),)


def test_where_user_and_assistant_speak_other_names_are_words():
    answer = "Two lines.\nQuestion: benign?\nAnswer: see below.\nA: artery.\nQ: quadrate lobe."
    assert parse(f"User: What is written there?\nAssistant: {answer}").pairs == (("What is written there?", answer),)


def test_where_question_and_answer_are_written_out_letters_are_words():
    answer = "Panels.\nA: before.\nQ: after."
    assert parse(f"Question: What is there?\nAnswer: {answer}").pairs == (("What is there?", answer),)


def test_another_name_of_who_speaks_already_is_words():
    answer = "It is marked twice.\nAI: the software.\nGPT: a pump."
    assert parse(f"User: By whom?\nAssistant: {answer}").pairs == (("By whom?", answer),)


def test_letters_of_a_list_are_no_roles():
    assert parse("a. a mass\nq. a question\na. another").pairs == ()
    assert parse("A. Adenocarcinoma\nB. Normal tissue").pairs == ()


def test_names_of_json_are_no_roles():
    assert parse('"user": "Is it large?",\n"assistant": "It fills half of\n').pairs == ()


def test_roles_with_a_colon_make_a_bare_one_a_leaked_header():
    assert parse(f"{PLAIN}\nassistant\n\nHere is another idea.").pairs == TWO


def test_one_speaker_makes_no_conversation():
    assert parse("Assistant: It is large.\nAssistant: It is round.") == parse("nothing at all")


def test_roles_behind_sentences_count_where_lines_give_nothing():
    assert parse(PLAIN.replace("\n", " ")).pairs == TWO


def test_a_pair_on_one_line_does_not_become_part_of_the_next_question():
    assert parse(PLAIN.replace("\nAssistant", " Assistant", 1)).pairs == TWO


# ---------------------------------------------------------------------- where a turn ends


@pytest.mark.parametrize(
    "between", ["\n\n---\n\n", "\n\n* * *\n", "\n```\n", "\n\n**Conversation 2**\n\n", "\nTurn 2:\n"]
)
def test_rules_fences_and_headings_between_turns_are_nobodys_words(between):
    parts = [written((pair,)) for pair in TWO]
    assert parse(between.join(parts)).pairs == TWO


@pytest.mark.parametrize(
    "between",
    [
        "\n\nHere is the second one:\n\n",
        "\n### A closer look\n",
        "\n\n*(She points at it.)*\n\n",
        "\n\nTurn 2 - Border\n",
    ],
)
def test_titles_and_stage_directions_before_a_role_are_nobodys_words(between):
    parts = [written((pair,)) for pair in TWO]
    assert parse(between.join(parts)).pairs == TWO


def test_what_looks_like_a_title_within_an_answer_is_words():
    answer = "In parts.\n\nWhat to look at:\n\n- the rim\n\n### Rim\n\nIt is thin."
    assert parse(f"User: Is it thin?\nAssistant: {answer}\nUser: Why?\nAssistant: By nature.").pairs == (
        ("Is it thin?", answer),
        ("Why?", "By nature."),
    )


def test_a_remark_of_the_teacher_at_the_end_is_cut_off_and_told():
    assert parse(f"{PLAIN}\n\nLet me know if you need more!").pairs == TWO
    assert parse(f"{PLAIN}\n\nLet me know if you need more!").repairs == ("closing_remark",)


def test_a_last_paragraph_that_is_no_remark_stays():
    answer = "On one side.\n\nNote that the other is blurred.\n\nThese findings would be compared with earlier ones."
    assert parse(f"User: Is it sharp?\nAssistant: {answer}").pairs == (("Is it sharp?", answer),)


def test_what_reads_like_a_remark_right_below_a_line_is_words():
    answer = "On one side.\nNote: the other is not shown.\nThis conversation is about the first."
    assert parse(f"User: Is it sharp?\nAssistant: {answer}").pairs == (("Is it sharp?", answer),)


def test_a_title_that_nothing_follows_is_nobodys_words():
    assert parse(f"{PLAIN}\n\nHere is another one:").pairs == TWO
    assert parse(f"{PLAIN}\n### Notes\n").pairs == TWO


def test_a_preamble_is_left_out_and_told():
    assert parse(f"Sure! Here it is:\n\n{PLAIN}").pairs == TWO
    assert parse(f"Sure! Here it is:\n\n{PLAIN}").repairs == ("preamble",)


def test_a_heading_before_the_first_role_is_no_preamble():
    assert parse(f"## Conversation\n\n---\n{PLAIN}").repairs == ()


def test_a_reply_as_asked_needs_no_repair():
    assert parse(PLAIN).repairs == ()


# ---------------------------------------------------------------------- who has the word


def test_turns_of_one_role_in_a_row_are_one_and_this_is_told():
    found = parse("User: Look.\nUser: Is it large?\nAssistant: It is.\nAssistant: Very.")
    assert found.pairs == (("Look.\nIs it large?", "It is.\nVery."),)
    assert found.repairs == ("merged_turns",)


def test_a_question_nobody_answers_is_left_out_and_told():
    found = parse(f"{PLAIN}\nUser: And now?")
    assert (found.pairs, found.repairs) == (TWO, ("dangling_question",))


def test_an_answer_nobody_asked_for_is_left_out_and_told():
    found = parse(f"Assistant: Good morning.\n{PLAIN}")
    assert (found.pairs, found.repairs) == (TWO, ("leading_answer",))


@pytest.mark.parametrize(
    "empty", ["User: Is it round?\nAssistant:", "User: <image>\nAssistant: It is round.", "User:\nAssistant: ..."]
)
def test_a_pair_with_a_side_that_has_no_words_is_left_out_and_joins_nothing(empty):
    first, second = (written((pair,)) for pair in TWO)
    found = parse(f"{first}\n{empty}\n{second}")
    assert (found.pairs, found.repairs) == (TWO, ("empty_turn",))


# ---------------------------------------------------------------------- cut off


def test_of_a_reply_cut_in_an_answer_the_last_pair_is_left_out():
    found = parse(f"{PLAIN}\nUser: Is it round?\nAssistant: It is ro", truncated=True)
    assert (found.pairs, found.repairs) == (TWO, ("cut_off",))


@pytest.mark.parametrize("end", ["User: Is it ro", "User:", "\nUser: \n"])
def test_of_a_reply_cut_in_a_question_every_pair_before_it_is_kept(end):
    found = parse(f"{PLAIN}\n{end}", truncated=True)
    assert (found.pairs, found.repairs) == (TWO, ("cut_off",))


def test_an_answer_in_two_turns_that_was_cut_goes_whole():
    assert parse(f"{PLAIN}\nAssistant: And at its lo", truncated=True).pairs == TWO[:1]


def test_how_many_pairs_a_cut_reply_keeps_is_not_the_parsers_business():
    assert parse("User: Is it large?\nAssistant: It fi", truncated=True).pairs == ()
    assert parse(f"{PLAIN} It is", truncated=True).pairs == TWO[:1]


def test_of_json_that_was_cut_every_whole_pair_is_kept():
    found = parse(
        '[{"user": "Is it large?", "assistant": "Yes."}, {"user": "Round?", "assistant": "It is r', truncated=True
    )
    assert (found.pairs, found.repairs) == (
        (("Is it large?", "Yes."),),
        ("json", "salvaged_json", "dangling_question", "cut_off"),
    )


# ---------------------------------------------------------------------- JSON


def test_a_message_that_cannot_be_read_does_not_join_its_neighbours():
    broken = (
        '[{"role": "user", "content": "A?"}, {"role": "assistant", "content": "It is large},'
        '{"role": "user", "content": "B?"}, {"role": "assistant", "content": "It is round."}]'
    )
    assert parse(broken).pairs == (("B?", "It is round."),)
    assert parse(broken.replace('"It is large}', "null}")).pairs == (("B?", "It is round."),)


def test_a_string_without_an_end_takes_its_object_along_and_no_other():
    whole = '{"user": "Is it large?", "assistant": "It is."}'
    broken = '{"user": "Is it round?, "assistant": "It is not."}'
    last = '{"user": "Is it dark?", "assistant": "In part."}'
    assert parse(f"[{whole}, {broken}, {last}]").pairs == (("Is it large?", "It is."), ("Is it dark?", "In part."))


def test_an_answer_that_stands_before_its_question_stays_with_it():
    assert parse('[{"answer": "Yes.", "question": "Large?"}, {"answer": "No.", "question": "Round?"}]').pairs == (
        ("Large?", "Yes."),
        ("Round?", "No."),
    )


def test_a_system_message_is_nobodys_turn():
    system, user = '{"role": "system", "content": "Be kind."}', '{"role": "user", "content": "A?"}'
    assert parse(f'[{system}, {user}, {{"role": "assistant", "content": "B."}}]').pairs == (("A?", "B."),)
    assert parse(f"System: Be kind.\n{PLAIN}\nSystem: The end.").pairs == TWO


def test_line_breaks_within_strings_do_not_break_json():
    found = parse('{"turns": [{"user": "Is it\nlarge?", "assistant": "It\tis."}]}')
    assert (found.pairs, found.repairs) == ((("Is it\nlarge?", "It\tis."),), ("json",))


def test_an_object_about_the_conversation_is_no_turn_of_it():
    about = '{"user": "u-17", "model": "m", "turns": [{"user": "Is it large?", "assistant": "It is."}]}'
    assert parse(about.replace('"model": "m", ', "")).pairs == (("Is it large?", "It is."),)


def test_json_within_a_conversation_in_lines_is_words():
    answer = 'It reads {"view": "axial", "side": ["left"]} and no more.'
    assert parse(f"User: What is printed there?\nAssistant: {answer}").pairs == (("What is printed there?", answer),)


# ---------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("<image>\nIs it large?", "Is it large?"),
        ("Is it large?\n<image>", "Is it large?"),
        ("Is the <image> sharp?", "Is the image sharp?"),
        ("In words <image>, is it large?", "In words, is it large?"),
        ("`<image>` Is it large?", "Is it large?"),
        ("[IMAGE]\nIs it large?", "Is it large?"),
        ("Look.\n<image>\nIs it large?", "Look.\nIs it large?"),
        ("Is [the image] large?", "Is [the image] large?"),
        ("Is it < 2 or > 3?", "Is it < 2 or > 3?"),
    ],
)
def test_image_marks_go_and_the_sentence_stays(said, words):
    assert parse(f"User: {said}\nAssistant: It is.").pairs == ((words, "It is."),)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("**Assistant: It is.**", "It is."),
        ("**Assistant: It is.** Look.", "It is. Look."),
        ("**Assistant:** **It is.** Look.", "**It is.** Look."),
        ("Assistant: **It is.** Look.", "**It is.** Look."),
        ("Assistant:**It is.** Look.", "**It is.** Look."),
        ('"Assistant: It is."', "It is."),
        ("(Assistant: It is (at last).)", "It is (at last)."),
        ("Assistant: “It is.”", "It is."),
        ('Assistant: "Halo" or "ring"', '"Halo" or "ring"'),
        ("* Assistant: * one\n* two", "* one\n* two"),
    ],
)
def test_the_dress_of_a_role_goes_and_that_of_words_stays(line, words):
    assert parse(f"User: Is it?\n{line}").pairs == (("Is it?", words),)


def test_a_quotation_and_an_indent_are_taken_off_every_line():
    text = "> **User:** Is it?\n>\n> **Assistant:** Yes:\n>\n> - so\n>   - so"
    assert parse(text).pairs == (("Is it?", "Yes:\n\n- so\n  - so"),)
    assert parse("- User: Is it?\n  Or not?\n- Assistant: It is.\n  - so").pairs == (
        ("Is it?\nOr not?", "It is.\n- so"),
    )


def test_a_quotation_within_an_answer_stays():
    answer = "The label reads:\n> keep dry\n> this side up"
    assert parse(f"User: What does it say?\nAssistant: {answer}").pairs == (("What does it say?", answer),)


def test_words_below_a_role_may_be_a_quotation_as_a_whole():
    assert parse("**User**\n> Is it?\n\n**Assistant**\n> It is.\n> So.").pairs == (("Is it?", "It is.\nSo."),)


def test_words_hold_no_characters_that_a_file_cannot_hold_or_a_reader_cannot_see():
    found = parse('[{"user": "Is\\u0000 it\\u200b?", "assistant": "It is \\ud83d so."}]')
    assert found.pairs == (("Is it?", "It is \ufffd so."),)
    assert parse("User: Is\ud83d it?\nAssistant: It\x00 is.").pairs == (("Is\ufffd it?", "It is."),)


def test_what_was_thought_before_is_not_looked_at():
    assert parse(f"<think>\nUser: Is it?\nAssistant: No.\n</think>\n{PLAIN}").pairs == TWO
    assert parse(f"<think>\n{PLAIN}").pairs == ()
