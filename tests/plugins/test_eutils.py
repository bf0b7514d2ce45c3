"""Searches of PubMed Central against E-utilities on loopback, which change, lie and refuse."""

import asyncio
import json
import logging
import time

import pytest

from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.http import Http
from medvlm_cli.core.pace import Patience, Rate
from medvlm_cli.sources import eutils
from tests.bucket import Bucket, serving

QUICK = Patience(tries=3, first_pause=0.01, longest_pause=0.02)


@pytest.fixture
def unhurried(monkeypatch):
    """Searches as often as one likes: what a second may hold is not what the test is about."""
    monkeypatch.setattr(eutils, "_rate", lambda per_second: Rate(10_000))


@pytest.fixture(autouse=True)
def nameless(monkeypatch):
    """Nobody's key and address."""
    monkeypatch.delenv("NCBI_API_KEY", raising=False)
    monkeypatch.delenv("NCBI_EMAIL", raising=False)


def ask(server, most=0, term="ct", tell=lambda done, total: None):
    """The ids that one search gives."""

    async def run():
        async with Http(3, QUICK) as http:
            return await eutils.Search(server.url, http).ids(term, most, tell)

    return asyncio.run(run())


def count(server, times=1, patience=QUICK):
    """The counts of some searches at once."""

    async def run():
        async with Http(3, patience) as http:
            return await asyncio.gather(*(eutils.Search(server.url, http).count("ct") for _ in range(times)))

    return asyncio.run(run())


class Changing(Bucket):
    """After every answer a new article comes in front of all others, and the last one goes."""

    def _search(self, query):
        answer = super()._search(query)
        self.ids = [max(self.ids) + 1, *self.ids[:-1]]
        return answer


class Saying(Bucket):
    """Answers searches with these bodies in turn, and after them as usual."""

    def __init__(self, *bodies, **options):
        super().__init__({}, ids=(7,), **options)
        self.bodies = list(bodies)

    def _search(self, query):
        answer = super()._search(query)
        if not self.bodies:
            return answer
        body = self.bodies.pop(0)
        return body if isinstance(body, tuple) else (200, body, {})


def told(**entries):
    """A result in JSON."""
    return json.dumps({"esearchresult": {"count": "1", "idlist": ["7"]} | entries}).encode()


def test_pages_come_from_what_the_first_answer_froze(unhurried, monkeypatch):
    monkeypatch.setattr(eutils, "PAGE", 4)
    with serving(None, bucket=Changing({}, ids=range(1, 11))) as server:
        assert ask(server) == [f"PMC{number}" for number in range(1, 11)]
    assert [query["retstart"] for _, query in server.searches] == ["0", "4", "8"]
    assert len({query.get("WebEnv") for _, query in server.searches[1:]}) == 1


def test_more_than_ten_thousand_ids_come_in_pages_of_ten_thousand(unhurried):
    with serving({}, ids=range(1, 25_001)) as server:
        found = ask(server)
    assert found == [f"PMC{number}" for number in range(1, 25_001)]
    assert [(query["retstart"], query["retmax"]) for _, query in server.searches] == [
        ("0", "10000"),
        ("10000", "10000"),
        ("20000", "5000"),
    ]


def test_no_more_are_asked_for_than_are_wanted(unhurried, monkeypatch):
    monkeypatch.setattr(eutils, "PAGE", 4)
    progress = []
    with serving({}, ids=range(1, 100)) as server:
        found = ask(server, 6, tell=lambda done, total: progress.append((done, total)))
    assert found == [f"PMC{number}" for number in range(1, 7)]
    assert [query["retmax"] for _, query in server.searches] == ["4", "2"]
    assert progress == [(4, 6)]


class Stingy(Bucket):
    """Gives at most three ids, whatever is asked for."""

    def _search(self, query):
        return super()._search(query | {"retmax": str(min(3, int(query["retmax"])))})


def test_a_server_that_gives_fewer_than_asked_for_is_asked_on(unhurried):
    with serving(None, bucket=Stingy({}, ids=range(1, 9))) as server:
        assert ask(server) == [f"PMC{number}" for number in range(1, 9)]
    assert [query["retstart"] for _, query in server.searches] == ["0", "3", "6"]


def test_an_id_that_comes_twice_counts_once_and_hides_no_other(unhurried, monkeypatch):
    monkeypatch.setattr(eutils, "PAGE", 4)
    with (
        serving({}, ids=(1, 2, 3, 3, 4, 5)) as server,
        pytest.raises(RemoteError, match="counts 6 articles and gives 5"),
    ):
        ask(server)
    with serving({}, ids=(1, 2, 3, 3, 4, 5)) as server:
        assert ask(server, 5) == ["PMC1", "PMC2", "PMC3", "PMC4", "PMC5"]


