import pytest

from tests.plugins.articles import article, cited, figure, link, one, only_figure


def mentions(data):
    """What cites each figure: id -> [(panel, sentence)]."""
    return {figure.id: [(mention.panel, mention.text) for mention in figure.mentions] for figure in one(data).figures}


def cited_ids(data):
    return [name for name, found in mentions(data).items() if found]


def test_a_mention_is_the_sentence_that_cites():
    data = cited(f"First one. Smith et al. saw (see e.g. Fig. {link(1)}) 0.5 mm. Last one.")
    assert mentions(data)["f1"] == [(None, "Smith et al. saw (see e.g. Fig. 1) 0.5 mm.")]


def test_the_sentence_of_a_citation_at_its_very_beginning_or_end_is_found():
    data = cited(f"One (Fig. {link(1)}). {link(2, 'Figure 2')} shows two. Three is in Fig. {link(3)}")
    assert mentions(data) | {"f4": 0, "f5": 0, "f6": 0} == {
        "f1": [(None, "One (Fig. 1).")],
        "f2": [(None, "Figure 2 shows two.")],
        "f3": [(None, "Three is in Fig. 3")],
        "f4": 0, "f5": 0, "f6": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    "dash", ["-", "\u2010", "\u2011", "\u2012", "\u2013", "\u2014", "\u2015", "\u2212", " to ", " through "]
)
def test_a_range_of_two_links_cites_what_lies_between(dash):
    assert cited_ids(cited(f"Seen in Figs {link(2)}{dash}{link(5)}.")) == ["f2", "f3", "f4", "f5"]


@pytest.mark.parametrize(
    "words",
    [
        "Figures 2-5",
        "Figs. 2\u20135",
        "Figs 2A\u20135C",
        "Figs. 2 to 5",
        "figs 2, 3, 4 and 5",
        "Figs 2\u20134, 5",
        "Fig. 2, Fig. 3\u20135",
    ],
)
def test_a_range_inside_one_link_cites_all_of_it(words):
    assert cited_ids(cited(f"Seen in {link(2, words)}.")) == ["f2", "f3", "f4", "f5"]


@pytest.mark.parametrize(
    "words",
    [
        "Fig. 2",
        "Fig 2A and 2B",
        "Fig. 2A\u2013C",
        "Fig 2, 1999-2005",
        "Figs 2-500",
        "Fig. 2 (n = 3-5)",
        "Fig. 2, 10\u201350 mm",
    ],
)
def test_other_numbers_in_a_link_cite_nothing(words):
    assert cited_ids(cited(f"Seen in {link(2, words)}.")) == ["f2"]


@pytest.mark.parametrize("between", [" and ", ", ", " versus ", "; compared to the result of ", ") to ("])
def test_two_links_without_a_dash_are_no_range(between):
    assert cited_ids(cited(f"Seen in Figs {link(2)}{between}{link(5)}.")) == ["f2", "f5"]


def test_a_link_to_several_figures_cites_each():
    data = cited('Seen in <xref ref-type="fig" rid="f1 f3  f6">Figs 1, 3, 6</xref>.')
    assert cited_ids(data) == ["f1", "f3", "f6"]


def test_a_range_of_supplements_stays_in_its_series():
    supplements = [
        f'<fig id="s{n}"><label>Figure 1\u2014figure supplement {n}.</label><caption><p>C</p></caption></fig>'
        for n in (1, 2, 3)
    ]
    words = '<xref ref-type="fig" rid="s1">Figure 1\u2014figure supplements 1\u20133</xref>'
    assert cited_ids(cited(f"Seen in {words}.", figure(1), figure(2), figure(3), *supplements)) == ["s1", "s2", "s3"]


@pytest.mark.parametrize(
    ("sentence", "panel"),
    [
        (link(5, "Fig 5A and 5B"), "A,B"),
        (link(5, "Fig 5A\u20135C"), "A,B,C"),
        (link(5, "Fig. 5a\u2013c,e"), "a,b,c,e"),
        (link(5, "Fig. 5(b)"), "b"),
        (link(5, "Fig 5") + "A,B", "A,B"),
        (link(5) + "b\u2013d respectively", "b,c,d"),
        (link(5) + "a) [12]", "a"),
        (link(5) + " d, e", "d,e"),
        (link(5) + " (A and C)", "A,C"),
        (link(5, "5A") + "\u2013" + link(5, "C"), "A,B,C"),
        (link(5) + "A, and I think", "A"),
        (link(5) + "A and a mass", "A"),
        (link(5) + "c and a mass", "c"),
        (link(5) + " a mass is seen", None),
        (link(5) + " (arrow)", None),
        (link(5) + " shows 5 A-cells", None),
        (link(5) + "(2)", None),
        (link(5, ""), None),
    ],
)
def test_panels_are_read_from_the_link_and_behind_it(sentence, panel):
    assert [found for found, _ in mentions(cited(f"It is in Fig. {sentence}."))["f5"]] == [panel]


