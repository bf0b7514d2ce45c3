"""No figure whose licence, access or retraction forbids it passes, whatever the metadata and the article say."""

import itertools
import random
from dataclasses import dataclass

import pytest

from medvlm_cli.core.config import FetchConfig
from medvlm_cli.sources import reading
from tests.corpus import LICENSE, picture
from tests.plugins.articles import article, figure

CODES = {
    "CC0": True, "CC BY": True, "CC BY-SA": True, "CC BY-ND": True, "cc by": True, "CC BY 4.0": True, "CC-BY": True,
    "CC BY-NC": False, "CC BY-NC-SA": False, "CC BY-NC-ND": False, "CC BY-NC 4.0": False, "cc by-nc": False,
    "TDM": False, "": False, "NO-CC CODE": False, "Elsevier": False, "CC BY or so": False, "BY permission": False,
    None: False,
}  # fmt: skip
"""Codes, and whether they allow commercial use."""
RIGHTS = {"by/4.0": True, "by-sa/3.0": True, "by-nc/4.0": False, "by-nc-nd/4.0": False, "": True}
"""Licences of the article itself; the metadata decides, and the article may only forbid."""
ACCESS = {True: True, False: False, None: False, "true": True, "no": False, "": False}
RETRACTED = {False: False, True: True, None: False, "true": True, "false": False}
CAPTIONS = {
    "<p>CT of the chest.</p>": False,
    "<p>CT. Reproduced with permission from Smith.</p>": True,
    "<p>CT, © Smith 2010.</p>": True,
}
"""Captions, and whether they tell of somebody else's rights."""


@dataclass
class OnePlace:
    """An article without a folder."""

    content: bytes
    stated: dict
    name: str = "PMC1.1/PMC1.1.xml"
    version: int = 1

    def xml(self):
        return self.content

    def metadata(self):
        return self.stated

    def find(self, address):
        return address

    def read(self, file):
        return picture(1)

    def where(self, file):
        return file

    def key(self, file):
        return file


def combinations(count):
    """Some of all combinations, each of every part among them; the number of all is 8,550."""
    every = list(itertools.product(CODES, RIGHTS, ACCESS, RETRACTED, CAPTIONS))
    return random.Random(2).sample(every, count)


def place_of(code, rights, access, retracted, caption):
    stated = {"license_code": code, "is_pmc_openaccess": access, "is_retracted": retracted}
    meta = LICENSE.format(rights) if rights else ""
    return OnePlace(article(figure(1, caption), meta), stated)


def harvest(place, wanted=""):
    config = FetchConfig(license=wanted)
    return reading.finish(reading.read("PMC1", place, config), place, config)


def allowed(code, rights, access, retracted, caption):
    """The rule, stated once more and apart from the code."""
    return CODES[code] and RIGHTS[rights] and ACCESS[access] and not RETRACTED[retracted] and not CAPTIONS[caption]


def test_of_two_thousand_figures_exactly_those_free_for_commercial_use_become_rows():
    cases = combinations(2000)
    found = [harvest(place_of(*case)) for case in cases]
    kept = [case for case, each in zip(cases, found, strict=True) if each.rows]
    assert [case for case in kept if not allowed(*case)] == []
    assert kept == [case for case in cases if allowed(*case)]
    assert len(kept) > 20
    assert all(row["commercial_ok"] and not row["retracted"] for each in found for row in each.rows)
    assert {len(each.rows) + len(each.rejects) for each in found} == {1}
    assert {reject.reason for each in found for reject in each.rejects} == {"license_excluded", "superseded"}


@pytest.mark.parametrize("wanted", ["noncommercial", "all"])
def test_a_retracted_article_is_left_out_whatever_is_asked_for(wanted):
    (reject,) = harvest(place_of("CC BY", "by/4.0", True, True, "<p>CT.</p>"), wanted).rejects
    assert reject.reason == "superseded"


@pytest.mark.parametrize("code", [7, ["CC BY"], {"CC BY": 1}, True, "CC BY\0"])
def test_a_code_that_is_no_code_clears_nothing(code):
    (reject,) = harvest(place_of(code, "by/4.0", True, False, "<p>CT.</p>")).rejects
    assert reject.reason == "license_excluded"


def test_metadata_that_does_not_speak_of_open_access_clears_nothing():
    place = place_of("CC BY", "by/4.0", True, False, "<p>CT.</p>")
    del place.stated["is_pmc_openaccess"]
    (reject,) = harvest(place).rejects
    assert reject.reason == "license_excluded"
