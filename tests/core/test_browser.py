"""The pages of answers: what they show, that they stay small, and that nothing in data acts in them."""

import base64
import hashlib
import random
import re

import lxml.html
import pytest

from medvlm_cli.core import browser
from medvlm_cli.core.browser import write_answers_page, write_compare_page
from medvlm_cli.core.clean import clean
from tests.core.browser_cases import answered, document, entry
from tests.core.report_cases import png
from tests.core.test_report import ATTRIBUTES, ELEMENTS, PAYLOADS

OURS = "script output"
OUR_ATTRIBUTES = "value for spellcheck aria-live aria-describedby"


def page_of(folder, entries, facts=None):
    write_answers_page(folder / "report.html", entries, facts or {})
    return lxml.html.fromstring((folder / "report.html").read_bytes().decode())


def compared(folder, pairs, facts=None):
    write_compare_page(folder / "compare.html", pairs, facts or {})
    return lxml.html.fromstring((folder / "compare.html").read_bytes().decode())


def shown(element, xpath):
    """The text of each element, its white space as one sees it."""
    return [" ".join(found.text_content().split()) for found in element.xpath(xpath)]


def seen(texts):
    return sorted(" ".join(clean(text).split()) for text in texts)


def hostile_entry(text, **changes):
    named = dict.fromkeys(("question_id", "question", "kind", "category", "answer", "benchmark", "image_id"), text)
    lists = {"golds": (text, text), "choices": (text,)}
    return entry(**{"id_": text} | lists | {k: v for k, v in named.items() if k != "question_id"} | {"prompt": f"<{text}>", "finish": text} | changes)  # fmt: skip # noqa: E501


def hostile_facts(text):
    """A document whose every name and value is the payload, beside the scores of some answers."""
    facts = document(answered(4), benchmark=text, split=text, made=text, baselines={text: text}, versions={text: text})
    facts["sheets"][text] = facts["sheets"]["always no"]
    facts["sheets"]["model"]["categories"] = {text: facts["sheets"]["model"]["categories"]["c0"]}
    facts |= {"protocols": {"llama3med": text, "strict": text}, "interval": {"method": text, "draws": 1, "seed": text}}
    return facts | {
        "checkpoint": {"name": text},
        "prompt": {"preset": text},
        "overlap": {"lines": [text], "sources": [{"name": text, "kind": text}]},
        text: [text],
    }


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """Pages of one run and of two with the payloads in every text of entries, and one of them in every fact."""
    folder = tmp_path_factory.mktemp("hostile")
    entries = [hostile_entry(text) for text in PAYLOADS]
    others = [hostile_entry(text, answer=f"{text} again") for text in PAYLOADS]
    facts = hostile_facts(PAYLOADS[1])
    return page_of(folder, entries, facts), compared(folder, zip(entries, others, strict=True), facts)


def test_no_payload_becomes_an_element_or_an_attribute(hostile):
    elements = [element for page in hostile for element in page.iter()]
    assert {element.tag for element in elements} <= {*ELEMENTS.split(), *OURS.split()}
    assert {name for element in elements for name in element.attrib} <= {*ATTRIBUTES.split(), *OUR_ATTRIBUTES.split()}
    assert len([element for element in elements if element.tag == "script"]) == 2


@pytest.mark.parametrize("payload", PAYLOADS)
def test_no_payload_acts_from_the_facts(tmp_path, payload):
    page = page_of(tmp_path, [entry()], hostile_facts(payload))
    assert {element.tag for element in page.iter()} <= {*ELEMENTS.split(), *OURS.split()}
    assert {name for one in page.iter() for name in one.attrib} <= {*ATTRIBUTES.split(), *OUR_ATTRIBUTES.split()}
    assert shown(page, "//h1")[0].startswith(" ".join(clean(f"{payload} {payload}").split()))


def test_every_payload_is_shown_as_text(hostile):
    page, both = hostile
    assert sorted(shown(page, "//article/h3")) == seen(PAYLOADS)
    assert sorted(shown(page, "//article//span[contains(@class, 'answer')]")) == seen(PAYLOADS)
    assert sorted(shown(page, "//article//dd[contains(@class, 'said')]")) == seen(2 * PAYLOADS)
    again = [f"{text} again" for text in PAYLOADS]
    assert sorted(shown(both, "//article//span[contains(@class, 'answer')]")) == seen(PAYLOADS + again)


