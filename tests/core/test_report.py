"""The page for the eyes: what it shows, and that nothing in a dataset can act in it."""

import base64
import io
import re

import lxml.html
import pytest
from PIL import Image

from medvlm_cli.core import report
from medvlm_cli.core.arrow import Dataset, Reject, open_dataset
from medvlm_cli.core.clean import clean
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.report import write_report
from medvlm_cli.core.schemas import FIGURES, SCAN_FIGURES
from tests.core.report_cases import article, dataset, png

PAYLOADS = [
    "<script>alert(1)</script>",
    "</style><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"><img src=x onerror=alert(1)>",
    "' onmouseover='alert(1)",
    "\" onfocus=alert(1) autofocus x=\"",
    "<svg onload=alert(1)>",
    "<svg><script xlink:href=data:,alert(1)></script></svg>",
    "<iframe src=https://evil.example></iframe>",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "<object data=https://evil.example>",
    "<embed src=https://evil.example>",
    "<link rel=stylesheet href=https://evil.example/x.css>",
    "<meta http-equiv=refresh content=0;url=https://evil.example>",
    "<base href=https://evil.example/>",
    "<form action=https://evil.example><button>x</button></form>",
    "<math><mtext><style><img src=x onerror=alert(1)></style></mtext></math>",
    "<details open ontoggle=alert(1)>",
    "<a href=javascript:alert(1)>x</a>",
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)//https://",
    "data:text/html,<script>alert(1)</script>",
    "https://evil.example/\"onclick=\"alert(1)",
    "https://user@evil.example/",
    "https://pmc.example\\@evil.example/",
    "//evil.example/x",
    "{{ 7 * 7 }}{% for x in y %}",
    "<!-- --!><script>alert(1)</script>",
    "<![CDATA[<script>alert(1)</script>]]>",
    "&lt;script&gt;alert(1)&lt;/script&gt;&#x3c;b&#x3e;",
    "\u202e<b>gnp.exe\u2066\u200b\x00\x1b]0;owned\x07",
    "@import 'https://evil.example/x.css'; } body { display: none }",
]  # fmt: skip
TEXT = ("caption", "label", "modality", "modality_source", "license", "article_id", "doi", "title", "url", "journal",
        "authors", "license_code", "source_key", "source_md5", "source")  # fmt: skip
ELEMENTS = """html head meta title style body header main footer section article h1 h2 h3 p dl dt dd div span small code
a img table caption thead tbody tr th td form fieldset legend label input button details summary ul li"""
ATTRIBUTES = """lang charset http-equiv content name class id style title scope aria-label autocomplete type checked src
width height alt loading dir href rel"""


def page_of(data, meanings=None):
    return lxml.html.fromstring(write_report(data, meanings).read_bytes().decode())


def shown(page, xpath):
    """The text of each element, its white space as one sees it."""
    return [" ".join(element.text_content().split()) for element in page.xpath(xpath)]


@pytest.fixture
def hostile(tmp_path):
    """A page of as many figures and rejects as there are payloads, in every column of text."""
    rows = [article(text, **dict.fromkeys(TEXT, text), mentions=[{"text": text, "panel": text}]) for text in PAYLOADS]
    rejects = [Reject(text, text, text, text) for text in PAYLOADS]
    return page_of(dataset(tmp_path / "d", rows, rejects), dict(zip(PAYLOADS, PAYLOADS, strict=True)))


def test_no_payload_becomes_an_element_or_an_attribute(hostile):
    elements = list(hostile.iter())
    assert {element.tag for element in elements} <= set(ELEMENTS.split())
    assert {name for element in elements for name in element.attrib} <= set(ATTRIBUTES.split())


def test_every_payload_is_shown_as_text(hostile):
    seen = [" ".join(clean(text).split()) for text in PAYLOADS]
    assert sorted(shown(hostile, "//article/h3/small")) == sorted(seen)
    assert sorted(shown(hostile, "//article/p[contains(@class, 'text')]")) == sorted(seen)
    assert sorted(shown(hostile, "//article//li")) == sorted(seen)
    assert sorted(shown(hostile, "//div[contains(@class, 'list')]//td[1]")) == sorted(seen)


