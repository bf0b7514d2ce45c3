"""``--offline`` leaves this machine in no way, and says at once what would have to; no library reports home."""

import json
import os
import socket
import subprocess
import sys

import pytest

from medvlm_cli.core import offline
from tests import inside, no_network
from tests.training_cases import picture, write_figures

VERBS = ("fetch", "synthesize", "pretrain", "finetune", "eval", "chat")
TRAINING = (
    "batch=4", "micro_batch=4", "precision=fp32", "checkpointing=none", "save_every=100", "proven=false",
)  # fmt: skip
KEY = "sk-ant-of-nobody"


@pytest.fixture
def alone(monkeypatch):
    """This process offline, for one test; the hook stays and asks each time."""
    for name in (*offline._ALONE, *offline._LOOPBACK):
        monkeypatch.setenv(name, "")
    monkeypatch.delenv(offline.VARIABLE)
    offline.go_offline()
    yield
    monkeypatch.undo()


def commands(workspace, tower, llm, image):
    """All six verbs, each on the last one's output."""
    parts = (f"tower={tower}", f"llm={llm}", "scales=32,64")
    chain = {
        "fetch": ["phantom", "--set", "n=12", "--set", "questions=4"],
        "benchmark": ["phantom-vqa", "--set", "n=12", "--set", "questions=4"],
        "synthesize": ["--teacher", "template"],
        "pretrain": [word for one in (*TRAINING, *parts) for word in ("--set", one)],
        "finetune": [word for one in TRAINING for word in ("--set", one)],
        "eval": ["--bench", "phantom-vqa", "--set", "max_new_tokens=2"],
        "chat": [str(image), "-p", "What is shown?", "--set", "max_new_tokens=2"],
    }
    names = {"benchmark": "fetch"}
    return [[names.get(verb, verb), *argv, "-w", str(workspace), "--offline", "-q"] for verb, argv in chain.items()]


@pytest.mark.skipif(not no_network.AVAILABLE, reason="needs seccomp of Linux on x86-64 or ARM")
def test_no_verb_opens_a_socket_of_the_internet_offline(tmp_path, tiny_tower, tiny_llm):
    (tmp_path / "image.png").write_bytes(picture(1))
    chain = commands(tmp_path / "ws", tiny_tower, tiny_llm, tmp_path / "image.png")
    (tmp_path / "commands.json").write_text(json.dumps(chain))
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("HF_HUB_OFFLINE")
    command = [sys.executable, "-m", "tests.no_network", str(tmp_path / "commands.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {argv[0] for argv in chain} == set(VERBS)
    assert (tmp_path / "ws/answers/finetune/phantom-vqa/manifest.json").is_file()


@pytest.mark.skipif(not no_network.AVAILABLE, reason="needs seccomp of Linux on x86-64 or ARM")
@pytest.mark.parametrize("family", ["AF_INET", "AF_INET6"])
def test_the_rule_of_that_test_ends_whoever_opens_one(family):
    code = f"import socket; from tests.no_network import forbid_internet as no; no(); socket.socket(socket.{family})"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == -31  # SIGSYS


@pytest.mark.parametrize(
    ("argv", "host"),
    [
        (("fetch", "pmc"), "eutils.ncbi.nlm.nih.gov"),
        (("fetch", "pmc", "-q"), "eutils.ncbi.nlm.nih.gov"),
        (("fetch", "vqa-rad"), ""),
        (("fetch", "pathvqa-hf"), ""),
        (("synthesize", "FIGURES", "--teacher", "claude", "--accept-terms", "claude"), "api.anthropic.com"),
        (("synthesize", "FIGURES", "--teacher", "llama", "--llama-endpoint", "http://gpu1:8000"), "gpu1"),
        (("chat", "https://example.org/a.png", "--allow-url", "-p", "What?"), "example.org"),
    ],
)
def test_what_needs_the_network_is_refused_at_once_with_one_line(argv, host, tmp_path):
    figures = write_figures(tmp_path / "figures", ["1", "2"])
    argv = [str(figures) if word == "FIGURES" else word for word in argv]
    done = inside.medvlm(*argv, "--offline", "-w", tmp_path / "ws", ANTHROPIC_API_KEY=KEY)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 5, done.stderr
    assert len(errors) == 1 and host in errors[0]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("value", ["1", "true", "yes"])
def test_the_variable_does_what_the_option_does(value, tmp_path):
    done = inside.medvlm("fetch", "pmc", "-q", "-w", tmp_path / "ws", MEDVLM_OFFLINE=value)
    assert done.returncode == 5
    assert done.stderr.startswith("error: offline: eutils.ncbi.nlm.nih.gov is not on this machine")


@pytest.mark.parametrize("value", ["", "0", "false", "No", " off "])
def test_a_variable_that_says_no_is_no(value, monkeypatch):
    monkeypatch.setenv(offline.VARIABLE, value)
    assert not offline.is_offline()


def test_the_hubs_own_switch_is_left_to_the_hub(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not offline.is_offline()


def test_ranks_on_other_machines_are_refused_offline(tmp_path):
    (tmp_path / "hosts").write_text("gpu-07 slots=4\n")
    done = inside.medvlm("pretrain", "--hostfile", tmp_path / "hosts", "--offline", "--dry-run", "-w", tmp_path)
    assert done.returncode == 5
    assert "gpu-07 is not on this machine" in done.stderr


@pytest.mark.parametrize(
    "host",
    [
        "example.org", "10.0.0.1", "169.254.169.254", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", b"example.org",
        "localhost.example.org", "127.0.0.1.example.org", "2130706433.example.org",
    ],
)  # fmt: skip
def test_another_machine_is_not_here(host):
    assert not offline.is_here(host)


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST.", "127.0.0.1", "127.8.9.1", "::1", "::ffff:127.0.0.1", None, ""]
)
def test_this_machine_is_here(host):
    assert offline.is_here(host)


@pytest.mark.parametrize(
    "leave",
    [
        lambda: socket.create_connection(("192.0.2.1", 9), timeout=0.1),
        lambda: socket.getaddrinfo("example.org", 443),
        lambda: socket.gethostbyname("example.org"),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"out", ("192.0.2.1", 9)),
        lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 9, 0, 0)),
    ],
)
def test_a_library_that_tries_all_the_same_is_stopped(leave, alone):
    with pytest.raises(offline.OfflineError, match="is not on this machine"):
        leave()


