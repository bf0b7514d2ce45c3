"""``synthesize`` with both teachers on loopback: what is asked, paid, written, and made again from what was written."""

import hashlib
import json
import shutil

import pyarrow as pa
import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.schemas import TAUGHT
from medvlm_cli.teachers.asks import Composer, families
from medvlm_cli.teachers.mix import parse, teacher_of
from medvlm_cli.teachers.prices import table_id
from medvlm_cli.teachers.prompt import from_words
from tests import synthesis
from tests.anthropic_server import pairs_for, serving, token_of

COUNT = 150
GIVEN = ("--accept-terms", "claude,llama3", "--max-cost", "50")


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    return synthesis.write_figures(tmp_path_factory.mktemp("figures") / "figures", COUNT)


@pytest.fixture(scope="module")
def ran(figures, tmp_path_factory):
    """A whole run, its output, and what the server saw."""
    out = tmp_path_factory.mktemp("ran") / "conversations"
    with serving(batch_seconds=0.2, refusals=0.03, malformed=0.03, max_tokens=0.03) as server:
        done = synthesis.synthesize(figures, out, server, *GIVEN, "--json", batch_rows=20)
        assert done.returncode == 0, done.stderr
        before = len(server.requests)
        again = synthesis.synthesize(figures, out, server, *GIVEN, "--json", batch_rows=20)
        assert (again.returncode, len(server.requests)) == (0, before), again.stderr
        yield out, server, done, again


def said(row):
    texts = [turn["text"] for turn in row["turns"]]
    return [(q.removeprefix("<image>\n"), a) for q, a in zip(texts[::2], texts[1::2], strict=True)]


def test_every_figure_is_a_conversation_or_a_reject(ran):
    rows, rejects = synthesis.rows(ran[0]), synthesis.rejects(ran[0])
    assert len(rows) + len(rejects) == COUNT
    assert {row["figure_id"] for row in rows}.isdisjoint(reject["id"] for reject in rejects)
    assert len(rows) > 0.85 * COUNT


def test_every_conversation_is_the_answer_to_its_own_figure(ran):
    wrong = [row["figure_id"] for row in synthesis.rows(ran[0]) if token_of(row["request"]) not in row["raw_response"]]
    assert wrong == []


def test_what_a_teacher_said_is_what_was_kept(ran):
    whole = [row for row in synthesis.rows(ran[0]) if row["stop_reason"] == "end_turn" and not row["repairs"]]
    assert len(whole) > 0.8 * COUNT
    assert [row["figure_id"] for row in whole if said(row) != [tuple(pair) for pair in pairs_for(row["request"])]] == []


def test_the_teacher_of_a_figure_is_the_mixs_and_nobodys_substitute(ran):
    shares = parse("claude=25,llama=75")
    for row in synthesis.rows(ran[0]):
        name = teacher_of(row["figure_id"], shares, 0)
        assert row["teacher"] == row["teacher_planned"]
        assert row["teacher"].startswith({"claude": "claude:claude-opus-5-5", "llama": "vllm:meta-llama/"}[name])


def test_claude_is_asked_in_batches_and_every_row_is_billed_once(ran):
    _, server, _, _ = ran
    claude = [reply for reply in synthesis.replies(ran[0]) if reply["teacher"].startswith("claude")]
    assert server.billed_twice() == {}
    assert len(server.billed) == len(claude)
    assert len([one for one in server.billed if one.batch_id is None]) == 1  # the canary
    assert len(server.batches) >= 2


def test_what_was_spent_is_what_was_billed(ran):
    out, server, done, again = ran
    money = synthesis.told(done)["money"]
    assert money["spent_usd"] == pytest.approx(server.billed_usd, abs=1e-6)
    assert money["lost_usd_at_most"] == 0
    rows = sum(reply["cost_usd"] for reply in synthesis.replies(out))
    assert rows == pytest.approx(server.billed_usd, abs=1e-6)
    assert synthesis.told(again) == synthesis.told(done)


