"""What every verb promises at the command line: exit codes, where words go, ``-q``, ``-v`` and ``--log-file``."""

import json
import logging
import os
import re
import signal
import stat
import subprocess
import sys
from contextlib import suppress

import pytest

from medvlm_cli import app, render
from medvlm_cli.core import presets
from tests import inside
from tests.contract_cases import MISSING, VERBS, Calls, held, locked_folder, no_room, settings, signal_when_it_works
from tests.training_cases import picture

WRITERS = tuple(verb for verb in VERBS if verb != "chat")
SECRET = "sk-ant-oat01-abcdefgh"


@pytest.fixture(scope="session")
def calls(training_data, tiny_tower, tiny_llm, tiny_checkpoint, tmp_path_factory):
    root = tmp_path_factory.mktemp("contract")
    (root / "image.png").write_bytes(picture(1))
    made = inside.medvlm(
        "fetch", "phantom-vqa", "-o", root / "questions", "-w", root / "workspace", *settings("n=4", "questions=4")
    )
    assert made.returncode == 0, made.stderr
    return Calls(root, training_data, (tiny_tower, tiny_llm), tiny_checkpoint)


class Clock:
    """A clock on which half a minute passes between two looks."""

    now = 0.0

    def monotonic(self):
        self.now += render.HEARTBEAT_SECONDS + 1
        return self.now

    def strftime(self, form):
        return "12:00:00"


@pytest.fixture(scope="session")
def ended(calls, tmp_path_factory):
    """What each verb says when all goes well, at ``-vv`` and with a log file; run once, when it is asked for."""
    done = {}

    def run(verb):
        if verb not in done:
            out = tmp_path_factory.mktemp("ended") / "out"
            before, render.time = render.time, Clock()
            try:
                log = ("--log-file", out.parent / "log.txt")
                said = inside.medvlm(*calls.of(verb, out), "--json", "-vv", *log, ANTHROPIC_API_KEY=SECRET)
            finally:
                render.time = before
            done[verb] = said, out
        return done[verb]

    return run


@pytest.mark.parametrize("verb", VERBS)
def test_0_when_all_is_done_and_stdout_holds_the_result_alone(verb, ended):
    said, _ = ended(verb)
    assert said.returncode == 0, said.stderr
    assert isinstance(json.loads(said.stdout), dict)
    assert said.stdout.count("\n") == 1


@pytest.mark.parametrize("verb", WRITERS)
def test_off_a_terminal_a_long_phase_speaks_on_stderr(verb, ended):
    said, _ = ended(verb)
    lines = re.findall(r"^12:00:00 (\D+?) \d+(?:/\d+)?\b", said.stderr, re.MULTILINE)
    assert len(lines) >= 2, said.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_the_log_file_is_its_owners_and_holds_what_was_told_and_no_secret(verb, ended):
    said, out = ended(verb)
    log = out.parent / "log.txt"
    text = log.read_text()
    told = [line for line in said.stderr.splitlines() if line.startswith("12:00:00")]
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    assert all(line in text for line in told)
    assert SECRET not in text + said.stderr + said.stdout
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", text + said.stderr)


@pytest.mark.parametrize("verb", VERBS)
def test_1_for_a_bug_with_a_traceback_without_secrets_and_a_request_to_report_it(verb, calls, tmp_path, monkeypatch):
    def broken(name):
        raise ZeroDivisionError(f"a bug near {SECRET} and hf_abcdefghijkl \x1b[2J")

    monkeypatch.setattr(presets, "find_preset", broken)
    said = inside.medvlm(*calls.of(verb, tmp_path / "out"), ANTHROPIC_API_KEY=SECRET)
    assert said.returncode == 1
    assert "Traceback" in said.stderr and "ZeroDivisionError: a bug near *** and ***" in said.stderr
    assert said.stderr.splitlines()[-2:] == [
        "error: a bug of medvlm: ZeroDivisionError",
        "  fix: please report it, with the lines above and what `medvlm --version --json` prints",
    ]
    assert "\x1b" not in said.stderr and SECRET not in said.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_2_for_a_setting_that_there_is_not(verb, calls, tmp_path):
    said = inside.medvlm(*calls.of(verb, tmp_path / "out"), *settings("nonsense=1"))
    assert said.returncode == 2
    assert said.stderr.startswith(f"error: --set nonsense=1: {verb} has no setting 'nonsense'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", VERBS)
def test_2_for_an_option_that_there_is_not(verb):
    said = inside.medvlm(verb, "--nonsense")
    assert said.returncode == 2
    assert "No such option: --nonsense" in said.stderr and said.stdout == ""


