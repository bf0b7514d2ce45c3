"""``--launch``: a server of our own is started with all that decides its answers, waited for, and never left behind.

Against a program that stands for ``vllm`` (``vllm_program.py``); the real one is in ``tests/served``.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medvlm_cli.core.errors import ConfigError, RemoteError, ResourceError
from medvlm_cli.teachers import launch
from medvlm_cli.teachers.launch import PROGRAM, Serving, launched, model_config, program, served_name, tensor_parallel
from tests.openai_server import alive_below, gone_within

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = """
import sys, time
from pathlib import Path
from medvlm_cli.teachers import launch
launch.devices = lambda: 0
launch.GRACE = 0.5
with launch.launched("llama", log=Path(sys.argv[1]), tell=lambda *told: None) as url:
    print(url, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes a program that stands for ``vllm`` and behaves in a given way; no GPU, a model folder without a model."""
    path = tmp_path / "bin" / "vllm"
    path.parent.mkdir()
    path.write_text(f"#!{sys.executable}\n{Path(__file__).with_name('vllm_program.py').read_text()}")
    path.chmod(0o755)
    monkeypatch.setenv(PROGRAM, str(path))
    monkeypatch.setattr(launch, "devices", lambda: 0)
    monkeypatch.setattr(launch, "GRACE", 0.5)

    def behave(how):
        monkeypatch.setenv("FAKE", how)
        return path

    return behave


def start(tmp_path, model="llama", tell=lambda *told: None, **serving):
    """Start a server and end it; the processes that it was, what it was given, and its address."""
    log, before = tmp_path / "state" / "vllm.log", alive_below(os.getpid())
    with launched(model, log=log, tell=tell, serving=Serving(timeout=60.0, **serving)) as url:
        tree = set(alive_below(os.getpid())).difference(before)
        given = json.loads(log.read_text().splitlines()[0])
    return tree, given, url


def options(given):
    arguments = given["arguments"]
    return {name: value for name, value in zip(arguments, [*arguments[1:], ""], strict=True) if name.startswith("--")}


# ---------------------------------------------------------------------- how it is started


def test_a_server_is_started_waited_for_and_ended_with_all_its_processes(tmp_path, fake):
    fake("serves")
    told = []
    tree, given, url = start(tmp_path, tell=lambda *one: told.append(one))
    assert len(tree) == 3 and gone_within(tree, 0), "the watcher, the server and its engine"
    assert given["arguments"][:2] == ["serve", "llama"] and given["quiet"] == ["1", "1"]
    assert url == f"http://127.0.0.1:{options(given)['--port']}"
    assert told[0] == ("start vLLM, seconds", 0, None)


def test_a_server_that_is_not_well_yet_is_waited_for(tmp_path, fake):
    fake("slow")
    told = []
    start(tmp_path, tell=lambda *one: told.append(one))
    assert len(told) >= 3  # one before each look


def test_the_address_is_that_of_the_port_it_was_given_and_the_log_is_begun_anew(tmp_path, fake):
    fake("serves")
    start(tmp_path)
    _, given, url = start(tmp_path)
    assert url == f"http://127.0.0.1:{options(given)['--port']}"
    assert len((tmp_path / "state" / "vllm.log").read_text().splitlines()) == 1


def test_the_server_is_told_all_that_decides_its_answers(tmp_path, fake):
    fake("serves")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"max_position_embeddings": 131072}))
    _, given, _ = start(tmp_path, str(tmp_path / "model"), extra=("--seed", "9"))
    said = options(given)
    assert json.loads(said["--structured-outputs-config"]) == {"backend": "guidance", "disable_any_whitespace": True}
    assert (said["--served-model-name"], said["--host"]) == (served_name(str(tmp_path / "model")), "127.0.0.1")
    assert (said["--max-model-len"], said["--generation-config"]) == ("8192", "vllm")
    assert "--enable-prompt-tokens-details" in said and "--tensor-parallel-size" not in said
    assert given["arguments"][-2:] == ["--seed", "9"], "what the user adds comes last, and wins"


@pytest.mark.parametrize(
    ("config", "tokens"),
    [({"max_position_embeddings": 4096}, "4096"), ({"text_config": {"max_position_embeddings": 512}}, "512"),
     ({}, None), ([], None)],
)  # fmt: skip
def test_a_model_that_reads_less_is_served_with_less(tmp_path, fake, config, tokens):
    fake("serves")
    (tmp_path / "config.json").write_text(json.dumps(config))
    _, given, _ = start(tmp_path, str(tmp_path))
    assert options(given).get("--max-model-len") == tokens


@pytest.mark.parametrize("data", [b"", b"{", b"\xff"], ids=["empty", "cut", "not UTF-8"])
def test_a_config_that_cannot_be_read_is_left_to_vllm(tmp_path, data):
    (tmp_path / "config.json").write_bytes(data)
    assert model_config(str(tmp_path)) == {}


@pytest.mark.parametrize("model", ["", "nobody/has-this-model", "no/such/model"], ids=["empty", "hub", "no name"])
def test_a_model_without_a_config_is_left_to_vllm(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    assert model_config(model) == {}


def test_rows_name_a_folder_without_its_path_and_two_models_of_one_name_apart(tmp_path):
    names = []
    for place, width in (("a", 64), ("b", 64), ("c", 96)):
        folder = tmp_path / place / "Meta-Llama-3-70B-Instruct"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"hidden_size": width}))
        names.append(served_name(str(folder)))
    assert names[0] == names[1] != names[2]
    assert all(re.fullmatch(r"Meta-Llama-3-70B-Instruct@[0-9a-f]{8}", name) for name in names)
    assert served_name("meta-llama/Meta-Llama-3-70B-Instruct") == "meta-llama/Meta-Llama-3-70B-Instruct"


def test_the_model_is_split_over_the_gpus(tmp_path, fake, monkeypatch):
    fake("serves")
    monkeypatch.setattr(launch, "devices", lambda: 8)
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 64, "num_key_value_heads": 8}))
    _, all_of_them, _ = start(tmp_path, str(tmp_path))
    _, copies, _ = start(tmp_path, str(tmp_path), copies=2)
    assert options(all_of_them)["--tensor-parallel-size"] == "8" and "--data-parallel-size" not in options(all_of_them)
    assert (options(copies)["--tensor-parallel-size"], options(copies)["--data-parallel-size"]) == ("4", "2")


@pytest.mark.parametrize(
    ("heads", "groups", "gpus", "split"),
    [(64, 8, 8, 8), (64, 8, 3, 2), (64, 8, 16, 16), (40, 10, 8, 5), (4, 2, 1, 1), (None, None, 6, 6)],
)
def test_a_model_is_split_as_its_heads_allow(heads, groups, gpus, split):
    assert tensor_parallel({"num_attention_heads": heads, "num_key_value_heads": groups}, gpus) == split


@pytest.mark.parametrize(("gpus", "copies"), [(4, 3), (2, 4), (0, 2)])
def test_gpus_that_cannot_be_shared_out_are_refused(tmp_path, fake, monkeypatch, gpus, copies):
    fake("serves")
    monkeypatch.setattr(launch, "devices", lambda: gpus)
    with pytest.raises(ConfigError, match=f"{gpus} GPUs cannot be shared out among {copies} copies"):
        start(tmp_path, copies=copies)


# ---------------------------------------------------------------------- what can go wrong


def test_a_server_that_dies_is_shown_with_its_cause_and_its_last_words(tmp_path, fake):
    fake("dies")
    with pytest.raises(ResourceError) as caught:
        start(tmp_path)
    lines = caught.value.what.splitlines()
    assert lines[0] == "vLLM ended with status 3 before it could serve:"
    assert lines[1].strip() == r"(Engine pid=7) ValueError: no room for \u001b]0;x\u0007weights"
    assert lines[-1].strip().startswith("RuntimeError: Engine core") and lines[-2].strip() == "line 39"
    assert len(lines) < 20 and "--llama-endpoint" in caught.value.fix


@pytest.mark.parametrize(
    ("how", "words"), [("mute", r"status 1 .*\n    \(it printed nothing\)"), ("killed", r"status 137 .*\n    \{")]
)
def test_a_server_that_dies_without_a_word_is_told_too(tmp_path, fake, how, words):
    fake(how)
    with pytest.raises(ResourceError, match=words):
        start(tmp_path)


@pytest.mark.parametrize("how", ["silent", "sick"])
def test_a_server_that_never_serves_is_ended(tmp_path, fake, how):
    fake(how)
    before, seen = alive_below(os.getpid()), set()
    with (
        pytest.raises(ResourceError, match="does not serve after 1 s"),
        launched(
            "llama",
            log=tmp_path / "log",
            tell=lambda *told: seen.update(alive_below(os.getpid())),
            serving=Serving(timeout=1.0),
        ),
    ):
        pytest.fail("it does not serve")
    assert seen.difference(before) and gone_within(seen.difference(before), 0)


def test_a_server_that_dies_in_the_middle_is_the_cause_of_what_fails_then(tmp_path, fake):
    fake("serves")
    before = alive_below(os.getpid())
    with (
        pytest.raises(ResourceError, match=r"vLLM ended with status 137:\n    \{") as caught,
        launched("llama", log=tmp_path / "log", tell=lambda *told: None),
    ):
        _, server, engine = (pid for pid in alive_below(os.getpid()) if pid not in before)
        os.kill(server, signal.SIGKILL)
        assert gone_within([server, engine], 10)
        raise RemoteError("llama: 20 failures in a row")
    assert "20 failures" in str(caught.value.__cause__)


def test_what_fails_while_the_server_lives_is_told_as_it_is(tmp_path, fake):
    fake("serves")
    with (
        pytest.raises(RemoteError, match="redirects"),
        launched("llama", log=tmp_path / "log", tell=lambda *told: None),
    ):
        raise RemoteError("it redirects")


# ---------------------------------------------------------------------- how it ends


def test_server_and_engine_have_time_to_end_by_themselves(tmp_path, fake, monkeypatch):
    fake("polite")
    monkeypatch.setattr(launch, "GRACE", 30.0)
    start(tmp_path)
    assert sorted((tmp_path / "state" / "vllm.log").read_text().splitlines()[-2:]) == ["engine ended", "server ended"]


@pytest.mark.parametrize("how", ["stubborn", "clinging", "apart", "orphan"])
def test_a_server_that_does_not_want_to_end_is_killed_with_its_engine(tmp_path, fake, how):
    fake(how)
    tree, _, _ = start(tmp_path)
    assert len(tree) == 3 and gone_within(tree, 0)


def test_an_error_in_the_middle_ends_the_server(tmp_path, fake):
    fake("serves")
    before = alive_below(os.getpid())
    with pytest.raises(KeyError), launched("llama", log=tmp_path / "log", tell=lambda *told: None):
        tree = set(alive_below(os.getpid())).difference(before)
        raise KeyError
    assert len(tree) == 3 and gone_within(tree, 0)


def test_not_even_a_killed_watcher_leaves_a_process(tmp_path, fake):
    fake("clinging")
    before = alive_below(os.getpid())
    with launched("llama", log=tmp_path / "log", tell=lambda *told: None):
        watcher, server, engine = (pid for pid in alive_below(os.getpid()) if pid not in before)
        os.kill(watcher, signal.SIGKILL)
        assert gone_within([server], 10)
    assert gone_within([engine], 10)


@pytest.mark.parametrize(
    ("how", "number"),
    [("serves", signal.SIGINT), ("serves", signal.SIGTERM), ("serves", signal.SIGHUP), ("serves", signal.SIGKILL),
     ("stubborn", signal.SIGKILL), ("clinging", signal.SIGKILL), ("apart", signal.SIGKILL),
     ("orphan", signal.SIGKILL)],
)  # fmt: skip
def test_no_process_outlives_us_however_we_end(tmp_path, fake, how, number):
    fake(how)
    ours = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LAUNCHER, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=ours) as run:
        assert run.stdout.readline().startswith("http://127.0.0.1:")
        tree = alive_below(run.pid)
        assert len(tree) == 3
        run.send_signal(number)
    assert gone_within(tree, 10)


# ---------------------------------------------------------------------- which program it is


def test_the_command_beside_our_python_comes_before_the_one_on_the_path(tmp_path, monkeypatch, fake):
    on_path = fake("serves")
    monkeypatch.delenv(PROGRAM)
    monkeypatch.setenv("PATH", str(on_path.parent))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert program() == [str(on_path), "serve"]
    shutil.copy(on_path, tmp_path / "vllm")
    assert program() == [str(tmp_path / "vllm"), "serve"]


def test_a_python_that_is_named_runs_the_servers_module(monkeypatch):
    monkeypatch.setenv(PROGRAM, sys.executable)
    assert program() == [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model"]


def test_a_command_that_is_named_and_not_there_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRAM, str(tmp_path / "vllm"))
    with pytest.raises(ConfigError, match=re.escape(f"{PROGRAM} is {tmp_path}/vllm, and that cannot be run")):
        program()


def test_a_folder_is_no_command(tmp_path, monkeypatch):
    monkeypatch.setenv(PROGRAM, str(tmp_path))
    with pytest.raises(ConfigError, match="cannot be run"):
        program()


def test_without_vllm_the_ways_to_it_are_named(tmp_path, monkeypatch):
    monkeypatch.delenv(PROGRAM, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match="vLLM is not installed") as caught:
        program()
    ways = ("pip install 'medvlm[vllm]'", PROGRAM, "--llama-endpoint URL")
    assert [way for way in ways if way not in caught.value.fix] == []