def test_no_payload_becomes_an_address(hostile):
    assert hostile.xpath("//article//a/@href") == []
    addresses = hostile.xpath("//@src")
    assert len(addresses) == len(PAYLOADS)
    assert [address for address in addresses if not re.fullmatch(r"data:image/webp;base64,[\w+/=]+", address)] == []


def test_style_sheet_and_class_names_are_not_of_data(hostile):
    names = set(" ".join(hostile.xpath("//@class")).split()) | set(hostile.xpath("//@id"))
    assert [name for name in names if not re.fullmatch(r"[a-z]+|f\d-(\d+|rest)", name)] == []
    assert [style for style in hostile.xpath("//@style") if not re.fullmatch(r"width:\d+\.\d%", style)] == []
    (sheet,) = hostile.xpath("//style")
    assert re.search("evil|alert|script", sheet.text) is None


def test_no_character_steers_the_reader(tmp_path):
    data = dataset(tmp_path / "d", [article(text, caption=text) for text in PAYLOADS])
    text = write_report(data).read_text()
    assert clean(text) == text


def test_the_page_may_load_nothing_and_run_nothing(tmp_path):
    page = page_of(dataset(tmp_path / "d", [article("f")]))
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content") == [policy]
    assert page.xpath("//script | //link | //*[@onclick]") == []
    assert re.search(r"url\(|@import", page.xpath("//style")[0].text) is None


def test_an_article_is_linked_by_https_without_telling_it_who_comes(tmp_path):
    (link,) = page_of(dataset(tmp_path / "d", [article("f")])).xpath("//article//a")
    assert link.get("href") == "https://pmc.ncbi.nlm.nih.gov/articles/PMC7/"
    assert link.get("rel") == "noopener noreferrer"
    assert link.text == "pmc.ncbi.nlm.nih.gov"


@pytest.mark.parametrize(
    "url",
    ["http://a.example/", "https://", "https:///x", "https://a.example/\n", "https://a.exämple/", "ftp://a.b/", ""],
)
def test_no_other_address_becomes_a_link(tmp_path, url):
    assert page_of(dataset(tmp_path / "d", [article("f", url=url)])).xpath("//article//a") == []


def test_a_figure_is_shown_with_all_that_is_known_of_it(tmp_path):
    page = page_of(dataset(tmp_path / "d", [article("PMC7/fig2", third_party=True, retracted=True)]))
    (text,) = shown(page, "//article")
    assert text == (
        "Figure 2PMC7/fig2 retractedthird-party rights Caption of PMC7/fig2: größer. "
        "1 sentence cites it See Figure 2A. Modalityct by caption LicenceCC-BY-4.0 Panels2 (caption 2, image 1) "
        "Pixels30 × 20 ArticleA rare liver Smith J, Doe A, J Liver, 2020 pmc.ncbi.nlm.nih.gov"
    )
    assert page.xpath("//article//img/@alt") == ["Figure 2, ct"]


def test_a_thumbnail_is_a_small_webp_of_the_figure(tmp_path):
    data = dataset(tmp_path / "d", [article("f", image={"bytes": png((10, 200, 10), (880, 440)), "path": None})])
    (address,) = page_of(data).xpath("//article//img/@src")
    image = Image.open(io.BytesIO(base64.b64decode(address.split(",")[1])))
    assert (image.format, image.size) == ("WEBP", (220, 110))
    assert abs(image.convert("RGB").getpixel((50, 50))[1] - 200) < 12


def test_an_image_that_cannot_be_decoded_leaves_a_place(tmp_path):
    rows = [article("good"), article("bad", image={"bytes": b"junk", "path": None})]
    page = page_of(dataset(tmp_path / "d", rows))
    assert len(page.xpath("//article//img")) == 1
    assert shown(page, "//article[not(.//img)]/div") == ["image cannot be decoded"]


def test_a_long_caption_is_opened_by_the_reader(tmp_path):
    caption = "word " * 100 + "end."
    (details,) = page_of(dataset(tmp_path / "d", [article("f", caption=caption, mentions=[])])).xpath("//details")
    assert shown(details, "./p") == [caption]
    assert shown(details, ".//span[@class='start']") == [caption[:199] + " …"]


