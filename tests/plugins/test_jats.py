import pytest

from medvlm_cli.sources.jats import Mention, parse
from tests.plugins.articles import XLINK, article, figure, link, one, only_figure


def caption(markup, **options):
    return only_figure(article(figure(1, markup), **options)).caption


def test_the_address_is_found_wherever_the_attribute_stands_and_the_namespace_is_declared():
    graphic = f'<graphic {XLINK} position="float" orientation="portrait" xlink:href="x.g001.jpg"/>'
    data = f'<article><body><fig id="a"><caption><p>C</p></caption>{graphic}</fig></body></article>'
    assert only_figure(data.encode()).images == [["x.g001.jpg"]]


def test_an_address_without_an_ending_is_kept_as_it_is():
    assert only_figure(article(figure(1, image="1471-2180-11-174-1"))).images == [["1471-2180-11-174-1"]]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ('<article-id pub-id-type="pmc">1790863</article-id>', "PMC1790863"),
        ('<article-id pub-id-type="pmcid">PMC5147920</article-id>', "PMC5147920"),
        ('<article-id pub-id-type="pmcaid">42</article-id><article-id pub-id-type="pmcaiid">43</article-id>', None),
        ('<article-id pub-id-type="pmcid-ver">PMC7.2</article-id>', None),
        ('<article-id pub-id-type="pmid">27936111</article-id>', None),
    ],
)
def test_the_pmc_id_is_read_in_both_forms_and_taken_from_nothing_else(ids, expected):
    assert one(article(figure(1), meta=ids)).pmcid == expected


def test_the_doi_is_the_articles_own_and_not_one_of_a_letter_a_reference_or_a_figure():
    other = '<article-id pub-id-type="doi">10.1/other</article-id>'
    back = f"<sub-article><front-stub>{other}</front-stub></sub-article>"
    body = figure(1, more='<object-id pub-id-type="doi">10.1/fig</object-id>')
    meta = '<related-article><article-id pub-id-type="doi">10.1/related</article-id></related-article>'
    assert one(article(body, meta=meta, back=back)).doi is None
    assert one(article(body, meta=meta + other.replace("other", "own"), back=back)).doi == "10.1/own"


@pytest.mark.parametrize(
    "wrapper",
    [
        "<pmc-articleset>{}</pmc-articleset>",
        '<OAI-PMH xmlns="http://www.openarchives.org/OAI/2.0/"><record><metadata>{}</metadata></record></OAI-PMH>',
    ],
)
def test_articles_are_found_inside_what_efetch_and_oai_send(wrapper):
    inner = article(figure(1) + f"<p>See {link(1)}.</p>", meta='<article-id pub-id-type="pmc">5</article-id>').decode()
    inner = inner.replace("<article ", '<article xmlns="https://jats.nlm.nih.gov/ns/archiving/1.x/" ')
    found = parse(wrapper.format(inner * 2).encode(), "a.xml")
    assert [(each.pmcid, len(each.figures), len(each.figures[0].mentions)) for each in found] == [("PMC5", 1, 1)] * 2


def test_title_year_and_kind_are_read():
    meta = (
        "<title-group><article-title>On CO<sub>2</sub><xref>*</xref></article-title></title-group>"
        "<pub-date><year>2019</year></pub-date><pub-date><year>2018</year></pub-date>"
    )
    found = one(article(meta=meta, attributes='article-type="case-report"'))
    assert (found.title, found.year, found.kind, found.retracted) == ("On CO2*", 2018, "case-report", False)


@pytest.mark.parametrize(
    ("meta", "attributes"),
    [
        ('<related-article related-article-type="retraction-forward"/>', ""),
        ("<title-group><article-title>RETRACTED ARTICLE: On mice</article-title></title-group>", ""),
        ("<title-group><article-title>[Retracted] On mice</article-title></title-group>", ""),
        ("", 'article-type="retracted-article"'),
    ],
)
def test_a_retracted_article_is_known_by_its_links_its_title_or_its_type(meta, attributes):
    assert one(article(meta=meta, attributes=attributes)).retracted


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        (
            f'<permissions><license {XLINK} xlink:href="http://creativecommons.org/licenses/by/4.0/"/></permissions>',
            "CC-BY-4.0",
        ),
        (
            "<permissions><license><license_ref>https://creativecommons.org/licenses/by-nc/4.0/</license_ref></license></permissions>",
            "CC-BY-NC-4.0",
        ),
        (
            f'<permissions><license><license-p><ext-link {XLINK} xlink:href="https://creativecommons.org/publicdomain/zero/1.0/"/>'
            "</license-p></license></permissions>",
            "CC0-1.0",
        ),
        (
            "<custom-meta-group><custom-meta><meta-name>pmc-license-ref</meta-name><meta-value>CC BY-NC-ND</meta-value>"
            "</custom-meta></custom-meta-group>",
            "CC-BY-NC-ND",
        ),
        (
            "<copyright-statement>terms of the Creative Commons Attribution License, which</copyright-statement>",
            "CC-BY",
        ),
        ("<permissions><license><license-p>All rights reserved.</license-p></license></permissions>", "unknown"),
        ("", "unknown"),
    ],
)
def test_the_licence_is_read_wherever_publishers_put_it(meta, expected):
    assert one(article(meta=meta)).license == expected


