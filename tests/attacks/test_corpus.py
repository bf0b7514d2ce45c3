"""The corpora are as large as promised; each module here counts its own, these are counted where others use them."""

from tests.attacks.test_pickles import PLACES
from tests.core import test_browser, test_pages_opened, test_report
from tests.plugins import test_conversations_page


def test_thirty_payloads_go_into_every_page():
    assert len(set(test_report.PAYLOADS)) >= 30
    others = (test_browser, test_conversations_page, test_pages_opened)
    assert all(one.PAYLOADS is test_report.PAYLOADS for one in others)


def test_pickles_lie_in_six_places_and_more():
    assert len(PLACES) >= 6