def test_a_caption_of_100_kB_is_cut(tmp_path):
    page = page_of(dataset(tmp_path / "d", [article("f", caption="<" * 100_000)]))
    assert shown(page, "//article/details[1]/p") == ["<" * 5000 + "… [100,000 characters]"]


def test_of_many_sentences_the_first_are_shown(tmp_path):
    mentions = [{"text": f"Sentence {number}.", "panel": None} for number in range(20)]
    page = page_of(dataset(tmp_path / "d", [article("f", mentions=mentions)]))
    assert shown(page, "//article//summary") == ["20 sentences cite it"]
    assert shown(page, "//article//li")[-2:] == ["Sentence 7.", "and 12 more"]


def test_a_filter_counts_what_its_cards_carry(tmp_path):
    rows = [article(f"f{number}", modality=("ct", "mri", "unknown")[number % 3], n_panels=number % 4 or None) for number in range(30)]  # fmt: skip # noqa: E501
    page = page_of(dataset(tmp_path / "d", rows))
    buttons = dict(zip(page.xpath("//input/@id"), shown(page, "//input[@id]/../span"), strict=True))
    carried = {key: len(page.xpath(f"//article[contains(concat(' ', @class, ' '), ' {key} ')]")) for key in buttons}
    assert {key: int(text.rstrip(")").split("(")[1]) for key, text in buttons.items()} == carried
    assert sorted(buttons.values())[:4] == ["CC-BY-4.0 (30)", "allowed (30)", "compound (14)", "ct (10)"]


def test_each_filter_hides_the_cards_without_its_class(tmp_path):
    page = page_of(dataset(tmp_path / "d", [article("f", modality="ct"), article("g", modality="mri")]))
    rules = re.findall(
        r"body:has\(#(\S+):checked\) \.card:not\(\.(\S+)\) \{ display: none; \}", page.xpath("//style")[0].text
    )
    assert [first for first, _ in rules] == page.xpath("//input/@id")
    assert [first for first, second in rules if first != second] == []
    assert shown(page, "//legend") == ["Modality", "Licence", "Panels", "Commercial use", "Third-party rights"]


def test_values_past_a_dozen_share_one_button(tmp_path):
    page = page_of(dataset(tmp_path / "d", [article(f"f{number}", modality=f"m{number:02}") for number in range(40)]))
    buttons = shown(page, "//fieldset[1]//span")
    assert len(buttons) == 13 and buttons[-1] == "29 others (29)"
    assert len(page.xpath("//article[contains(@class, 'f0-rest')]")) == 29


