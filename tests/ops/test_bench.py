"""The bench runs through and says what it must, and its peers are what they are called; speed is not asked."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from medvlm_kernels.geometry import Geometry

BENCH = Path(__file__).resolve().parents[2] / "kernels" / "bench"
HEAD = ["path", "precision", "images", "images/s", "ms/image", "x", "TFLOP/s", "of", "peak", "memory", "MB", "error"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A quick run in a process of its own: what it printed, and what it wrote."""
    out = tmp_path_factory.mktemp("bench") / "new" / "quick.json"
    told = bench("--quick", "--device", "cpu", "--out", str(out))
    assert told.returncode == 0, told.stderr
    return told.stdout.splitlines(), json.loads(out.read_text(encoding="utf-8"))


def bench(*options):
    argv = [sys.executable, str(BENCH / "encode.py"), *options]
    return subprocess.run(argv, capture_output=True, text=True, timeout=250, check=False)


def rows(result, path):
    return {row["precision"]: row for row in result["rows"] if row["path"] == path}


def test_the_table_has_a_line_for_every_row_of_the_json(run):
    lines, result = run
    titles = lines[0].split()
    assert [title for title in HEAD if title not in titles] == []
    named = [(row["path"], row["precision"]) for row in result["rows"]]
    assert [(" ".join(line.split("  ")[0].split()), line[len(line.split("  ")[0]) :].split()[0]) for line in
            lines[1 : 1 + len(named)]] == named  # fmt: skip


def test_peers_and_ours_are_measured_in_float32(run):
    found = {row["path"] for row in run[1]["rows"] if row["precision"] == "fp32"}
    assert {"S2 + Hugging Face", "S2 + open_clip", "ours"} <= found


def test_bfloat16_is_measured_or_said_to_be_left_out(run):
    result = run[1]
    measured = {row["path"] for row in result["rows"] if row["precision"] == "bf16"}
    left_out = {failure["where"] for failure in result["failures"]}
    assert {"S2 + Hugging Face", "S2 + open_clip", "ours", "ours, 3:1 padded"} <= measured or left_out == {"bf16"}


def test_nothing_is_left_out_but_what_the_processor_lacks(run):
    assert {failure["where"] for failure in run[1]["failures"]} <= {"bf16"}


def test_ours_errs_by_rounding_only(run):
    result = run[1]
    assert 0 < rows(result, "ours")["fp32"]["error"] <= 2e-6
    assert all(row["error"] is not None for row in result["rows"])


def test_ours_in_bfloat16_errs_no_more_than_the_peer(run):
    own, peer = rows(run[1], "ours"), rows(run[1], "S2 + Hugging Face")
    errors = [(own[name]["error"], peer[name]["error"]) for name in own.keys() & {"bf16"}]
    assert all(error <= 1.05 * other for error, other in errors)


def test_a_row_holds_its_ratio_rate_and_share(run):
    result = run[1]
    first, own = rows(result, "S2 + Hugging Face")["fp32"], rows(result, "ours")["fp32"]
    assert first["ratio"] == 1
    assert own["ratio"] == pytest.approx(first["seconds"] / own["seconds"])
    assert own["flop_rate"] == pytest.approx(result["settings"]["flops"] / own["seconds"])
    assert own["share"] == pytest.approx(own["flop_rate"] / max(result["matmul_flops"]["fp32"].values()))
    assert own["images_per_second"] == pytest.approx(1000 / own["ms_per_image"])


def test_the_json_says_where_and_with_what_it_was_measured(run):
    result = run[1]
    assert {"date", "device", "processor", "versions", "torch_config", "commit", "dirty", "settings", "matmul_flops",
            "chosen", "rows", "sweeps", "failures"} <= result.keys()  # fmt: skip
    assert result["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert result["settings"]["threads"] == 1
    assert result["chosen"]["fp32"]["tile_batch"] >= 1


def test_the_last_line_is_the_ratios(run):
    last = run[0][-1]
    assert last.startswith("ratios, images a call 1: ours fp32 ")
    assert "x S2 + Hugging Face fp32" in last


@pytest.fixture
def encode(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import encode

    return encode


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"device": "another"}', "holds the figures of another, not of "), ("[]", "is there already and no result of")],
)
def test_what_another_device_or_program_wrote_is_not_overwritten(text, message, tmp_path, encode):
    out = tmp_path / "kept.json"
    out.write_text(text, encoding="utf-8")
    with pytest.raises(SystemExit, match=re.escape(f"{out} {message}")):
        encode.main(["--quick", "--device", "cpu", "--out", str(out)])
    assert out.read_text(encoding="utf-8") == text


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_missing_device_is_said_in_one_line(encode):
    with pytest.raises(SystemExit, match=r"^there is no CUDA device here: give --device cpu$"):
        encode.main(["--quick", "--device", "cuda"])


