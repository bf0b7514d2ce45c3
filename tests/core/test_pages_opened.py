"""The pages as a reader opens them, in a browser: nothing complains, nothing is fetched, no data runs, filters work."""

import pytest

from medvlm_cli.core.arrow import Reject
from medvlm_cli.core.browser import write_answers_page, write_compare_page
from medvlm_cli.core.report import write_report
from medvlm_cli.teachers.page import write_page
from medvlm_cli.teachers.statistics import tabulate
from tests.core.browser_cases import answered, document
from tests.core.report_cases import article, dataset
from tests.core.test_browser import hostile_entry, hostile_facts
from tests.core.test_report import PAYLOADS, TEXT
from tests.devtools import Browser, needs_chromium
from tests.plugins.test_conversations_page import dataset as conversations
from tests.plugins.test_conversations_page import hostile_figure, hostile_row

pytestmark = needs_chromium

ACTING = """(() => { const seen = [...document.querySelectorAll('*')];
  return [seen.filter((one) => /^(iframe|object|embed|svg|math|link|base|b)$/i.test(one.tagName)).length,
    seen.filter((one) => [...one.attributes].some((of) => /^on|xlink|srcdoc/i.test(of.name))).length,
    document.scripts.length]; })()"""
"""Elements that only a payload makes, elements with handlers, and scripts."""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def report(chromium, tmp_path_factory):
    """The page of sixty answers."""
    path = tmp_path_factory.mktemp("answers") / "report.html"
    rows = answered(60)
    write_answers_page(path, rows, document(rows))
    return chromium.open(path)


@pytest.fixture
def page(report):
    """The same page with every filter off."""
    report.value("document.querySelector('button[type=reset]').click()")
    report.settle()
    return report


def shown(page):
    """How many answers the page says it shows, and how many it shows."""
    seen = "[...document.querySelectorAll('article')].filter((row) => row.checkVisibility()).length"
    return page.value(f"[Number(document.getElementById('shown').textContent.replace(',', '')), {seen}]")


def press(page, title, option):
    """Choose the option of a filter whose text begins so."""
    label = f"//fieldset[legend='{title}']//label[starts-with(., '{option}')]/input"
    page.value(f'document.evaluate("{label}", document, null, XPathResult.ANY_TYPE).iterateNext().click()')
    page.settle()


def search(page, text):
    page.value("document.getElementById('search').select()")
    page.call("Input.insertText", text=text)
    page.value("new Promise((done) => setTimeout(done, 200))")
    page.settle()


def test_the_page_opens_from_a_file_without_a_complaint_or_a_request(page):
    assert page.address.startswith("file:///")
    assert (page.complaints, page.requests) == ([], [])
    assert page.value("document.images.length") == 20
    assert page.value("[...document.images].every((image) => image.complete && image.naturalWidth > 0)")


def test_all_answers_are_shown_at_first(page):
    assert shown(page) == [60, 60]


@pytest.mark.parametrize(
    ("title", "option", "count"),
    [
        ("Kind", "open", 30),
        ("Category", "c3", 15),
        ("llama3med/1", "right", 30),
        ("strict/1", "unparsed", 15),
        ("strict/1", "wrong", 45),
        ("The protocols", "disagree", 15),
        ("The answer ended", "cut", 12),
    ],
)
def test_a_filter_shows_what_it_says(page, title, option, count):
    press(page, title, option)
    assert shown(page) == [count, count]


def test_filters_and_search_narrow_each_other(page):
    press(page, "Kind", "closed")
    search(page, "REGION 1")
    assert shown(page) == [5, 5]  # 10, 12, 14, 16, 18
    press(page, "Kind", "all")
    assert shown(page) == [15, 15]  # with 1, 11, 13 and so on, and 21, 31, 41, 51


@pytest.mark.parametrize(
    ("text", "count"), [("liver", 15), ("  Liver   MASS ", 15), ("liver normal", 0), ("ｌｉｖｅｒ", 15)]
)
def test_a_search_finds_all_its_words_in_any_case(page, text, count):
    search(page, text)
    assert shown(page) == [count, count]


def test_an_image_without_an_answer_to_show_goes_too(page):
    search(page, "region 59")
    assert (
        page.value("[...document.querySelectorAll('section.group')].filter((one) => one.checkVisibility()).length") == 1
    )