def test_sockets_of_this_machine_stay(alone):
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        one.sendall(b"here")
        assert server.accept()[0].recv(4) == b"here"


def test_the_hook_sleeps_when_nobody_is_offline(monkeypatch, alone):
    monkeypatch.delenv(offline.VARIABLE)
    assert socket.getaddrinfo("192.0.2.1", 9)


def test_what_is_started_offline_is_offline_too():
    code = "import medvlm_cli, socket; socket.getaddrinfo('example.org', 443)"
    environment = os.environ | {offline.VARIABLE: "1", "HTTPS_PROXY": "http://127.0.0.1:1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert "OfflineError: offline: example.org is not on this machine" in done.stderr


@pytest.mark.slow
def test_two_ranks_of_this_machine_train_offline(training_data, tiny_tower, tiny_llm, tmp_path):
    parts = (f"tower={tiny_tower}", f"llm={tiny_llm}", "scales=32,64", "epochs=1", *TRAINING[1:], "batch=8")
    argv = [training_data / "captions", "--figures", training_data / "figures", "--gpus", "2", "-o", tmp_path / "out"]
    words = [word for one in parts for word in ("--set", one)]
    command = [sys.executable, "-m", "medvlm_cli", "pretrain", *map(str, argv), *words, "--offline", "--json"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "http_proxy": "http://127.0.0.1:1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=250)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["steps"] == 3, done.stdout


def test_no_proxy_leads_out(alone, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:3128")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:9050")
    monkeypatch.setenv("WANDB_MODE", "online")
    offline.go_offline()
    assert not {"https_proxy", "ALL_PROXY", "WANDB_MODE"} & set(os.environ)
    assert os.environ["no_proxy"] == "*"


SWITCHES = """
import json, os, sys
from medvlm_cli import app
sys.argv = ["medvlm", "fetch", "phantom", "--set", "n=1", "-q"]
try:
    app.main()
except SystemExit as end:
    assert not end.code
import huggingface_hub.constants as hub
print(json.dumps([dict(os.environ), hub.HF_HUB_DISABLE_TELEMETRY]), file=sys.stderr)
"""


def switches(folder, **environment):
    """The variables of a command, and whether the hub's library takes its telemetry for switched off."""
    kept = {name: value for name, value in os.environ.items() if name not in offline.SILENT}
    command = [sys.executable, "-c", SWITCHES]
    done = subprocess.run(command, capture_output=True, text=True, env=kept | environment, cwd=folder, timeout=100)
    return json.loads(done.stderr.splitlines()[-1])


def test_no_library_reports_home(tmp_path):
    environment, hub_is_silent = switches(tmp_path)
    assert {name: environment[name] for name in offline.SILENT} == offline.SILENT
    assert hub_is_silent


def test_what_the_user_says_about_telemetry_stays(tmp_path):
    environment, _ = switches(tmp_path, RAY_USAGE_STATS_ENABLED="1")
    assert environment["RAY_USAGE_STATS_ENABLED"] == "1"
