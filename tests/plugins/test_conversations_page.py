"""The page of conversations: what it shows of teachers, figures and rejects, and that none of it can act in it."""

import re

import lxml.html
import pytest

from medvlm_cli.core.arrow import Harvest, Reject, open_dataset, write_all
from medvlm_cli.core.clean import clean
from medvlm_cli.core.errors import DataError
from medvlm_cli.core.schemas import CONVERSATIONS, TAUGHT
from medvlm_cli.teachers import page
from medvlm_cli.teachers.examine import MEANINGS
from medvlm_cli.teachers.statistics import Entry, tabulate
from tests.core.report_cases import article
from tests.core.test_report import ATTRIBUTES, ELEMENTS, PAYLOADS

MIX = {"claude": 25.0, "llama": 75.0}
TEXT = ("teacher", "teacher_planned", "prompt_id", "stop_reason", "split", "request", "raw_response", "served_model",
        "provider_id", "replied")  # fmt: skip
LISTS = ("modalities", "repairs", "warnings", "notes", "license_tags")


def row(figure_id="PMC1/fig1", **changes):
    """A conversation with every column filled."""
    turns = [("user", "<image>\nWhat is seen?"), ("assistant", "A mass."), ("user", "Where?"), ("assistant", "Left.")]
    return {
        "conversation_id": f"{figure_id}/instruct", "figure_id": figure_id, "kind": "instruct",
        "turns": [{"role": role, "text": text} for role, text in turns], "teacher": "claude:opus",
        "teacher_planned": "claude:opus", "prompt_id": "abc123", "request_sha256": "0" * 64, "raw_response": "User:",
        "stop_reason": "end_turn", "input_tokens": 3412, "output_tokens": 455, "cost_usd": 0.0123456,
        "license_tags": ["CC-BY-4.0", "anthropic-commercial-terms"], "split": "train", "modalities": ["ct"],
        "request": "Figure Caption: ...", "served_model": "claude-opus-5-5", "provider_id": "msg_1",
        "cache_write_tokens": 0, "cache_read_tokens": 2900, "thinking_tokens": 120, "attempts": 2,
        "replied": "2026-11-20T10:00:00+00:00", "repairs": ["V3_mended"], "warnings": ["V4_overlap"],
        "notes": ["V6_image_reference"], "judge_score": 0.9375,
    } | changes  # fmt: skip


def dataset(folder, rows, rejects=(), schema=TAUGHT):
    harvest = Harvest(
        len(rows) + len(rejects), [{name: one[name] for name in schema.names} for one in rows], [*rejects]
    )
    write_all(folder, schema, lambda key: harvest, stage="synthesize", config={}, keys=["all"], tell=lambda *_: None)
    return open_dataset(folder, schema)


def written(data, figure_of=article, statistics=None, meanings=MEANINGS):
    return page.write_page(data, figure_of, statistics or tabulate([], MIX), meanings)


def page_of(*arguments, **more):
    return lxml.html.fromstring(written(*arguments, **more).read_bytes().decode())


def shown(element, xpath):
    """The text of each element, its white space as one sees it."""
    return [" ".join(found.text_content().split()) for found in element.xpath(xpath)]


def seen(texts):
    return sorted(" ".join(clean(text).split()) for text in texts)


def hostile_row(text):
    changes = dict.fromkeys(TEXT, text) | {name: [text] for name in LISTS}
    turns = [{"role": role, "text": text} for role in ("user", "assistant")]
    return row(f"{text} kept", turns=turns, **changes)