def test_the_only_script_is_the_one_that_the_policy_names_and_holds_no_data(hostile):
    for page in hostile:  # both pages carry the same
        (script,) = page.xpath("//script")
        (policy,) = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
        digest = base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()
        assert policy == (
            f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
            "base-uri 'none'; form-action 'none'"
        )
        assert script.attrib == {}
        assert re.search("evil|innerHTML|eval|alert|fetch|http", script.text) is None


def test_addresses_styles_and_class_names_are_not_of_data(hostile):
    names = {name for page in hostile for text in page.xpath("//@class") for name in text.split()}
    names |= {name for page in hostile for name in page.xpath("//@id")}
    assert [name for name in names if not re.fullmatch(r"[a-z-]+|f\d-(\d+|rest)", name)] == []
    assert [page.xpath("//@href | //@style") for page in hostile] == [[], []]
    addresses = [address for page in hostile for address in page.xpath("//@src")]
    assert len(addresses) == 2 * len(PAYLOADS)
    assert [one for one in addresses if not re.fullmatch(r"data:image/webp;base64,[\w+/=]+", one)] == []
    assert [page for page in hostile if re.search(r"evil|url\(|@import", page.xpath("//style")[0].text)] == []


def test_no_character_steers_the_reader(tmp_path):
    write_answers_page(tmp_path / "r.html", [hostile_entry(text) for text in PAYLOADS], hostile_facts(PAYLOADS[-2]))
    text = (tmp_path / "r.html").read_text()
    assert clean(text) == text


def test_a_question_is_shown_with_answer_and_both_verdicts(tmp_path):
    page = page_of(tmp_path, [entry(published={"accuracy": 1.0}, strict={"accuracy": 0.0, "unparsed": 1.0})])
    (text,) = shown(page, "//article")
    assert text == (
        "Is there a mass? closed, presence, q1 Choicesyes, no Goldyes AnswerYes. "
        "llama3med/1: right accuracy 100strict/1: wrong, unparsed accuracy 0"
    )


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        ({"recall": 1.0, "f1": 0.5}, "right"),
        ({"recall": 0.5, "f1": 0.0}, "partly"),
        ({"recall": 0.0, "exact_match": 1.0}, "wrong"),
        ({"accuracy": 1.0}, "right"),
        ({"accuracy": 0.0, "recall_closed": 1.0}, "wrong"),
        ({}, "not scored"),
    ],
)
def test_a_verdict_is_by_recall_or_accuracy(scores, told):
    assert browser.verdict(scores) == told


def test_filters_find_where_the_protocols_disagree(tmp_path):
    rows = [entry("a"), entry("b", strict={"accuracy": 0.0, "unparsed": 1.0}), entry("c", published={})]
    page = page_of(tmp_path, rows)
    assert shown(page, "//fieldset[legend='The protocols']//span") == ["all", "disagree (2)", "agree (1)"]
    assert shown(page, "//fieldset[legend='strict/1']//span") == ["all", "right (2)", "unparsed (1)", "wrong (1)"]
    assert shown(page, "//fieldset[legend='llama3med/1']//span") == ["all", "right (2)", "not scored (1)"]


def test_a_filter_counts_what_its_rows_carry(tmp_path):
    page = page_of(tmp_path, answered(40))
    options = dict(zip(page.xpath("//input[@value!='']/@value"), shown(page, "//input[@value!='']/../span"), strict=True))  # fmt: skip # noqa: E501
    carried = {key: len(page.xpath(f"//article[contains(concat(' ', @class, ' '), ' {key} ')]")) for key in options}
    assert len(options) >= 12
    assert {key: int(text.rstrip(")").split("(")[1]) for key, text in options.items()} == carried


def test_a_filter_of_one_value_is_not_offered(tmp_path):
    page = page_of(tmp_path, [entry("a"), entry("b", benchmark="vqa-rad")])
    assert shown(page, "//legend") == ["Set"]


