"""The JSON that other programs train on, and the images beside it: exact, the same in any order, and whole."""

import hashlib
import io
import json
import random
import re

import pytest
from PIL import Image

from medvlm_cli.core.arrow import Harvest, write_all
from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.errors import ConfigError, DataError
from medvlm_cli.core.schemas import FIGURES, TAUGHT
from medvlm_cli.stages import synthesize as stage
from medvlm_cli.teachers.export import export, stems, write_images
from tests.core.arrow_cases import figure

STYLES = ("llava-med", "llama3-med")
FORMATS = {"JPEG": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "TIFF": "tif", "BMP": "bmp"}


def quiet(*told):
    """Progress that nobody hears."""


def row(id_="PMC1/fig1", **changes):
    """A conversation of two questions about a figure."""
    turns = [("user", f"<image>\nWhat is shown in {id_}?"), ("assistant", "A größer Δ mass."), ("user", "Where?"),
             ("assistant", "On the 左 side.")]  # fmt: skip
    return {
        "conversation_id": f"{id_}/instruct", "figure_id": id_, "kind": "instruct", "teacher": "claude:x",
        "turns": [{"role": role, "text": text} for role, text in turns], "modalities": ["ct"],
    } | changes  # fmt: skip


def rows(count=40):
    return [row(f"PMC{number}/fig{number % 3}", modalities=[("ct", "mri")[number % 2]]) for number in range(count)]


def name_of(figure_id):
    return f"{figure_id.replace('/', '_')}.png"


def written(tmp_path, made, style="llava-med"):
    export(made, name_of, style, tmp_path / "x.json")
    return (tmp_path / "x.json").read_bytes()


def image(format_, size=(9, 7)):
    file = io.BytesIO()
    Image.new("RGB", size, (200, 10, 10)).save(file, format_)
    return file.getvalue()


def dataset(folder, schema, made):
    """A finished dataset of these rows."""
    empty = dict.fromkeys(schema.names)
    harvest = Harvest(len(made), [empty | one for one in made], [])
    write_all(folder, schema, lambda key: harvest, stage="test", config={}, keys=["all"], tell=quiet)
    return folder


def taught(folder, ids):
    """Conversations about these figures as teachers write them."""
    known = {"teacher_planned": "claude:x", "prompt_id": "p", "license_tags": ["CC-BY-4.0"], "split": "train"}
    return dataset(folder, TAUGHT, [row(id_) | known for id_ in ids])


def figures(folder, images):
    return dataset(folder, FIGURES, [figure(id_, image={"bytes": data, "path": None}) for id_, data in images.items()])


def names_in(path):
    """The image names of an exported file, as its program's loader reads them."""
    told = json.loads(path.read_text("utf-8"))
    return [name for one in told for name in ([one["image"]] if isinstance(one["image"], str) else one["image"])]


def test_a_row_of_llava_med_names_its_image_by_a_string(tmp_path):
    assert json.loads(written(tmp_path, [row()])) == [{
        "id": "PMC1/fig1/instruct", "image": "PMC1_fig1.png",
        "domain": {"chest_xray": False, "ct_scan": True, "mri": False, "histology": False, "gross": False},
        "conversations": [
            {"from": "human", "value": "<image>\nWhat is shown in PMC1/fig1?"},
            {"from": "gpt", "value": "A größer Δ mass."},
            {"from": "human", "value": "Where?"},
            {"from": "gpt", "value": "On the 左 side."},
        ],
    }]  # fmt: skip


def test_a_row_of_llama3_med_names_its_image_in_a_list_and_its_teacher(tmp_path):
    """Its loader goes over ``image``: a string would be taken for a list of letters."""
    (told,) = json.loads(written(tmp_path, [row()], "llama3-med"))
    assert list(told["image"]) == ["PMC1_fig1.png"]
    assert told["teacher"] == "claude:x"


def test_a_figure_of_two_kinds_is_in_both_domains(tmp_path):
    (told,) = json.loads(written(tmp_path, [row(modalities=["ct", "gross", "ultrasound"])]))
    assert [name for name, flag in told["domain"].items() if flag] == ["ct_scan", "gross"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("seed", range(3))
def test_the_same_rows_in_any_order_give_the_same_bytes(tmp_path, style, seed):
    made = rows()
    shuffled = random.Random(seed).sample(made, len(made))
    assert written(tmp_path, iter(shuffled), style) == written(tmp_path, made, style)


def test_a_file_is_a_list_ordered_by_id_with_a_line_a_row(tmp_path):
    text = written(tmp_path, rows(12)).decode()
    ids = [one["id"] for one in json.loads(text)]
    assert ids == sorted(ids) and len(ids) == 12
    assert len(text.splitlines()) == 12 + 2


def test_unicode_stands_as_it_is_and_not_as_escapes(tmp_path):
    text = written(tmp_path, [row()]).decode("utf-8")
    assert "größer Δ" in text and "左" in text and "\\u" not in text


def test_no_rows_give_an_empty_list(tmp_path):
    assert written(tmp_path, []) == b"[]\n"


def test_a_conversation_that_is_there_twice_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=re.escape("conversation PMC1/fig1/instruct: the id is there twice")):
        written(tmp_path, [row(), row("PMC2/fig1"), row()])


