import pytest

from tests.plugins.articles import article, figure, one, only_figure


def caption(markup):
    return only_figure(article(figure(1, markup))).caption


def test_the_journal_is_named_in_both_generations_of_the_format():
    old = "<journal-title>BMC Biology</journal-title>"
    for_group = f"<journal-title-group>{old}</journal-title-group>"
    read = [
        one(f"<article><front><journal-meta>{title}</journal-meta><article-meta/></front></article>".encode()).journal
        for title in (old, for_group, "")
    ]
    assert read == ["BMC Biology", "BMC Biology", None]


def contributor(surname, given, kind=' contrib-type="author"'):
    return f"<contrib{kind}><name><surname>{surname}</surname><given-names>{given}</given-names></name></contrib>"


GROUP = (
    '<contrib contrib-type="author"><collab>The <italic>Lung</italic> Group<contrib-group>'
    + contributor("Member", "M")
    + "</contrib-group></collab></contrib>"
)


@pytest.mark.parametrize(
    ("contributors", "expected"),
    [
        ([contributor("Smith", "John Adam")], "Smith JA"),
        ([contributor("Smith", "J. A.")], "Smith JA"),
        ([contributor("Smith", "JA")], "Smith JA"),
        ([contributor("Li", "Wei-Ming", kind="")], "Li WM"),
        ([contributor("Morais", "Selene Maia de")], "Morais SM"),
        ([contributor("A", "X"), contributor("B", "Y"), contributor("C", "Z")], "A X, B Y, C Z"),
        ([contributor("A", "X"), contributor("B", "Y"), contributor("C", "Z"), GROUP], "A X, B Y, C Z, et al."),
        ([GROUP, contributor("B", "Y")], "The Lung Group, B Y"),
        ([contributor("E", "X", kind=' contrib-type="editor"')], None),
        (["<contrib><string-name>Lu Xun</string-name></contrib>"], "Lu Xun"),
        (["<contrib><name><surname>Plato</surname></name></contrib>"], "Plato"),
        (["<contrib><anonymous/></contrib>"], None),
        ([], None),
    ],
)
def test_authors_are_named_as_in_a_reference_list_three_at_most(contributors, expected):
    meta = f"<contrib-group>{''.join(contributors)}</contrib-group>"
    assert one(article(meta=meta)).authors == expected


def test_keywords_are_those_of_authors_and_mesh_and_the_subjects_but_not_the_kind_of_article():
    meta = (
        '<article-categories><subj-group subj-group-type="heading"><subject>Research Article</subject></subj-group>'
        '<subj-group subj-group-type="Discipline-v3"><subject>Medicine</subject><subj-group>'
        "<subject>Radiology</subject></subj-group></subj-group></article-categories>"
        "<kwd-group><kwd>CO<sub>2</sub></kwd><kwd>lung</kwd><kwd/></kwd-group>"
        '<kwd-group kwd-group-type="MeSH"><nested-kwd><kwd>Tomography, X-Ray Computed</kwd></nested-kwd>'
        "<kwd>lung</kwd></kwd-group>"
    )
    assert one(article(meta=meta)).keywords == ["CO2", "lung", "Tomography, X-Ray Computed", "Medicine", "Radiology"]


def test_figures_of_letters_and_translations_say_so():
    back = f'<sub-article id="sa1">{figure(1)}</sub-article><response id="r1">{figure(1)}</response>'
    assert [found.in_subarticle for found in one(article(figure(1), back=back)).figures] == [False, True, True]


def test_the_image_beside_the_only_figure_of_a_group_is_the_figures():
    bare = '<fig id="a"><caption><p>C</p></caption></fig>'
    group = f'<fig-group>{bare}<graphic xlink:href="x.jpg"/></fig-group>'
    two = f'<fig-group>{bare}{bare}<graphic xlink:href="x.jpg"/></fig-group>'
    assert [found.images for found in one(article(group + two)).figures] == [[["x.jpg"]], [], []]


def test_every_fig_is_one_figure_wherever_and_however_deep():
    hard = (
        f"<p>{figure(1, more=figure(2, more=figure(3)))}</p><fig-group>{figure(4)}<fig/></fig-group><boxed-text><sec>"
        f"<p>{figure(5)}</p></sec></boxed-text><table-wrap><table><td>{figure(6)}</td></table></table-wrap>"
        f"<supplementary-material>{figure(7)}</supplementary-material><disp-quote>{figure(8)}</disp-quote>"
    )
    back = (
        f"<back><app-group><app>{figure(9)}</app></app-group><ack>{figure(10)}</ack><ref-list>{figure(11)}</ref-list></back>"
        f"<floats-group>{figure(12)}</floats-group><sub-article>{figure(13)}</sub-article>"
    )
    data = article(hard, back=back)
    assert len(one(data).figures) == data.count(b"<fig ") + data.count(b"<fig/>") == 14
    assert len({found.id for found in one(data).figures}) == 14


@pytest.mark.parametrize(
    ("markup", "expected"),
    [
        ("<title>Map.</title>", "Map."),
        ("<p>A<sup>2+</sup>/B<sub>i</sub><xref ref-type='bibr' rid='r'>[1]</xref>, c</p>", "A2+/Bi[1], c"),
        ("<p>See <inline-supplementary-material>Video 1</inline-supplementary-material>.</p>", "See Video 1."),
        ("<p>(<bold>A</bold>)<p>x</p></p><p>y</p>", "(A) x y"),
        ("<p><named-content>E. coli</named-content><x>, </x>K12</p>", "E. coli, K12"),
        ("<p>n<alternatives><textual-form>=3</textual-form><tex-math>q</tex-math></alternatives>!</p>", "n=3!"),
        ("<p>&#x3b2;-actin &lt; 5 &amp; more</p>", "β-actin < 5 & more"),
        ("<p><ext-link>http://x.org</ext-link>, <email>a@b.c</email></p>", "http://x.org, a@b.c"),
        ("<p>a<table-wrap><table><td>no</td></table></table-wrap>b</p>", "a b"),
        ("<p/><title/>", ""),
        ("", ""),
    ],
)
def test_words_are_neither_glued_nor_lost_nor_added(markup, expected):
    assert caption(markup) == expected


def test_null_and_empty_labels_and_captions_are_read():
    bare = "<fig id='a'/><fig id='b'><label/><caption/></fig><fig id=''><label> </label></fig>"
    found = [(each.id, each.label, each.caption, each.images) for each in one(article(bare)).figures]
    assert found == [("a", None, "", []), ("b", None, "", []), ("fig-3", None, "", [])]


@pytest.mark.parametrize(
    ("words", "flagged"),
    [
        ("Published with permission of the patient.", False),
        ("With the permission of her parents.", False),
        ("Permission from the patient was obtained.", False),
        ("Reproduced, with slight changes and permission, from Smith.", True),
        ("With kind permission from Elsevier.", True),
        ("Courtesy of Dr Smith.", True),
        ("Image copyright Smith.", True),
        ("The results were reproduced in three runs.", False),
    ],
)
def test_the_consent_of_a_patient_is_not_the_permission_of_a_publisher(words, flagged):
    assert only_figure(article(figure(1, f"<p>{words}</p>"))).third_party is flagged