def test_questions_of_one_image_stand_together_under_one_copy(tmp_path):
    rows = [entry(f"q{n}", image_id=f"i{n % 2}", image=lambda n=n: png((n % 2, 0, 0))) for n in range(6)]
    page = page_of(tmp_path, rows)
    assert len(page.xpath("//img")) == 2
    groups = page.xpath("//section[contains(@class, 'group')]")
    assert [shown(group, ".//p[@class='tags']") for group in groups] == [
        [f"closed, presence, q{n}" for n in (0, 2, 4)],
        [f"closed, presence, q{n}" for n in (1, 3, 5)],
    ]


def test_an_image_is_read_once(tmp_path):
    read = []
    rows = [entry(f"q{n}", image_id="i", image=lambda n=n: read.append(n) or png()) for n in range(5)]
    page_of(tmp_path, rows)
    assert read == [0]


def test_the_same_name_in_another_benchmark_is_another_image(tmp_path):
    rows = [entry("a", image_id="1", benchmark="slake"), entry("b", image_id="1", benchmark="vqa-rad")]
    assert len(set(page_of(tmp_path, rows).xpath("//img/@src"))) == 2


def test_without_images_the_page_has_the_words(tmp_path):
    page = page_of(tmp_path, [entry("a", image=None, image_id=""), entry("b", image=lambda: b"junk")])
    assert page.xpath("//img") == []
    assert shown(page, "//div[@class='stage']") == ["image cannot be decoded"]
    assert len(page.xpath("//article")) == 2


def test_an_answer_that_was_cut_or_is_empty_says_so(tmp_path):
    page = page_of(tmp_path, [entry("a", finish="length"), entry("b", answer="", finish="stop")])
    assert shown(page, "//span[@class='nothing']") == ["(cut at the limit of tokens)", "no words"]


def test_each_way_of_asking_is_shown_once_with_its_number(tmp_path):
    rows = [*answered(10), entry("x", prompt="SYSTEM: brief. USER: Is there a mass?")]
    page = page_of(tmp_path, rows)
    assert shown(page, "//p[@class='prompt']") == ["USER: {question} ASSISTANT:", "SYSTEM: brief. USER: {question}"]
    assert shown(page, "//p[@class='prompt']/preceding-sibling::p[1]")[0].endswith("of 10 questions:")


def test_of_many_ways_of_asking_the_commonest_are_shown(tmp_path):
    rows = [entry(f"q{n}", prompt=f"{n} Is there a mass?") for n in range(9)]
    page = page_of(tmp_path, rows)
    assert len(page.xpath("//p[@class='prompt']")) == 4
    assert "and 5 different prompts more" in page.text_content()


def test_the_header_has_both_protocols_and_baselines_with_interval_and_n(tmp_path):
    rows = answered(40)
    facts = document(rows, baselines={"always no": 'the word "no"'}, checkpoint={"name": "tiny", "run_sha256": "ab"})
    page = page_of(tmp_path, rows, facts)
    table = page.xpath("//table")[0]
    assert shown(table, ".//thead/tr/th")[:5] == [
        "", "open recallllama3med/1", "closed accuracyllama3med/1", "open recallstrict/1", "closed accuracystrict/1",
    ]  # fmt: skip
    assert shown(table, ".//tbody/tr/th") == ["model", "always no"]
    cell = facts["sheets"]["model"]["llama3med"]["accuracy"]
    assert cell["low"] < cell["high"]
    told = f"{100 * cell['value']:.2f}{100 * cell['low']:.1f} to {100 * cell['high']:.1f}, n {cell['rows']}"
    assert shown(table, ".//tbody/tr[1]/td[2]") == [told]
    assert 'always no: the word "no".' in shown(page, "//p[contains(@class, 'note')]")
    assert shown(page, "//dl[@class='facts']//dd") == ["tiny", "40", "20, 20", "14", "2026-11-20", "medvlm 0.0"]
    assert "run_sha256ab" in "".join(shown(page, "//dl[@class='hashes']/*"))


def test_the_scores_say_that_words_are_counted_and_what_an_interval_without_width_means(tmp_path):
    page = page_of(tmp_path, answered(40), document(answered(40), interval={"method": "m", "draws": 5, "seed": 0}))
    assert "words are counted" in page.text_content()
    assert "One without width" in page.text_content()


