import pytest

from medvlm_cli.sources.text import clean, sentences


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
