"""The counts of a run: fourteen figures whose every number was worked out by hand, and the paper's rows beside them."""

import dataclasses
import json
import random

import pytest

from medvlm_cli.teachers.statistics import JUDGE, LABELS, PAPER, Entry, Spent, tabulate

MIX = {"claude": 25.0, "llama": 75.0}


def spent(who, tokens_in, tokens_out, cost=0.0, read=0, written=0):
    return Spent(who=who, input_tokens=tokens_in, output_tokens=tokens_out, cost_usd=cost, cache_read_tokens=read,
                 cache_write_tokens=written)  # fmt: skip


def entry(figure_id, teacher, modalities, outcome, planned=None, **more):
    return Entry(figure_id=figure_id, teacher=teacher, teacher_planned=planned or teacher, modalities=modalities,
                 outcome=outcome, **more)  # fmt: skip


ENTRIES = [
    entry("f01", "claude", ("ct",), "kept", pairs=3, messages=6, notes=("V6_image_reference",),
          spent=(spent("claude", 100, 50, 0.01, read=1000, written=200),)),
    entry("f02", "llama", ("ct",), "kept", pairs=2, messages=4, notes=("V6_image_reference", "V4_overlap"),
          repairs=("dropped_V4_number", "dropped_V4_name"), spent=(spent("llama", 300, 40),)),
    # two kinds at once: in both columns, and once in the total
    entry("f03", "llama", ("ct", "mri"), "kept", pairs=4, messages=8, repairs=("V3_mended",),
          spent=(spent("llama", 200, 60),)),
    # Claude refused, Llama stepped in: both were paid
    entry("f04", "llama", ("mri",), "kept", "claude", pairs=3, messages=6, notes=("V6_image_reference",),
          refusals=("bio",), spent=(spent("claude", 120, 5, 0.002), spent("llama", 200, 50))),
    entry("f05", "claude", ("mri", "chest_xray"), "refusal", refusals=("bio",),
          spent=(spent("claude", 110, 4, 0.0015),)),
    entry("f06", "claude", ("histology",), "refusal", refusals=("cyber",), spent=(spent("claude", 90, 3, 0.001),)),
    # both refused
    entry("f07", "llama", ("gross",), "refusal", "claude", refusals=("bio", "uncategorised"),
          spent=(spent("claude", 100, 2, 0.001), spent("llama", 150, 3))),
    entry("f08", "llama", ("histology",), "V4_number", spent=(spent("llama", 100, 30),)),
    entry("f09", "llama", ("gross",), "near_duplicate", spent=(spent("llama", 80, 20),)),
    entry("f10", "llama", ("ultrasound",), "kept", pairs=2, messages=4, notes=("V6_image_reference",),
          repairs=("dropped_V7_advice",), spent=(spent("llama", 70, 10),)),
    entry("f11", "claude", (), "duplicate_source"),  # nobody was asked
    entry("f12", "claude", ("ct",), "judged_low", spent=(spent("claude", 100, 40, 0.005), spent(JUDGE, 50, 5, 0.0005))),
    entry("f13", "template", ("ct",), "kept", pairs=9, messages=18),
    entry("f14", "template", ("chest_xray",), "V1_few_turns"),
]  # fmt: skip


def columns(**counts):
    return dict.fromkeys(LABELS, 0) | counts


def told(entries=ENTRIES):
    return tabulate(entries, MIX).as_dict()


def cells(markdown, title):
    """The cells of one table of the Markdown, line by line, without the line of dashes."""
    lines = markdown.split(f"### {title}\n\n")[1].split("\n\n")[0].strip().split("\n")
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [table[0], *table[2:]]


def test_images_pairs_and_messages_of_kept_conversations_are_told_apart():
    table = told()["table_1"]
    assert table["claude"] == {  # f01
        "images": columns(ct=1, unique_total=1), "qa_pairs": columns(ct=3, unique_total=3),
        "messages": columns(ct=6, unique_total=6),
        "pairs_per_image": dict.fromkeys(LABELS) | {"ct": 3.0, "unique_total": 3.0},
    }  # fmt: skip
    assert table["llama"] == {  # f02 ct, f03 ct and mri, f04 mri, f10 ultrasound: 2 + 4 + 3 + 2 pairs
        "images": columns(ct=2, mri=2, other=1, unique_total=4),
        "qa_pairs": columns(ct=2 + 4, mri=4 + 3, other=2, unique_total=11),
        "messages": columns(ct=12, mri=14, other=4, unique_total=22),
        "pairs_per_image": dict.fromkeys(LABELS) | {"ct": 3.0, "mri": 3.5, "other": 2.0, "unique_total": 2.75},
    }  # fmt: skip