def test_refusals_are_data_and_carry_their_category(ran):
    refused = [reject for reject in synthesis.rejects(ran[0]) if reject["reason"] == "refusal"]
    assert len(refused) >= 1
    assert all("refused" in reject["message"] for reject in refused)
    categories = json.loads((ran[0] / "instruct" / "stats.json").read_text())["statistics"]["refusals"]
    assert sum(one["unique_total"] for one in categories.values()) == len(refused)


def test_licences_and_terms_are_on_every_row_and_in_the_record(ran):
    tags = {row["teacher"].partition(":")[0]: row["license_tags"] for row in synthesis.rows(ran[0])}
    assert tags == {
        "claude": ["CC-BY-4.0", "anthropic-commercial-terms"],
        "vllm": ["CC-BY-4.0", "llama3-community-license"],
    }
    run = json.loads((ran[0] / "instruct" / "run.json").read_text())
    assert run["accepted_terms"] == ["claude", "llama3"]
    assert run["prices"] == {"dated": "2026-11-23", "table": table_id(None)}
    card = (ran[0] / "instruct" / "README.md").read_text()
    assert "Claude 3 Opus was retired" in card
    assert "1.b.v" in card


def test_every_request_can_be_made_again_byte_for_byte_from_the_dataset_alone(ran):
    out, server, _, _ = ran
    dataset = open_dataset(out / "instruct", TAUGHT)
    told = json.loads(dataset.metadata[b"asked"])
    prompt = from_words(told["prompt"]["name"], told["prompt"]["system"], told["prompt"]["shots"])
    config = SynthesizeConfig(**{**told["settings"], "accept_terms": ()})
    composer, both = Composer(prompt=prompt, seed=config.seed), families(config)
    sent = {one.sha256 for one in server.answered}
    for row in dataset.rows():
        family = both["claude" if row["teacher"].startswith("claude") else "llama"]
        body = composer.body(family, row["request"])
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        assert hashlib.sha256(text.encode()).hexdigest() in sent
        assert composer.ask_of(family, row["figure_id"], row["request"], "teach").key == row["request_sha256"]


