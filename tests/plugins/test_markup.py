import pytest

from medvlm_cli.sources.jats import parse
from medvlm_cli.sources.markup import MAX_BYTES, XMLError, without_references
from tests.plugins.articles import article, figure, link, one, only_figure


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not well-formed XML"),
        (b"<article><body>", "not well-formed XML"),
        (b"<article>\0</article>", "not well-formed XML"),
        (b"<article>&beta;</article>", "not well-formed XML"),
        (b'<?xml version="1.0" encoding="UTF-8"?><article>\xff</article>', "not well-formed XML"),
        (b"<html><body/></html>", "<html> holds no JATS article"),
        (
            b'<!DOCTYPE article [<!ENTITY x SYSTEM "file:///etc/hostname">]><article>&x;</article>',
            "declarations of its own",
        ),
        (b'<!DOCTYPE article PUBLIC "-//[a]" "b>" [<!ENTITY x "y">]><article>&x;</article>', "declarations of its own"),
        (
            '<?xml version="1.0" encoding="UTF-16"?><!DOCTYPE article [<!ENTITY x "y">]><article/>'.encode("utf-16"),
            "declarations of its own",
        ),
        (b" " * (MAX_BYTES + 1), "over the limit"),
    ],
)
def test_what_cannot_be_read_safely_is_refused_by_name(data, message):
    with pytest.raises(XMLError, match=f"articles/a.xml: .*{message}"):
        parse(data, "articles/a.xml")


def test_brackets_in_a_document_type_without_declarations_are_no_reason_to_refuse():
    head = '<!DOCTYPE article PUBLIC "-//NLM//DTD JATS//EN" "a[1].dtd">'
    assert only_figure(article(figure(1), head=head)).id == "f1"


def test_an_article_deeper_than_the_careful_parser_allows_is_read():
    data = article("<sec>" * 400 + figure(1) + f"<p>See {link(1)}.</p>" + "</sec>" * 400)
    assert len(only_figure(data).mentions) == 1


def test_a_figure_nested_deeper_than_pythons_stack_is_read():
    data = article(
        "<fig><caption><p>C</p></caption>" + "<p>" * 1500 + '<graphic xlink:href="a"/>' + "</p>" * 1500 + "</fig>"
    )
    assert only_figure(data).images == [["a"]]


@pytest.mark.timeout(20)
def test_five_thousand_figures_and_citations_take_linear_time():
    figures = "".join(f'<fig id="g{n}"><label>Fig {n}</label><caption><p>C</p></caption></fig>' for n in range(5000))
    text = "".join(f'Seen in <xref ref-type="fig" rid="g{n}">Fig {n}</xref>. ' for n in range(5000))
    found = one(article(f"{figures}<p>{text}</p>")).figures
    assert [len(each.mentions) for each in found] == [1] * 5000


REFERENCES = "<ref-list><ref id='r1'><mixed-citation>Smith, see {}.</mixed-citation></ref></ref-list>"


@pytest.mark.parametrize(
    "lists",
    [
        REFERENCES.format(""),
        REFERENCES.format("") * 2,
        f"<ref-list>{REFERENCES.format('')}</ref-list>",
        "<ref-list/>" + REFERENCES.format(""),
        "<!-- <ref-list> -->" + REFERENCES.format("") + "<!-- </ref-list> -->",
        "<!-- <ref-list> --><p/><!-- </ref-list> -->",
        "<ref-list><![CDATA[</ref-list>]]></ref-list>",
        "<ref-list><?x </ref-list> ?></ref-list>",
        "<ref-list-of-ours></ref-list-of-ours>",
    ],
)
def test_reference_lists_are_cut_without_harm_to_what_stands_around_them(lists):
    data = article(f"{figure(1)}<p>See {link(1)}.</p>{lists}{figure(2)}<p>See {link(2)}.</p>{lists}{figure(3)}")
    assert [(found.id, len(found.mentions)) for found in one(data).figures] == [("f1", 1), ("f2", 1), ("f3", 0)]


def test_a_plain_reference_list_is_cut():
    data = article(figure(1), back=REFERENCES.format("Fig. 1"))
    assert without_references(data) == article(figure(1))


def test_a_figure_in_a_reference_list_is_kept():
    data = article(REFERENCES.format(figure(1)) + REFERENCES.format(""))
    assert only_figure(data).id == "f1"


def test_an_unfinished_reference_list_is_not_well_formed():
    with pytest.raises(XMLError, match="not well-formed"):
        parse(article("<ref-list><ref>"), "a.xml")


def test_a_caption_nested_deeper_than_pythons_stack_is_read():
    data = article(f"<fig><caption><p>A{'<bold>' * 1500}B{'</bold>' * 1500}C</p></caption></fig>")
    assert only_figure(data).caption == "ABC"


def test_a_formula_nested_deeper_than_pythons_stack_is_no_crash():
    math = f"<math>{'<mrow>' * 1500}x{'</mrow>' * 1500}</math>"
    data = article(f"<fig><caption><p>A {math} C</p></caption></fig>")
    assert only_figure(data).caption.split()[::2] in (["A", "C"], ["A"])


@pytest.mark.timeout(20)
def test_reading_takes_time_in_proportion_to_the_text():
    lists = REFERENCES.format("?! Fig") * 20000
    words = f"Seen in {link(1, 'Fig. 1')} and Fig. 1 " * 5000
    assert len(only_figure(article(f"{figure(1)}<p>{words}</p>", back=lists)).mentions) == 1
