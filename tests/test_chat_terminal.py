"""``medvlm chat`` in a real terminal: one conversation of more than thirty steps, and what pipes get."""

import fcntl
import json
import os
import pty
import re
import stat
import struct
import subprocess
import sys
import termios

import nibabel
import numpy as np
import pexpect
import pytest
from PIL import Image

CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[>=78]|.\x08")
READY = r"\x1b\[\?2004h"  # the line editor waits
ANSWERING = r"\x1b\[\?25l[^>\x1b]*\w"  # the cursor is hidden, and words stand there
SLOW = """
import contextlib, itertools, sys, time
from medvlm_cli.terminal import talk
show, number, slow = talk.show, itertools.count(1), int(sys.argv.pop(1))

def slowly(pieces, seconds):
    with contextlib.closing(pieces):
        for piece in pieces:
            yield piece
            time.sleep(seconds)

talk.show = lambda pieces, *given, **more: show(slowly(pieces, next(number) == slow), *given, **more)
from medvlm_cli.app import main
main()
"""
"""The command with one answer, by its number, that takes a second a piece, to be stopped in its middle."""


def environment(folder, **more):
    own = {"TERM": "xterm-256color", "PROMPT_TOOLKIT_NO_CPR": "1", "OMP_NUM_THREADS": "1", "MEDVLM_HISTORY": ""}
    own |= {"MEDVLM_WORKSPACE": str(folder), "XDG_STATE_HOME": str(folder / "state"), "HOME": str(folder)}
    return {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TMUX")} | own | more


class Terminal:
    """A conversation in a terminal, and what it showed at each step, without its codes."""

    def __init__(self, folder, *argv, slow=0):
        self.child = pexpect.spawn(
            sys.executable,
            ["-c", SLOW, str(slow), "chat", *argv],
            cwd=folder,
            env=environment(folder, PYTHONPATH=os.pathsep.join(sys.path)),
            encoding="utf-8",
            timeout=90,
            dimensions=(40, 110),
        )
        self.raw = ""
        self.steps = {}

    def until(self, mark, *, step=None):
        """Read until a pattern; what stood before and in it is the step's."""
        self.child.expect(mark)
        seen = self.child.before + (self.child.after if isinstance(self.child.after, str) else "")
        self.raw += seen
        if step:
            self.steps[step] = self.steps.get(step, "") + CODES.sub("", seen)

    def type(self, step, keys, mark=READY):
        """Send keys, and read until the editor waits again."""
        self.child.send(keys)
        self.until(mark, step=step)

    def end(self):
        """The exit code, once the conversation has ended."""
        self.until(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus


def gradient(path, size=(90, 60)):
    pixels = np.linspace(0, 255, size[0] * size[1] * 3, dtype=np.uint8).reshape(size[1], size[0], 3)
    Image.fromarray(pixels).save(path)


def volume(path):
    values = np.random.default_rng(0).integers(-1000, 1000, (70, 70, 9)).astype(np.int16)
    nibabel.Nifti1Image(values, np.eye(4)).to_filename(path)


@pytest.fixture(scope="module")
def talk(tiny_checkpoint, tmp_path_factory):
    """The conversation of this module, held once."""
    folder = tmp_path_factory.mktemp("talk")
    gradient(folder / "image.png")
    gradient(folder / "second one.png", (100, 100))
    volume(folder / "scan.nii")
    shown = Terminal(folder, "image.png", "--checkpoint", str(tiny_checkpoint), "--set", "max_new_tokens=24", slow=3)
    shown.folder = folder
    shown.until(READY, step="start")
    say = shown.type
    say("first", "What is shown?\r")
    say("follow-up", "And \x1b\rwhere?\r")  # Alt-Enter, a new line
    shown.child.send("Tell me all of it.\r")
    shown.until(ANSWERING)
    shown.child.sendintr()
    shown.until(READY, step="stopped")
    say("after it", "Is image.png sharp?\r")
    say("images", "/images\r")
    say("second image", "/image second one.png\r")
    say("two images", "Compare them.\r")
    say("dropped image", "/drop 2\r")
    say("scan", "/image scan.nii\r")
    say("window", "/window lung\r")
    say("window by number", "/window 40,80 2\r")
    say("bad window", "/window lungs\r")
    say("slice", "/slice +1\r")
    say("last slice", "/slice last\r")
    say("no such slice", "/slice 99\r")
    say("tiles", "/tiles 1\r")
    say("retry", "/retry\r")
    say("edit", "/edit\r")
    shown.until(r"Compare them\.", step="edit")
    say("edited", "\x15What else?\r")
    say("system", "/system Answer in one word.\r")
    say("set", "/set max_new_tokens 5\r")
    say("bad setting", "/set tempreture 1\r")
    say("settings", "/set\r")
    say("stats", "/stats\r")
    say("save", "/save kept\r")
    say("save again", "/save kept\r")
    say("reset", "/reset\r")
    say("load", "/load kept\r")
    say("after load", "And now?\r")
    say("help", "/help\r")
    say("unknown", "/widnow lung\r")
    say("bad path", "/image nowhere.png\r")
    say("path alone", "gone.png\r")
    say("offer", "image.png\r")
    shown.until(r"Y/n", step="offer")
    say("declined", "n\r")
    say("several lines", '"""Is it\rleft or\rright?"""\r')
    shown.child.send("/imag")
    shown.child.send("\t")
    shown.until("/images", step="completion")
    shown.child.send("\x03")  # clears the line
    say("empty", "\r")
    say("interrupted", "\x03")
    shown.child.send("\x04")
    shown.code = shown.end()
    return shown


def test_it_starts_with_the_notice_the_image_and_a_hint(talk):
    start = talk.steps["start"]
    assert start.count("research use only, not a medical device") == 1
    assert "Added image.png 90 x 60 RGB -> 96 x 96" in start
    assert "\u2580" in start
    assert "/help lists commands" in start


def test_the_notice_is_shown_once(talk):
    assert CODES.sub("", talk.raw).count("not a medical device") == 1


@pytest.mark.parametrize("step", ["first", "follow-up", "after it", "two images", "retry", "edited", "after load"])
def test_an_answer_is_shown_with_its_time(talk, step):
    assert re.search(r"\d+ tokens?, the first after (\d+ ms|\d+\.\d s)", talk.steps[step])


def test_ctrl_c_stops_an_answer_and_keeps_the_conversation(talk):
    assert "stopped; the conversation goes on" in talk.steps["stopped"]
    kept = (talk.folder / "kept" / "conversation.md").read_text()
    assert "Tell me all of it." in kept
    assert "What is shown?" in kept


def test_an_image_of_the_command_line_is_not_offered_again_where_a_question_names_it(talk):
    assert "Y/n" not in talk.steps["after it"]


def test_images_are_listed_added_and_dropped(talk):
    assert "1  image.png 90 x 60 RGB -> 96 x 96" in talk.steps["images"]
    assert "Added second one.png 100 x 100 RGB -> 96 x 96" in talk.steps["second image"]
    assert "trained on one image" in talk.steps["second image"]
    assert "dropped second one.png" in talk.steps["dropped image"]


def flat(text):
    """What a step showed, without the line ends of a terminal that is too narrow for it."""
    return " ".join(text.split())


def test_a_scan_is_seen_in_another_window_and_slice(talk):
    steps = {name: flat(text) for name, text in talk.steps.items()}
    assert re.search(r"Added nifti-[0-9a-f]{12} 70 x 70 .*slice 4 of 0 to 8", steps["scan"])
    assert "window -600,1500 (as asked)" in steps["window"]
    assert "window 40,80 (as asked)" in steps["window by number"]
    assert "error: window is 'lungs'" in steps["bad window"]
    assert "slice 5 of 0 to 8, window 40,80" in steps["slice"]
    assert "slice 8 of 0 to 8" in steps["last slice"]
    assert "error:" in steps["no such slice"]


def test_tiles_are_shown_and_written(talk):
    name = re.search(r"tiles-[0-9a-f]{12}\.png", talk.steps["tiles"])[0]
    assert "\u2580" in talk.steps["tiles"]
    assert Image.open(talk.folder / name).width > 1000


def test_the_last_question_comes_back_to_be_changed(talk):
    assert "Compare them." in talk.steps["edit"]
    kept = (talk.folder / "kept" / "conversation.md").read_text()
    assert "What else?" in kept
    assert "Compare them." not in kept


def test_settings_are_shown_changed_and_checked(talk):
    assert "max_new_tokens 5" in talk.steps["set"]
    assert "did you mean 'temperature'?" in talk.steps["bad setting"]
    assert "max_new_tokens 5" in talk.steps["settings"]
    assert "room left" in talk.steps["stats"]


def test_a_conversation_is_saved_once_and_taken_up_again(talk):
    assert "saved in kept" in talk.steps["save"]
    assert "error:" in talk.steps["save again"]
    assert "started over" in talk.steps["reset"]
    assert "> What is shown?" in talk.steps["load"]
    assert "1  image.png" in talk.steps["load"]


def test_help_names_every_command(talk):
    from medvlm_cli.terminal.commands import COMMANDS

    assert [name for name in COMMANDS if name not in talk.steps["help"]] == []


def test_what_is_mistyped_is_said_and_never_asked(talk):
    assert "did you mean /window?" in talk.steps["unknown"]
    assert "error: nowhere.png cannot be read" in talk.steps["bad path"]
    assert "error: gone.png: no such file" in talk.steps["path alone"]
    assert "nothing was asked" in talk.steps["declined"]


def test_several_lines_are_one_question(talk):
    assert re.search(r"\d+ tokens?, the first after", talk.steps["several lines"])
    history = (talk.folder / "state" / "medvlm" / "chat_history").read_text()
    assert '+"""Is it\n+left or\n+right?"""' in history


def test_tab_completes_a_command(talk):
    assert "/images" in talk.steps["completion"]


def test_ctrl_c_clears_the_line_then_warns_and_ctrl_d_ends(talk):
    assert "Ctrl-C again" not in talk.steps["empty"]
    assert "Ctrl-C again, or Ctrl-D, ends" in talk.steps["interrupted"]
    assert talk.code == 0


def test_the_history_is_the_owners_alone(talk):
    path = talk.folder / "state" / "medvlm" / "chat_history"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "+What is shown?" in path.read_text()


def test_the_terminal_gets_no_control_character_of_the_model(talk):
    assert re.findall("[\x00-\x06\x0b-\x1a\x1c-\x1f\x7f-\x9f]", talk.raw.replace("\r", "")) == []
    assert "\\u00" in talk.raw  # the random model does say some


def chat(folder, *argv, given=None, **options):
    """The command with pipes."""
    command = [sys.executable, "-m", "medvlm_cli", "chat", *argv]
    return subprocess.run(command, cwd=folder, env=environment(folder), input=given, capture_output=True, **options)


@pytest.fixture(scope="module")
def piped(tiny_checkpoint, tmp_path_factory):
    """One answer by -p, and one by stdin as JSON."""
    folder = tmp_path_factory.mktemp("piped")
    gradient(folder / "image.png")
    model = ("--checkpoint", str(tiny_checkpoint), "--set", "max_new_tokens=24")
    plain = chat(folder, "image.png", *model, "-p", "What is shown?", "--preview", "kitty", "--save", "kept")
    resumed = chat(folder, "--resume", "kept", *model, "--json", "--seed", "3", given=b"And \xff where?\n")
    return folder, plain, resumed


def test_a_pipe_gets_the_answer_and_no_code(piped):
    _, plain, _ = piped
    assert plain.returncode == 0
    assert b"\x1b" not in plain.stdout + plain.stderr
    assert plain.stdout.strip()
    assert re.findall(rb"[\x00-\x08\x0b-\x1f\x7f]", plain.stdout) == []


def test_a_pipe_gets_the_notice_and_the_warnings_on_stderr(piped):
    _, plain, _ = piped
    lines = plain.stderr.decode().splitlines()
    assert lines[0] == "research use only, not a medical device"
    assert lines[1] == "Added image.png 90 x 60 RGB -> 96 x 96"
    assert "saved in kept" in lines


def test_json_holds_the_answer_and_what_it_was_given(piped):
    _, _, resumed = piped
    told = json.loads(resumed.stdout)
    assert set(told) == {
        "model", "revision", "image", "prompt", "answer", "finish_reason", "tokens_in", "tokens_out", "ttft_s",
        "seconds", "seed", "notice",
    }  # fmt: skip
    assert told["seed"] == 3
    assert told["image"][0]["name"] == "image.png"


def test_a_resumed_conversation_knows_what_was_said(piped):
    _, _, resumed = piped
    prompt = json.loads(resumed.stdout)["prompt"]
    assert prompt.index("What is shown?") < prompt.index("And \ufffd where?")


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["nowhere.png", "-p", "What?"], 4, "error: nowhere.png cannot be read"),
        (["notes.txt", "-p", "What?"], 4, "error: notes.txt: not a readable image"),
        (["image.png", "-p", "What?", "--preview", "sxel"], 2, "error: --preview sxel"),
        (["image.png", "-p", "What?", "--window", "lungs"], 2, "error: window is 'lungs'"),
        (["image.png", "-p", " "], 2, "error: no question is given"),
        (["https://example.org/x.png", "-p", "What?"], 2, "allow it with --allow-url"),
        (["image.png", "-p", "What?"], 4, "make demo"),
        (["-p", "What?", "--checkpoint", ".", "--save", "."], 7, "error: . is there already"),
        (["image.png", "-p", "What?", "--checkpoint", "gone"], 4, "error: gone: there is no checkpoint"),
        (["image.png", "-p", "What?", "--checkpoint", "./gone"], 4, "error: ./gone: there is no checkpoint"),
        (["image.png", "-p", "What?", "--checkpoint", "."], 4, "error: .: not a finished checkpoint"),
    ],
)
def test_what_is_wrong_is_said_in_a_line_before_anything_is_answered(argv, code, said, tmp_path):
    gradient(tmp_path / "image.png")
    (tmp_path / "notes.txt").write_text("no image")
    done = chat(tmp_path, *argv, text=True)
    assert (done.returncode, done.stdout) == (code, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_without_a_stdin_the_question_is_missed(tmp_path):
    command = f"{sys.executable} -m medvlm_cli chat <&-"
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True)
    assert (done.returncode, "no question is given" in done.stderr) == (2, True)


