"""The command line of ``synthesize``: its options, what they refuse, what is printed where, and the bare verb."""

import itertools
import json
import re

import pytest

from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.schemas import CONVERSATIONS
from tests import inside, synthesis
from tests.anthropic_server import serving

COUNT = 40
PAID = ("--accept-terms", "claude,llama3", "--max-cost", "20")
NO_KEY = {"ANTHROPIC_API_KEY": "", "ANTHROPIC_BASE_URL": "http://127.0.0.1:9"}
CLOCK = re.compile(r"^\d\d:\d\d:\d\d ", re.MULTILINE)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    root = tmp_path_factory.mktemp("cli") / "workspace"
    synthesis.write_figures(root / "figures" / "test", COUNT)
    return root


@pytest.fixture(scope="module")
def figures(workspace):
    return workspace / "figures" / "test"


@pytest.fixture(scope="module")
def made(figures, tmp_path_factory):
    """What the command says and leaves when both teachers answer; started as a person starts it."""
    out, asked = tmp_path_factory.mktemp("made"), itertools.count(1)
    with serving(fault=lambda _, method, path: "429 1" if "chat" in path and next(asked) == 9 else None) as server:
        done = synthesis.synthesize(figures, out, server, *PAID, "--json", claude_mode="sync", connections=3)
    return out, done


def teachers(folder):
    return {row["teacher"] for row in open_dataset(folder, CONVERSATIONS).rows()}


# ---------------------------------------------------------------------- what is printed where


def test_the_result_is_one_json_document_and_nothing_else_is_on_stdout(made):
    _, done = made
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["instruct"]["conversations"] + told["instruct"]["rejected"] == COUNT
    assert set(told) >= {"verb", "out", "captions", "instruct", "money"}


def test_off_a_terminal_the_plan_and_a_line_a_phase_are_on_stderr_without_control_sequences(made):
    _, done = made
    assert "expected_usd: " in done.stderr
    lines = [line for line in done.stderr.splitlines() if CLOCK.match(line)]
    phases = [re.sub(r" [\d,]+(/[\d,]+)?( .*)?$", "", line[9:]) for line in lines]
    assert {"claude", "llama", "examine", "compare", "write"} <= set(phases)
    assert len(lines) < 20  # and not one a request
    assert "\x1b" not in done.stderr


def test_a_wait_that_the_host_asks_for_has_a_line(made):
    _, done = made
    assert re.search(r"(claude|llama): waits 1 s \(.*status 429.*; it asks for 1 s\)", done.stderr)


def test_quiet_says_nothing_but_the_result(figures, tmp_path):
    with serving() as server:
        done = inside.synthesize(figures, tmp_path, server, *PAID, "-q", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["verb"] == "synthesize"


def test_an_error_is_two_lines_on_stderr_and_one_json_document_on_stdout(figures, tmp_path):
    done = inside.synthesize(figures, tmp_path, None, "--json", env=NO_KEY)
    told = json.loads(done.stdout)["error"]
    assert (done.returncode, told["exit"]) == (2, 2)
    assert done.stderr.endswith(f"error: {told['message']}\n  fix: {told['hint']}\n")


# ---------------------------------------------------------------------- plan, status, cancel, export


@pytest.mark.parametrize("option", ["--plan", "--dry-run"])
def test_a_plan_writes_nothing(figures, tmp_path, option):
    done = inside.synthesize(figures, tmp_path / "out", None, option, "--json", env=NO_KEY)
    assert done.returncode == 0
    told = json.loads(done.stdout)
    assert (told["figures"], told["writes"], set(told["teachers"])) == (
        COUNT,
        str(tmp_path / "out"),
        {"claude", "llama"},
    )
    assert list(tmp_path.iterdir()) == []


def test_a_plan_may_be_asked_for_twice(figures, tmp_path):
    once, twice = (
        inside.synthesize(figures, tmp_path, None, *o, "--json") for o in (("--plan",), ("--plan", "--dry-run"))
    )
    assert once.stdout == twice.stdout != ""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--status", "--cancel"), "--status and --cancel"),
        (("--plan", "--status"), "--plan or --dry-run and --status"),
        (("--cancel", "--dry-run"), "--plan or --dry-run and --cancel"),
        (("--export", "llava-med", "--dry-run"), "--plan or --dry-run and --export"),
        (("--export", "llava-med", "--cancel", "--status"), "--status and --cancel and --export"),
    ],
)
def test_two_things_at_once_are_refused_and_neither_is_done(made, tmp_path, options, named):
    with serving() as server:
        done = inside.synthesize("x", made[0], server, *options, "--json")
        assert server.requests == []
    assert (done.returncode, json.loads(done.stdout)["error"]["message"]) == (2, f"{named}: two things at once")
    assert not list(made[0].glob("*.json"))


def test_status_says_how_far_a_run_is(made):
    told = json.loads(inside.synthesize("x", made[0], None, "--status", "--json", env=NO_KEY).stdout)
    assert sum(told["requests"]["claude"].values()) + sum(told["requests"]["llama"].values()) == COUNT
    assert (set(told["requests"]["claude"]), told["under way"]) == ({"answered"}, [])


