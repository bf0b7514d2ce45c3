"""What may go wrong, row by row, and the tests that make it go wrong; or why there is none.

A name here is ``<file below tests>::<test>``.  That it is one is all that is checked: whether it bites, each file says.
"""

import ast
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

TESTED = {
    "killed at a random moment": [
        "faults/test_kills.py::test_a_verb_that_is_killed_again_and_again_ends_with_the_rows_of_an_undisturbed_run",
        "faults/test_kills.py::test_a_process_group_that_is_killed_three_times_ends_with_the_rows_of_an_undisturbed_run",
        "stages/test_fetch_kill.py::test_after_kills_the_rows_are_those_of_an_undisturbed_run_and_at_most_one_object_in_a_hundred_came_twice",
        "stages/test_synthesize_kill.py::test_after_seven_kills_the_datasets_are_those_of_an_undisturbed_run_and_no_batch_was_paid_twice",
        "stages/test_evaluate_kill.py::test_after_kills_the_rows_are_those_of_an_undisturbed_run_and_each_cost_at_most_a_batch",
    ],
    "cut off at every operation on the disk": [
        "test_crash.py::test_a_run_cut_off_at_any_operation_leaves_nothing_damaged_and_the_same_command_finishes_it",
        "test_crash.py::test_without_any_statement_that_settles_or_names_a_walk_finds_damage",
    ],
    "a rank killed": [
        "faults/test_ranks.py::test_of_many_ranks_the_one_that_is_gone_or_hangs_is_named_and_all_end",
        "faults/test_ranks.py::test_of_four_ranks_the_one_that_is_killed_is_named_every_time",
        "stages/test_launch.py::test_a_rank_of_srun_that_ends_or_hangs_is_named_by_the_first",
    ],
    "a rank stopped or hanging": [
        "faults/test_ranks.py::test_of_many_ranks_the_one_that_is_gone_or_hangs_is_named_and_all_end",
        "core/test_watch.py::test_a_rank_that_hangs_is_named_and_ended_with_the_others",
    ],
    "a checkpoint half-written, cut, flipped, foreign, or of other devices": [
        "faults/test_checkpoints.py::test_a_checkpoint_that_is_not_as_this_run_wrote_it_is_skipped_for_a_reason_and_never_run",
        "faults/test_checkpoints.py::test_a_half_written_checkpoint_is_none_and_goes",
        "faults/test_checkpoints.py::test_a_state_of_another_number_of_devices_is_refused_with_both",
        "core/test_checkpoint.py::test_a_flipped_bit_in_the_weights_is_found",
        "core/test_checkpoint.py::test_a_folder_that_is_no_whole_checkpoint_is_refused",
    ],
    "a loss or gradient that is no number": [
        "faults/test_divergence.py::test_the_run_stops_at_once_keeps_its_batch_and_goes_on_to_the_same_when_mended",
        "stages/test_training_log.py::test_the_conversations_of_a_step_that_diverges_are_kept",
    ],
    "a full disk": [
        "faults/test_full_disk.py::test_without_room_a_verb_ends_with_6_and_with_room_the_same_command_makes_the_same",
        "faults/test_full_disk.py::test_a_file_system_that_fills_up_loses_nothing",
    ],
    "a folder that may only be read": [
        "faults/test_refused.py::test_a_folder_that_may_only_be_read_ends_a_verb_with_6_before_it_does_anything",
    ],
    "an answer cut off, without a length, or reset": [
        "core/test_http.py::test_every_fault_is_overcome_by_another_try",
        "core/test_http.py::test_a_body_without_announced_length_that_stops_early_needs_a_check_to_be_found_out",
        "stages/test_fetch_faults.py::test_every_object_is_stored_whole_whatever_goes_wrong_on_the_way",
    ],
    "wrong bytes, or a page in place of an object": [
        "stages/test_fetch_faults.py::test_an_object_that_is_always_wrong_is_a_reject_and_the_run_goes_on",
        "stages/test_fetch_faults.py::test_metadata_whose_md5_is_wrong_is_asked_for_again",
        "core/test_http.py::test_the_same_wrong_bytes_every_time_are_what_lies_there",
    ],
    "429, 500, 503, a pause asked for, a body that drips, nobody there": [
        "core/test_http.py::test_the_pause_that_the_host_asks_for_is_kept",
        "core/test_http.py::test_never_more_than_the_rate_of_requests_begin_in_any_second",
        "core/test_http.py::test_a_silent_host_opens_the_circuit_and_one_that_answers_between_does_not",
        "plugins/test_claude.py::test_an_answer_that_drips_is_given_up_although_every_piece_is_in_time",
        "stages/test_synthesize_stops.py::test_a_provider_that_fails_twenty_times_in_a_row_is_left_and_the_command_resumes",
    ],
    "a teacher that refuses, is cut off, talks nonsense, expires, or costs too much": [
        "stages/test_synthesize_faults.py::test_one_by_one_every_good_row_of_both_teachers_comes_through_all_faults",
        "stages/test_synthesize_faults.py::test_in_batches_every_good_row_comes_through_all_faults",
        "plugins/test_batches.py::test_a_cap_is_never_passed_even_where_every_answer_is_as_long_as_it_may_be",
    ],
    "an article that is no proper XML": [
        "plugins/test_jats_hard.py::test_words_are_neither_glued_nor_lost_nor_added",
        "plugins/test_jats_hard.py::test_null_and_empty_labels_and_captions_are_read",
    ],
    "an image that is corrupt, huge or odd": [
        "core/test_decoding.py::test_three_hundred_mutilated_images_give_pixels_or_a_data_error_and_the_worker_lives",
        "core/test_decoding.py::test_the_largest_image_allowed_takes_less_than_a_gigabyte",
        "core/test_images.py::test_mutated_images_raise_data_errors_only",
    ],
    "columns that are not quite the schema's": [
        "faults/test_schemas.py::test_a_file_that_says_the_same_in_another_way_is_taken_as_it_is_meant",
        "faults/test_schemas.py::test_a_file_that_says_something_else_ends_with_4_and_every_difference",
        "faults/test_schemas.py::test_the_stream_format_ends_with_4_and_how_to_write_the_other",
        "faults/test_schemas.py::test_an_older_number_of_a_schema_ends_with_4_and_both_numbers",
    ],
    "inputs cut off or changed": [
        "core/test_arrow.py::test_a_dataset_that_is_not_what_its_manifest_says_is_refused",
        "core/test_arrow.py::test_a_flipped_bit_is_found_by_any_first_use_of_the_image",
    ],
    "rows twice, and images of the training in a benchmark": [
        "core/test_arrow_foreign.py::test_a_file_with_other_columns_or_rows_is_refused_column_by_column",
        "core/test_near.py::test_every_planted_copy_is_found_and_nothing_else",
        "test_eval_cli.py::test_what_the_benchmark_shares_with_its_other_splits_is_said",
    ],
    "two processes on one folder": [
        "faults/test_races.py::test_of_two_processes_on_one_folder_one_writes_and_the_other_ends_with_7",
        "faults/test_races.py::test_without_the_lock_both_would_write",
        "faults/test_races.py::test_when_the_holder_is_killed_the_next_starts",
    ],
    "parts made by many processes": [
        "faults/test_races.py::test_a_part_of_four_that_was_killed_is_missing_until_its_command_is_run_again",
        "faults/test_races.py::test_a_gap_and_an_overlap_between_parts_are_refused",
    ],
    "dates that lie": [
        "faults/test_races.py::test_a_run_goes_on_where_it_stopped_whatever_the_dates_of_its_files",
        "faults/test_races.py::test_a_finished_run_is_finished_whatever_the_dates_of_its_files",
    ],
    "SIGTERM, SIGINT, SIGINT twice, SIGPIPE, closed standard input": [
        "faults/test_signals.py::test_a_verb_that_is_asked_to_end_says_so_by_its_status_and_goes_on_to_the_same",
        "test_contract.py::test_a_second_signal_ends_what_is_slow_to_end",
        "test_contract.py::test_141_when_nobody_reads_the_result",
        "test_contract.py::test_closed_standard_streams_lose_no_data_and_take_none",
    ],
    "too little memory": [
        "faults/test_divergence.py::test_a_device_without_enough_memory_is_named_with_the_setting_that_needs_less",
        "stages/test_chat.py::test_too_little_memory_is_an_error_with_a_remedy_and_the_conversation_stays",
        "core/test_decoding.py::test_an_image_that_takes_more_memory_than_a_worker_has_is_too_big",
    ],
    "fewer GPUs than asked for, and a port that is taken": [
        "stages/test_evaluate_parts.py::test_more_processes_than_gpus_are_refused",
        "core/test_ranks.py::test_two_steps_of_one_job_meet_at_different_ports",
    ],
    "a model that says codes, markup or no end": [
        "terminal/test_hostile.py::test_an_answer_on_a_terminal_holds_no_code_but_our_own",
        "terminal/test_markdown.py::test_what_is_too_long_runs_on_as_it_is_whatever_the_pieces",
        "core/test_generate.py::test_an_answer_stops_where_the_context_ends",
    ],
    "names and texts that are not UTF-8": [
        "faults/test_refused.py::test_a_picture_whose_name_is_not_utf_8_does_not_end_the_fetch_of_the_others",
        "faults/test_refused.py::test_a_table_that_is_not_utf_8_ends_with_4_and_its_name",
    ],
}  # fmt: skip

NOT_TESTED = {
    "a host whose power fails": "tests/power_cut.py takes back what no fsync made durable; no machine was switched off",
    "locks on NFS or Lustre": "no such file system is at hand; `medvlm --version --json` tests the workspace's own",
    "the system's clock set back": "setting it takes the whole machine with it; dates of files are tested instead",
    "a quota used up": "its error is one line of the table that the errors of a full disk are in",
    "a GPU that dies, and ranks on several hosts": "nobody lends one to break; the same code is tested with gloo",
    "a host of ours killed for memory": "to the files it is a kill like any other",
}


@cache
def found_in(path):
    """The names of all tests in a file."""
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", TESTED)
def test_what_may_go_wrong_is_tested_by_tests_that_there_are(row):
    named = [name.split("::") for name in TESTED[row]]
    assert named
    assert [(path, test) for path, test in named if test not in found_in(path)] == []


def test_what_is_not_tested_has_a_reason():
    assert not {*TESTED} & {*NOT_TESTED}
    assert all(NOT_TESTED.values())