def test_a_figure_of_two_kinds_counts_in_both_columns_and_once_in_the_total():
    images = told()["table_1"]["total"]["images"]
    assert images == columns(ct=3, mri=2, other=1, unique_total=5)
    assert sum(count for name, count in images.items() if name != "unique_total") == 6


def test_the_total_is_of_all_teachers_but_the_template():
    table = told()["table_1"]["total"]
    assert table["qa_pairs"] == columns(ct=9, mri=7, other=2, unique_total=14)
    assert table["messages"] == columns(ct=18, mri=14, other=4, unique_total=28)
    assert table["pairs_per_image"]["unique_total"] == 2.8


def test_the_mix_is_told_as_planned_as_divided_and_as_reached():
    assert told()["mix"] == {
        # planned for Claude: f01 f04 f05 f06 f07 f11 f12, 7 of 12; for Llama: f02 f03 f08 f09 f10
        "claude": {"planned_percent": 25.0, "assigned": 7, "assigned_percent": 58.33, "kept": 1,
                   "reached_percent": 20.0, "substituted": 0},
        "llama": {"planned_percent": 75.0, "assigned": 5, "assigned_percent": 41.67, "kept": 4,
                  "reached_percent": 80.0, "substituted": 1},  # f04
    }  # fmt: skip


def test_rejects_are_counted_by_reason_teacher_and_modality_the_commonest_first():
    rejects = told()["rejects"]
    assert rejects["total"] == 8
    assert list(rejects["by_reason"].items()) == [
        ("refusal", 3), ("V1_few_turns", 1), ("V4_number", 1), ("duplicate_source", 1), ("judged_low", 1),
        ("near_duplicate", 1),
    ]  # fmt: skip
    assert rejects["by_reason_teacher_modality"] == {
        "refusal": {
            "claude": columns(mri=1, chest_xray=1, histology=1, unique_total=2),  # f05 is of two kinds, f06
            "llama": columns(gross=1, unique_total=1),  # f07
        },
        "V1_few_turns": {"template": columns(chest_xray=1, unique_total=1)},
        "V4_number": {"llama": columns(histology=1, unique_total=1)},
        "duplicate_source": {"claude": columns(other=1, unique_total=1)},
        "judged_low": {"claude": columns(ct=1, unique_total=1)},
        "near_duplicate": {"llama": columns(gross=1, unique_total=1)},
    }


def test_every_refusal_is_counted_by_category_also_where_another_teacher_stepped_in_or_refused_too():
    assert told()["refusals"] == {
        "bio": columns(mri=2, chest_xray=1, gross=1, unique_total=3),  # f04, f05 (two kinds), f07
        "cyber": columns(histology=1, unique_total=1),  # f06
        "uncategorised": columns(gross=1, unique_total=1),  # f07, the second
    }


def test_rates_of_references_to_the_image_and_of_leaks():
    rates = told()["rates"]
    assert rates["llama"] == {  # answered or was to: f02 f03 f04 f07 f08 f09 f10; kept: f02 f03 f04 f10
        "figures": 7, "kept": 4, "image_reference": 3, "image_reference_percent": 75.0,
        "overlap": 1, "overlap_percent": 25.0, "leaks_dropped": 1, "leaks_dropped_percent": 25.0,
        "leaks_rejected": 1, "leaks_rejected_percent": 14.29,  # f08, of 7
    }  # fmt: skip
    assert rates["total"] == {
        "figures": 12, "kept": 5, "image_reference": 4, "image_reference_percent": 80.0,
        "overlap": 1, "overlap_percent": 20.0, "leaks_dropped": 1, "leaks_dropped_percent": 20.0,
        "leaks_rejected": 1, "leaks_rejected_percent": 8.33,
    }  # fmt: skip


def test_what_validators_noticed_and_mended_is_counted_by_code():
    assert told()["notes"] == {"V4_overlap": {"llama": 1}, "V6_image_reference": {"claude": 1, "llama": 3}}
    assert told()["repairs"] == {
        "V3_mended": {"llama": 1}, "dropped_V4_name": {"llama": 1}, "dropped_V4_number": {"llama": 1},
        "dropped_V7_advice": {"llama": 1},
    }  # fmt: skip