@pytest.mark.parametrize(
    ("texts", "found"),
    [
        (["What?", "A mass."], "stands nowhere, not once in the first question"),
        (["<image>\n<image>\nWhat?", "A mass."], "stands in turn 1, 1, not"),
        (["<image>\nWhat?", "An <image>."], "stands in turn 1, 2, not"),
        (["What?", "A mass.", "<image>", "No."], "stands in turn 3, not"),
    ],
)
def test_an_image_that_does_not_stand_once_in_the_first_question_is_refused_by_name(tmp_path, texts, found):
    turns = [{"role": ("user", "assistant")[number % 2], "text": text} for number, text in enumerate(texts)]
    with pytest.raises(DataError, match=rf"conversation PMC1/fig1/instruct: <image> {found}"):
        written(tmp_path, [row(turns=turns)])


@pytest.mark.parametrize("roles", ["", "u", "uau", "au", "uuaa", "uaxa"])
def test_turns_that_do_not_alternate_are_refused_by_name(tmp_path, roles):
    names = {"u": "user", "a": "assistant", "x": "system"}
    turns = [{"role": names[one], "text": "<image> text" if not number else "text"} for number, one in enumerate(roles)]
    with pytest.raises(DataError, match="conversation PMC1/fig1/instruct: question and answer do not take turns"):
        written(tmp_path, [row(turns=turns)])


def test_a_refused_row_leaves_the_earlier_file_and_nothing_half_written(tmp_path):
    before = written(tmp_path, rows(5))
    with pytest.raises(DataError):
        written(tmp_path, [*rows(5), row("PMC9/fig9", turns=[])])
    assert (tmp_path / "x.json").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["x.json"]


def test_an_unknown_style_is_refused_with_those_that_there_are(tmp_path):
    with pytest.raises(ConfigError, match="no export style 'llava'; there are llava-med, llama3-med"):
        written(tmp_path, rows(1), "llava")
    assert list(tmp_path.iterdir()) == []


def test_a_figures_id_becomes_a_name_as_published_files_have_it():
    assert stems(["PMC7096066/fig2", "PMC1/F2-a.b_c"]) == {
        "PMC7096066/fig2": "PMC7096066_fig2", "PMC1/F2-a.b_c": "PMC1_F2-a.b_c"
    }  # fmt: skip


IDS = ["a/b", "a_b", "A/b", "a/b/c", "a_b/c", "a/b_c", "../etc/passwd", ".hidden", "-rf", "/", "", "ü", "u", "a b",
       "a\nb", "x" * 300, "x" * 300 + "y", "a\0b", "C:\\x", "图", "a/b-" + "0" * 16, "con*?<>|", "\u202e"]  # fmt: skip


def test_no_two_names_are_the_same_on_any_disk_and_none_leaves_its_folder():
    first = stems(IDS)
    hashed = stems([*IDS, *first.values()])  # the names of a first export are ids of the second
    assert len({name.casefold() for name in hashed.values()}) == len(set(IDS) | set(first.values()))
    assert [name for name in hashed.values() if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,139}", name)] == []


@pytest.mark.parametrize("id_", ["a b", "ü", "图", "x" * 121, ".hidden", ""])
def test_an_id_that_is_no_name_carries_its_hash_whichever_others_there_are(id_):
    (name,) = stems([id_]).values()
    assert name.endswith("-" + hashlib.sha256(id_.encode()).hexdigest()[:16])
    assert stems([*IDS, id_])[id_] == name


def test_names_do_not_depend_on_the_order_of_the_ids():
    assert stems(reversed(IDS)) == stems(IDS)


@pytest.mark.parametrize(("format_", "ending"), FORMATS.items())
def test_an_image_is_written_as_fetched_under_the_ending_of_its_format(tmp_path, format_, ending):
    data = image(format_)
    assert write_images({"f/1.jpg": "f_1"}, lambda id_: data, tmp_path / "images", quiet) == {
        "f/1.jpg": f"f_1.{ending}"
    }
    assert (tmp_path / "images" / f"f_1.{ending}").read_bytes() == data
    with Image.open(tmp_path / "images" / f"f_1.{ending}") as opened:  # as both programs open it
        assert opened.convert("RGB").size == (9, 7)


@pytest.mark.parametrize("data", [b"", b"<svg/>", b"<svg>\xff\xd8\xff\xe0</svg>", b"%PDF-1.7", b"RIFF1234WAVE"])
def test_an_image_of_no_known_format_is_refused_by_the_figures_name(tmp_path, data):
    with pytest.raises(DataError, match="figure PMC1/fig1: its image is of no format"):
        write_images({"PMC1/fig1": "x"}, lambda id_: data, tmp_path, quiet)