def test_a_page_shows_as_many_of_each_modality_as_there_are_or_fit(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FIGURES_SHOWN", 30)
    kinds = ["ct"] * 100 + ["mri"] * 80 + ["gross"] * 4
    page = page_of(dataset(tmp_path / "d", [article(f"f{n}", modality=kind) for n, kind in enumerate(kinds)]))
    assert shown(page, "//fieldset[1]//span") == ["all", "ct (13)", "mri (13)", "gross (4)"]
    assert shown(page, "//h2[@id='figures']/following-sibling::p[1]")[0].startswith("30 of 184 shown, spread")


def test_more_modalities_than_fit_are_shown_once_each(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FIGURES_SHOWN", 5)
    page = page_of(dataset(tmp_path / "d", [article(f"f{n}", modality=f"m{n % 9}") for n in range(90)]))
    assert len(page.xpath("//article")) == len(set(page.xpath("//article/@class"))) == 5


def test_only_images_of_chosen_figures_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "FIGURES_SHOWN", 7)
    data = dataset(tmp_path / "d", [article(f"f{number}") for number in range(250)])
    scanned, taken = [], []
    rows, row_at = Dataset.rows, Dataset.row_at
    monkeypatch.setattr(Dataset, "rows", lambda self, columns=None: scanned.append(columns) or rows(self, columns))
    monkeypatch.setattr(Dataset, "row_at", lambda self, at, columns=None: taken.append(at) or row_at(self, at, columns))
    write_report(data)
    assert len(taken) == 7
    assert ["figure_id", "modality"] in scanned
    assert [columns for columns in scanned if "image" in (columns or ())] == []


def test_the_same_dataset_gives_the_same_bytes(tmp_path):
    data = dataset(tmp_path / "d", [article(f"f{number}") for number in range(40)])
    first = write_report(data).read_bytes()
    assert write_report(open_dataset(tmp_path / "d", FIGURES)).read_bytes() == first


def test_the_header_says_what_made_it_but_not_in_which_folder(tmp_path, monkeypatch):
    argv = ["/opt/bin/medvlm", "fetch", "pmc", "--set", "mirror=/data/ward/smith", "-o", "/data/ward/out", "2026/1/14"]
    monkeypatch.setattr("sys.argv", argv)
    page = page_of(dataset(tmp_path / "my figures", [article("f")], [Reject("g", "no_image", "lost")]))
    text = write_report(open_dataset(tmp_path / "my figures", FIGURES)).read_text()
    assert shown(page, "//h1") == ["my figures"]
    assert shown(page, "//header//dd")[:2] == ["1", "1"]
    assert shown(page, "//header//code") == ["medvlm fetch pmc --set mirror=…/smith -o …/out 2026/1/14"]
    assert "ward" not in text and str(tmp_path) not in text
    assert "Research use only. Not a medical device, not for diagnosis." in shown(page, "//header/p")


def test_tables_count_all_rows_and_say_what_a_reason_means(tmp_path):
    rows = [article("f", year=2019), article("g", year=2021), article("h", year=2021)]
    rejects = [Reject("x", "no_image", "lost"), Reject("y", "no_image", "lost"), Reject("z", "odd", "lost")]
    page = page_of(dataset(tmp_path / "d", rows, rejects), {"no_image": "names no image"})
    assert shown(page, "//table/caption") == ["Modality", "Licence", "Year of the article", "Panels of a figure", "Rejects by reason"]  # fmt: skip # noqa: E501
    assert shown(page, "//table[caption='Year of the article']//tr") == ["2019 1", "2021 2"]
    assert page.xpath("//table[caption='Year of the article']//@style") == ["width:50.0%", "width:100.0%"]
    assert shown(page, "//table[caption='Rejects by reason']//tr") == ["no_imagenames no image 2", "odd 1"]


def test_of_many_rejects_a_sample_is_shown(tmp_path):
    rejects = [Reject(f"r{number}", "no_image", f"lost {number}") for number in range(70)]
    page = page_of(dataset(tmp_path / "d", [article("f")], rejects))
    assert len(page.xpath("//div[contains(@class, 'list')]//tbody/tr")) == 50
    assert shown(page, "//h2[@id='rejects']/following-sibling::p[1]")[0].startswith("50 of 70 shown")


def test_an_empty_dataset_has_a_page(tmp_path):
    page = page_of(dataset(tmp_path / "d", []))
    assert page.xpath("//article | //form | //table") == []
    assert "0 of 0 shown" in page.text_content()


def test_figures_without_further_columns_have_a_page(tmp_path):
    page = page_of(dataset(tmp_path / "d", [article("f", url=None, title=None)], schema=FIGURES))
    assert shown(page, "//article//dt") == ["Modality", "Licence", "Panels", "Pixels"]


def test_a_scan_shows_that_words_may_be_burned_in_but_not_its_file(tmp_path):
    scan = {"source_file": "SMITH^JOHN.dcm", "frame": 0, "window_center": 40.0, "window_width": 400.0, "region": None, "burned_in": True}  # fmt: skip # noqa: E501
    page = page_of(dataset(tmp_path / "d", [article("f", **scan)], schema=SCAN_FIGURES))
    assert shown(page, "//p[@class='warnings']/span") == ["may show burned-in text"]
    assert "SMITH" not in page.text_content()


def test_every_image_and_button_has_words(tmp_path):
    page = page_of(dataset(tmp_path / "d", [article("f", label=None)]))
    assert page.xpath("//img/@alt") == ["f, ct"]
    assert page.xpath("//input[not(parent::label)] | //img[not(@alt)] | //th[not(@scope)]") == []
    assert page.xpath("/html/@lang") == ["en"]


def test_a_single_file_has_no_place_for_a_page(tmp_path):
    data = dataset(tmp_path / "d", [article("f")])
    (file,) = (data.folder / "data").iterdir()
    with pytest.raises(DataError, match="is a single file"):
        write_report(open_dataset(file, FIGURES))