def test_the_licence_of_a_single_figure_is_not_the_articles():
    rights = '<permissions><license xlink:href="http://creativecommons.org/licenses/by/4.0/"/></permissions>'
    assert one(article(figure(1, more=rights))).license == "unknown"


@pytest.mark.parametrize("place", ["sec", "p", "boxed-text", "floats-group", "floats-wrap", "app", "abstract"])
def test_figures_are_found_wherever_they_stand(place):
    assert only_figure(article(f"<{place}>{figure(1)}</{place}>")).id == "f1"


def test_a_figure_owns_no_image_of_a_figure_inside_it():
    inner = figure(2, "<p>Supplement.</p>")
    outer, nested = one(article(figure(1, more=f"<p>{inner}</p>"))).figures
    assert [(outer.images, outer.caption), (nested.images, nested.caption)] == [
        ([["g1.jpg"]], "A caption."),
        ([["g2.jpg"]], "Supplement."),
    ]


def test_comments_and_instructions_between_the_parts_of_a_figure_are_nothing():
    data = article(figure(1, more="<?page 3?><!-- new --><p><?x?></p>"), head="<?properties open_access?>")
    assert only_figure(data).images == [["g1.jpg"]]


def test_every_graphic_of_a_figure_is_an_image():
    found = only_figure(article(figure(1, more='<graphic xlink:href="b.jpg"/><p><graphic xlink:href="c.jpg"/></p>')))
    assert found.images == [["g1.jpg"], ["b.jpg"], ["c.jpg"]]


def test_two_files_of_one_stem_are_one_image():
    assert only_figure(article(figure(1, more='<graphic xlink:href="g1.tif"/>'))).images == [["g1.jpg", "g1.tif"]]


def test_of_alternatives_thumbnails_are_left_out():
    graphics = (
        '<graphic xlink:href="http://x.org/j-gf1.tif"/><graphic specific-use="scielo-web" xlink:href="j-gf1.png"/>'
        '<graphic specific-use="scielo-web" content-type="scielo-267x140" xlink:href="j-gf1.thumbnail.jpg"/>'
    )
    data = article(f"<fig><caption><p>C</p></caption><alternatives>{graphics}</alternatives></fig>")
    assert only_figure(data).images == [["http://x.org/j-gf1.tif", "j-gf1.png"]]


def test_a_figure_with_nothing_but_a_thumbnail_has_no_image_to_give():
    graphic = '<graphic content-type="thumbnail" xlink:href="t.jpg"/>'
    assert only_figure(article(f"<fig><caption><p>C</p></caption>{graphic}</fig>")).images == [[]]


@pytest.mark.parametrize(
    "inside",
    [
        "<table-wrap><alternatives><graphic xlink:href='t.jpg'/><table/></alternatives></table-wrap>",
        "<disp-formula><graphic xlink:href='e.gif'/></disp-formula>",
        "<supplementary-material><media xlink:href='m.mp4'/><graphic xlink:href='s.jpg'/></supplementary-material>",
        "<media xlink:href='m.avi'><graphic xlink:href='poster.jpg'/></media>",
    ],
)
def test_tables_formulas_and_films_are_no_images_of_the_figure(inside):
    assert only_figure(article(f"<fig><caption><p>C</p></caption>{inside}</fig>")).images == []


def test_figures_without_an_id_get_one_and_doubled_ids_are_told_apart():
    body = "<fig><label>Fig 1</label></fig>" + figure(2) + figure(2)
    assert [found.id for found in one(article(body)).figures] == ["fig-1", "f2", "f2~3"]


def test_caption_and_label_of_a_group_hold_for_its_figures():
    inner = '<fig id="a"><label>A</label><caption><p>Left.</p></caption></fig><fig id="b"><label>B</label></fig>'
    group = f"<fig-group id='g'><label>Figure 3</label><caption><title>Lungs.</title></caption>{inner}</fig-group>"
    found = one(article(group + '<p>In <xref ref-type="fig" rid="g">Figure 3</xref> we see both.</p>')).figures
    assert [(each.label, each.caption) for each in found] == [("Figure 3 A", "Lungs. Left."), ("Figure 3 B", "Lungs.")]
    assert [each.mentions for each in found] == [[Mention("In Figure 3 we see both.", None)]] * 2


def test_a_label_of_its_own_is_kept_in_a_group():
    group = f"<fig-group><label>Figure 3</label>{figure(4)}</fig-group>"
    assert only_figure(article(group)).label == "Fig 4"


def test_figures_of_a_letter_carry_its_id():
    letter = f'<sub-article id="sa1" article-type="reply">{figure(1)}</sub-article>'
    assert [found.id for found in one(article(figure(1), back=letter)).figures] == ["f1", "sa1/f1"]


