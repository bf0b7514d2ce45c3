"""When ``synthesize`` must stop: at once, with a clear line, nothing lost, and ready to go on when it is mended."""

import re
import signal
import socket
import subprocess
import time

import pytest

from tests import inside, synthesis
from tests.anthropic_server import LLAMA, serving

COUNT = 60
GIVEN = ("--accept-terms", "claude,llama3", "--max-cost", "50")
CLAUDE = ("--teacher", "claude")
MESSAGE = r"^POST /v1/messages$"
CHAT = r"^POST /v1/chat/completions$"
CREATE = r"^POST /v1/messages/batches$"
GO_ON = "mend it in the console; everything answered is kept, the same command goes on"


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    return synthesis.write_figures(tmp_path_factory.mktemp("figures") / "figures", COUNT)


class Breaks:
    """A fault of one kind of request, from the first after ``good`` on, until it is mended."""

    def __init__(self, name, where, good=0):
        self.name, self.where, self.good, self.mended = name, where, good, False

    def __call__(self, number, method, path):
        if self.mended or not re.search(self.where, f"{method} {path}"):
            return None
        self.good -= 1
        return self.name if self.good < 0 else None


def run(figures, out, server, *options, **settings):
    done = inside.synthesize(figures, out, server, *GIVEN, *options, **settings)
    assert "Traceback" not in done.stderr
    return done


def finishes(figures, out, server, *options, **settings):
    """The same command again: everything is answered, and nothing is paid twice."""
    done = run(figures, out, server, *options, **settings)
    assert done.returncode == 0, done.stderr
    assert server.billed_twice() == {}
    assert {reply["outcome"] for reply in synthesis.replies(out)} == {"answered"}
    assert len(synthesis.replies(out)) == COUNT
    return True


def after_the_first(server, fault, where):
    """Requests that came after the first one that had this fault."""
    asked = server.asked(where)
    began = next(one[0] for one in asked if one[3] == fault)
    return [one for one in asked if one[0] > began]


# ---------------------------------------------------------------------- a refusal


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ("401", "the key is not accepted (401 authentication_error: invalid x-api-key)"),
        ("402", "a billing problem (402 billing_error: Your credit balance is too low to access the Anthropic API.)"),
        ("403", "not permitted (403 permission_error: Your API key does not have permission to use the specified resource.)"),  # noqa: E501
        ("spend limit", "a spend limit is reached (400 enforced_spend_limit_reached: You have reached your specified API usage limits.)"),  # noqa: E501
    ],
)  # fmt: skip
def test_a_refused_account_is_asked_once_and_the_same_command_goes_on_when_it_is_mended(figures, tmp_path, fault, said):
    broken = Breaks(fault, MESSAGE)
    with serving(fault=broken) as server:
        done = run(figures, tmp_path, server, *CLAUDE)
        assert done.returncode == 5
        assert done.stderr.endswith(f"error: Anthropic refuses: {said}\n  fix: {GO_ON}\n")
        assert (len(server.asked(MESSAGE)), len(server.asked(CREATE)), server.billed) == (1, 0, [])
        broken.mended = True
        assert finishes(figures, tmp_path, server, *CLAUDE)


@pytest.mark.parametrize("fault", ["401", "spend limit"])
def test_a_refusal_half_way_lets_only_what_is_under_way_be_asked(figures, tmp_path, fault):
    broken = Breaks(fault, MESSAGE, good=20)
    settings = {"claude_mode": "sync", "connections": 6}
    with serving(fault=broken, latency=0.02) as server:
        assert run(figures, tmp_path, server, *CLAUDE, **settings).returncode == 5
        assert len(after_the_first(server, fault, MESSAGE)) < 6
        assert len(server.billed) == 20
        broken.mended = True
        assert finishes(figures, tmp_path, server, *CLAUDE, **settings)


def test_a_refused_batch_stops_the_other_teacher_too(figures, tmp_path):
    broken = Breaks("402", CREATE)
    with serving(fault=broken, latency=0.05) as server:
        done = run(figures, tmp_path, server, "--mix", "claude=20,llama=80", connections=2)
        assert (done.returncode, len(server.asked(CREATE)), len(server.batches)) == (5, 1, 0)
        left = synthesis.told(inside.synthesize("x", tmp_path, None, "--status", "--json"))["requests"]["llama"]
        assert left["open"] == sum(left.values()) - len(server.asked(CHAT)) > 0
        broken.mended = True
        assert finishes(figures, tmp_path, server, "--mix", "claude=20,llama=80")


def test_a_key_that_is_refused_is_not_even_counted_with_again(figures, tmp_path):
    with serving(key="another") as server:
        assert run(figures, tmp_path, server, *CLAUDE).returncode == 5
        assert len(server.requests) == 1


# ---------------------------------------------------------------------- the first request