def test_3_when_fetch_meets_what_the_user_can_mend(tmp_path):
    (tmp_path / "captions.csv").write_text("image,caption\ngone.png,A caption.\nhere.png,Another.\n")
    (tmp_path / "here.png").write_bytes(picture(1))
    where = ("-o", tmp_path / "out", "-w", tmp_path / "workspace")
    said = inside.medvlm("fetch", "folder", tmp_path, "--captions", tmp_path / "captions.csv", *where)
    assert said.returncode == 3, said.stderr


def test_3_when_eval_had_to_leave_a_benchmark_out(calls, tmp_path):
    checkpoint = ("--checkpoint", calls.checkpoint)
    said = inside.medvlm("eval", "--bench", "all", *checkpoint, "--offline", "-w", tmp_path, "-o", tmp_path / "out")
    assert said.returncode == 3, said.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_4_for_an_input_that_is_not_there(verb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = inside.medvlm(*MISSING[verb], "-w", tmp_path / "workspace")
    assert said.returncode == 4
    assert said.stderr.startswith("error: ") and "Traceback" not in said.stderr


@pytest.mark.parametrize("verb", VERBS)
def test_5_for_what_another_machine_does_not_give(verb, calls, tmp_path):
    call = calls.refused(verb)
    said = inside.medvlm(
        *call, "--offline", "-o", tmp_path / "out", "-w", tmp_path / "workspace", ANTHROPIC_API_KEY="x" * 9
    )
    assert said.returncode == 5, said.stderr
    assert sum(line.startswith("error: ") for line in said.stderr.splitlines()) == 1


@pytest.mark.parametrize("verb", VERBS)
def test_6_for_a_disk_without_room(verb, calls, tmp_path):
    with no_room():
        said = inside.medvlm(*calls.of(verb, tmp_path / "out"))
    assert said.returncode == 6, said.stderr
    assert "Traceback" not in said.stderr


@pytest.mark.parametrize("verb", WRITERS)
def test_7_for_a_folder_that_another_process_writes_to(verb, calls, tmp_path):
    out = tmp_path / "out"
    with held(locked_folder(verb, out)):
        said = inside.medvlm(*calls.of(verb, out))
    assert said.returncode == 7, said.stderr
    assert f"is being written by process {os.getpid()}@" in said.stderr


def test_7_for_a_conversation_that_is_there_already(calls, tmp_path):
    (tmp_path / "out").mkdir()
    assert inside.medvlm(*calls.of("chat", tmp_path / "out")).returncode == 7


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("verb", VERBS)
def test_a_signal_has_its_exit_code_and_quiet_says_nothing(verb, number, code, calls, tmp_path, monkeypatch):
    sent = signal_when_it_works(number, monkeypatch)
    said = inside.medvlm(*calls.of(verb, tmp_path / "out"), "-q")
    assert sent == [number]
    assert said.returncode == code, said.stderr
    assert said.stderr == ""
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


@pytest.mark.parametrize("verb", VERBS)
def test_141_when_nobody_reads_the_result(verb, calls, tmp_path, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as nobody, monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", nobody)
        patched.setattr(sys, "argv", ["medvlm", *map(str, calls.of(verb, tmp_path / "out")), "-q"])
        with pytest.raises(SystemExit) as end:
            app.main()
    assert end.value.code == 141


SLOW_TO_END = """
import sys, time
from medvlm_cli.__main__ import main
from medvlm_cli.core import presets

def work(name):
    try:
        print("at work", flush=True)
        time.sleep(200)
    finally:
        print("ending", flush=True)
        time.sleep(200)

presets.find_preset = work
sys.argv = ["medvlm", "fetch", "phantom"]
main()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_second_signal_ends_what_is_slow_to_end(number, status, tmp_path):
    command = [sys.executable, "-c", SLOW_TO_END]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "at work\n"
        process.send_signal(number)
        assert process.stdout.readline() == "ending\n"
        process.send_signal(number)
        assert process.wait(100) == status


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_error_that_a_library_makes_of_a_signal_is_the_signal_still(number, code, monkeypatch, tmp_path):
    def lossy(name):
        with suppress(KeyboardInterrupt, SystemExit):
            os.kill(os.getpid(), number)
        raise ValueError("I/O operation on closed file")

    monkeypatch.setattr(presets, "find_preset", lossy)
    said = inside.medvlm("fetch", "phantom", "-w", tmp_path)
    assert (said.returncode, said.stderr) == (code, "")


INTERRUPTED_WHILE = """
import os, signal, sys
from importlib.abc import MetaPathFinder

class Interrupt(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["medvlm", "fetch", "phantom", "--dry-run"]
from medvlm_cli.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["medvlm_cli.app", "typer", "medvlm_cli.verbs.fetch", "medvlm_cli.stages.fetch"])
def test_ctrl_c_while_modules_load_has_its_exit_code_and_no_traceback(module, tmp_path):
    code = INTERRUPTED_WHILE.format(module=module)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_the_same_ways_to_speak(verb):
    said = inside.medvlm(verb, "--help").stdout
    options = ("--json", "-q, --quiet", "-v, --verbose", "--log-file", "--offline", "--dry-run", "-w, --workspace")
    assert [option for option in options if option not in said] == []


def run(script, folder, **options):
    """A command in a shell of its own."""
    done = subprocess.run(
        ["sh", "-c", script, sys.executable], capture_output=True, text=True, cwd=folder, timeout=100, **options
    )
    return done


def test_closed_standard_streams_lose_no_data_and_take_none(tmp_path):
    done = run('"$0" -m medvlm_cli fetch phantom --set n=2 -o out <&- >&- 2>&-; echo $?', tmp_path)
    assert done.stdout == "0\n"
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["rows"] == 2


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
@pytest.mark.parametrize(
    "words",
    [
        "--version >/dev/full", "--help >/dev/full", "fetch phantom --set n=2 -q >/dev/full", "synthesize 2>/dev/full",
        "synthesize --json >/dev/full", "fetch phantom --set n=2 >/dev/full 2>&1",
    ],
)  # fmt: skip
def test_6_where_what_is_said_finds_no_room(words, tmp_path):
    done = run(f'"$0" -m medvlm_cli {words}; echo $?', tmp_path)
    assert done.stdout == "6\n"
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr


def test_a_reader_that_leaves_makes_141_and_no_complaint(tmp_path):
    script = '("$0" -m medvlm_cli fetch phantom --set n=2 -q -o out; echo $? > status) | true; cat status'
    done = run(script, tmp_path)
    assert done.stdout == "141\n"
    assert done.stderr == ""


@pytest.mark.parametrize(("count", "level"), [(0, "WARNING"), (1, "INFO"), (2, "DEBUG"), (3, "DEBUG")])
def test_each_v_says_more(count, level, capsys):
    render.set_up(json=False, verbose=count)
    for name in ("DEBUG", "INFO", "WARNING"):
        logging.getLogger("medvlm_cli.test").log(getattr(logging, name), "said at %s", name)
    shown = re.findall(r"said at (\w+)", capsys.readouterr().err)
    assert shown == ["DEBUG", "INFO", "WARNING"][["DEBUG", "INFO", "WARNING"].index(level) :]


def test_a_log_never_steers_the_terminal_and_never_shows_a_key(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("NCBI_API_KEY", "0123456789abcdef")
    render.set_up(json=False, verbose=2, log_file=tmp_path / "log.txt")
    try:
        raise ValueError("\x1b]0;title\x07 0123456789abcdef https://user:word@host/")
    except ValueError:
        logging.getLogger("medvlm_cli.test").exception("of \x9b2J 0123456789abcdef")
    render.set_up(json=False, verbose=0)
    both = capsys.readouterr().err + (tmp_path / "log.txt").read_text()
    assert both.count("ValueError: ") == 2
    assert "0123456789abcdef" not in both and "user:word" not in both
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", both)


def test_a_log_file_grows_at_its_end(tmp_path):
    for number in range(2):
        render.set_up(json=False, verbose=0, log_file=tmp_path / "log.txt")
        logging.getLogger("medvlm_cli.test").debug("run %d", number)
    render.set_up(json=False, verbose=0)
    assert re.findall(r"run (\d)", (tmp_path / "log.txt").read_text()) == ["0", "1"]


def test_a_log_file_that_cannot_be_written_is_named(tmp_path):
    said = inside.medvlm("fetch", "phantom", "--log-file", tmp_path / "gone" / "log.txt", "-w", tmp_path / "workspace")
    assert said.returncode == 2
    assert said.stderr.startswith(f"error: --log-file {tmp_path}/gone/log.txt: No such file or directory")


def test_an_error_is_in_the_log_file_too(tmp_path):
    where = ("--log-file", tmp_path / "log.txt", "-w", tmp_path / "workspace")
    inside.medvlm("synthesize", *where)
    assert "exit 4: no figures in" in (tmp_path / "log.txt").read_text()
