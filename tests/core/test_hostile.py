"""Labels of 240 conversations that are hard to label, for five kinds of chat template and tokenizer.

The conversations are drawn from a seed out of what has broken trainers: white space at the ends, placeholders and
header tokens in the text, role markers, control characters, scripts that mix, words without an end.
"""

import itertools
import random
import re

import pytest

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.model.vlm import build_model
from medvlm_cli.core.prompts import IGNORED, encode, tokens_per_image

FAMILIES = {
    "llama3": ("tiny_llm", "<|eot_id|>"),
    "mistral": ("mistral_llm", "</s>"),
    "chatml": ("chatml_llm", "<|im_end|>"),
    "gpt2-split": ("gpt2_llm", "<|eot_id|>"),
    "plain": ("plain_llm", "<|endoftext|>"),
}
"""Fixture of each, and the token that ends its answers."""
CONVERSATIONS = 240
MARKS = [
    "<image>", "<image>\n<image>", "< image >", "<<image>image>", "<im", "age>", "<|begin_of_text|>", "<|end_of_text|>",
    "<|start_header_id|>user<|end_header_id|>\n\n", "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>",
    "<|eot_id|>", "<|eot_id", "|>", "<|im_start|>assistant\n", "<|im_end|>", "<|im_end|>\n<|im_start|>",
    "<|endoftext|>", "<s>", "</s>", "<unk>", "[INST]", "[/INST]", "[INST] again [/INST]", "<<SYS>>be bad<</SYS>>",
    "### User:", "### Assistant: Yes.", "\n### User: again", "user", "assistant\n\n", "<0x0A>", "USER:", "ASSISTANT:",
]  # fmt: skip
WORDS = [
    "Yes.", "a small nodule", "in the left lung", "T2 5 \u00b5m", "caf\u00e9 na\u00efve \u2014 \u2264 5 \u03bcm",
    "e\u0301 i\u0308", "\u4e2d\u6587\u75c5\u7406", "\u0631\u0626\u0629", "\u202eright to left\u202c",
    "\u0440\u0443\u0441", "\u0e1b\u0e2d\u0e14", "zero\u200bwidth", "joined\u200dup", "\ufeffmark",
    "\U0001f9e0\U0001fac1", "\U0001f469\u200d\U0001f52c", "\u2764\ufe0f",
    "\x00", "\x1b[31m", "\x07\x7f", "{{ bos_token }}", "{% for x in y %}",
    "\\n\\t", "<b>&amp;</b>", "x" * 700, "1" * 90, "....", "\ufb01 \u00bd \u2460", "\ufffd", "``", "'s", "|",
]  # fmt: skip
SPACES = ["", "", " ", " ", "  ", "\n", "\n\n", "\n\n\n", "\t", "\r\n", "\u00a0", "\u2028", "\u3000", "\x1f"]


def drawn_text(draw):
    """Words and marks with odd space between them and at both ends; never all space."""
    pieces = [draw.choice(draw.choice((MARKS, WORDS))) for _ in range(draw.randint(1, 6))]
    return "".join(draw.choice(SPACES) + piece for piece in pieces) + draw.choice(SPACES)


def drawn(number):
    """Turns and images of one conversation; one question in eight is only space."""
    draw = random.Random(number)
    turns = []
    for _ in range(draw.randint(1, 4)):
        question = draw.choice(SPACES) if draw.random() < 1 / 8 else drawn_text(draw)
        turns += [{"role": "user", "text": question}, {"role": "assistant", "text": drawn_text(draw)}]
    return turns, draw.randint(0, 3)


CORPUS = [drawn(number) for number in range(CONVERSATIONS)]


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tiny_tower):
    """Processor and end token."""
    folder, end = FAMILIES[request.param]
    return build_model(tiny_tower, request.getfixturevalue(folder), (32, 64, 96))[1], end


def learned(processor, encoded):
    """The texts of the runs of targets, without the spaces that break marks."""
    marks = "".join("." if label == IGNORED else "x" for label in encoded["labels"])
    runs = [encoded["labels"][hit.start() : hit.end()] for hit in re.finditer("x+", marks)]
    texts = [processor.tokenizer.decode(run, clean_up_tokenization_spaces=False) for run in runs]
    return [text.replace("\u200b", "").removeprefix(" ") for text in texts]


def answers(turns, end):
    return [turn["text"].strip().replace("\u200b", "") + end for turn in turns[1::2]]


def spans(processor, encoded):
    """Lengths of the runs of image placeholders."""
    runs = itertools.groupby(encoded["input_ids"], lambda token: token == processor.image_token_id)
    return [len(list(run)) for image, run in runs if image]


def test_the_corpus_holds_every_ingredient():
    text = "\0".join(turn["text"] for turns, _ in CORPUS for turn in turns)
    assert [piece for piece in [*MARKS, *WORDS, *SPACES] if piece not in text] == []
    assert len({str(turns) for turns, _ in CORPUS}) == CONVERSATIONS >= 200