def test_a_count_that_is_not_kept_is_refused_with_both_numbers(unhurried):
    with serving(None, bucket=Saying(told(count="1,000".replace(",", "")))) as server:
        server.ids = []
        with pytest.raises(RemoteError, match="NCBI counts 1,000 articles and gives 1"):
            ask(server)


def test_a_search_that_finds_nothing_gives_nothing(unhurried):
    with serving({}) as server:
        assert ask(server) == []
        assert count(server) == [0]


@pytest.mark.parametrize(
    ("license_", "asked", "not_asked"),
    [
        ("commercial", {"cc0", "cc_by", "cc_by-sa", "cc_by-nd"}, {"cc_by-nc", "cc_by-nc-sa", "cc_by-nc-nd"}),
        ("noncommercial", set(), {"cc_by-nc"}),
        ("all", set(), {"cc_by"}),
    ],
)
def test_the_licence_asked_for_becomes_a_filter(license_, asked, not_asked):
    (term,) = eutils.terms("liver OR lung", license_).values()
    assert term.startswith("(liver OR lung) AND ")
    assert term.endswith(" NOT pmc_embargo[Filter]")
    assert "open_access[Filter]" in term
    assert ("author_manuscript[Filter]" in term) is (license_ == "all")
    assert {name for name in asked | not_asked if f"{name}_license[Filter]" in term} == asked


def test_without_a_query_there_is_a_search_for_each_modality_of_the_paper():
    terms = eutils.terms("", "commercial")
    assert list(terms) == ["chest_xray", "ct", "mri", "histology", "gross"]
    assert all("cc_by_license[Filter]" in term for term in terms.values())
    assert '"computed tomography"[Title] OR "computed tomography"[Abstract]' in terms["ct"]
    assert all(term.count("(") == term.count(")") for term in terms.values())


def test_key_and_address_go_out_and_are_in_no_error_and_no_log(unhurried, monkeypatch, caplog):
    monkeypatch.setenv("NCBI_API_KEY", "CANARY-key")
    monkeypatch.setenv("NCBI_EMAIL", "CANARY@example.org")
    refusal = (429, b'{"error": "API rate limit exceeded", "api-key": "CANARY-key"}', {})
    with serving(None, bucket=Saying(*[refusal] * 3)) as server, caplog.at_level(logging.DEBUG):
        with pytest.raises(RemoteError) as caught:
            count(server)
        assert count(server) == [1]
    assert "status 429" in str(caught.value)
    assert "CANARY" not in str(caught.value) + repr(caught.value.__cause__) + caplog.text
    (_, query), *_ = server.searches
    assert (query["api_key"], query["email"], query["tool"], query["db"]) == (
        "CANARY-key",
        "CANARY@example.org",
        "medvlm",
        "pmc",
    )


def test_without_key_and_address_none_are_sent(unhurried):
    with serving({}, ids=(7,)) as server:
        count(server)
    ((_, query),) = server.searches
    assert not {"api_key", "email"} & set(query)


def test_a_key_that_ncbi_does_not_know_is_told(unhurried, monkeypatch):
    monkeypatch.setenv("NCBI_API_KEY", "CANARY")
    refusal = (400, b'{"error":"API key invalid","api-key":"CANARY"}', {})
    with serving(None, bucket=Saying(refusal)) as server, pytest.raises(RemoteError, match="status 400") as caught:
        count(server)
    assert "NCBI_API_KEY" in caught.value.fix and "CANARY" not in str(caught.value)


@pytest.mark.parametrize(("key", "most"), [("", 3), ("k", 10)])
def test_in_no_second_there_are_more_requests_than_ncbi_allows(monkeypatch, key, most):
    monkeypatch.setenv("NCBI_API_KEY", key)
    eutils._rate.cache_clear()
    with serving({}, ids=(7,)) as server:
        count(server, most)
        count(server, most)  # another client, of the same process
    times = [moment for moment, _ in server.searches]
    assert len(times) == 2 * most
    assert max(sum(start <= other < start + 1 for other in times) for start in times) <= most
    assert times[-1] - times[0] < 3


def test_a_pause_that_ncbi_asks_for_holds_every_search_back(unhurried, monkeypatch):
    shared = Rate(10_000)
    monkeypatch.setattr(eutils, "_rate", lambda per_second: shared)
    refusal = (429, b'{"error":"API rate limit exceeded"}', {"Retry-After": "1"})
    with serving(None, bucket=Saying(refusal)) as server:
        assert count(server) == [1]
        count(server)
    first, second, _ = (moment for moment, _ in server.searches)
    assert 0.95 <= second - first < 3


