import pytest

from medvlm_cli.sources.jats import parse
from medvlm_cli.sources.markup import MAX_BYTES, XMLError
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