def test_a_bad_image_is_told_without_loading_pytorch(tmp_path):
    code = (
        "import sys; sys.argv = ['medvlm', 'chat', 'nowhere.png', '-p', 'What?']\n"
        "from medvlm_cli.app import main\n"
        "try: main()\n"
        "except SystemExit as end: print(end.code, sorted({'torch', 'transformers', 'pydicom'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "4 []\n"


def in_terminal(folder, *argv, stdout=None, **more):
    """What a terminal of 100 columns shows of a command, and its exit code."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    command = [sys.executable, "-m", "medvlm_cli", "chat", *argv]
    given = {"stdin": follower, "stdout": stdout or follower, "stderr": follower}
    with subprocess.Popen(command, cwd=folder, env=environment(folder, **more), **given) as child:
        os.close(follower)
        seen = b""
        while piece := _read(leader):
            seen += piece
    os.close(leader)
    return seen, child.returncode


def _read(leader):
    try:
        return os.read(leader, 4096)
    except OSError:  # the other side is closed
        return b""


def test_a_file_gets_the_answer_alone_while_the_terminal_gets_the_rest(tiny_checkpoint, tmp_path):
    gradient(tmp_path / "image.png")
    argv = ("image.png", "-p", "What?", "--checkpoint", str(tiny_checkpoint))
    with (tmp_path / "answer").open("wb") as file:
        seen, _ = in_terminal(tmp_path, *argv, stdout=file, NO_COLOR="1")
    answer = (tmp_path / "answer").read_bytes()
    assert b"\x1b" not in answer
    assert answer.strip() not in seen
    assert b"the first after" in seen
    assert re.findall(rb"\x1b\[(?:3|4|9|10)\d(?:;\d+)*m", seen) == []


def test_an_answer_by_p_is_stopped_by_ctrl_c_with_130(tiny_checkpoint, tmp_path):
    shown = Terminal(tmp_path, "-p", "What?", "--checkpoint", str(tiny_checkpoint), slow=1)
    shown.until("no image is given, so the model answers from the words alone")
    shown.until(ANSWERING)
    shown.child.sendintr()
    shown.until("stopped")
    assert shown.end() == 130


def test_ctrl_c_while_a_question_waits_for_the_model_keeps_the_conversation(tiny_checkpoint, tmp_path):
    shown = Terminal(tmp_path, "--checkpoint", str(tiny_checkpoint), "--set", "max_new_tokens=4")
    shown.until(READY)
    shown.child.send("What?\r")
    shown.until("the model is loading")
    assert not shown.child.getecho()  # what is typed now is shown by the next line, and by it alone
    shown.child.sendintr()
    shown.until("Ctrl-C again")
    shown.until(READY)
    shown.type("asked again", "Well?\r")
    assert "the first after" in shown.steps["asked again"]
    shown.child.send("\x04")
    assert shown.end() == 0


def test_leaving_while_the_model_loads_ends_at_once(tiny_checkpoint, tmp_path):
    shown = Terminal(tmp_path, "--checkpoint", str(tiny_checkpoint))
    shown.until(READY)
    shown.child.send("\x04")
    assert shown.end() == 0