def test_categories_have_a_line_a_kind(tmp_path):
    rows = answered(40)
    page = page_of(tmp_path, rows, document(rows))
    lines = shown(page, "//h2[text()='By category']/following-sibling::section[1]//tbody/tr/th")
    assert lines == ["c0closed accuracy", "c1open recall", "c2closed accuracy", "c3open recall"]


def test_the_papers_rows_stand_under_ours_where_the_questions_are_the_papers(tmp_path):
    rows = answered(40)
    facts = document(rows)
    assert "Beside the paper" not in page_of(tmp_path, rows, facts).text_content()
    facts["sheets"]["model"]["counts"] |= {"open": 645, "closed": 416}
    table = page_of(tmp_path, rows, facts).xpath("//h2[text()='Beside the paper']/following-sibling::section[1]")[0]
    assert shown(table, ".//tbody/tr[@class='lead']/th") == shown(table, ".//tbody/tr[1]/th") == ["this model"]
    assert shown(table, ".//tr[th='Llama3-Med 8B']/td") == ["44.34", "61.06"]


def test_what_is_shared_with_other_data_is_told_and_counted(tmp_path):
    some = {"count": 202, "of": 203, "examples": []}
    images = {"exact": some, "near": some | {"count": 0}, "names": None}
    source = {"name": "vqa-rad train", "kind": "questions", "images": images, "questions": some, "pairs": None}
    facts = {"overlap": {"lines": ["202 images", "/data/ward/x was not compared"], "sources": [source]}}
    page = page_of(tmp_path, [entry()], facts)
    assert shown(page, "//main/p[contains(@class, 'note')]") == ["202 images", "…/x was not compared"]
    cells = shown(page, "//table//tbody/tr/*")
    assert cells == ["vqa-rad trainquestions", "202 of 20399.5 %", "0 of 2030.0 %", "–", "202 of 20399.5 %", "–", "–"]


def test_a_comparison_shows_differences_with_interval_and_both_p(tmp_path):
    cell = {"one": 0.5, "other": 0.61, "difference": -0.11, "low": -0.21, "high": -0.02, "p": 0.01234, "p_holm": 0.0494}
    closed = cell | {"test": "McNemar, exact", "rows": 30, "one_only": 2, "other_only": 7}
    page = compared(tmp_path, [(entry(), entry())], {"cells": {"strict closed accuracy": closed}})
    assert shown(page, "//table//tbody/tr/*") == [
        "strict closed accuracy", "50.00", "61.00", "-11.00-21.00 to -2.00, n 30", "0.0123McNemar, exact", "0.0494",
        "2", "7",
    ]  # fmt: skip


def test_of_a_path_only_the_end_is_shown(tmp_path):
    page = page_of(tmp_path, [entry()], {"checkpoint": {"name": "/data/ward/smith/run1"}, "settings": {"x": "/a/b"}})
    assert "ward" not in page.text_content()
    assert shown(page, "//dl[@class='facts']//dd") == ["…/run1"]


def test_a_page_without_answers_says_so(tmp_path):
    page = page_of(tmp_path, [])
    assert page.xpath("//article | //form") == []
    assert "Nothing to show: no answer." in shown(page, "//p")


def test_the_same_answers_give_the_same_bytes(tmp_path):
    rows = answered(30)
    facts = document(rows)
    write_answers_page(tmp_path / "a.html", rows, facts)
    write_answers_page(tmp_path / "b.html", iter(rows), facts)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_long_answers_are_cut_so_that_the_page_stays_small(tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "MOST_BYTES", 80_000)
    page = page_of(tmp_path, [entry(f"q{n}", answer="<" * 3000) for n in range(20)])
    assert (tmp_path / "report.html").stat().st_size <= 80_000
    assert shown(page, "//article//span[contains(@class, 'answer')]")[0] == "<" * 300 + "… [3,000 characters]"
    assert len(page.xpath("//article")) == 20