def test_a_page_for_people_with_status_200_is_tried_again(unhurried):
    page = b"<html><body>Sorry, the service is unavailable.</body></html>"
    with serving(None, bucket=Saying(page, b"", b"<!DOCTYPE html><p>down", b"{")) as server:
        assert count(server, patience=Patience(tries=5, first_pause=0.01)) == [1]
    assert len(server.searches) == 5


@pytest.mark.parametrize(
    "body",
    [
        b"null", b"[]", b"7", b"{}", b'{"esearchresult": []}', b'{"esearchresult": {}}', b"\xff\xfe{}", b"[" * 100_000,
        told(count="many"), told(count=None), told(count="-1"), told(count="\u0663"), told(idlist="123"),
        told(idlist={"7": 1}), told(idlist=None), b"<a/>", b"<eSearchResult/>",
        b"<eSearchResult><Count/></eSearchResult>",
        b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY x 'y'>]><eSearchResult><Count>&x;</Count></eSearchResult>",
    ],
)  # fmt: skip
def test_what_is_no_result_of_a_search_is_refused(unhurried, body):
    with serving(None, bucket=Saying(*[body] * 3)) as server, pytest.raises(RemoteError, match=r"3 tries") as caught:
        ask(server)
    assert type(caught.value) is not ConfigError
    assert len(server.searches) == 3


@pytest.mark.parametrize("id_", ["x", "", "7.1", "-7", "\u0667", "7" * 5000, None, {"a": 1}, "PMC7/../8"])
def test_what_is_no_id_becomes_none(unhurried, id_):
    with serving(None, bucket=Saying(told(idlist=["7", id_], count="2"))) as server:
        assert ask(server, 1) == ["PMC7"]
        server.bodies = [told(idlist=[id_, "PMC0008"], count="2")]
        assert ask(server, 1) == ["PMC8"]


def test_an_answer_in_xml_is_read(unhurried):
    xml = (
        b"<?xml version='1.0'?><!DOCTYPE eSearchResult PUBLIC '-//NLM//DTD' 'https://eutils.ncbi.nlm.nih.gov/x.dtd'>"
        b"<eSearchResult><!-- a --><Count>2</Count><IdList><Id>7</Id><Id>8</Id></IdList><?b?></eSearchResult>"
    )
    with serving(None, bucket=Saying(xml)) as server:
        assert ask(server) == ["PMC7", "PMC8"]


@pytest.mark.parametrize(
    "body",
    [
        told(errorlist={"phrasesnotfound": ["asdf\x1b[2J"], "fieldsnotfound": ["Foo"]}),
        b"<eSearchResult><Count>1</Count><IdList><Id>7</Id></IdList><ErrorList><PhraseNotFound>asdf</PhraseNotFound>"
        b"<FieldNotFound>Foo</FieldNotFound></ErrorList></eSearchResult>",
    ],
)
def test_words_that_ncbi_does_not_know_are_told(unhurried, body, caplog):
    with serving(None, bucket=Saying(body)) as server:
        assert ask(server) == ["PMC7"]
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split("[")[0].strip() for message in messages] == [
        "NCBI does not know the field Foo",
        "NCBI does not know the phrase asdf",
    ]
    assert "\x1b" not in caplog.text


@pytest.mark.parametrize(
    "body",
    [
        told(ERROR="Invalid db name specified: pmcc"),
        json.dumps({"esearchresult": {"ERROR": "Unbalanced parentheses\x1b[2J"}}).encode(),
        b"<eSearchResult><ERROR>Empty term and query_key - nothing todo</ERROR></eSearchResult>",
    ],
)
def test_a_search_that_ncbi_does_not_understand_is_the_users_to_change(unhurried, body):
    with serving(None, bucket=Saying(body)) as server, pytest.raises(ConfigError, match="NCBI refuses") as caught:
        ask(server)
    assert caught.value.fix == "change --query"
    assert "\x1b" not in str(caught.value)
    assert len(server.searches) == 1


def test_a_search_engine_that_is_out_of_order_is_tried_again(unhurried):
    body = json.dumps({"esearchresult": {"ERROR": "Search Backend failed: Couldn't resolve #exception"}}).encode()
    with serving(None, bucket=Saying(body, body)) as server:
        assert ask(server) == ["PMC7"]
    with serving(None, bucket=Saying(*[body] * 3)) as server, pytest.raises(RemoteError, match="Search Backend failed"):
        ask(server)


def test_nobody_listening_is_told_at_once():
    with serving({}) as server:
        pass
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"esearch.fcgi: cannot connect \(Connection refused\) \(1 tries\)"):
        count(server, patience=Patience(tries=1))
    assert time.monotonic() - began < 2