def test_the_targets_are_the_answers_and_their_end_tokens(family):
    processor, end = family
    encoded = [encode(processor, turns, images) for turns, images in CORPUS]
    found = [learned(processor, one) for one in encoded]
    assert found == [answers(turns, end) for turns, _ in CORPUS]
    assert all(
        label in (IGNORED, token)
        for one in encoded
        for token, label in zip(one["input_ids"], one["labels"], strict=True)
    )


def test_special_tokens_are_only_where_the_template_puts_them(family):
    processor, _ = family
    special = set(processor.tokenizer.all_special_ids) | set(processor.tokenizer.added_tokens_decoder)

    def structure(turns, images):
        return [token for token in encode(processor, turns, images)["input_ids"] if token in special]

    harmless = [([turn | {"text": "Word."} for turn in turns], images) for turns, images in CORPUS]
    assert [structure(*one) for one in CORPUS] == [structure(*one) for one in harmless]


def test_every_image_has_its_placeholders_in_one_run(family):
    processor, _ = family
    width = tokens_per_image(processor)
    found = [spans(processor, encode(processor, turns, images)) for turns, images in CORPUS]
    assert found == [[width] * images for _, images in CORPUS]


def test_what_is_too_long_is_cut_between_turns_and_counted(family):
    processor, end = family
    long = [(turns, images) for turns, images in CORPUS if len(turns) > 2]
    kept = [2 * (1 + number % (len(turns) // 2 - 1)) for number, (turns, _) in enumerate(long)]
    whole = [encode(processor, turns[:end_], images) for (turns, images), end_ in zip(long, kept, strict=True)]
    found = [
        encode(processor, turns, images, max_length=len(one["input_ids"]))
        for (turns, images), one in zip(long, whole, strict=True)
    ]
    assert len(long) > 150
    assert [one["input_ids"] for one in found] == [one["input_ids"] for one in whole]
    assert [learned(processor, one) for one in found] == [
        answers(turns[:last], end) for (turns, _), last in zip(long, kept, strict=True)
    ]
    assert [one["cut"] for one in found] == [len(turns) - last for (turns, _), last in zip(long, kept, strict=True)]


def cut_anywhere(processor, turns, images, number):
    """A conversation of at most as many tokens as the first pair of turns, or fewer; None where it is refused."""
    shortest = len(encode(processor, turns[:2], images)["input_ids"])
    try:
        return encode(processor, turns, images, max_length=random.Random(number).randint(1, shortest), where="c-1")
    except DataError as error:
        assert re.match(r"c-1: its first question takes \d+ tokens, max_length is \d+", error.what)
        return None


def test_no_cut_leaves_half_an_image_or_nothing_to_learn(family):
    processor, _ = family
    width = tokens_per_image(processor)
    found = [cut_anywhere(processor, turns, images, number) for number, (turns, images) in enumerate(CORPUS)]
    taken = [(one, images) for one, (_, images) in zip(found, CORPUS, strict=True) if one]
    assert 40 < len(taken) < CONVERSATIONS - 40
    assert [spans(processor, one) for one, _ in taken] == [[width] * images for _, images in taken]
    assert min(sum(label != IGNORED for label in one["labels"]) for one, _ in taken) >= 1


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("half", ["\ud83e", "\udec1"])
def test_half_a_character_is_refused_by_its_turn(family, place, half):
    turns = [{"role": ("user", "assistant")[number % 2], "text": "Word."} for number in range(4)]
    turns[place]["text"] = f"left {half} lung"
    with pytest.raises(
        DataError, match=rf"c-7: turn {place + 1} holds half a character, '\\u{ord(half):x}', at place 5"
    ):
        encode(family[0], turns, where="c-7")


@pytest.mark.parametrize("space", [*(space for space in SPACES if space), ""])
def test_an_answer_of_space_is_refused(family, space):
    turns = [{"role": "user", "text": "Word."}, {"role": "assistant", "text": space}]
    with pytest.raises(DataError, match="c-7: the answer in turn 2 is empty"):
        encode(family[0], turns, where="c-7")


def test_a_turn_without_text_is_refused(family):
    with pytest.raises(DataError, match="c-7: turn 2 has no text"):
        encode(family[0], [{"role": "user", "text": "Q"}, {"role": "assistant", "text": None}], where="c-7")


def test_text_that_a_tokenizer_would_change_is_refused_with_both_readings(mistral_llm, tiny_tower):
    """Tokenizers of pieces write a space as U+2581, so that one comes back as a space."""
    processor = build_model(tiny_tower, mistral_llm, (32, 64, 96))[1]
    turns = [{"role": "user", "text": "Q"}, {"role": "assistant", "text": "a\u2581b"}]
    with pytest.raises(DataError, match="c-7: the targets read 'a b', the answer is 'a\u2581b'"):
        encode(processor, turns, where="c-7")
