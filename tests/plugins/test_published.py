import functools
import gzip
import hashlib
import json
import pickle

import pytest

from medvlm_cli.core.arrow import open_dataset, write_all
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.schemas import ARTICLE_FIGURES, CONVERSATIONS
from medvlm_cli.core.splits import split_of
from medvlm_cli.sources import llama3_med, llava_med, published

ALIGNMENT = "llava_med_alignment_500k.json"
INSTRUCT = "llava_med_instruct_60k_inline_mention.json"
TWENTY = "llama3_med_instruct_finetuning_llama3_claude3_20k.json"


def said(*texts):
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


def row(*texts, key="conversations", **others):
    told = {"id": "1_F2", "image": "1_F2.jpg", "domain": {"ct_scan": True, "mri": False}}
    return told | {key: said(*(texts or ("What is it?\n<image>", "A liver.")))} | others


def take(tmp_path, rows, name=INSTRUCT, source=llava_med, part=""):
    """Rows and rejects of a published file."""
    path = tmp_path / name
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return harvested(FetchConfig(files=(str(path),), part=part), source)


def harvested(config, source=llava_med):
    keys = source.keys(config)
    assert len(set(keys)) == len(keys)
    found = [source.harvest(key, config) for key in keys]
    assert all(each.found == len(each.rows) + len(each.rejects) for each in found)
    return [made for each in found for made in each.rows], [reject for each in found for reject in each.rejects]


def refused(tmp_path, given):
    rows, (reject,) = take(tmp_path, [given])
    assert rows == []
    assert reject.reason in published.REASONS
    return reject.reason, reject.message


def turns(tmp_path, *texts):
    (made,), rejects = take(tmp_path, [row(*texts)])
    assert rejects == []
    return [turn["text"] for turn in made["turns"]]


def test_a_published_row_becomes_a_row_of_conversations(tmp_path):
    (made,), rejects = take(tmp_path, [row("<image>\nWhere?", "Left.", "Sure?", "Yes.")])
    assert rejects == []
    assert made == {
        "conversation_id": "1_F2", "figure_id": "1_F2", "kind": "instruct",
        "turns": [
            {"role": "user", "text": "<image>\nWhere?"}, {"role": "assistant", "text": "Left."},
            {"role": "user", "text": "Sure?"}, {"role": "assistant", "text": "Yes."},
        ],
        "teacher": "imported:llava-med", "teacher_planned": "imported:llava-med",
        "prompt_id": hashlib.sha256(b"llava-med-instruct-60k-im").hexdigest()[:12],
        "request_sha256": None, "raw_response": None, "stop_reason": None, "input_tokens": None,
        "output_tokens": None, "cost_usd": None, "license_tags": ["CC-BY-NC-4.0"], "split": "train",
    }  # fmt: skip


def test_the_alignment_file_is_read_although_it_misspells_its_key(tmp_path):
    (made,), rejects = take(tmp_path, [row(key="conversatons")], ALIGNMENT)
    assert rejects == []
    assert made["kind"] == "caption"
    assert made["turns"][0]["text"] == "What is it?\n<image>"


def test_the_split_is_that_of_the_figure(tmp_path):
    made, _ = take(tmp_path, [row(image=f"{number}.jpg", id=f"c{number}") for number in range(300)])
    assert [each["split"] for each in made] == [split_of(str(number)) for number in range(300)]
    assert {each["split"] for each in made} == {"train", "val"}


@pytest.mark.parametrize(
    ("image", "figure"),
    [
        ("17_F1.jpg", "17_F1"),
        ("images/17_F1.PNG", "17_F1"),
        ("..\\..\\17_F1.jpeg", "17_F1"),
        ("pone.0001.g001", "pone.0001.g001"),
        ("pone.0001.g001.jpg", "pone.0001.g001"),
    ],
)
def test_the_figure_is_the_stem_of_the_image(tmp_path, image, figure):
    (made,), _ = take(tmp_path, [row(image=image)])
    assert made["figure_id"] == figure


def test_a_row_without_an_id_has_that_of_its_figure(tmp_path):
    made, _ = take(tmp_path, [row(id=None), row(id=""), row(id=7)])
    assert [each["conversation_id"] for each in made] == ["1_F2", "1_F2~2", "7"]


def test_a_repeated_id_is_numbered_and_the_row_kept(tmp_path):
    made, rejects = take(tmp_path, [row(id=id_) for id_ in ("a", "a~2", "a", "b", "a", "a~2")])
    assert rejects == []
    assert [each["conversation_id"] for each in made] == ["a", "a~2", "a~3", "b", "a~4", "a~2~2"]