def test_the_reset_shows_all_again(page):
    press(page, "Kind", "open")
    search(page, "nothing holds these words")
    assert shown(page) == [0, 0]
    page.value("document.querySelector('button[type=reset]').click()")
    page.settle()
    assert shown(page) == [60, 60]


def test_the_keyboard_alone_filters(page):
    page.value("document.activeElement.blur()")
    page.call("Input.dispatchKeyEvent", type="keyDown", key="/", text="/")
    assert page.value("document.activeElement.id") == "search"
    page.call("Input.insertText", text="liver")
    page.call("Input.dispatchKeyEvent", type="rawKeyDown", key="Tab", windowsVirtualKeyCode=9)
    page.call("Input.dispatchKeyEvent", type="rawKeyDown", key="ArrowRight", windowsVirtualKeyCode=39)
    page.value("new Promise((done) => setTimeout(done, 200))")
    page.settle()
    assert page.value("document.querySelector('fieldset input:checked').parentElement.textContent") == "closed (30)"
    assert shown(page) == [0, 0]  # an answer with "liver" is to an open question


PAGES = ("answers", "comparison", "figures", "conversations")


@pytest.fixture(scope="module")
def hostile(chromium, tmp_path_factory):
    """Every kind of page with the payloads wherever text may stand, and what the browser made of it."""
    folder = tmp_path_factory.mktemp("hostile")
    entries = [hostile_entry(text) for text in PAYLOADS]
    others = [hostile_entry(text, answer=f"{text} again") for text in PAYLOADS]
    write_answers_page(folder / "answers.html", entries, hostile_facts(PAYLOADS[1]))
    write_compare_page(folder / "compare.html", zip(entries, others, strict=True), hostile_facts(PAYLOADS[3]))
    rejects = [Reject(text, text, text, text) for text in PAYLOADS]
    rows = [article(text, **dict.fromkeys(TEXT, text), mentions=[{"text": text, "panel": text}]) for text in PAYLOADS]
    figures = write_report(dataset(folder / "figures", rows, rejects), dict(zip(PAYLOADS, PAYLOADS, strict=True)))
    talks = conversations(folder / "talks", [hostile_row(text) for text in PAYLOADS], rejects)
    told = write_page(talks, hostile_figure, tabulate([], {PAYLOADS[0]: 100.0}), {text: text for text in PAYLOADS})
    paths = (folder / "answers.html", folder / "compare.html", figures, told)
    return dict(zip(PAGES, map(chromium.open, paths), strict=True))


@pytest.mark.parametrize("kind", PAGES)
def test_no_page_complains_or_asks_for_anything(hostile, kind):
    assert (hostile[kind].complaints, hostile[kind].requests) == ([], [])


@pytest.mark.parametrize(("kind", "scripts"), zip(PAGES, (1, 1, 0, 0), strict=True))
def test_no_payload_runs_or_becomes_part_of_a_page(hostile, kind, scripts):
    page = hostile[kind]
    assert page.value(ACTING) == [0, 0, scripts]
    assert page.value("location.href") == page.address


@pytest.mark.parametrize("kind", PAGES)
def test_every_image_of_a_page_is_drawn(hostile, kind):
    drawn = "(image.loading = 'eager', image.decode().then(() => true, () => false))"
    images = hostile[kind].value(f"Promise.all([...document.images].map((image) => {drawn}))")
    assert images and all(images)


@pytest.mark.parametrize("kind", PAGES)
def test_no_page_is_wider_than_the_window(hostile, kind):
    assert hostile[kind].value("document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("kind", ["answers", "comparison"])
@pytest.mark.parametrize("text", PAYLOADS[:4])
def test_a_payload_is_found_as_the_text_it_is(hostile, kind, text):
    page = hostile[kind]
    search(page, f"{text} ")
    assert 1 <= shown(page)[1] < len(PAYLOADS)
    search(page, "")


def test_a_policy_without_the_right_hash_stops_the_script(chromium, tmp_path):
    write_answers_page(tmp_path / "a.html", answered(3), {})
    text = (tmp_path / "a.html").read_text()
    (tmp_path / "b.html").write_text(text.replace('"use strict";', '"use strict"; document.title = "run";', 1))
    page = chromium.open(tmp_path / "b.html")
    assert page.value("document.title") == "answers: 3 answers"
    assert [one["entry"]["source"] for one in page.complaints] == ["security"]
    assert page.value("document.querySelector('.filters').checkVisibility()") is False  # what cannot work is not shown