def test_panels_named_apart_in_one_sentence_are_one_mention():
    data = cited(f"First (Fig {link(2, '2A')}), then (Fig {link(2, '2D')}). Later Fig {link(2, '2B')}.")
    assert mentions(data)["f2"] == [("A,D", "First (Fig 2A), then (Fig 2D)."), ("B", "Later Fig 2B.")]


def test_a_citation_climbs_from_inline_markup_to_its_paragraph():
    data = cited(f"Long before. It is <italic><bold>seen {link(1)}</bold></italic> here.")
    assert mentions(data)["f1"] == [(None, "It is seen 1 here.")]


@pytest.mark.parametrize(
    "block", ["<td>{}</td>", "<title>{}</title>", "<list-item><p>{}</p></list-item>", "<fn><p>{}</p></fn>"]
)
def test_citations_in_cells_titles_lists_and_notes_count(block):
    data = article(f"<sec>{block.format('See ' + link(1))}</sec>{figure(1)}")
    assert mentions(data)["f1"] == [(None, "See 1")]


@pytest.mark.parametrize(
    "place",
    [
        "<table-wrap><caption><p>{}</p></caption></table-wrap>",
        "<fig id='x'><caption><p>{}</p></caption></fig>",
        "<fig id='x'><attrib>{}</attrib></fig>",
        "<ref-list><ref><mixed-citation>{}</mixed-citation></ref></ref-list>",
        "<trans-abstract><p>{}</p></trans-abstract>",
        "<sub-article article-type='translation'><p>{}</p></sub-article>",
    ],
)
def test_captions_references_and_translations_mention_nothing(place):
    assert mentions(article(figure(1) + place.format("See " + link(1))))["f1"] == []


def test_the_words_of_a_figure_inside_the_paragraph_are_not_its_sentence():
    data = article(f"<p>Before {figure(1, '<p>In the caption.</p>')} and after, see {link(1)}.</p>")
    assert mentions(data)["f1"] == [(None, "Before and after, see 1.")]


def test_a_dangling_link_finds_its_figure_by_number():
    data = cited(
        'See <xref ref-type="fig" rid="gone">Figure 2</xref> and <xref ref-type="fig" rid="gone">Figure 9</xref>.'
    )
    assert cited_ids(data) == ["f2"]


@pytest.mark.parametrize("kind", ['ref-type="figure"', ""])
def test_a_link_counts_by_where_it_leads(kind):
    assert cited_ids(cited(f'See <xref {kind} rid="f2">Fig 2</xref> <xref {kind} rid="t1">Table 1</xref>.')) == ["f2"]


def test_supplementary_figure_3_and_figure_s3_are_the_same():
    supplement = '<fig id="x"><label>Supplementary Figure 3</label><caption><p>C</p></caption></fig>'
    data = cited('See <xref ref-type="fig" rid="gone">Fig. S3</xref>.', figure(3), supplement)
    assert cited_ids(data) == ["x"]


def test_a_dash_that_belongs_to_the_label_is_no_range():
    figures = [f'<fig id="c{n}"><label>Figure 1-{n}</label><caption><p>C</p></caption></fig>' for n in (1, 2, 3)]
    assert cited_ids(cited('See <xref ref-type="fig" rid="c3">Figure 1-3</xref>.', *figures)) == ["c3"]


def test_a_citation_in_a_list_inside_a_paragraph_belongs_to_the_list():
    data = cited(f"Outer {link(1)}.<list><list-item><p>Inner {link(2)}.</p></list-item></list> More.")
    assert mentions(data) | {f"f{n}": 0 for n in (3, 4, 5, 6)} == {
        "f1": [(None, "Outer 1.")], "f2": [(None, "Inner 2.")], "f3": 0, "f4": 0, "f5": 0, "f6": 0,
    }  # fmt: skip


def test_a_table_with_the_number_of_a_figure_is_not_taken_for_it():
    assert cited_ids(cited('See <xref ref-type="table" rid="gone">Table 2</xref>.')) == []


def test_a_text_that_holds_our_marks_spoils_nothing_but_its_mentions():
    data = cited(
        f"Odd \ufdd07\ufdd1 \ufdd2 \ufdd00\ufdd1 text {link(1)} here.", figure(1, "<p>Odd \ufdd00\ufdd1 caption</p>")
    )
    assert only_figure(data).caption == "Odd 0 caption"


