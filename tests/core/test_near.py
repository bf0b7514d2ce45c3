"""Near-duplicates among many texts: what was planted is found, nothing else is, and the order does not matter."""

import hashlib
import random

import pytest

from medvlm_cli.core.near import near_duplicates

VOCABULARY = [f"{a}{b}{c}" for a in ("ba", "ke", "li", "mo", "su") for b in "dfglmnprst" for c in ("an", "el", "or", "ut")]  # fmt: skip # noqa: E501
"""200 words, so that texts share many of them and hardly a run of three."""


def text(random_, words=90):
    return " ".join(random_.choice(VOCABULARY) for _ in range(words))


def varied(original, random_, changes):
    """A text with some words replaced by one that no other text has."""
    words = original.split()
    for at in random_.sample(range(len(words)), changes):
        words[at] = f"other{random_.getrandbits(40):x}"
    return " ".join(words)


def planted(texts=2000, copies=400, changes=3, seed=1):
    """``texts`` different texts, and beside the first of them a near copy each; and which is whose."""
    random_ = random.Random(seed)
    made = {f"t{number}": text(random_) for number in range(texts)}
    near = {f"c{number}": varied(made[f"t{number}"], random_, changes) for number in range(copies)}
    return [*made.items(), *near.items()], {frozenset((f"t{number}", f"c{number}")) for number in range(copies)}


def hash_of(id_):
    return hashlib.sha256(id_.encode()).hexdigest()


def shared_start(shingles, last):
    """A text of so many runs of three words; of two that differ in ``last`` all but one run are the same."""
    return " ".join([*VOCABULARY[: shingles + 1], last])


def test_every_planted_copy_is_found_and_nothing_else():
    texts, pairs = planted()
    found = near_duplicates(texts)
    assert {frozenset(pair) for pair in found.items()} == pairs
    assert len(found) == 400


def test_different_texts_of_the_same_words_are_no_duplicates():
    random_ = random.Random(2)
    assert near_duplicates((f"t{number}", text(random_)) for number in range(3000)) == {}


def test_of_two_texts_the_one_whose_id_has_the_smallest_hash_stays():
    texts, _ = planted(texts=50, copies=50)
    for left_out, stays in near_duplicates(texts).items():
        assert hash_of(stays) < hash_of(left_out)


def test_of_a_chain_one_text_stays_for_all():
    random_ = random.Random(3)
    chain = [text(random_)]
    for _ in range(6):  # each like the one before, the ends unlike
        chain.append(varied(chain[-1], random_, 3))
    ids = [f"link{number}" for number in range(7)]
    assert near_duplicates([("a", chain[0]), ("b", chain[-1])]) == {}
    first = min(ids, key=hash_of)
    assert near_duplicates(zip(ids, chain, strict=True)) == {id_: first for id_ in ids if id_ != first}


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_the_texts_does_not_matter_even_where_the_bands_may_miss_a_pair(seed):
    """Copies so far from their texts (similarity about 0.35) that the bands find hardly half of them."""
    texts, pairs = planted(texts=400, copies=400, changes=20)
    found = near_duplicates(texts, 0.2)
    shuffled = random.Random(seed).sample(texts, len(texts))
    assert 100 < len(found) < len(pairs)
    assert near_duplicates(shuffled, 0.2) == found


@pytest.mark.parametrize(("threshold", "found"), [(0.7, 1), (0.75, 1), (0.7500001, 0), (1.0, 0)])
def test_two_texts_are_one_from_the_threshold_on(threshold, found):
    """Seven runs of three words each, six of them the same, eight different ones in all: 6 / 8."""
    texts = [("a", shared_start(7, "left")), ("b", shared_start(7, "right"))]
    assert len(near_duplicates(texts, threshold)) == found


def test_at_threshold_1_only_texts_of_the_same_runs_are_one():
    same = [("a", "One two three four."), ("b", "one, TWO three - four"), ("c", "one two three four five")]
    assert len(near_duplicates(same, 1.0)) == 1


def test_words_count_in_their_order_and_not_by_themselves():
    words = VOCABULARY[:60]
    assert near_duplicates([("a", " ".join(words)), ("b", " ".join(reversed(words)))]) == {}


def test_empty_texts_and_texts_of_one_word_are_compared_whole():
    texts = [("e1", ""), ("e2", " ... "), ("w1", "mass"), ("w2", "Mass."), ("w3", "lesion"), ("p", "mass lesion"),
             ("q", "mass lesion seen")]  # fmt: skip
    assert {frozenset(pair) for pair in near_duplicates(texts).items()} == {
        frozenset(("e1", "e2")), frozenset(("w1", "w2")),
    }  # fmt: skip


def test_no_texts_and_one_text_are_fine():
    assert near_duplicates([]) == near_duplicates([("a", "some words")]) == {}


def test_any_unicode_is_a_text():
    texts = [
        ("a", "größer Δ 图像 显示 肿块"),
        ("b", "GRÖSSER δ 图像 显示 肿块".replace("SS", "ß")),
        ("c", "\ud800 x y z"),
    ]
    assert len(near_duplicates(texts)) == 1


def test_a_text_of_more_runs_than_a_block_is_hashed_whole():
    random_ = random.Random(4)
    long = [f"{random_.getrandbits(30):x}" for _ in range(70_000)]  # a block is 32,768
    texts = [("a", " ".join(long)), ("b", " ".join([*long[:-5], "x"])), ("c", " ".join(reversed(long)))]
    assert {frozenset(pair) for pair in near_duplicates(texts).items()} == {frozenset("ab")}
