"""What is fuzzed: a reader of strangers' bytes each, and what may come of it; anything else is a fault.

A target takes bytes and a folder to write into, and raises nothing but what is no error of the user's.  ``SEEDS`` and
``TOKENS`` are what its inputs are made of.
"""

import contextlib
import json
import unicodedata

from medvlm_cli.benchmarks import own
from medvlm_cli.core.clean import clean, clean_json
from medvlm_cli.core.config import ChatConfig, EvalConfig, FetchConfig, SynthesizeConfig, window_of
from medvlm_cli.core.errors import MedVLMError
from medvlm_cli.core.hosts import followed, is_private
from medvlm_cli.core.presets import load
from medvlm_cli.core.scoring.files import read_candidates, read_predictions, read_references
from medvlm_cli.core.train_config import TrainConfig
from medvlm_cli.sources import dead_links, folder, jats, llava_med
from medvlm_cli.sources.remote_image import named
from medvlm_cli.teachers.parse import parse
from medvlm_cli.teachers.prompt import user_text
from medvlm_cli.teachers.validate import Source, validate
from medvlm_cli.terminal.markdown import Blocks
from tests.plugins.articles import article, figure, link

KINDS = (ChatConfig, EvalConfig, FetchConfig, SynthesizeConfig, TrainConfig)


def is_text(words):
    """Whether Arrow takes it: no lone surrogate."""
    words.encode()
    return True


def text_in(data):
    """Any text, lone surrogates too."""
    return data.decode("utf-8", "surrogatepass" if b"\xed" in data else "replace") if _decodes(data) else ascii(data)


def _decodes(data):
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


def kept(data, root, name):
    path = root / name
    path.write_bytes(data)
    return path


_STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
"""Categories of what no caption holds.  Signs of private use stay: publishers' symbol fonts are full of them."""


# ---------------------------------------------------------------------- the readers


def articles(data, root):
    with contextlib.suppress(MedVLMError):
        for found in jats.parse(data, "a.xml"):
            for one in found.figures:
                assert is_text(one.caption + (one.label or "") + "".join(mention.text for mention in one.mentions))
                assert {unicodedata.category(sign) for sign in one.caption}.isdisjoint(_STEERING)


def replies(data, root):
    found = parse(text_in(data), truncated=len(data) % 2 == 1)
    assert all(words.strip() for pair in found.pairs for words in pair)
    assert is_text("".join(words for pair in found.pairs for words in pair))
    validate(found.pairs, Source(text_in(data)))


def prompts(data, root):
    text = user_text({"caption": text_in(data), "mentions": [{"text": text_in(data[::-1])}]}, 0)[0]
    first, *inside, last = text.split("\n")
    assert last == f"</{first[1:]}" and is_text(text)
    assert not any("<material" in line or "</material" in line or "<|" in line for line in inside)


def predictions(data, root):
    with contextlib.suppress(MedVLMError):
        assert is_text("".join(read_predictions(kept(data, root, "p.jsonl")).answers.values()))


def references(data, root):
    with contextlib.suppress(MedVLMError):
        found = read_references(kept(data, root, "r.json"), "test", lambda question, gold: ["yes", "no"])
        assert all(item.golds and item.kind in ("open", "closed") for item in found.items)


def candidates(data, root):
    with contextlib.suppress(MedVLMError):
        assert is_text("".join(read_candidates(kept(data, root, "c.json"))[0]))


def cleaning(data, root):
    shown = clean(text_in(data))
    assert {unicodedata.category(one) for one in shown.replace("\n", "").replace("\t", "")}.isdisjoint(
        {"Cc", "Cf", "Cs"}
    )
    assert json.loads(clean_json(json.dumps([text_in(data)]))) == json.loads(json.dumps([text_in(data)]))


def markdown(data, root):
    text, whole, pieces = text_in(data), Blocks(), Blocks()
    at_once = [*whole.feed(text), *whole.close()]
    bit_by_bit = [block for one in text for block in pieces.feed(one)]
    assert [*bit_by_bit, *pieces.close()] == at_once


def tables(data, root, module, columns):
    for name in ("t.csv", "t.jsonl"):
        table = kept(columns + data, root, name)
        config = FetchConfig(images=str(root), captions=str(table))
        with contextlib.suppress(MedVLMError):
            made = [module.harvest(key, config) for key in module.keys(config)]
            assert all(one.found == len(one.rows) + len(one.rejects) for one in made)
            assert all(is_text(reject.message + reject.id) for one in made for reject in one.rejects)


def captions(data, root):
    tables(data, root, folder, b"image,caption\n" if len(data) % 2 else b"")


def questions(data, root):
    tables(data, root, own, b"image,question,answer\n" if len(data) % 2 else b"")


def windows(data, root):
    with contextlib.suppress(MedVLMError):
        assert window_of(text_in(data))[1] >= 1


def overrides(data, root):
    text = text_in(data)
    with contextlib.suppress(MedVLMError):
        load(KINDS[len(data) % len(KINDS)], "tiny", text.split("\n"))


def conversations(data, root):
    config = FetchConfig(files=(str(kept(data, root, "llava.json")),))
    with contextlib.suppress(MedVLMError):
        for key in llava_med.keys(config):
            made = llava_med.harvest(key, config)
            assert made.found == len(made.rows) + len(made.rejects)
            assert all(is_text(turn["text"]) for row in made.rows for turn in row["turns"])