@pytest.mark.parametrize(
    ("words", "ids"),
    [
        ("It is seen (Fig. 2).", ["f2"]),
        ("It is seen in Figure\u00a02, not elsewhere.", ["f2"]),
        ("Figure 2 shows it.", ["f2"]),
        ("See Figs. 2 and 4.", ["f2", "f4"]),
        ("See Figs. 2A,B, 3 and 5C.", ["f2", "f3", "f5"]),
        ("See Figs 2\u20134.", ["f2", "f3", "f4"]),
        ("See Fig. 2\u20134.", ["f2", "f3", "f4"]),
        ("See Fig. 2, 4 mice.", ["f2"]),
        ("See Fig. 2 and 4 mice.", ["f2"]),
        ("See Fig. 9.", []),
        ("See Fig. 2.1 and Fig. 23.", []),
        ("Seen in Fig. 2 of Smith et al. and in Fig. 3 in [12].", []),
        ("Seen in their Fig. 2.", []),
        ("See Supplementary Fig. 2 and Extended Data Figure 3.", []),
        ("See Fig. S2 and Figure 2 in S1 File.", []),
        ("See Figure 2\u2014source data 1 and Figure 2\u2014video 1.", []),
        ("Config 2, big 3 and fig. leaves.", []),
        ("We had 5 mm in Fig. 2 mm.", []),
    ],
)
def test_figures_are_found_in_words_without_a_link_but_not_those_of_others(words, ids):
    assert cited_ids(cited(f"{words} Told by 3 men (Fig. 6).")) == [*ids, "f6"]


def test_a_figure_named_without_a_link_keeps_its_panels():
    assert mentions(cited("Told (Fig. 2A,C). More."))["f2"] == [("A,C", "Told (Fig. 2A,C).")]


def test_fig_s1_without_a_link_finds_the_figure_of_that_label():
    supplement = '<fig id="x"><label>Figure S1</label><caption><p>C</p></caption></fig>'
    data = cited("See Fig. S1 and Supplementary Figure 1.", figure(1), supplement)
    assert cited_ids(data) == ["x"]


@pytest.mark.parametrize(
    ("sentence", "ids"),
    [
        (f"In {link(2, 'Fig. 2')}\u20134 it is.", ["f2", "f3", "f4"]),
        (f"In {link(2, 'Figs. 2')} and 4 it is.", ["f2", "f4"]),
        (f"In {link(2, 'Fig. 2')} and 4 mice it is.", ["f2"]),
        (f"In Figs. {link(2)}, 3 and {link(5)} it is.", ["f2", "f3", "f5"]),
        (f"In {link(2, 'Fig. 2')} and Fig. 4 it is.", ["f2", "f4"]),
    ],
)
def test_a_list_of_which_only_a_part_is_linked_cites_all_of_it(sentence, ids):
    assert cited_ids(cited(sentence)) == ids


def test_words_inside_a_link_to_something_else_cite_nothing():
    data = cited('See <xref ref-type="supplementary-material" rid="s">Figure 2</xref> and Fig. 3.')
    assert cited_ids(data) == ["f3"]


def test_a_link_is_believed_over_the_number_in_its_words():
    box = '<fig id="box1"><label>Box 1 figure</label><caption><p>C</p></caption></fig>'
    data = cited('See <xref ref-type="fig" rid="box1">Figure 2</xref>.', figure(2), box)
    assert cited_ids(data) == ["box1"]


def test_words_in_a_letter_do_not_cite_the_figures_of_the_article():
    letter = "<sub-article id='sa1'><body><p>In Fig. 1 the authors see. And (Fig. 1).</p></body></sub-article>"
    assert mentions(article(figure(1), back=letter))["f1"] == []


def test_words_in_a_letter_beside_a_link_do_not_either():
    letter = f"<sub-article id='sa1'><body><p>See {link(2)} and Fig. 1 here.</p></body></sub-article>"
    assert cited_ids(article(figure(1) + figure(2), back=letter)) == ["f2"]


def test_a_range_that_begins_at_a_link_to_something_else_is_not_believed():
    box = '<fig id="box1"><label>Box 1 figure</label><caption><p>C</p></caption></fig>'
    data = cited('See <xref ref-type="fig" rid="box1">Figure 2</xref>\u20134.', box, *map(figure, range(1, 7)))
    assert cited_ids(data) == ["box1"]


def test_mentions_follow_the_order_of_the_text():
    data = cited(f"First Fig. 1 alone. Then {link(1)}. Last (Fig. 1) again.")
    assert [text for _, text in mentions(data)["f1"]] == ["First Fig. 1 alone.", "Then 1.", "Last (Fig. 1) again."]


def test_tables_and_other_figures_inside_a_link_are_not_ranges():
    data = cited(f'{link(2, "Fig. 2")}\u2013<xref ref-type="table" rid="t4">4</xref> and {link(1)}')
    assert cited_ids(data) == ["f1", "f2", "f3", "f4"]
