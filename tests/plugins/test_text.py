import pytest

from medvlm_cli.sources.text import clean, sentence_at, sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a\n b\tc ", "a b c"),
        ("10\u00a0\u2009mm\u3000x", "10 mm x"),
        ("so\u00adft\u200b \ufeffx\u2060y\u200d", "soft xy"),
        ("e\u0301", "é"),
        ("a\x00b\x1bc\x7fd\x85e\x9df", "a b c d e f"),
        ("\u202eevil\u202c", "evil"),
        ("x\ud800y\ufffez\ufdd0", "xyz"),
        ("T1\u2010weighted \u03bcm \U0001f600", "T1\u2010weighted \u03bcm \U0001f600"),
        ("", ""),
    ],
)
def test_what_cannot_be_seen_is_removed_and_what_can_is_kept(text, expected):
    assert clean(text) == expected


@pytest.mark.parametrize(
    "marked",
    [
        "Smith et al. saw it.|It was red.",
        "As in Smith et al.|The end was near.",
        "See Fig. 2 and Figs. 3 and Eq. 4.|Next.",
        "See Fig. A for it.|Next.",
        "Many, e.g. The Netherlands, i.e. Europe.|Next.",
        "We grew E. coli and S. Typhi in vitro.|Next.",
        "It is vitamin C.|The dose was 0.5 mg.|Next.",
        "At p < 0.001.|We stopped.",
        "It grew (p = 0.02).|It stopped.",
        "Given i.v. Tumours shrank.|Next.",
        "Cells died.12,13|The rest lived.|Next.",
        "It was 0.12 The rest.|Next.",
        'He said "no."|Then he left!|Why?|Next.',
        "Strain No. 5 grew.|Next.",
        "It was seen. α-Actin was not.|Next.",
        "Seen at 5 °C.|SEM shows it.|Next.",
        "Twelve came.|12 patients left.|Next.",
        "calcd. 606.4, found.|Next.",
        "one sentence without an end",
    ],
)
def test_sentences_end_where_a_reader_ends_them(marked):
    text = marked.replace("|", " ")
    assert [text[start:end] for start, end in sentences(text)] == marked.split("|")


def test_an_empty_text_has_no_sentences():
    assert sentences("") == []


@pytest.mark.parametrize("length", [1, 7, 40, 90])
def test_the_sentence_at_a_place_is_the_one_of_the_whole_text(length):
    words = [
        "Seen by Smith et al. in Fig. 2.",
        "It grew.12,13 The rest, e.g. E. coli, did not!",
        "No. 5 came (p = 0.02).",
    ]
    text = " ".join(words[(number * length) % 3] for number in range(length))
    spans = sentences(text)
    expected = [next(span for span in [*spans, spans[-1]] if place < span[1]) for place in range(spans[-1][1])]
    assert [sentence_at(text, place) for place in range(spans[-1][1])] == expected


def test_a_sentence_longer_than_the_neighbourhood_is_found():
    text = "One. " + "Two " * 2000 + "ends. Three."
    assert sentence_at(text, 7000) == (5, len(text) - 7)
    assert sentence_at(text, 7000, 5) == (5, len(text) - 7)
    assert sentence_at(text, len(text) - 1) == (len(text) - 6, len(text))