@pytest.mark.parametrize("source", ["replies", "instruct", ""])
def test_a_replay_makes_the_same_files_and_asks_nobody(figures, ran, tmp_path, source):
    done = synthesis.synthesize(
        figures, tmp_path / "again", None, "--teacher", f"replay:{ran[0] / source}", "--json",
        env={"ANTHROPIC_API_KEY": "", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert synthesis.digest(tmp_path / "again" / "instruct") == synthesis.digest(ran[0] / "instruct")


def test_other_rules_look_at_the_answers_again_without_a_request(figures, ran, tmp_path):
    """The ledger of the run, and another threshold: a new dataset, and a server that nobody may ask."""
    out = tmp_path / "conversations"
    shutil.copytree(ran[0] / ".instruct.state", out / ".instruct.state")
    with serving() as server:
        done = synthesis.synthesize(figures, out, server, *GIVEN, near_duplicates=0.05)
        assert (done.returncode, server.requests) == (0, []), done.stderr
    assert len(synthesis.rows(out)) < len(synthesis.rows(ran[0]))
    assert "near_duplicate" in {reject["reason"] for reject in synthesis.rejects(out)}


def test_no_key_and_no_path_of_this_machine_is_in_any_file(ran, tmp_path_factory):
    files = {path: path.read_bytes() for path in ran[0].rglob("*") if path.is_file()}
    assert [path.name for path, data in files.items() if b"test-key" in data] == []
    home = str(ran[0].parent).encode()
    assert {path.name for path, data in files.items() if home in data} <= {"run.json"}  # it holds the command


def test_the_files_open_in_arrow_and_survive_parquet_and_json(ran, tmp_path):
    import pyarrow.parquet as pq

    parts = sorted((ran[0] / "instruct" / "data").iterdir())
    table = pa.concat_tables(pa.ipc.open_file(path).read_all() for path in parts)
    pq.write_table(table, tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == table.to_pylist()
    assert json.loads(json.dumps(table.to_pylist(), ensure_ascii=False)) == table.to_pylist()


@pytest.mark.parametrize("style", ["llava-med", "llama3-med"])
def test_an_export_holds_every_conversation_and_its_image(figures, ran, style):
    done = synthesis.synthesize(figures, ran[0], None, "--export", style, "--json")
    assert done.returncode == 0, done.stderr
    exported = json.loads((ran[0] / f"instruct.{style}.json").read_text())
    assert len(exported) == len(synthesis.rows(ran[0]))
    assert isinstance(exported[0]["image"], str if style == "llava-med" else list)
    names = {one["image"] if style == "llava-med" else one["image"][0] for one in exported}
    assert names == {path.name for path in (ran[0] / "images").iterdir()}


def test_status_tells_what_was_asked_and_spent_without_a_network(ran):
    done = synthesis.synthesize("x", ran[0], None, "--status", "--json", env={"ANTHROPIC_API_KEY": ""})
    told = synthesis.told(done)
    assert sum(sum(states.values()) for states in told["requests"].values()) == COUNT
    assert set().union(*told["requests"].values()) <= {"answered", "failed"}
    assert told["spent_usd"] == pytest.approx(ran[1].billed_usd, abs=1e-6)


def test_more_figures_ask_for_the_new_ones_alone(ran, tmp_path):
    more = synthesis.write_figures(tmp_path / "more", COUNT + 30)
    out = tmp_path / "conversations"
    shutil.copytree(ran[0] / ".instruct.state", out / ".instruct.state")
    with serving() as server:
        done = synthesis.synthesize(more, out, server, *GIVEN)
        assert done.returncode == 0, done.stderr
        assert len(server.answered) == 30
    old = {row["figure_id"]: row["teacher"] for row in synthesis.rows(ran[0])}
    new = {row["figure_id"]: row["teacher"] for row in synthesis.rows(out)}
    assert {one: new[one] for one in old if one in new} == {one: old[one] for one in old if one in new}


def test_a_figure_that_was_refused_goes_to_the_other_teacher_only_where_the_user_says_so(figures, tmp_path):
    with serving(refusals=0.1, seed=5) as server:
        done = synthesis.synthesize(figures, tmp_path / "out", server, *GIVEN, on_refusal="other", claude_mode="sync")
        assert done.returncode == 0, done.stderr
    passed = [row for row in synthesis.rows(tmp_path / "out") if row["teacher"] != row["teacher_planned"]]
    assert passed and all(row["teacher"].startswith("vllm:") for row in passed)  # Llama has no classifiers
    assert len(synthesis.replies(tmp_path / "out")) == COUNT + len(passed)
    again = synthesis.synthesize(figures, tmp_path / "again", None, "--teacher", f"replay:{tmp_path / 'out'}")
    assert again.returncode == 0, again.stderr
    assert synthesis.digest(tmp_path / "again" / "instruct") == synthesis.digest(tmp_path / "out" / "instruct")


def test_a_judge_marks_every_conversation_and_drops_those_below_the_threshold(figures, tmp_path):
    with serving() as server:
        done = synthesis.synthesize(figures, tmp_path / "out", server, *GIVEN, "--judge", "llama", "--json")
        assert done.returncode == 0, done.stderr
    low = [reject for reject in synthesis.rejects(tmp_path / "out") if reject["reason"] == "judged_low"]
    assert len(low) >= 5  # one mark in eight is 0.75
    assert all("mark 0.75, below 0.9" in reject["message"] for reject in low)
    assert {row["judge_score"] for row in synthesis.rows(tmp_path / "out")} == {1.0}
    assert {reply["purpose"] for reply in synthesis.replies(tmp_path / "out")} == {"teach", "judge"}
    again = synthesis.synthesize(figures, tmp_path / "again", None, "--teacher", f"replay:{tmp_path / 'out'}")
    assert again.returncode == 0, again.stderr
    assert synthesis.digest(tmp_path / "again" / "instruct") == synthesis.digest(tmp_path / "out" / "instruct")