def test_a_parameter_that_is_refused_shows_before_any_batch_is_made(figures, tmp_path):
    with serving(faults={"400": (1.0, MESSAGE)}) as server:
        done = run(figures, tmp_path, server, *CLAUDE)
        assert done.returncode == 5
        said = "so no other was sent (400 invalid_request_error: messages: this request is refused)"
        assert f"claude did not answer the first request, {said}" in done.stderr
        assert (len(server.asked(MESSAGE)), server.asked(CREATE), server.billed) == (1, [], [])


@pytest.mark.parametrize("mode", ["batch", "sync"])
def test_an_unknown_model_of_claude_is_one_clear_line_and_no_batch(figures, tmp_path, mode):
    with serving() as server:
        done = run(figures, tmp_path, server, *CLAUDE, claude_model="claude-9", price="4,20", claude_mode=mode)
        assert done.returncode == 5
        assert "model: claude-9" in done.stderr and "--set claude_model=NAME" in done.stderr
        assert (len(server.asked(MESSAGE)), len(server.batches), server.billed) == (1, 0, [])


def test_an_address_that_cannot_count_tokens_is_good_enough(figures, tmp_path):
    with serving(faults={"404": (1.0, "count_tokens$")}) as server:
        assert finishes(figures, tmp_path, server, *CLAUDE)
        assert len(server.asked("count_tokens$")) == 1


def test_an_outage_over_several_runs_costs_no_row(figures, tmp_path):
    broken = Breaks("529", MESSAGE)
    with serving(fault=broken) as server:
        for _ in range(3):
            done = run(figures, tmp_path, server, *CLAUDE, pause=0.001)
            assert (done.returncode, len(server.batches)) == (5, 0)
            assert "no other was sent (status 529)" in done.stderr
        broken.mended = True
        assert finishes(figures, tmp_path, server, *CLAUDE)


# ---------------------------------------------------------------------- the other teacher


def test_a_wrong_name_of_llama_is_one_clear_line_before_claude_is_paid(figures, tmp_path):
    with serving() as server:
        done = run(figures, tmp_path, server, llama_model="llama-3")
        assert done.returncode == 2
        assert f"serves '{LLAMA}', not 'llama-3'\n  fix: --set llama_model={LLAMA}" in done.stderr
        assert [what for *_, what in server.asked("POST")] == []


def test_a_server_of_llama_that_is_not_there_shows_before_claude_is_paid(figures, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as gone:
        url = f"http://127.0.0.1:{gone.getsockname()[1]}"
    with serving() as server:
        done = run(figures, tmp_path, server, "--llama-endpoint", url)
        assert done.returncode == 5
        assert f"{url}/v1: cannot connect (Connection refused)" in done.stderr
        assert server.asked("POST") == []


# ---------------------------------------------------------------------- silence


def test_a_provider_that_fails_twenty_times_in_a_row_is_left_and_the_command_resumes(figures, tmp_path):
    broken = Breaks("529", MESSAGE, good=20)
    with serving(fault=broken) as server:
        done = run(figures, tmp_path, server, *CLAUDE, claude_mode="sync", pause=0.02)
        assert done.returncode == 5
        failures = re.search(r"claude: (\d+) failures in a row, the last: status 529", done.stderr)
        assert int(failures[1]) >= 20
        assert "run the same command again later: it resumes" in done.stderr
        broken.mended = True
        assert finishes(figures, tmp_path, server, *CLAUDE, claude_mode="sync")


def test_batches_that_an_earlier_run_made_are_read_though_the_rest_is_asked_one_by_one(figures, tmp_path):
    broken = Breaks("401", r"^GET /v1/messages/batches/")
    with serving(fault=broken, batch_seconds=600) as server:
        assert run(figures, tmp_path, server, *CLAUDE, batch_rows=10).returncode == 5
        rows = sum(len(batch.custom_ids) for batch in server.batches.values())
        assert rows == COUNT - 1
        server.settle()
        broken.mended = True
        made = len(server.batches)
        assert finishes(figures, tmp_path, server, *CLAUDE, claude_mode="sync")
        assert (len(server.batches), len(server.asked(MESSAGE))) == (made, 1)


# ---------------------------------------------------------------------- signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_in_good_order_and_the_same_command_goes_on(figures, tmp_path, number, status):
    with serving(latency=0.3) as server:
        argv = synthesis.command(figures, tmp_path, server, *GIVEN, connections=8, claude_mode="sync")
        process = subprocess.Popen(argv, cwd=synthesis.ROOT, env=synthesis.environment(), stderr=subprocess.PIPE)
        while len(server.answered) < 10 and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(number)
        _, told = process.communicate(timeout=60)
        assert (process.returncode, b"Traceback" in told) == (status, False), told
        status_told = synthesis.told(inside.synthesize("x", tmp_path, None, "--status", "--json"))
        kept = sum(states.get("answered", 0) for states in status_told["requests"].values())
        assert kept == len(server.answered) < COUNT, "what was under way is answered and written down"
        assert status_told["lost_usd_at_most"] == status_told["reserved_usd"] == 0
        assert finishes(figures, tmp_path, server, claude_mode="sync")
