"""What ``synthesize`` costs: the plan against the bill, the cap against every way to pass it, and no cent unasked."""

import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.teachers.asks import COUNT_MARGIN, Composer, families
from medvlm_cli.teachers.prices import price_of
from medvlm_cli.teachers.prompt import load
from medvlm_cli.teachers.replies import Usage
from tests import inside, synthesis
from tests.anthropic_server import serving

COUNT, FEW = 300, 60
CLAUDE = ("--teacher", "claude", "--accept-terms", "claude")
MESSAGE = r"^POST /v1/messages$"
CREATE = r"^POST /v1/messages/batches$"
MODES = {
    "batch": {"claude_mode": "batch", "batch_rows": 60},
    "sync": {"claude_mode": "sync", "caching": "off"},
    "sync, cached": {"claude_mode": "sync"},
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    return synthesis.write_figures(tmp_path_factory.mktemp("figures") / "figures", COUNT)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return synthesis.write_figures(tmp_path_factory.mktemp("few") / "figures", FEW)


@pytest.fixture
def nobody():
    """An address at which nobody takes a connection."""
    with socket.create_server(("127.0.0.1", 0)) as gone:
        return f"http://127.0.0.1:{gone.getsockname()[1]}"


# ---------------------------------------------------------------------- the plan


@pytest.mark.parametrize("mode", MODES)
def test_the_plan_asks_nobody_and_is_near_the_bill(figures, tmp_path, record_property, mode):
    with serving(caching=mode == "sync, cached", seed=11) as server:
        planned = inside.synthesize(figures, tmp_path, server, *CLAUDE, "--plan", "--json", **MODES[mode])
        assert (planned.returncode, server.requests, list(tmp_path.iterdir())) == (0, [], [])
        done = inside.synthesize(figures, tmp_path, server, *CLAUDE, "--max-cost", 100, "--json", **MODES[mode])
        assert done.returncode == 0, done.stderr
        billed = server.billed_usd
    expected = synthesis.told(planned)["expected_usd"]
    record_property("expected / billed", expected / billed)
    assert len(server.billed) == COUNT
    assert 0.85 * billed <= expected <= 1.15 * billed
    assert billed < synthesis.told(planned)["worst_usd"]
    assert synthesis.told(done)["money"]["spent_usd"] == pytest.approx(billed, abs=1e-6)


def test_the_plan_of_a_run_under_way_is_what_is_left(few, tmp_path):
    given = (*CLAUDE, "--json")
    with serving(seed=3) as server:
        whole = synthesis.told(inside.synthesize(few, tmp_path, server, *given, "--plan", **MODES["sync, cached"]))
        stopped = inside.synthesize(few, tmp_path, server, *given, "--max-cost", 0.6, **MODES["sync, cached"])
        assert stopped.returncode == 3, stopped.stderr
        left = synthesis.told(inside.synthesize(few, tmp_path, server, *given, "--plan", **MODES["sync, cached"]))
        answered = len(server.billed)
    assert 0 < answered < FEW
    assert left["teachers"]["claude"]["answered"] == answered
    assert left["expected_usd"] == pytest.approx(whole["expected_usd"] * (FEW - answered) / FEW, rel=0.2)


def test_the_plan_needs_no_key_no_network_and_no_cap(few, tmp_path, nobody):
    env = {"ANTHROPIC_API_KEY": "", "ANTHROPIC_BASE_URL": nobody}
    done = inside.synthesize(few, tmp_path, None, "--plan", "--json", env=env)
    told = synthesis.told(done)
    assert (done.returncode, list(tmp_path.iterdir())) == (0, [])
    assert sum(line["rows"] for line in told["teachers"].values()) == FEW
    assert told["teachers"]["llama"]["expected USD"] == 0 < told["expected_usd"] < told["worst_usd"]


def test_a_judge_who_is_paid_has_a_line_in_the_plan(few, tmp_path):
    given = ("--teacher", "llama", "--plan", "--json")
    alone, judged = (
        synthesis.told(inside.synthesize(few, tmp_path, None, *given, *more)) for more in ((), ("--judge", "claude"))
    )
    assert (alone["expected_usd"], judged["expected_usd"]) == (0, judged["teachers"]["judge"]["expected USD"])
    line = judged["teachers"]["judge"]
    assert (line["model"], line["rows"], line["mode"]) == ("claude-opus-5-5", FEW, "sync")
    assert "prices dated" in judged and "prices dated" not in alone
    assert 0 < judged["expected_usd"] < judged["worst_usd"]


# ---------------------------------------------------------------------- the cap


CAPS = {
    "batch": {"claude_mode": "batch", "batch_rows": 7},
    "sync": {"claude_mode": "sync", "connections": 8},
    "sync, cached": {"claude_mode": "sync", "connections": 8},
}


@pytest.mark.parametrize("mode", CAPS)
def test_the_cap_holds_though_every_answer_is_as_long_as_it_may_be_and_a_larger_one_goes_on(few, tmp_path, mode):
    caching = mode == "sync, cached"
    with serving(
        adversarial=True, caching=caching, faults={"drop after accept": (0.15, f"{MESSAGE}|{CREATE}")}
    ) as server:
        done = inside.synthesize(few, tmp_path, server, *CLAUDE, "--max-cost", 2, **CAPS[mode])
        assert done.returncode == 3
        assert "error: the cap of $2.00 is reached: $" in done.stderr
        assert done.stderr.endswith(
            "  fix: everything answered is kept; go on with the same command and a larger --max-cost\n"
        )
        assert 1 < server.billed_usd <= 2
        again = inside.synthesize(few, tmp_path, server, *CLAUDE, "--max-cost", 2, **CAPS[mode])
        assert (again.returncode, server.billed_usd <= 2) == (3, True)
        done = inside.synthesize(few, tmp_path, server, *CLAUDE, "--max-cost", 40, **CAPS[mode])
        assert done.returncode == 0, done.stderr
        lost = [one for one in server.requests if one[3] == "drop after accept" and one[2] == "/v1/messages"]
        assert len(server.billed) == FEW + len(lost)
        assert len(synthesis.replies(tmp_path)) == FEW
        assert server.billed_usd <= 40


def test_a_cap_below_a_single_request_sends_none(few, tmp_path):
    with serving() as server:
        done = inside.synthesize(few, tmp_path, server, *CLAUDE, "--max-cost", 0.01)
        assert (done.returncode, server.asked(MESSAGE), server.asked(CREATE)) == (3, [], [])
    assert "the cap of $0.01 is reached: $0.0000 spent" in done.stderr


# ---------------------------------------------------------------------- what is refused


BOTH = ("--accept-terms", "claude,llama3")
CAP = ("--max-cost", "5")
UNKNOWN = "prices.yaml has no price of claude-9"


@pytest.mark.parametrize(
    ("options", "key", "said", "fix"),
    [
        (BOTH, "k", "a paid teacher, and no cap", "--max-cost DOLLARS"),
        ((*BOTH, "--judge", "claude", "--teacher", "llama"), "k", "a paid teacher, and no cap", "--max-cost DOLLARS"),
        (CAP, "k", "terms not accepted. Anthropic's commercial terms: Claude's answers may not be used",
         "--accept-terms claude,llama3"),
        ((*CAP, "--accept-terms", "claude"), "k", "Meta Llama 3 Community License", "--accept-terms claude,llama3"),
        ((*CAP, *BOTH), "", "nobody to ask: no key for Claude (ANTHROPIC_API_KEY is not set)", "ANTHROPIC_API_KEY=..."),
        ((*CAP, *BOTH, "--set", "claude_model=claude-9"), "k", UNKNOWN, "--set price=INPUT,OUTPUT"),
        ((*CAP, *BOTH, "--judge", "claude:claude-9"), "k", UNKNOWN, "--set price=INPUT,OUTPUT"),
        ((*CAP, *BOTH, "--judge", "nobody"), "k", "--judge nobody: no such judge", "give claude or llama"),
    ],
)  # fmt: skip
def test_what_must_be_said_first_is_asked_for_and_nobody_is_asked(few, tmp_path, options, key, said, fix):
    with serving() as server:
        done = inside.synthesize(few, tmp_path, server, *options, env={"ANTHROPIC_API_KEY": key})
        assert (done.returncode, server.requests) == (2, [])
    error, _, mend = done.stderr.partition("error: ")[2].partition("\n  fix: ")
    assert said in error and fix in mend


def test_without_a_key_and_an_endpoint_the_plan_is_shown_with_the_three_ways_on(few, tmp_path):
    done = inside.synthesize(few, tmp_path, None, env={"ANTHROPIC_API_KEY": ""})
    assert done.returncode == 2
    assert "expected_usd: " in done.stderr and "worst_usd: " in done.stderr
    assert "no key for Claude (ANTHROPIC_API_KEY is not set) and no endpoint for Llama" in done.stderr
    for way in (
        "(1) export ANTHROPIC_API_KEY",
        "--llama-endpoint http://HOST:8000",
        "--launch MODEL",
        "(2) replay",
        "(3) write from",
    ):
        assert way in done.stderr
    assert (tmp_path / "captions" / "manifest.json").is_file()


def test_a_price_that_is_given_makes_an_unknown_model_plannable(few, tmp_path):
    given = ("--teacher", "claude", "--plan", "--json", "--set", "claude_model=claude-9", "--set")
    cheap, dear = (
        synthesis.told(inside.synthesize(few, tmp_path, None, *given, f"price={price}")) for price in ("1,2", "10,20")
    )
    assert dear["expected_usd"] == pytest.approx(10 * cheap["expected_usd"], rel=0.01)


# ---------------------------------------------------------------------- the worst case


PROMPT = load()
PRICES = {name: price_of(name) for name in ("claude-opus-5-5", "claude-haiku-5-5", "claude-3-opus")}
TEXT = st.text(max_size=600) | st.sampled_from(["肝" * 900, "é" * 2000, 'a\\"\n' * 500, "mass " * 25_000])
SHARES = st.just(1.0) | st.floats(0, 1)
"""The whole of something in half of the cases: the worst is where everything is at its most."""


@settings(deadline=None, max_examples=200)
@given(
    model=st.sampled_from(sorted(PRICES)), form=st.sampled_from(["text", "json"]), batch=st.booleans(), user=TEXT,
    caching=st.sampled_from(["", "5m", "1h"]), counted=st.none() | SHARES, tokens=SHARES, output=SHARES,
    split=st.tuples(SHARES, SHARES),
)  # fmt: skip
def test_no_usage_that_the_api_can_report_costs_more_than_the_worst_case(
    model, form, caching, batch, user, counted, tokens, output, split
):
    """Tokens are a byte or longer; what all requests begin with may be read, written or neither; thinking is output."""
    family = families(SynthesizeConfig(claude_model=model, format=form))["claude"]
    composer, price = Composer(prompt=PROMPT, seed=0, caching=caching), PRICES[model]
    begins = len(repr(composer.body(family, "")).encode())
    composer.prefix_tokens = None if counted is None else 1 + round(counted * begins)
    most = begins if counted is None else min(begins, round(COUNT_MARGIN * composer.prefix_tokens))
    prefix, own = round(tokens * most), round(tokens * len(user.encode()))
    kept = prefix if caching else 0
    read = round(split[0] * kept)
    written = round(split[1] * (kept - read))
    usage = Usage(
        input_tokens=prefix + own - read - written,
        output_tokens=round(output * family.parameters["max_tokens"]),
        cache_read=read,
        **{f"cache_write_{caching or '5m'}": written},
        thinking_tokens=round(output * 100),
    )
    assert price.cost(usage, batch=batch) <= composer.worst(family, user, price, batch=batch)


def test_the_worst_case_is_no_wider_than_a_count_makes_it():
    family, price = families(SynthesizeConfig())["claude"], PRICES["claude-opus-5-5"]
    composer = Composer(prompt=PROMPT, seed=0)
    wide = composer.worst(family, "x" * 500, price, batch=False)
    composer.prefix_tokens = 3200
    narrow = composer.worst(family, "x" * 500, price, batch=False)
    assert narrow == 1000 * (4 * (3200 * 5 // 4 + 500 + 64) + 20 * 4096)
    assert narrow < wide