@pytest.mark.timeout(30)
def test_thousands_of_rows_of_one_id_do_not_take_longer_each(tmp_path):
    made, _ = take(tmp_path, [row()] * 20_000)
    assert made[-1]["conversation_id"] == "1_F2~20000"


def test_ids_are_told_apart_over_several_files_of_one_name(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / INSTRUCT).write_text(json.dumps([row()]))
    config = FetchConfig(files=(str(tmp_path / "a" / INSTRUCT), str(tmp_path / "b" / INSTRUCT)))
    assert llava_med.keys(config) == [f"{INSTRUCT}:1", f"{INSTRUCT}~2:1"]
    made, _ = harvested(config)
    assert [each["conversation_id"] for each in made] == ["1_F2", "1_F2~2"]


def test_lines_of_an_answer_stay_lines(tmp_path):
    answer = "  It shows:\r\n1.\u00a0a liver,\u200b\n2.  a   cyst.\n\n\n\nNothing else.\ud800\x07\n"
    assert turns(tmp_path, "<image>\nWhat?", answer)[1] == "It shows:\n1. a liver,\n2. a cyst.\n\nNothing else."


@pytest.mark.parametrize(
    ("question", "kept"),
    [
        ("<image>\nWhat?", "<image>\nWhat?"),
        ("<image>What?", "<image>\nWhat?"),
        ("What?\n<image>", "What?\n<image>"),
        ("What? <image>  ", "What?\n<image>"),
        ("In <image> what?", "<image>\nIn what?"),
        ("One.\nTwo.\n<image>", "One.\nTwo.\n<image>"),
    ],
)
def test_the_image_stays_at_the_end_of_the_question_where_it_was(tmp_path, question, kept):
    assert turns(tmp_path, question, "A liver.")[0] == kept


@pytest.mark.parametrize(
    ("given", "reason", "message"),
    [
        (["a"], "bad_row", "not a JSON object but list"),
        (row(image=None), "no_image", "it names no image"),
        (row(image=" "), "no_image", "it names no image"),
        (row(image=["1.jpg"]), "no_image", "it names no image"),
        (row(image="a/"), "no_image", "it names no image"),
        ({"id": "a", "image": "a.jpg"}, "no_turns", "no list 'conversations' with turns in it"),
        (row(conversations=[]), "no_turns", "no list 'conversations' with turns in it"),
        (row(conversations="<image>"), "no_turns", "no list 'conversations' with turns in it"),
        (row(conversations=["<image>"]), "bad_turn", "turn 1 is not of 'human' or 'gpt' with a text as its 'value'"),
        (
            row(conversations=[{"from": "system", "value": "<image>"}]),
            "bad_turn",
            "turn 1 is not of 'human' or 'gpt' with a text as its 'value'",
        ),
        (
            row(conversations=[{"from": ["human"], "value": "<image>"}]),
            "bad_turn",
            "turn 1 is not of 'human' or 'gpt' with a text as its 'value'",
        ),
        (
            row(conversations=[*said("<image>"), {"from": "gpt", "value": None}]),
            "bad_turn",
            "turn 2 is not of 'human' or 'gpt' with a text as its 'value'",
        ),
        (
            row(conversations=said("<image>", "a")[::-1]),
            "not_alternating",
            "turn 1 is of 'gpt', where 'human' must speak",
        ),
        (
            row(conversations=said("<image>") * 2),
            "not_alternating",
            "turn 2 is of 'human', where 'gpt' must speak",
        ),
        (row("<image>\nWhat?", "A.", "B?"), "not_alternating", "turn 3 is a question without an answer"),
        (row("What?", "A."), "no_placeholder", "no turn holds <image>"),
        (
            row("<image>\nWhat?\n<image>", "A."),
            "many_placeholders",
            "<image> stands in turn 1, 1, not once in the first",
        ),
        (row("<image>\nWhat?", "<image>"), "many_placeholders", "<image> stands in turn 1, 2, not once in the first"),
        (row("What?", "A.", "<image>B?", "C."), "many_placeholders", "<image> stands in turn 3, not once in the first"),
        (
            row("<image>\nWhat?", "A <im\u200bage>."),
            "many_placeholders",
            "<image> stands in turn 1, 2, not once in the first",
        ),
        (row("<image>\n", "A."), "empty_text", "turn 1 has no words"),
        (row("<image>\nWhat?", " \u200b"), "empty_text", "turn 2 has no words"),
    ],
)
def test_a_row_that_is_no_conversation_is_a_reject(tmp_path, given, reason, message):
    assert refused(tmp_path, given) == (reason, f"{INSTRUCT}, row 1: {message}")


