"""Phantom figures: what is drawn is what is known, and nothing but the picture gives it away."""

import io
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from medvlm_cli.core import phantom
from medvlm_cli.core.phantom_draw import PAINTERS, SIDE, lesion_profile
from medvlm_cli.core.phantom_words import ASKED

DECK = [phantom.findings("figures", 0, index) for index in range(phantom.DECK)]


def test_the_same_seed_and_index_give_the_same_bytes():
    assert phantom.png(phantom.draw("figures", 3, 7)) == phantom.png(phantom.draw("figures", 3, 7))


@pytest.mark.parametrize("other", [("figures", 3, 8), ("figures", 4, 7), ("phantom-vqa", 3, 7), ("tower", 3, 7)])
def test_another_index_seed_or_stream_gives_another_figure(other):
    assert phantom.png(phantom.draw(*other)) != phantom.png(phantom.draw("figures", 3, 7))


def test_a_deck_holds_every_combination_equally_often():
    expected = {
        (modality, area, lesion): 2 if area == "none" else 1
        for modality in PAINTERS for area in ("none", "left", "right") for lesion in ("smooth", "speckled")
    }  # fmt: skip
    assert Counter(DECK) == expected


def test_two_decks_come_in_different_orders():
    later = [phantom.findings("figures", 0, phantom.DECK + index) for index in range(phantom.DECK)]
    assert later != DECK
    assert Counter(later) == Counter(DECK)


@pytest.mark.parametrize("index", range(0, 40, 5))
def test_the_id_holds_the_stream_the_seed_and_the_index_and_no_finding(index):
    assert phantom.draw("figures", 0, index).figure_id == f"phantom-0-{index:06d}"
    assert phantom.draw("phantom-vqa", 0, index).figure_id == f"phantom-vqa-0-{index:06d}"


@pytest.mark.parametrize("index", range(5))
def test_the_file_is_a_png_of_the_picture(index):
    drawn = phantom.draw("figures", 1, index)
    opened = Image.open(io.BytesIO(phantom.png(drawn)))
    assert (opened.format, opened.size) == ("PNG", (SIDE, SIDE))
    assert np.abs(np.asarray(opened.convert("RGB")).astype(int) - drawn.image).max() <= 1


@pytest.mark.parametrize("seed", range(5))
def test_both_lesions_have_the_same_brightness_centre_and_spread(seed):
    at = (0.1, -0.2)
    smooth, speckled = (lesion_profile(np.random.default_rng(seed), kind, at) for kind in phantom.LESIONS)
    lines, columns = np.mgrid[:SIDE, :SIDE]

    def moments(field):
        total = field.sum()
        x, y = (field * columns).sum() / total, (field * lines).sum() / total
        return total, x, y, (field * ((columns - x) ** 2 + (lines - y) ** 2)).sum() / total

    total, x, y, spread = moments(smooth)
    found = moments(speckled)
    assert found[0] == pytest.approx(total, rel=0.02)
    assert found[1:3] == pytest.approx((x, y), abs=0.05)
    assert found[3] == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("seed", range(5))
def test_shrinking_six_times_leaves_less_than_a_third_of_what_tells_the_lesions_apart(seed):
    smooth, speckled = (lesion_profile(np.random.default_rng(seed), kind, (0.1, -0.2)) for kind in phantom.LESIONS)
    difference = smooth - speckled
    shrunk = difference.reshape(32, 6, 32, 6).mean((1, 3))
    assert np.abs(shrunk).max() < np.abs(difference).max() / 3


@pytest.mark.parametrize("index", range(phantom.DECK))
def test_the_lesion_is_where_it_is_said_to_be(index):
    drawn = phantom.draw("figures", 2, index)
    x, y = (round(value) for value in drawn.lesion_at)
    inner = drawn.image[y - 7 : y + 8, x - 7 : x + 8].astype(float).mean(2)
    ring = drawn.image[y - 16 : y + 17, x - 16 : x + 17].astype(float).mean(2)
    around = (ring.sum() - inner.sum()) / (ring.size - inner.size)
    expected = -1 if drawn.modality == "histology" else 1  # pigment darkens, everything else is brighter
    assert np.sign(inner.mean() - around) == expected


@pytest.mark.parametrize("modality", PAINTERS)
def test_a_large_finding_changes_its_own_half_of_the_picture_only(modality):
    profile = np.zeros((SIDE, SIDE), np.float32)
    plain, marked = (PAINTERS[modality](np.random.default_rng(5), area, profile).mean(2) for area in ("none", "left"))
    noise = 0.05  # the finding draws random numbers of its own, so the grain differs
    left, right = (np.abs(half.mean()) for half in np.split(marked - plain, 2, axis=1))
    assert left > 2 * right
    assert right < noise


@pytest.mark.parametrize("index", range(8))
def test_caption_and_questions_say_what_is_to_be_seen(index):
    drawn = phantom.draw("figures", 0, index)
    asked = phantom.questions(drawn)
    assert drawn.lesion in phantom.caption(drawn)
    assert asked["small lesion"][1] == drawn.lesion
    assert asked["presence"][1] == ("no" if drawn.area == "none" else "yes")
    assert asked.get("side", ("", "none"))[1] == drawn.area


def test_one_to_three_mentions_cite_the_figure_by_its_label():
    told = [phantom.mentions(phantom.draw("figures", 0, index), "Figure 12") for index in range(12)]
    assert {len(sentences) for sentences in told} == {1, 2, 3}
    assert all("Figure 12" in sentence for sentences in told for sentence in sentences)


@pytest.mark.parametrize("category", ["presence", "small lesion", "side"])
def test_the_wording_of_a_question_is_as_common_with_one_answer_as_with_the_other(category):
    from medvlm_cli.core.phantom_words import questions_for, words_for

    pairs = []
    for index in range(1200):
        words = words_for(*phantom.findings("phantom-vqa", 0, index))
        asked = questions_for(phantom.generator("phantom-vqa", 0, index, 2), words).get(category)
        pairs += [(len(asked[0].replace(words["large"], "")), asked[1])] if asked else []
    answers = Counter(answer for _, answer in pairs)
    assert len(set(answers.values())) == 1  # the deck balances them exactly
    shares = [
        np.mean([length == wording for length, given in pairs if given == answer])
        for answer in answers for wording in {pairs[0][0]}
    ]  # fmt: skip
    assert shares[0] == pytest.approx(shares[1], abs=0.08)


def test_no_question_names_one_answer_and_not_the_other():
    wordings = " ".join(sum(ASKED.values(), ()))
    assert wordings.count("smooth") == wordings.count("speckled")
    assert wordings.count("left") == wordings.count("right")


def test_tower_pairs_are_pieces_of_32_pixels_with_what_they_show():
    pairs = list(phantom.tower_pairs(0, 2))
    modality, _, lesion = phantom.findings("tower", 0, 1)
    assert len(pairs) == 12
    assert {piece.shape for piece, _ in pairs} == {(32, 32, 3)}
    assert pairs[-1][1] == f"{phantom.words_for(modality, 'none', lesion)['name']}, {lesion} small lesion"


def test_the_specimen_shows_the_figure_and_its_fourteen_tiles():
    drawn = phantom.draw("phantom-vqa", 0, 0)
    sheet = phantom.specimen(phantom.png(drawn), "Is the small lesion smooth or speckled?", drawn.lesion)
    assert sheet.size == (1720, 652)
    assert len(sheet.getcolors(1 << 24)) > 100