def hostile_figure(id_):
    text = id_.removesuffix(" kept")
    names = ("caption", "label", "modality", "license", "title", "url", "journal", "authors", "source")
    return article(id_, **dict.fromkeys(names, text), mentions=[{"text": text, "panel": text}])


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A page with the payloads in every column of conversations, figures and rejects, in codes and in meanings."""
    rejects = [Reject(text, text, text, text) for text in PAYLOADS]
    data = dataset(tmp_path_factory.mktemp("hostile") / "d", [hostile_row(text) for text in PAYLOADS], rejects)
    entries = [
        Entry(figure_id=text, teacher=text, teacher_planned=text, modalities=(text,), outcome=outcome, notes=(text,),
              repairs=(text,), refusals=(text,)) for text in PAYLOADS for outcome in ("kept", text)
    ]  # fmt: skip
    meanings = {text: text for text in PAYLOADS}
    return page_of(data, hostile_figure, tabulate(entries, {PAYLOADS[0]: 100.0}), meanings)


def test_no_payload_becomes_an_element_or_an_attribute(hostile):
    elements = list(hostile.iter())
    assert {element.tag for element in elements} <= {*ELEMENTS.split(), "h4"}
    assert {name for element in elements for name in element.attrib} <= set(ATTRIBUTES.split())


def test_every_payload_is_shown_as_text_in_every_place(hostile):
    kept, rejected = "//article[not(.//p[@class='verdict'])]", "//article[.//p[@class='verdict']]"
    assert seen(PAYLOADS) == sorted(shown(hostile, f"{kept}//div[@class='turn question']/p[2]"))
    assert seen(PAYLOADS) == sorted(shown(hostile, f"{kept}//div[@class='turn answer']/p[2]"))
    assert seen(PAYLOADS) == sorted(shown(hostile, f"{kept}//div[@class='from']/p"))
    assert seen(PAYLOADS) == sorted(shown(hostile, f"{kept}//h4[.='Warnings']/..//dt"))
    assert seen(PAYLOADS) == sorted(shown(hostile, f"{kept}//h4[.='Repairs']/..//dd"))
    assert seen(PAYLOADS) == sorted(
        shown(hostile, f"{kept}//dl[@class='about']/dt[.='Model']/following-sibling::dd[1]")
    )
    assert seen(PAYLOADS) == sorted(shown(hostile, f"{rejected}//p[@class='raw']"))
    assert seen(PAYLOADS) == sorted(shown(hostile, f"{rejected}//p[contains(@class, 'message')]"))
    assert seen(f"rejected: {text}" for text in PAYLOADS) == sorted(shown(hostile, f"{rejected}//p[@class='verdict']"))
    assert seen(PAYLOADS) == sorted(shown(hostile, f"{rejected}//li"))


def test_no_payload_becomes_an_address(hostile):
    assert hostile.xpath("//a/@href") == []
    addresses = hostile.xpath("//@src")
    assert len(addresses) == 2 * len(PAYLOADS)
    assert [one for one in addresses if not re.fullmatch(r"data:image/webp;base64,[\w+/=]+", one)] == []


def test_style_sheet_and_class_names_are_not_of_data(hostile):
    names = set(" ".join(hostile.xpath("//@class")).split()) | set(hostile.xpath("//@id"))
    assert [name for name in names if not re.fullmatch(r"[a-z]+|f\d-(\d+|rest)", name)] == []
    assert [style for style in hostile.xpath("//@style") if not re.fullmatch(r"width:\d+\.\d%", style)] == []
    (sheet,) = hostile.xpath("//style")
    assert re.search(r"evil|alert|script|url\(|@import", sheet.text) is None


def test_no_character_steers_the_reader(tmp_path):
    data = dataset(tmp_path / "d", [hostile_row(PAYLOADS[-2])], [Reject(PAYLOADS[-2], PAYLOADS[-2], PAYLOADS[-2])])
    text = written(data, hostile_figure).read_text()
    assert clean(text) == text


def test_the_page_may_load_nothing_and_run_nothing(hostile):
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    assert hostile.xpath("//meta[@http-equiv='Content-Security-Policy']/@content") == [policy]
    assert hostile.xpath("//script | //link | //*[@onclick]") == []


def test_a_conversation_stands_beside_its_figure_and_the_words_it_was_written_from(tmp_path):
    (card,) = page_of(dataset(tmp_path / "d", [row("PMC7/fig2")])).xpath("//article")
    assert shown(card, "./div[@class='from']") == [
        "Figure 2PMC7/fig2 Caption of PMC7/fig2: größer. 1 sentence cites it See Figure 2A. "
        "Modalityct LicenceCC-BY-4.0 Articlepmc.ncbi.nlm.nih.gov"
    ]
    assert card.xpath(".//img/@alt") == ["Figure 2, ct"]
    assert shown(card, ".//div[contains(@class, 'turn')]") == [
        "Question <image> What is seen?", "Answer A mass.", "Question Where?", "Answer Left.",
    ]  # fmt: skip


def test_what_validators_said_stands_beside_a_conversation_with_its_meaning(tmp_path):
    (card,) = page_of(dataset(tmp_path / "d", [row(repairs=["V3_mended", "dropped_V7_advice"])])).xpath("//article")
    assert shown(card, ".//div[@class='group']") == [
        "Warnings V4_overlapeight words in a row are the source's",
        "Repairs V3_mendedsuch a word introduced a sentence and was taken out "
        "dropped_V7_advicea question and its answer were dropped: advice on treatment, or a dose",
        "Noticed V6_image_referencean answer speaks of the image",
    ]


def test_teacher_model_tokens_money_and_terms_are_told(tmp_path):
    (card,) = page_of(dataset(tmp_path / "d", [row(teacher_planned="vllm:llama")])).xpath("//article")
    facts = dict(zip(shown(card, ".//div[@class='wrote']/dl/dt"), shown(card, ".//div[@class='wrote']/dl/dd"), strict=True))  # fmt: skip # noqa: E501
    assert facts == {
        "Id": "PMC1/fig1/instruct", "Teacher": "claude:opus", "Planned": "vllm:llama", "Model": "claude-opus-5-5",
        "Tokens": "3,412 in, 455 out (120 thinking), 2,900 from the cache", "Cost": "0.012346 USD", "Requests": "2",
        "Ended by": "end_turn", "Judge": "0.94", "Prompt": "abc123",
        "Terms": "CC-BY-4.0, anthropic-commercial-terms", "Split": "train",
    }  # fmt: skip


def test_a_reject_is_shown_with_reason_message_and_what_was_said(tmp_path):
    rejects = [Reject("PMC9/fig1", "V11_empty", "V11_empty: nothing", "User: one\nAssistant two"),
               Reject("PMC9/fig2", "refusal", "claude refused (bio)")]  # fmt: skip
    cards = page_of(dataset(tmp_path / "d", [], rejects)).xpath("//article")
    assert sorted(shown(card, "./div[@class='wrote']")[0] for card in cards) == [
        "rejected: V11_empty no question with an answer V11_empty: nothing User: one Assistant two",
        "rejected: refusal the teacher refused to answer claude refused (bio)",
    ]
    assert len(page_of(dataset(tmp_path / "e", [], rejects)).xpath("//article//img")) == 2


def test_an_image_that_cannot_be_decoded_leaves_a_place(tmp_path):
    made = page_of(dataset(tmp_path / "d", [row()]), lambda id_: article(id_, image={"bytes": b"junk", "path": None}))
    assert made.xpath("//article//img") == []
    assert shown(made, "//article//div[@class='stage']") == ["image cannot be decoded"]


def test_filters_are_by_teacher_modality_outcome_and_codes_and_count_their_cards(tmp_path):
    teachers, kinds = ("claude:opus", "vllm:llama", "vllm:llama"), (["ct"], ["mri"], ["ct", "mri"])
    codes = ([], ["V4_overlap", "V7_certain"])
    rows = [row(f"f{n}", teacher=teachers[n % 3], modalities=kinds[n % 3], warnings=codes[n % 2]) for n in range(12)]
    made = page_of(dataset(tmp_path / "d", rows, [Reject(f"r{n}", "refusal", "no") for n in range(5)]))
    assert shown(made, "//legend") == ["Teacher", "Modality", "Outcome", "Warnings and reasons"]
    assert shown(made, "//fieldset[1]//span") == ["all", "vllm:llama (8)", "claude:opus (4)", "unknown (5)"]
    assert shown(made, "//fieldset[2]//span") == ["all", "ct (13)", "mri (8)"]  # the rejects' figures are CT
    assert shown(made, "//fieldset[3]//span") == ["all", "kept (12)", "rejected (5)"]
    assert shown(made, "//fieldset[4]//span") == [
        "all", "V4_overlap (6)", "V7_certain (6)", "none (6)", "refusal (5)",
    ]  # fmt: skip
    buttons = dict(zip(made.xpath("//input/@id"), shown(made, "//input[@id]/../span"), strict=True))
    carried = {key: len(made.xpath(f"//article[contains(concat(' ', @class, ' '), ' {key} ')]")) for key in buttons}
    assert {key: int(text.rstrip(")").split("(")[1]) for key, text in buttons.items()} == carried


def test_each_filter_hides_the_cards_without_its_class(tmp_path):
    made = page_of(dataset(tmp_path / "d", [row("f"), row("g", modalities=["mri"])]))
    rules = re.findall(
        r"body:has\(#(\S+):checked\) \.card:not\(\.(\S+)\) \{ display: none; \}", made.xpath("//style")[0].text
    )
    assert [first for first, _ in rules] == made.xpath("//input/@id")
    assert [first for first, second in rules if first != second] == []


def test_of_many_conversations_and_rejects_some_of_every_kind_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "CONVERSATIONS_SHOWN", 20)
    monkeypatch.setattr(page, "REJECTS_SHOWN", 10)
    rows = [row(f"f{n}", teacher=("claude:opus", "vllm:llama")[n % 10 > 0]) for n in range(100)]
    rejects = [Reject(f"r{n}", ("refusal", "V11_empty")[n % 20 > 0], "no") for n in range(60)]
    made = page_of(dataset(tmp_path / "d", rows, rejects))
    assert shown(made, "//fieldset[1]//span") == ["all", "claude:opus (10)", "vllm:llama (10)", "unknown (10)"]
    assert shown(made, "//fieldset[4]//span") == ["all", "V4_overlap (20)", "V11_empty (7)", "refusal (3)"]
    assert shown(made, "//h2[@id='conversations']/following-sibling::p[1]")[0].startswith(
        "20 of 100 conversations shown, spread over teachers and modalities as evenly as they allow; 10 of 60 rejects"
    )


def test_only_figures_that_are_shown_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(page, "CONVERSATIONS_SHOWN", 7)
    asked = []
    data = dataset(tmp_path / "d", [row(f"f{n}") for n in range(50)])
    written(data, lambda id_: asked.append(id_) or article(id_))
    assert len(set(asked)) == len(asked) == 7


@pytest.mark.parametrize(
    ("xpath", "length"),
    [
        ("//div[@class='turn answer']/p[2]", 2000),
        ("//p[@class='raw']", 2000),
        ("//p[contains(@class, 'message')]", 600),
        ("//div[@class='from']/details[1]/p", 3000),
        ("//li", 600),
        ("//dt[.='Model']/following-sibling::dd[1]", 200),
    ],
)
def test_words_without_end_are_cut_and_say_how_many_there_were(tmp_path, xpath, length):
    endless = "<" * 50_000
    turns = [{"role": "user", "text": "<image>"}, {"role": "assistant", "text": endless}]
    data = dataset(tmp_path / "d", [row(turns=turns, served_model=endless)], [Reject("r", "refusal", endless, endless)])
    made = page_of(data, lambda id_: article(id_, caption=endless, mentions=[{"text": endless, "panel": None}]))
    assert set(shown(made, xpath)) == {"<" * length + "… [50,000 characters]"}


def test_a_conversation_of_a_hundred_turns_and_codes_is_cut(tmp_path):
    turns = [{"role": ("user", "assistant")[n % 2], "text": f"turn {n}"} for n in range(100)]
    codes = [f"code{n}" for n in range(100)]
    (card,) = page_of(dataset(tmp_path / "d", [row(turns=turns, warnings=codes)])).xpath("//article")
    assert len(card.xpath(".//div[contains(@class, 'turn')]")) == 24
    assert "and 76 turns more" in shown(card, ".//p")
    assert len(card.xpath(".//h4[.='Warnings']/..//dt")) == 12


def test_of_many_sentences_that_cite_a_figure_the_first_are_shown(tmp_path):
    mentions = [{"text": f"Sentence {number}.", "panel": None} for number in range(20)]
    made = page_of(dataset(tmp_path / "d", [row()]), lambda id_: article(id_, mentions=mentions))
    assert shown(made, "//article//summary") == ["20 sentences cite it"]
    assert shown(made, "//article//li")[-2:] == ["Sentence 5.", "and 14 more"]


def test_a_page_of_endless_words_stays_small(tmp_path):
    """260 cards of 270 kB of words each.  A card shows at most 2 turns of 2,000 characters, a caption of 3,000 and its
    first 200, a reject 5,800; escaped they are 13 / 3 as long: 8 MB, and 1 MB for all else."""
    words = "<&>" * 30_000
    rows = [row(f"f{n}", turns=[{"role": role, "text": words} for role in ("user", "assistant")]) for n in range(200)]
    data = dataset(tmp_path / "d", rows, [Reject(f"r{n}", "refusal", words, words) for n in range(60)])
    picture = article("x")["image"]
    size = written(data, lambda id_: article(id_, caption=words, image=picture)).stat().st_size
    assert 5_000_000 < size < 9_000_000


def test_the_tables_of_the_statistics_are_on_the_page(tmp_path):
    entries = [Entry(figure_id=f"f{n}", teacher="claude", teacher_planned="claude", modalities=("ct",), outcome="kept",
                     pairs=3, messages=6) for n in range(4)]  # fmt: skip
    made = page_of(dataset(tmp_path / "d", [row()]), statistics=tabulate(entries, MIX))
    assert "LLaVA-Med (paper)images8,06017,35816,53917,0302,552-(61,539)" in shown(made, "//tr")
    assert "QA pairs012000012" in shown(made, "//tr")
    assert shown(made, "//div[@class='cautions']/p") == tabulate(entries, MIX).warnings


def test_a_table_of_many_lines_is_cut_and_says_where_the_rest_is(tmp_path):
    entries = [Entry(figure_id=f"f{n}", teacher="claude", teacher_planned="claude", modalities=("ct",),
                     outcome=f"reason{n}") for n in range(90)]  # fmt: skip
    made = page_of(dataset(tmp_path / "d", [row()]), statistics=tabulate(entries, MIX))
    assert len(made.xpath("//table[caption='Rejects']/tbody/tr")) == 60
    assert "and 30 lines more in stats.json" in shown(made, "//section/p")
    assert len(made.xpath("//table[caption='Rejects by reason']//tr")) == 20


def test_conversations_of_the_template_teacher_stand_under_a_banner(tmp_path):
    entries = [Entry(figure_id="f", teacher="template", teacher_planned="template", modalities=("ct",), outcome="kept")]
    made = page_of(dataset(tmp_path / "d", [row(teacher="template")]), statistics=tabulate(entries, MIX))
    assert shown(made, "//header/p")[-1] == "Demo data, not a reproduction."


def test_conversations_without_the_columns_of_teachers_have_a_page(tmp_path):
    bare = {"raw_response": None, "stop_reason": None, "input_tokens": None, "output_tokens": None, "cost_usd": None}
    made = page_of(dataset(tmp_path / "d", [row(**bare)], schema=CONVERSATIONS))
    assert shown(made, "//div[@class='wrote']/dl/dt") == ["Id", "Teacher", "Prompt", "Terms", "Split"]
    assert shown(made, "//fieldset[2]//span") == ["all", "ct (1)"]


def test_nothing_at_all_has_a_page(tmp_path):
    made = page_of(dataset(tmp_path / "d", []))
    assert made.xpath("//article | //form") == []
    assert "Nothing to show: no conversation, and no reject." in made.text_content()


def test_the_same_dataset_gives_the_same_bytes(tmp_path):
    rejects = [Reject(f"r{n}", "refusal", "no") for n in range(20)]
    data = dataset(tmp_path / "d", [row(f"f{n}") for n in range(40)], rejects)
    first = written(data).read_bytes()
    assert written(open_dataset(tmp_path / "d", TAUGHT)).read_bytes() == first


def test_the_page_does_not_say_in_which_folder_the_data_lies(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/opt/medvlm", "synthesize", "/data/ward/figures", "-o", "/data/ward/out"])
    text = written(dataset(tmp_path / "my talks", [row()])).read_text()
    assert "<h1>my talks</h1>" in text and "medvlm synthesize …/figures -o …/out" in text
    assert "ward" not in text and str(tmp_path) not in text


def test_every_image_and_button_has_words_and_every_head_its_scope(hostile):
    assert hostile.xpath("//input[not(parent::label)] | //img[not(@alt)] | //th[not(@scope)]") == []


def test_a_single_file_has_no_place_for_a_page(tmp_path):
    data = dataset(tmp_path / "d", [row()])
    (file,) = (data.folder / "data").iterdir()
    with pytest.raises(DataError, match="is a single file"):
        written(open_dataset(file, TAUGHT))
