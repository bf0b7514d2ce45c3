"""``synthesize`` against a provider that fails in every way it can: what is delivered, and whose answer it is.

Waits of minutes are tried in ``test_desk_waits``, by a clock that leaps.
"""

from collections import Counter

import pytest

from tests import inside, synthesis
from tests.anthropic_server import serving, token_of

FEW, MANY = 120, 1000
GIVEN = ("--accept-terms", "claude,llama3", "--max-cost", "400")
ASKED = r"^POST /v1/(messages|chat/completions)$"
BATCHES = r"/v1/messages/batches"
CREATE = r"^POST /v1/messages/batches$"
RESULT = r"results$"
ALONE = ("429 1", "429", "529", "500", "503", "connect", "read timeout", "html 200", "html as json", "empty 200",
         "drop after accept")  # fmt: skip
"""What can go wrong with a request that is sent alone."""
RESULTS = ("cut results", "drop results", "malformed line", "unknown type", "duplicate custom_id", "foreign custom_id")
"""What can go wrong with the results of a batch, which come in no order as it is."""
AROUND = ("429 1", "529", "500", "503", "connect", "read timeout", "html 200", "html as json")
"""What can go wrong with any other request about a batch."""


def wrong_pairs(out):
    """Figures whose row or reply is not the answer to its own request."""
    said = [(row["figure_id"], row["request"], row["raw_response"]) for row in synthesis.rows(out)]
    said += [
        (one["figure_id"], one["request"], one["raw_response"]) for one in synthesis.replies(out) if one["raw_response"]
    ]
    return [figure for figure, request, response in said if token_of(request) not in response]


def until_done(figures, out, server, *options, **settings):
    """The command, given again while answers are missing, three times at most; the exit status of each."""
    statuses = []
    while len(statuses) < 3 and 0 not in statuses:
        done = inside.synthesize(figures, out, server, *GIVEN, *options, **{"timeout": 4} | settings)
        statuses.append(done.returncode)
    assert set(statuses) <= {0, 3}, done.stderr
    assert statuses[-1] == 0, done.stderr
    return statuses


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    return synthesis.write_figures(tmp_path_factory.mktemp("few") / "figures", FEW)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return synthesis.write_figures(tmp_path_factory.mktemp("many") / "figures", MANY)


def good(figures, out):
    """The figures that have a conversation where nothing goes wrong; whoever is asked says the same."""
    with serving() as server:
        until_done(figures, out, server, "--teacher", "claude", claude_mode="sync")
    return {row["figure_id"] for row in synthesis.rows(out)}


@pytest.fixture(scope="module")
def good_of_few(few, tmp_path_factory):
    return good(few, tmp_path_factory.mktemp("good") / "out")


@pytest.fixture(scope="module")
def good_of_many(many, tmp_path_factory):
    return good(many, tmp_path_factory.mktemp("good") / "out")


def delivered(out, good_figures):
    """The share of them that came through."""
    return len(good_figures & {row["figure_id"] for row in synthesis.rows(out)}) / len(good_figures)


# ---------------------------------------------------------------------- all faults together


def test_one_by_one_every_good_row_of_both_teachers_comes_through_all_faults(few, good_of_few, tmp_path):
    faults = dict.fromkeys(ALONE, (0.03, ASKED))
    with serving(faults=faults, seed=3) as server:
        until_done(few, tmp_path / "out", server, "--mix", "claude=50,llama=50", claude_mode="sync")
        assert {what for _, _, _, what in server.asked(ASKED)} >= set(ALONE)
        spent = inside.synthesize("x", tmp_path / "out", None, "--status", "--json")
        at_most = sum(synthesis.told(spent)[name] for name in ("spent_usd", "lost_usd_at_most"))
        assert synthesis.told(spent)["spent_usd"] < server.billed_usd <= at_most
    assert delivered(tmp_path / "out", good_of_few) >= 0.995
    assert wrong_pairs(tmp_path / "out") == []


def test_in_batches_every_good_row_comes_through_all_faults(few, good_of_few, tmp_path):
    quick = [name for name in AROUND if name not in ("429 1", "read timeout")]  # which take seconds, one by one
    faults = dict.fromkeys(RESULTS, (0.1, RESULT)) | dict.fromkeys(("429", *quick), (0.04, BATCHES))
    with serving(faults=faults | {"drop after accept": (0.3, CREATE)}, seed=1, batch_seconds=0.05) as server:
        until_done(few, tmp_path / "out", server, "--teacher", "claude", batch_rows=12)
        seen = Counter(what for _, _, _, what in server.requests)
        assert set(seen) >= {*RESULTS, "drop after accept"}
        assert len(server.billed_twice()) <= seen["unknown type"]  # nobody knows whether such a row was paid
    assert delivered(tmp_path / "out", good_of_few) >= 0.995
    assert wrong_pairs(tmp_path / "out") == []


# ---------------------------------------------------------------------- each fault by itself, a tenth of a thousand


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", ALONE)
def test_one_by_one_every_good_row_comes_through(many, good_of_many, tmp_path, fault):
    with serving(faults={fault: (0.1, ASKED)}) as server:
        until_done(many, tmp_path / "out", server, "--mix", "claude=50,llama=50", claude_mode="sync")
        assert len([one for one in server.requests if one[3] == fault]) > 0.07 * MANY
    share = delivered(tmp_path / "out", good_of_many)
    print(f"{fault}, one by one: {100 * share:.2f} % delivered")
    assert share >= 0.995
    assert wrong_pairs(tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("fault", [*RESULTS, *AROUND, "drop after accept"])
def test_in_batches_every_good_row_comes_through(many, good_of_many, tmp_path, fault):
    where = {"drop after accept": CREATE} | dict.fromkeys(RESULTS, RESULT)
    with serving(faults={fault: (0.1, where.get(fault, BATCHES))}, batch_seconds=0.1) as server:
        until_done(many, tmp_path / "out", server, "--teacher", "claude", batch_rows=20)
        assert len([one for one in server.requests if one[3] == fault]) >= 2
    share = delivered(tmp_path / "out", good_of_many)
    print(f"{fault}, in batches: {100 * share:.2f} % delivered")
    assert share >= 0.995
    assert wrong_pairs(tmp_path / "out") == []


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_where_the_host_says_what_is_left_nobody_asks_for_more(few, tmp_path):
    """Twenty-five a minute, one at a time: a tenth of the figures, and not one 429."""
    with serving(per_minute=25) as server:
        until_done(few, tmp_path / "out", server, "--teacher", "claude", claude_mode="sync", connections=1, limit=40)
        assert {what for _, _, _, what in server.asked(ASKED)} == {"ok"}