def test_a_tower_without_a_second_last_block_is_refused(encode):
    with pytest.raises(SystemExit, match=r"^--layers is 1: the features come from the second last, give 2 or more$"):
        encode.main(["--quick", "--device", "cpu", "--layers", "1"])


def test_a_count_below_one_is_refused(encode, capsys):
    with pytest.raises(SystemExit):
        encode.main(["--rounds", "-1"])
    assert capsys.readouterr().err.endswith("argument --rounds: -1 is not a whole number above 0\n")


def test_the_sweeps_measure_what_runs_here_and_note_the_rest(peers):
    from contest import Contest
    from measure import Device
    from sweeps import lines, sweep

    shape = peers.Shape(**SHAPE)
    contest = Contest(Device("cpu"), shape)
    found = sweep(contest, peers.random_state(shape), quick=True)
    assert found.keys() == {"attention", "products", "tile_batch", "memory"}
    assert found["attention"]["2 tiles"].keys() == {"flash", "math"}
    assert found["products"]["up, 3 tiles"].keys() == {"library", "triton"}
    assert found["memory"].keys() == {"1 images", "2 images"}
    assert len(lines(found)) == 2 + 4 * 2 + 2 + 2
    noted = {failure["where"] for failure in contest.failures}
    assert {"attention cudnn, 2 tiles", "attention xformers, 3 tiles", "a figure, graph True"} <= noted


SHAPE = {"layers": 4, "width": 64, "heads": 2, "hidden": 256, "geometry": Geometry(42, 14, (1, 2, 3))}


@pytest.fixture
def peers(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    import peers

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these tensors are so small that threads only wait for each other
    with torch.no_grad():
        yield peers
    torch.set_num_threads(threads)


@pytest.fixture
def figures():
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2, 3, 126, 126), dtype=torch.uint8, generator=random)


def relative(features, truth):
    return ((features.double() - truth.double()).norm() / truth.double().norm()).item()


def test_s2_over_hugging_face_is_s2_over_open_clip(peers, figures):
    shape = peers.Shape(**SHAPE)
    state = peers.random_state(shape)
    one = peers.hugging_face(state, shape, torch.float32, "cpu")(figures)
    other = peers.open_clip(state, shape, torch.float32, "cpu")(figures)
    assert one.shape == (2, 9, 3 * 64)
    assert relative(other, one) <= 1e-5


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm")
def test_s2_over_hugging_face_is_s2_over_timm(peers, figures):
    shape = peers.Shape(**SHAPE)
    state = peers.random_state(shape)
    truth = peers.hugging_face(state, shape, torch.float32, "cpu")(figures)
    assert relative(peers.timm(state, shape, torch.float32, "cpu")(figures), truth) <= 1e-5


def test_the_path_that_is_to_be_compiled_is_s2_over_hugging_face(peers, figures):
    from batched import batched

    shape = peers.Shape(**SHAPE)
    state = peers.random_state(shape)
    truth = peers.hugging_face(state, shape, torch.float32, "cpu")(figures)
    assert relative(batched(state, shape, torch.float32, "cpu", around=lambda step: step)(figures), truth) <= 2e-6


def test_making_open_clip_bfloat16_leaves_the_weights_that_others_share_alone(peers, figures):
    shape = peers.Shape(**SHAPE)
    state = peers.random_state(shape)
    features = peers.open_clip(state, shape, torch.bfloat16, "cpu")(figures)
    assert features.dtype == torch.bfloat16
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_the_composition_sews_averages_and_joins_as_s2_does(peers):
    geometry = Geometry(4, 2, (1, 2))  # two by two patches a tile

    def brightness(tiles):
        return tiles.unfold(2, 2, 2).unfold(3, 2, 2).mean((1, 4, 5)).flatten(1)[..., None]

    figure = torch.arange(64, dtype=torch.uint8).view(1, 1, 8, 8).expand(1, 3, 8, 8)
    features = peers.composition(brightness, geometry, torch.float64)(figure)
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (peers.MEAN, peers.STD))
    quarters = torch.tensor([13.5, 17.5, 45.5, 49.5], dtype=torch.float64)  # mean of each 4 x 4 block of 0 to 63
    expected = ((quarters[:, None] / 255 - mean) / std).mean(1)
    assert features.shape == (1, 4, 2)
    assert torch.allclose(features[0, :, 1], expected, atol=1e-6)


def test_the_flop_of_a_figure_are_those_of_31_blocks_of_vit_h(peers):
    assert peers.Shape().flops == 14 * (31 * (28_704_768_000 + 2_728_448_000) + 1_097_349_120)


def test_random_weights_pick_out_tokens_and_grow_the_residual_stream(peers, figures):
    shallow, deep = peers.Shape(**SHAPE | {"layers": 2}), peers.Shape(**SHAPE | {"layers": 12})
    spread = [
        peers.hugging_face(peers.random_state(shape), shape, torch.float32, "cpu")(figures).std()
        for shape in (shallow, deep)
    ]
    assert spread[1] > 1.5 * spread[0]