def test_cancel_ends_the_batches_under_way_and_the_next_run_asks_again(figures, tmp_path):
    given = ("--teacher", "claude", "--json", *PAID)
    stuck = [True]
    broken = lambda number, method, path: "401" if stuck[0] and path.startswith("/v1/messages/batches/") else None  # noqa: E731
    with serving(fault=broken, batch_seconds=600, cancel_seconds=0.01) as server:
        assert inside.synthesize(figures, tmp_path, server, *given, batch_rows=15).returncode == 5
        stuck.clear()
        stuck.append(False)
        done = inside.synthesize(figures, tmp_path, server, "--cancel", "--json")
        assert (done.returncode, json.loads(done.stdout)["cancelled"]) == (0, len(server.batches))
        assert {batch.cancelled is not None for batch in server.batches.values()} == {True}


@pytest.mark.parametrize("option", [("--status",), ("--cancel",), ("--export", "llava-med")])
def test_without_a_run_there_is_nothing_to_look_at(tmp_path, option):
    done = inside.synthesize("x", tmp_path / "nothing", None, *option)
    assert done.returncode == 4
    assert "nothing" in done.stderr and "fix: " in done.stderr
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("style", ["", "llava"])
def test_an_unknown_style_of_export_is_refused_by_name(made, style):
    done = inside.synthesize("x", made[0], None, "--export", style)
    assert done.returncode == 2
    assert f"error: no export style '{style}'; there are llava-med, llama3-med" in done.stderr


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--max-cost", "-1"), "max_cost"),
        (("--max-cost", "nan"), "max_cost is nan"),
        (("--max-cost", "much"), "max-cost"),
        (("--teacher", "gpt"), "no teacher 'gpt'"),
        (("--mix", "claude=25"), "mix 'claude=25' adds up to 25, not 100"),
        (("--mix", "claude=25,llama=x"), "mix 'claude=25,llama=x': 'x' is not a number"),
        (("--mix", "claude=25,gpt=75"), "'gpt=75' is not teacher=percent"),
        (("--mix", "claude=nan,llama=50"), "mix 'claude=nan,llama=50'"),
        (("--mix-mode", "even"), "mix_mode"),
        (("--llama-endpoint", "gpu1:8000"), "no address: 'gpu1:8000'"),
        (("--llama-endpoint", "http://gpu1:port"), "no address: 'http://gpu1:port'"),
        (("--set", "claude_url=ftp://x"), "no address: 'ftp://x'"),
        (("--judge", "nobody"), "--judge nobody: no such judge"),
        (("--engine", "spark"), "engine"),
        (("--prompt", "no-such.md"), "no-such.md"),
        (("--shots", "no-such.yaml"), "no-such.yaml"),
        (("--set", "prices=no-such.yaml"), "prices=no-such.yaml: no such file"),
        (("--set", "price=4"), "price=4"),
        (("--set", "colour=red"), "synthesize has no setting 'colour'"),
    ],
)
def test_a_value_that_is_none_is_refused_before_anybody_is_asked(figures, tmp_path, options, said):
    with serving() as server:
        given = ("--llama-endpoint", server.url, "--set", f"claude_url={server.url}", *PAID)
        done = inside.medvlm("synthesize", figures, "-o", tmp_path / "out", *given, *options)
        assert (done.returncode, server.requests) == (2, [])
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_recording_that_is_not_there_is_named(figures, tmp_path):
    done = inside.synthesize(figures, tmp_path, None, "--teacher", "replay:no-such-folder")
    assert done.returncode in (2, 4)
    assert "no-such-folder" in done.stderr and "fix: " in done.stderr


# ---------------------------------------------------------------------- the bare verb


def bare(workspace, *options):
    return inside.medvlm("synthesize", "-w", workspace, *options, **NO_KEY)


def test_the_bare_verb_without_a_key_writes_captions_shows_the_plan_and_names_what_is_missing(workspace):
    done = bare(workspace)
    assert done.returncode == 2
    assert len(list(open_dataset(workspace / "conversations" / "captions", CONVERSATIONS).rows())) == COUNT
    assert not (workspace / "conversations" / "instruct").exists()
    assert "expected_usd: " in done.stderr
    assert "nobody to ask: no key for Claude (ANTHROPIC_API_KEY is not set) and no endpoint for Llama" in done.stderr


@pytest.mark.parametrize(
    "options",
    [("-c", "tiny"), ("--teacher", "template"), ("--set", "teacher=template"), ("-c", "tiny", "--set", "seed=3")],
)
def test_a_preset_or_an_option_that_names_the_rules_asks_nobody(workspace, tmp_path, options):
    done = bare(workspace, "-o", tmp_path, *options)
    assert done.returncode == 0, done.stderr
    assert teachers(tmp_path / "instruct") == {"template"}
    assert "demo data, not a reproduction" in done.stdout


def test_an_option_wins_over_a_setting_and_a_preset_of_ones_own_over_the_default(workspace, tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("synthesize:\n  teacher: llama\n")
    asked = [
        json.loads(bare(workspace, "--plan", "--json", *options).stdout)["teachers"]
        for options in (
            ("--teacher", "llama", "--set", "teacher=template"),
            ("-c", preset),
            ("-c", preset, "--teacher", "claude"),
        )
    ]
    assert [list(one) for one in asked] == [["llama"], ["llama"], ["claude"]]


@pytest.mark.parametrize("preset", ["llama3-med-8b", "llava-med-mistral-7b"])
def test_the_papers_presets_ask_both_teachers(workspace, preset):
    told = json.loads(bare(workspace, "--plan", "--json", "-c", preset).stdout)
    assert set(told["teachers"]) == {"claude", "llama"}