def test_images_that_lie_there_whole_are_left_and_others_are_written_anew(tmp_path):
    images = {f"f{number}": image("PNG", (number, 5)) for number in range(1, 6)}
    names = {id_: id_ for id_ in images}
    write_images(names, images.get, tmp_path, quiet)
    (tmp_path / "f2.png").write_bytes(images["f2"][:20])  # cut off
    (tmp_path / "f3.png").write_bytes(images["f3"][:-1] + b"x")  # of the same length
    (tmp_path / "f4.png").unlink()
    kept = {path.name: path.stat().st_ino for path in tmp_path.iterdir() if path.name in ("f1.png", "f5.png")}
    told = []
    write_images(names, images.get, tmp_path, lambda *one: told.append(one))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        f"{id_}.png": images[id_] for id_ in images
    }
    assert {name: (tmp_path / name).stat().st_ino for name in kept} == kept
    assert told == [("images", number, 5) for number in range(1, 6)]


@pytest.mark.parametrize("style", STYLES)
def test_every_name_in_the_json_is_an_image_beside_it(tmp_path, style):
    """Also where two figures would give one name, and where an image is not the JPEG that its name once said."""
    images = {"PMC1/fig1.jpg": image("PNG"), "PMC1_fig1.jpg": image("JPEG"), "PMC2/fig1": image("WEBP")}
    source = figures(tmp_path / "figures", images | {"PMC3/unused": image("PNG")})
    taught(tmp_path / "out" / "instruct", images)
    told = stage.export(tmp_path / "out", style, [source], quiet)
    names = names_in(tmp_path / "out" / f"instruct.{style}.json")
    assert (told["rows"], len(set(names))) == (3, 3)
    assert {name: (tmp_path / "out" / "images" / name).read_bytes() for name in names} == dict(
        zip(names, (images[id_] for id_ in sorted(images)), strict=True)
    )
    assert len(list((tmp_path / "out" / "images").iterdir())) == 3


def test_an_export_that_was_stopped_goes_on_and_gives_the_same_files(tmp_path):
    images = {f"PMC{number}/fig1": image("PNG", (number + 1, 3)) for number in range(20)}
    source = figures(tmp_path / "figures", images)
    taught(tmp_path / "whole" / "instruct", images)
    taught(tmp_path / "stopped" / "instruct", images)
    stage.export(tmp_path / "whole", "llava-med", [source], quiet)

    def stop(what, done, total):
        assert done < 8, "stopped"

    with pytest.raises(AssertionError, match="stopped"):
        stage.export(tmp_path / "stopped", "llava-med", [source], stop)
    assert not (tmp_path / "stopped" / "instruct.llava-med.json").exists()
    stage.export(tmp_path / "stopped", "llava-med", [source], quiet)
    both = [tmp_path / name for name in ("whole", "stopped")]
    files = [
        {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.suffix in (".png", ".json")
         and "instruct/" not in str(path)} for out in both
    ]  # fmt: skip
    assert files[0] == files[1] and len(files[0]) == 21


def test_a_conversation_whose_figure_is_nowhere_is_refused_by_name(tmp_path):
    source = figures(tmp_path / "figures", {"PMC1/fig1": image("PNG")})
    taught(tmp_path / "out" / "instruct", ["PMC1/fig1", "PMC2/fig1"])
    with pytest.raises(DataError, match=r"conversation PMC2/fig1/instruct: its figure PMC2/fig1 is in none"):
        stage.export(tmp_path / "out", "llava-med", [source], quiet)
    assert not (tmp_path / "out" / "images").exists()


def test_conversations_of_the_template_teacher_take_the_domain_from_their_figure(tmp_path):
    source = dataset(tmp_path / "figures", FIGURES, [figure(f"f{number}", caption="Axial CT of the liver with a mass.",
                     modality="mri", image={"bytes": image("PNG"), "path": None}) for number in range(3)])  # fmt: skip
    stage.synthesize([source], tmp_path / "out", SynthesizeConfig(teacher="template"), quiet)
    told = stage.export(tmp_path / "out", "llama3-med", [source], quiet)
    exported = json.loads((tmp_path / "out" / "instruct.llama3-med.json").read_text())
    assert told["rows"] == len(exported) > 0
    assert [[name for name, flag in one["domain"].items() if flag] for one in exported] == [["mri"]] * len(exported)


def test_an_unknown_style_is_refused_before_an_image_is_written(tmp_path):
    source = figures(tmp_path / "figures", {"PMC1/fig1": image("PNG")})
    taught(tmp_path / "out" / "instruct", ["PMC1/fig1"])
    with pytest.raises(ConfigError, match="no export style ''; there are"):
        stage.export(tmp_path / "out", "", [source], quiet)
    assert not (tmp_path / "out" / "images").exists()


def test_a_dataset_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="instruct"):
        stage.export(tmp_path, "llava-med", [figures(tmp_path / "f", {"a": image("PNG")})], quiet)