def test_tokens_and_dollars_are_those_of_whoever_answered_refusals_and_the_judge_included():
    nothing = {"input_tokens": 0, "output_tokens": 0, "cache_read_tokens": 0, "cache_write_tokens": 0, "cost_usd": 0.0}
    assert told()["usage"] == {
        "claude": {  # f01 f04 f05 f06 f07 f12
            "input_tokens": 100 + 120 + 110 + 90 + 100 + 100, "output_tokens": 50 + 5 + 4 + 3 + 2 + 40,
            "cache_read_tokens": 1000, "cache_write_tokens": 200, "cost_usd": 0.0205,
        },
        "llama": nothing | {  # f02 f03 f04 f07 f08 f09 f10
            "input_tokens": 300 + 200 + 200 + 150 + 100 + 80 + 70, "output_tokens": 40 + 60 + 50 + 3 + 30 + 20 + 10,
        },
        "judge": nothing | {"input_tokens": 50, "output_tokens": 5, "cost_usd": 0.0005},
        "total": {"input_tokens": 1770, "output_tokens": 322, "cache_read_tokens": 1000, "cache_write_tokens": 200,
                  "cost_usd": 0.021},
        "template": nothing,
    }  # fmt: skip


def test_duplicates_that_were_removed_are_summed_up():
    assert told()["duplicates"] == {"near_duplicate": 1, "duplicate_source": 1, "total": 2}


def test_template_rows_stand_apart_under_a_banner():
    made = told()
    assert made["template"]["banner"] == "demo data, not a reproduction"
    assert made["template"]["qa_pairs"] == columns(ct=9, unique_total=9)
    assert set(made["mix"]) == {"claude", "llama"}
    without = told([one for one in ENTRIES if one.teacher != "template"])
    assert [made[part] for part in ("table_1", "mix")] == [without[part] for part in ("table_1", "mix")]
    assert without["template"] is None


def test_the_papers_rows_are_those_of_its_table_1():
    assert PAPER["LLaVA-Med"]["images"] == {"chest_xray": 8060, "ct": 17358, "mri": 16539, "histology": 17030, "gross": 2552}  # fmt: skip # noqa: E501
    assert PAPER["LLaVA-Med"]["qas"] == {"chest_xray": 22839, "ct": 50583, "mri": 47867, "histology": 49504, "gross": 7323}  # fmt: skip # noqa: E501
    assert PAPER["Llama3-Med"]["images"] == {"chest_xray": 40, "ct": 6809, "mri": 6568, "histology": 6643, "gross": 116}
    assert PAPER["Llama3-Med"]["qas"] == {"chest_xray": 212, "ct": 41630, "mri": 40824, "histology": 42084, "gross": 714}  # fmt: skip # noqa: E501


def test_the_table_has_the_papers_layout_with_its_rows_for_reference():
    table = cells(tabulate(ENTRIES, MIX).markdown(), "Conversations (layout of the paper's table 1)")
    assert table == [
        ["", "", "Chest X-ray", "CT", "MRI", "Histology", "Pathology (gross)", "Other", "Unique total"],
        ["claude", "images", "0", "1", "0", "0", "0", "0", "1"],
        ["claude", "QA pairs", "0", "3", "0", "0", "0", "0", "3"],
        ["claude", "messages", "0", "6", "0", "0", "0", "0", "6"],
        ["claude", "pairs per image", "-", "3.00", "-", "-", "-", "-", "3.00"],
        ["llama", "images", "0", "2", "2", "0", "0", "1", "4"],
        ["llama", "QA pairs", "0", "6", "7", "0", "0", "2", "11"],
        ["llama", "messages", "0", "12", "14", "0", "0", "4", "22"],
        ["llama", "pairs per image", "-", "3.00", "3.50", "-", "-", "2.00", "2.75"],
        ["total", "images", "0", "3", "2", "0", "0", "1", "5"],
        ["total", "QA pairs", "0", "9", "7", "0", "0", "2", "14"],
        ["total", "messages", "0", "18", "14", "0", "0", "4", "28"],
        ["total", "pairs per image", "-", "3.00", "3.50", "-", "-", "2.00", "2.80"],
        # sums and quotients of what the paper prints; it has no other kinds and no total
        ["LLaVA-Med (paper)", "images", "8,060", "17,358", "16,539", "17,030", "2,552", "-", "(61,539)"],
        ["LLaVA-Med (paper)", "QAs as printed", "22,839", "50,583", "47,867", "49,504", "7,323", "-", "(178,116)"],
        ["LLaVA-Med (paper)", "QAs per image", "2.83", "2.91", "2.89", "2.91", "2.87", "-", "(2.89)"],
        ["Llama3-Med (paper)", "images", "40", "6,809", "6,568", "6,643", "116", "-", "(20,176)"],
        ["Llama3-Med (paper)", "QAs as printed", "212", "41,630", "40,824", "42,084", "714", "-", "(125,464)"],
        ["Llama3-Med (paper)", "QAs per image", "5.30", "6.11", "6.22", "6.34", "6.16", "-", "(6.22)"],
    ]