def dead_addresses(data, root):
    path = kept(data, root, "urls.jsonl")
    for read in (dead_links.wanted, dead_links.wanted_by_roco):
        with contextlib.suppress(MedVLMError):  # compressed, and not whole
            for one in read(path):
                assert not isinstance(one, dead_links.Wanted) or ("/" not in one.file and one.file.isprintable())


def addresses(data, root):
    text = text_in(data)
    named(text)
    is_private(text)
    with contextlib.suppress(ValueError):
        target = followed("https://files.example.org/a", text)
        assert target is None or target.startswith("https://")


ARTICLE = article(figure(1) + f"<p>Seen in {link(1)} here.</p>")
PREDICTION = b'{"question_id": 1, "text": "yes"}\n'
REFERENCE = b'[{"id": "1", "answer_type": "OPEN", "conversations": [{"value": "q"}, {"value": "a"}]}]'
TALK = b'[{"id": "x", "image": "a.jpg", "conversations": [{"from": "human", "value": "<image>\\nq"}, {"from": "gpt", "value": "a"}]}]'  # noqa: E501
DEAD = b'{"pair_id": "a", "pmc_tar_url": "ftp://ftp.ncbi.nlm.nih.gov/pub/pmc/oa_package/00/01/PMC1.tar.gz", "image_file_path": "PMC1/a.jpg"}\n'  # noqa: E501
_MARKUP = (
    b"<fig id='f1'>", b"</fig>", b"<label>Fig 1</label>", b"<caption>", b"</caption>", b"<p>", b"</p>", b"<title/>",
    b"<graphic xlink:href='g.jpg'/>", b"<xref ref-type='fig' rid='f1'>", b"</xref>", b"<fig-group>", b"</fig-group>",
    b"<alternatives>", b"<sec>", b"</sec>", b"&#x1b;", b"&#8203;", b"&beta;", b"<![CDATA[", b"]]>", b"<!--", b"-->",
    b"\xff", b"<ref-list>", b"</ref-list>", b"<math>", b"<?x?>", b"Fig. 1A-C", b"\xef\xb7\x90", b"\xef\xb7\x91",
)  # fmt: skip
_JSON = (
    b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\n", b"null", b"1e999", b"NaN", b"true", b"-0", b"\\ud800",
    b"\xed\xa0\x80", b'"id"', b'"question_id"', b'"text"', b'"image"', b'"conversations"', b'"value"', b'"from"',
    b'"gpt"', b"9" * 4400, b'"choices"', b'"caption"', b'"mentions"', b'"answer"', b"[" * 1100, b"\xef\xbb\xbf",
    b"\x00", b"\r",
)  # fmt: skip
_CELLS = (
    b",", b";", b"\t", b"\n", b"\r", b'"', b"a.png", b"../a", b"/etc", b"\x00", b"x" * 300, b"1", b"yes", b"\xff",
    b"|",
)  # fmt: skip
_WORDS = (
    b"User:", b"Assistant:", b"\n", b"**", b"```", b"Q1:", b"</think>", b"<image>", b'{"user": "', b"\xe2\x80\xae",
    b"\x1b[2J", b"\xed\xa0\x80", b"- ", b"| a |", b"> ", b"# ", b"</material 0>", b"<|", b"\xe2\x80\x8b", b"System:",
    b" The image.",
)  # fmt: skip
_SETTINGS = (
    b"lr", b"n", b"window", b"scales", b"modality", b"=", b",", b"1e-3", b"nan", b"inf", b"-1", b"0", b"[", b"]",
    b"true", b"\n", b"batch", b"epochs", b"warmup", b"mirror", b"frame", b"axis", b"brain", b"40,80", b"1" * 400,
    b"\xd9\xa3", b" ",
)  # fmt: skip
_ADDRESSES = (
    b"https://", b"http:", b"//", b"@", b":", b"[", b"]", b"::1", b"127.0.0.1", b"0x7f", b"%", b"\\", b"/", b"?",
    b"#", b"\n", b"a.b", b"localhost", b":99999", b"\xc3\xa9", b"\xe3\x80\x82",
)  # fmt: skip

TARGETS = {
    articles: (3000, [ARTICLE, ARTICLE.replace(b"<p>", b"<p>" * 30)], _MARKUP),
    replies: (2500, [b"User: Is it?\nAssistant: It is dark.", b'{"turns": [{"user": "a", "assistant": "b"}]}'], _WORDS),
    prompts: (1000, [b"Axial CT of the liver."], _WORDS),
    predictions: (1500, [PREDICTION], _JSON),
    references: (1500, [REFERENCE], _JSON),
    candidates: (1000, [b'["a", "b"]'], _JSON),
    cleaning: (1500, [b"abc"], _WORDS),
    markdown: (1000, [b"# A\n\n- b\n\n```\nc\n```\n| d |\n|---|\n"], _WORDS),
    captions: (1000, [b"a.png,A caption\n", b'{"image": "a.png", "caption": "A"}\n'], _JSON + _CELLS),
    questions: (1000, [b"a.png,q,a\n", b'{"image": "a.png", "question": "q", "answer": "a"}\n'], _JSON + _CELLS),
    windows: (1000, [b"40,80", b"brain"], _SETTINGS),
    overrides: (500, [b"n=3", b"lr=1e-3\nscales=32,64"], _SETTINGS),
    conversations: (1500, [TALK], _JSON),
    dead_addresses: (1000, [DEAD], _JSON + _ADDRESSES),
    addresses: (1000, [b"https://a.example/x"], _ADDRESSES),
}
"""Target -> examples in the fast suite, whole inputs, and pieces to spoil them with."""