def test_a_reject_holds_the_row_as_it_was_written(tmp_path):
    text = '[\n{"id": "a",  "image": 5},\n {"x" :"\\u00e9"} ]'
    _, rejects = take(tmp_path, text)
    assert [reject.raw for reject in rejects] == ['{"id": "a",  "image": 5}', '{"x" :"\\u00e9"}']
    assert [reject.id for reject in rejects] == ["a", f"{INSTRUCT}:2"]


def test_every_element_is_a_row_or_a_reject(tmp_path):
    given = [row(id=str(number)) if number % 3 else {"id": str(number)} for number in range(1000)]
    made, rejects = take(tmp_path, given)
    assert [each["conversation_id"] for each in made] == [str(number) for number in range(1000) if number % 3]
    assert [reject.id for reject in rejects] == [str(number) for number in range(0, 1000, 3)]
    assert rejects[-1].message.startswith(f"{INSTRUCT}, row 1000: ")


def test_a_key_is_a_block_of_rows_that_do_not_move_with_the_layout(tmp_path):
    path = tmp_path / INSTRUCT
    given = [row(id=str(number)) for number in range(600)]
    path.write_text(json.dumps(given))
    config = FetchConfig(files=(str(path),))
    keys = llava_med.keys(config)
    path.write_text(json.dumps(given, indent=4))
    assert llava_med.keys(config) == keys == [f"{INSTRUCT}:1", f"{INSTRUCT}:257", f"{INSTRUCT}:513"]
    assert [made["conversation_id"] for made in llava_med.harvest(keys[1], config).rows] == [
        str(number) for number in range(256, 512)
    ]


def test_a_block_of_long_rows_is_small(tmp_path):
    path = tmp_path / INSTRUCT
    path.write_text(json.dumps([row("<image>\nWhat?", "x" * 600_000, id=str(number)) for number in range(5)]))
    config = FetchConfig(files=(str(path),))
    assert llava_med.keys(config) == [f"{INSTRUCT}:{number}" for number in range(1, 6)]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lines", [False, True])
def test_json_lines_and_gzip_give_the_same_rows(tmp_path, packed, lines):
    given = [row(id=str(number % 500), domain={}) for number in range(700)]
    (tmp_path / INSTRUCT).write_text(json.dumps(given))
    expected = harvested(FetchConfig(files=(str(tmp_path / INSTRUCT),)))
    text = "\n".join(map(json.dumps, given)) if lines else json.dumps(given)
    other = tmp_path / "other"
    other.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    assert harvested(FetchConfig(files=(str(other),), part="instruct-60k-im")) == expected
    assert len(expected[0]) == 700


def test_blocks_come_in_any_order_and_to_any_process(tmp_path):
    path = tmp_path / f"{INSTRUCT}.gz"
    path.write_bytes(gzip.compress(json.dumps([row(id="a", image=f"{n}.jpg") for n in range(700)]).encode()))
    config = FetchConfig(files=(str(path),))
    keys = llava_med.keys(config)
    harvest = pickle.loads(pickle.dumps(functools.partial(llava_med.harvest, config=config)))
    inorder = [harvest(key).rows for key in keys]
    published._index.cache_clear()  # as in a process that never saw keys()
    assert [harvest(key).rows for key in reversed(keys)] == inorder[::-1]
    assert inorder[2][-1]["conversation_id"] == "a~700"


def test_domains_are_counted(tmp_path):
    path = tmp_path / INSTRUCT
    told = [{"ct_scan": True, "mri": True}, {"ct_scan": True}, {"gross": "yes", "<b>": True}, [], None]
    path.write_text(json.dumps([row(domain=each) for each in told] + [5]))
    config = FetchConfig(files=(str(path),))
    llava_med.keys(config)
    assert llava_med.counted(None, config)["domains"] == {"mri": 1, "ct_scan": 2, "none": 4}


def test_rows_and_rejects_pass_the_writer(tmp_path):
    path = tmp_path / ALIGNMENT
    given = [row(id="a", key="conversatons") for _ in range(500)] + [{"id": "\ud800"}, 7]
    path.write_text(json.dumps(given))
    config = FetchConfig(files=(str(path),))
    out = tmp_path / llava_med.name(config)
    make = functools.partial(llava_med.harvest, config=config)
    keys = llava_med.keys(config)
    counts = write_all(out, CONVERSATIONS, make, stage="fetch", config={}, keys=keys, tell=lambda *_: None)
    assert (counts.found, counts.out, counts.rejected) == (502, 500, 2)
    assert counts.reasons == {"bad_row": 1, "no_image": 1}
    dataset = open_dataset(out, CONVERSATIONS)
    assert sum(1 for _ in dataset.rows(["conversation_id"])) == 500
    assert {each["stage"] for each in dataset.rejects()} == {"fetch"}