@pytest.mark.parametrize(
    ("title", "line"),
    [
        ("Mix", ["claude", "25.00", "7", "58.33", "1", "20.00", "0"]),
        ("Rejects", ["refusal", "claude", "1", "0", "1", "1", "0", "0", "2"]),
        ("Refusals of teachers", ["bio", "1", "0", "2", "0", "1", "0", "3"]),
        ("References to the image, and leaks",
         ["llama", "7", "4", "3", "75.00", "1", "25.00", "1", "25.00", "1", "14.29"]),
        ("Tokens and cost", ["total", "1,770", "322", "1,000", "200", "0.0210"]),
        ("Duplicates removed", ["total", "2"]),
        ("Template teacher: demo data, not a reproduction",
         ["template", "QA pairs", "0", "9", "0", "0", "0", "0", "9"]),
        ("What the validators noticed and let pass", [r"V6\_image\_reference", "llama", "3"]),
        ("What was mended or dropped, and the rest kept", [r"dropped\_V4\_number", "llama", "1"]),
    ],
)  # fmt: skip
def test_each_table_shows_what_was_counted(title, line):
    assert line in cells(tabulate(ENTRIES, MIX).markdown(), title)


def test_modalities_of_less_than_100_images_are_warned_about():
    hundred = [entry(f"c{number}", "llama", ("ct", "gross"), "kept", pairs=2, messages=4) for number in range(99)]
    hundred += [entry("last", "llama", ("ct",), "kept", pairs=2, messages=4)]
    (warning,) = tabulate(hundred, MIX).warnings
    assert warning == (
        "fewer than 100 images: Chest X-ray (0), MRI (0), Histology (0), Pathology (gross) (99); "
        "what is learnt or measured on so few says little"
    )
    assert tabulate(hundred, MIX).markdown().startswith(f"> **Warning:** {warning}\n")
    assert tabulate(hundred, MIX).latex().startswith(f"% warning: {warning}\n")


def test_template_conversations_are_warned_about():
    rest = "of the template teacher: demo data, not a reproduction; no other row counts them"
    assert tabulate(ENTRIES, MIX).warnings[0] == f"1 conversation is {rest}"
    assert tabulate([*ENTRIES, ENTRIES[12]], MIX).warnings[0] == f"2 conversations are {rest}"


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_entries_does_not_matter(seed):
    shuffled = random.Random(seed).sample(ENTRIES, len(ENTRIES))
    one, other = tabulate(shuffled, MIX), tabulate(ENTRIES, MIX)
    assert json.dumps(one.as_dict()) == json.dumps(other.as_dict())
    assert [one.text(), one.markdown(), one.latex()] == [other.text(), other.markdown(), other.latex()]


def test_costs_add_up_to_the_nanodollar_in_any_order():
    random_ = random.Random(6)
    nanos = [random_.randrange(10**7) for _ in range(20_000)]
    paid = [entry("f", "claude", ("ct",), "refusal", spent=(spent("claude", 1, 1, one / 1e9),)) for one in nanos]
    assert tabulate(paid, MIX).as_dict()["usage"]["claude"]["cost_usd"] == sum(nanos) / 1e9
    assert tabulate(reversed(paid), MIX).as_dict() == tabulate(paid, MIX).as_dict()


@pytest.mark.parametrize("entries", [[], [dataclasses.replace(ENTRIES[5])], [ENTRIES[10]]])
def test_a_run_that_kept_nothing_is_told_all_the_same(entries):
    made = tabulate(iter(entries), MIX)
    assert made.as_dict()["table_1"]["total"]["pairs_per_image"] == dict.fromkeys(LABELS)
    assert made.as_dict()["mix"]["claude"]["reached_percent"] is None
    assert made.warnings == ["no conversation was kept"]
    assert "LLaVA-Med (paper)" in made.text() and "8,060" in made.markdown() and "8,060" in made.latex()


def test_a_teacher_outside_the_plan_has_rows_of_its_own():
    made = told([*ENTRIES, entry("f15", "replayed", ("ct",), "kept", pairs=2, messages=4)])
    assert list(made["table_1"]) == ["claude", "llama", "replayed", "total"]
    assert made["mix"]["replayed"]["planned_percent"] == 0.0


def test_everything_is_json():
    assert json.loads(json.dumps(told())) == told()