def test_figures_of_a_translation_are_marked():
    text = f'<sub-article id="s1" article-type="translation" xml:lang="en">{figure(1)}</sub-article>'
    assert [found.translation for found in one(article(figure(1), back=text)).figures] == [False, True]


def test_of_a_group_in_two_languages_the_articles_own_is_kept():
    inner = figure(1).replace("<fig ", '<fig xml:lang="pt" ') + figure(2).replace("<fig ", '<fig xml:lang="en" ')
    found = one(article(f"<fig-group>{inner}</fig-group>", attributes='xml:lang="pt"')).figures
    assert [each.translation for each in found] == [False, True]


def test_a_figure_in_another_language_only_is_kept():
    inner = figure(1).replace("<fig ", '<fig xml:lang="en" ')
    assert not only_figure(article(f"<fig-group>{inner}</fig-group>", attributes='xml:lang="pt"')).translation


def test_of_two_captions_the_one_in_the_articles_language_is_kept():
    captions = '<caption xml:lang="en"><p>Lung.</p></caption><caption xml:lang="pt"><p>Pulmão.</p></caption>'
    assert only_figure(article(f"<fig>{captions}</fig>", attributes='xml:lang="pt"')).caption == "Pulmão."


@pytest.mark.parametrize(
    ("words", "more"),
    [
        ("A map.", "<attrib>From Smith 1999.</attrib>"),
        ("A map.", "<permissions><copyright-holder>Smith</copyright-holder></permissions>"),
        ("Reproduced with permission from Smith.", ""),
        ("Reprinted from Smith.", ""),
        ("A map © Smith.", ""),
    ],
)
def test_the_rights_of_others_are_flagged(words, more):
    assert only_figure(article(figure(1, f"<p>{words}</p>", more))).third_party


@pytest.mark.parametrize(
    ("words", "more"),
    [("Adapted dosing.", ""), ("A lung.", "<attrib><xref rid='f1'>Figure 1</xref>. A lung, in English.</attrib>")],
)
def test_plain_captions_and_translated_ones_in_the_credit_line_are_not_flagged(words, more):
    assert not only_figure(article(figure(1, f"<p>{words}</p>", more))).third_party


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<p>Levels of CO<sub>2</sub> in <italic>E. coli</italic> K12.</p>", "Levels of CO2 in E. coli K12."),
        ("<title>Map.</title><p>One</p><p>two.</p>", "Map. One two."),
        ("<title>Map</title>\n  <p>of\n   lungs</p>", "Map of lungs"),
        ("<p>Uptake<break/>over time</p>", "Uptake over time"),
        (
            "<p>Here:<list><list-item><p>one</p></list-item><list-item><p>two</p></list-item></list>end</p>",
            "Here: one two end",
        ),
        ("<p>x<supplementary-material><caption><p>Click here</p></caption></supplementary-material></p>", "x"),
        ("<p>A<fn><p>note</p></fn> b</p>", "A b"),
        ("<p>A<!-- no --><?pi no?>B</p>", "AB"),
        ("<p>A<object-id>10.1/x</object-id></p>", "A"),
        ("<p>10&#160;&#8201;mm so&#173;ft ze&#8203;ro &#xFEFF;mark</p>", "10 mm soft zero mark"),
        ("<p>e&#x301;te&#x301;</p>", "été"),
        ("<p>a&#x85;b&#x9d;c</p>", "a b c"),
    ],
)
def test_captions_read_as_on_the_page(markup, expected):
    assert caption(markup) == expected


TEX = r"\documentclass{minimal}\usepackage{a}\begin{document}$$x^2$$\end{document}"
MATH = '<mml:math xmlns:mml="http://www.w3.org/1998/Math/MathML">{}</mml:math>'


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("<mml:msub>\n <mml:mi>CO</mml:mi>\n <mml:mn>2</mml:mn>\n</mml:msub>", "CO2"),
        (f"<mml:semantics><mml:mi>y</mml:mi><mml:annotation>{TEX}</mml:annotation></mml:semantics>", "y"),
    ],
)
def test_of_a_formula_in_two_notations_the_tex_is_dropped(formula, expected):
    both = f"<alternatives><tex-math>{TEX}</tex-math>{MATH.format(formula)}</alternatives>"
    assert caption(f"<p>of <inline-formula>{both}</inline-formula> here</p>") == f"of {expected} here"


def test_tex_without_an_alternative_is_kept_without_its_preamble():
    assert caption(f"<p>of <tex-math>{TEX}</tex-math> here</p>") == "of x^2 here"


def test_named_entities_become_their_characters():
    head = '<!DOCTYPE article PUBLIC "-//NLM//DTD JATS 1.2//EN" "JATS-archivearticle1.dtd">'
    assert caption("<p>TGF-&beta;1&nbsp;&lt; &Aring;ngstr&ouml;m</p>", head=head) == "TGF-β1 < Ångström"


def test_the_xml_declaration_decides_the_encoding():
    text = article(figure(1, "<p>Müller</p>")).decode()
    data = ('<?xml version="1.0" encoding="ISO-8859-1"?>' + text).encode("latin-1")
    assert only_figure(data).caption == "Müller"