def test_a_page_that_cannot_fit_is_not_even_made(tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "MOST_BYTES", 80_000)
    made = []
    monkeypatch.setattr(browser, "rendered", lambda *names, **values: made.append(values) or "page")
    write_answers_page(tmp_path / "report.html", [entry(f"q{n}", answer="a" * 5000) for n in range(100)], {})
    assert [len(values["groups"][0]["rows"][0]["answers"][0]["text"]) for values in made] == [300 + 20]


def test_of_too_many_answers_a_fair_choice_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "ROOM", ((100, 9),))
    rows = [entry(f"q{n}", image=None, benchmark=("slake", "vqa-rad", "pathvqa")[n % 3]) for n in range(60)]
    page = page_of(tmp_path, rows)
    assert shown(page, "//fieldset[legend='Set']//span") == ["all", "pathvqa (3)", "slake (3)", "vqa-rad (3)"]
    assert "9 of 60 fit on the page" in page.text_content()


def test_images_that_do_not_fit_are_left_out_and_the_page_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(browser, "IMAGE_BYTES", 400)
    page = page_of(tmp_path, [entry(f"q{n}") for n in range(6)])
    assert 0 < len(page.xpath("//img")) < 6
    assert "image left out, the page is full" in shown(page, "//div[@class='stage']")


def test_two_runs_stand_side_by_side_where_they_differ(tmp_path):
    one = [entry(f"q{n}") for n in range(5)]
    wrong = {"accuracy": 0.0, "unparsed": 0.0}
    other = [entry(f"q{n}", answer="No", strict=wrong, published=wrong) if n < 2 else entry(f"q{n}") for n in range(5)]
    page = compared(tmp_path, zip(one, other, strict=True))
    assert "2 of 5 questions got different answers; the other 3 are not shown." in shown(page, "//p")
    assert shown(page, "//article[1]//span[contains(@class, 'answer')]") == ["Yes.", "No"] * 2
    assert shown(page, "//article[1]//dt") == ["Choices", "Gold", "Answer A", "Answer B"] * 2


@pytest.mark.parametrize(
    ("one", "other", "told"),
    [(1.0, 0.0, "A better"), (0.2, 0.3, "B better"), (0.5, 0.5, "equal"), (0.5, None, "not scored")],
)
def test_a_comparison_says_whose_answer_is_better(tmp_path, one, other, told):
    scores = [{} if value is None else {"recall": value} for value in (one, other)]
    first, second = (entry("a", answer=str(value), strict=value) for value in scores)
    plain = (entry("b", answer="x", strict={}), entry("b", answer="y", strict={}))
    page = compared(tmp_path, [(first, second), plain, (entry("c"), entry("c", answer="yes"))])
    assert any(text.startswith(told) for text in shown(page, "//fieldset[legend='strict/1']//span"))


def test_two_equal_runs_have_a_page(tmp_path):
    page = compared(tmp_path, [(entry(), entry())])
    assert "Nothing to show: every answer is the same." in shown(page, "//p")


def test_every_image_and_field_has_words(tmp_path):
    page = page_of(tmp_path, answered(6), document(answered(6)))
    assert page.xpath("//img[not(@alt)] | //th[not(@scope)] | //input[not(parent::label) and not(@id)]") == []
    assert page.xpath("//label[@for='search']") != []
    assert page.xpath("/html/@lang") == ["en"]


def test_random_text_comes_back_whole(tmp_path):
    letters = "".join(map(chr, range(0x20, 0x2100)))
    rng = random.Random(4)
    texts = ["".join(rng.choices(letters, k=60)).strip() for _ in range(40)]
    page = page_of(tmp_path, [entry(f"q{n}", answer=text) for n, text in enumerate(texts)])
    assert sorted(shown(page, "//article//span[contains(@class, 'answer')]")) == seen(texts)


def test_a_second_opinion_has_a_line_of_its_own_and_its_verdicts_are_no_facts(tmp_path):
    judge = {"line": "claude:x agrees with 50.0 % of 2 open answers", "verdicts": {"q0": True, "q2": False}}
    page = page_of(tmp_path, answered(4), document(answered(4), judge=judge))
    assert "claude:x agrees with 50.0 % of 2 open answers" in page.text_content()
    assert not any("verdicts" in text for text in shown(page, "//dt"))
