"""One teacher asked many times at once: paced, tried again, counted, stopped; the teacher is a script of events."""

import asyncio
from dataclasses import replace

import pytest

from medvlm_cli.core.errors import RemoteError
from medvlm_cli.core.pace import Patience
from medvlm_cli.teachers.budget import Budget, CapError, Halt
from medvlm_cli.teachers.desk import Desk, Teacher
from medvlm_cli.teachers.ledger import Ask, Ledger
from medvlm_cli.teachers.replies import AgainError, Reply, RowError, Usage

QUICK = Patience(tries=4, first_pause=0.001, longest_pause=0.01, failures=20, silence=0.05)
WORST, COST = 100, 30


class Scripted:
    """Answers each request by a script: exceptions and replies in turn, then replies."""

    def __init__(self, **scripts):
        self.scripts = {key: list(events) for key, events in scripts.items()}
        self.calls = []
        self.under_way = self.most = 0

    async def ask(self, ask):
        self.calls.append(ask.figure_id)
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        await asyncio.sleep(0.001)
        self.under_way -= 1
        events = self.scripts.get(ask.figure_id, self.scripts.get("every", []))
        event = events.pop(0) if events else None
        if isinstance(event, Exception):
            raise event
        return Reply(text=f"about {ask.figure_id}", stop_reason="end_turn", usage=Usage(output_tokens=1))


class Endless(Scripted):
    """Raises the same thing for ever."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    async def ask(self, ask):
        self.calls.append(ask.figure_id)
        await asyncio.sleep(0.001)
        raise self.error


@pytest.fixture
def ledger(tmp_path):
    with Ledger(tmp_path) as opened:
        opened.begin("run", [Ask(f"{number:03d}", f"f{number}", "teach", "claude", "m") for number in range(100)])
        yield opened


def run(ledger, scripted, count=10, cap=10**9, patience=QUICK, connections=4, worst=WORST):
    """The ledger's first requests, asked; what was told, the budget, and what stopped it."""
    told, halt = [], Halt()
    budget = Budget(cap, ledger.money())

    async def go():
        teacher = Teacher(
            name="claude", ask=scripted.ask, worst=lambda ask: worst, cost=lambda usage: COST if worst else 0
        )
        desk = Desk(teacher, ledger, budget, halt, patience, connections)
        await desk.run(ledger.open_asks("claude")[:count], count, lambda *one: told.append(one))

    try:
        asyncio.run(asyncio.wait_for(go(), 30))
    except CapError as error:
        return told, budget, error
    return told, budget, halt.error


def texts(ledger):
    return {one.ask.figure_id: one.reply.text for one in ledger.answered()}


def test_every_request_gets_its_own_answer(ledger):
    told, budget, error = run(ledger, Scripted())
    assert texts(ledger) == {f"f{number}": f"about f{number}" for number in range(10)}
    assert (error, told[-1], ledger.money()) == (None, ("claude", 10, 10), (10 * COST, 0, 0))
    assert (budget.spent, budget.reserved) == (10 * COST, 0)


def test_never_more_requests_than_connections_are_under_way(ledger):
    scripted = Scripted()
    run(ledger, scripted, count=40, connections=7)
    assert scripted.most == 7


def test_a_fault_is_tried_again_and_costs_nothing(ledger):
    run(ledger, Scripted(f3=[AgainError("status 500"), AgainError("status 529", busy=True)]))
    assert len(texts(ledger)) == 10
    assert [one.attempts for one in ledger.answered() if one.ask.figure_id == "f3"] == [3]
    assert ledger.money() == (10 * COST, 0, 0)


def test_a_try_that_may_have_been_billed_counts_as_lost_at_its_worst(ledger):
    run(ledger, Scripted(f3=[AgainError("no answer in time", billed=True)]))
    assert ledger.money() == (10 * COST, WORST, 0)


def test_a_request_that_fails_every_time_waits_for_the_next_run_and_the_others_are_answered(ledger):
    scripted = Scripted(f3=[AgainError("status 500")] * QUICK.tries)
    _, budget, error = run(ledger, scripted)
    assert (len(texts(ledger)), error, budget.reserved) == (9, None, 0)
    assert ledger.counts()["teach", "claude", "waiting"] == 1


def test_what_the_provider_will_never_answer_fails_for_good(ledger):
    run(ledger, Scripted(f3=[RowError("invalid_request", "too hot")]))
    assert ledger.failures_about("f3") == [("invalid_request", "too hot")]
    assert len(texts(ledger)) == 9


def test_a_refusal_of_the_key_stops_everything_within_the_requests_under_way(ledger):
    scripted = Endless(RemoteError("the key is not accepted"))
    _, budget, error = run(ledger, scripted, count=100, connections=4)
    assert str(error) == "the key is not accepted"
    assert len(scripted.calls) <= 4
    assert (ledger.money(), budget.reserved) == ((0, 0, 0), 0)
    assert len(ledger.open_asks("claude")) == 100


def test_twenty_failures_in_a_row_and_a_silence_open_the_circuit(ledger):
    scripted = Endless(AgainError("status 529", busy=True))
    _, budget, error = run(ledger, scripted, count=100, connections=8)
    assert isinstance(error, RemoteError)
    assert "failures in a row, the last: status 529" in str(error)
    assert 20 <= len(scripted.calls) < 150
    assert budget.reserved == 0
    counts = ledger.counts()
    assert counts["teach", "claude", "open"] + counts.get(("teach", "claude", "waiting"), 0) == 100


@pytest.mark.parametrize("cap", [0, 99, 100, 199, 350, 1000])
def test_the_cap_is_never_passed_and_all_that_fits_is_asked(ledger, cap):
    _, _, error = run(ledger, Scripted(), cap=cap)
    asked = len(texts(ledger))
    assert ledger.money().at_most <= cap
    assert isinstance(error, CapError) == (asked < 10)
    assert asked == 10 or ledger.money().spent + WORST > cap
    assert len(ledger.open_asks("claude")) == 100 - asked


def test_the_cap_holds_where_every_answer_costs_the_most_and_some_are_lost(ledger):
    lost = {f"f{number}": [AgainError("no answer in time", billed=True)] for number in range(0, 20, 3)}
    run(ledger, Scripted(**lost), count=50, cap=1200)
    assert ledger.money().at_most <= 1200


def test_a_host_that_asks_to_wait_holds_everybody_and_a_line_says_so(ledger, monkeypatch):
    monkeypatch.setattr("medvlm_cli.teachers.desk.WAIT", 0.2)
    told, _, error = run(ledger, Scripted(f0=[AgainError("status 429", after=99999, busy=True)]))
    assert error is None
    assert len(texts(ledger)) == 10
    assert [phase for phase, _, _ in told if "waits 0 s (status 429; it asks for 99,999 s)" in phase]


def test_a_free_teacher_writes_no_reservation_and_needs_no_cap(ledger):
    run(ledger, Scripted(), cap=0, worst=0)
    assert len(texts(ledger)) == 10
    assert ledger.money() == (0, 0, 0)


def test_after_trouble_fewer_requests_are_under_way(ledger):
    busy = Scripted(**{f"f{number}": [AgainError("status 429", busy=True)] for number in range(16)})
    seen = []
    ask = busy.ask

    async def noting(one):
        seen.append(busy.under_way)
        return await ask(one)

    busy.ask = noting
    run(ledger, busy, count=40, connections=16, patience=replace(QUICK, first_pause=0.005))
    assert max(seen[:16]) == 15
    assert max(seen[20:30]) < 12
    assert len(texts(ledger)) == 40