@pytest.mark.parametrize(
    ("file", "part"),
    [
        ("llava_med_alignment_500k.json", "alignment"),
        ("LLaVA_Med_alignment_500k_filtered.jsonl.gz", "alignment"),
        ("llava_med_instruct_60k.json", "instruct-60k"),
        ("llava_med_instruct_60k_inline_mention.json", "instruct-60k-im"),
        ("llava_med_instruct_10k.json", "instruct-10k"),
        ("llava_med_image_urls.jsonl", "urls"),
    ],
)
def test_the_part_is_told_by_the_files_name(file, part):
    config = FetchConfig(files=(f"/data/{file}",))
    assert llava_med.name(config) == ("llava-med" if part == "urls" else f"llava-med-{part}")
    assert llava_med.schema(config) == (ARTICLE_FIGURES if part == "urls" else CONVERSATIONS)


def test_the_part_that_is_given_counts_before_the_name():
    assert llava_med.name(FetchConfig(files=(ALIGNMENT,), part="instruct-60k")) == "llava-med-instruct-60k"


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (FetchConfig(files=("train.json",)), "train.json: the name does not tell which part of LLaVA-Med it is"),
        (FetchConfig(files=(ALIGNMENT,), part="instruct"), "llava-med has no part 'instruct'"),
        (
            FetchConfig(files=(f"a/{ALIGNMENT}", f"b/{INSTRUCT}")),
            f"{ALIGNMENT} (alignment) and {INSTRUCT} (instruct-60k-im) are different parts of LLaVA-Med",
        ),
        (FetchConfig(), "no published file is given"),
        (FetchConfig(part="alignment"), "no published file is given"),
        (
            FetchConfig(files=(ALIGNMENT,), license="commercial"),
            "commercial use was asked for, the licence of llava-med-alignment is CC-BY-NC-4.0",
        ),
    ],
)
def test_a_call_that_does_not_say_enough_is_refused(config, what):
    with pytest.raises(ConfigError) as error:
        llava_med.keys(config)
    assert error.value.what == what
    assert error.value.fix


@pytest.mark.parametrize("license_", ["", "all", "noncommercial"])
def test_non_commercial_conversations_are_there_for_other_use(tmp_path, license_):
    (tmp_path / ALIGNMENT).write_text(json.dumps([row()]))
    assert llava_med.keys(FetchConfig(files=(str(tmp_path / ALIGNMENT),), license=license_))


@pytest.mark.parametrize("text", ["[]", "", '[{"id": "a"}, {"id'])
def test_a_file_that_is_not_whole_or_empty_is_refused_before_anything_is_read(tmp_path, text):
    (tmp_path / INSTRUCT).write_text(text)
    with pytest.raises(DataError, match=INSTRUCT):
        llava_med.keys(FetchConfig(files=(str(tmp_path / INSTRUCT),)))


def test_llama3_med_has_its_own_name_teacher_and_licence(tmp_path):
    (made,), rejects = take(tmp_path, [row()], TWENTY, llama3_med)
    assert rejects == []
    config = FetchConfig(files=(TWENTY,))
    assert (llama3_med.name(config), llama3_med.schema(config)) == ("llama3-med-20k", CONVERSATIONS)
    assert (made["teacher"], made["kind"], made["license_tags"]) == ("imported:llama3-med", "instruct", ["unknown"])
    assert made["prompt_id"] == hashlib.sha256(b"llama3-med-20k").hexdigest()[:12]


@pytest.mark.parametrize("field", ["model", "teacher"])
def test_a_row_that_names_its_teacher_is_believed(tmp_path, field):
    named = row() | {field: " claude-3-opus\u200b"}
    (made,), _ = take(tmp_path, [named], TWENTY, llama3_med)
    assert made["teacher"] == made["teacher_planned"] == "imported:llama3-med:claude-3-opus"


def test_llama3_med_counts_domains_and_asks_for_a_file(tmp_path):
    with pytest.raises(ConfigError) as error:
        llama3_med.keys(FetchConfig())
    assert error.value.fix == "medvlm fetch llama3-med FILE"
    (tmp_path / TWENTY).write_text(json.dumps([row()]))
    assert llama3_med.counted(None, FetchConfig(files=(str(tmp_path / TWENTY),)))["domains"] == {"ct_scan": 1}
