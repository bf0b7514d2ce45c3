"""The command from outside: help, exit status, exact error text."""

import json
import subprocess
import sys

import pytest

VERBS = ("fetch", "synthesize", "pretrain", "finetune", "eval", "chat")


def medvlm(*argv, cwd=None, **options):
    command = [sys.executable, "-m", "medvlm_cli", *argv]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=120, **options)


def test_help_loads_no_heavy_library():
    code = (
        "import sys; from medvlm_cli.app import main\n"
        "sys.argv = ['medvlm', '--help']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'pyarrow', 'numpy', 'PIL'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr.strip() == "[]"
    assert [verb for verb in VERBS if verb in done.stdout] == list(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_shows_three_examples_or_more(verb):
    done = medvlm(verb, "--help")
    examples = [line for line in done.stdout.partition("Examples:")[2].splitlines() if "medvlm " in line]
    assert done.returncode == 0
    assert len(examples) >= 3
    assert all(f"medvlm {verb}" in line for line in examples)


def test_an_unknown_setting_names_the_nearest_one_and_exits_2(tmp_path):
    done = medvlm("fetch", "phantom", "--set", "sed=3", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: --set sed=3: fetch has no setting 'sed'\n  fix: did you mean 'seed'?\n"
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_source_lists_the_known_ones(tmp_path):
    done = medvlm("fetch", "phantm", cwd=tmp_path)
    assert done.returncode == 2
    assert "phantom" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (("synthesize",), "medvlm fetch phantom"),
        (("pretrain",), "medvlm synthesize"),
        (("finetune",), "medvlm synthesize"),
        (("eval", "--bench", "phantom-vqa"), "medvlm finetune"),
        (("chat", "-p", "What is shown?"), "make demo"),
    ],
)
def test_a_missing_input_names_the_command_that_makes_it(argv, command, tmp_path):
    done = medvlm(*argv, cwd=tmp_path)
    assert done.returncode == 4
    assert done.stderr.startswith("error: ")
    assert command in done.stderr
    assert "Traceback" not in done.stderr


def test_an_error_is_an_object_with_json(tmp_path):
    done = medvlm("synthesize", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["error"]["exit"] == 4
    assert done.returncode == 4


def test_an_unknown_benchmark_lists_the_known_ones(tmp_path):
    done = medvlm("eval", "--bench", "phantomvqa", "--checkpoint", "x", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no benchmark 'phantomvqa'; there are own, pathvqa, pathvqa-hf, phantom-vqa, ")


def test_a_dry_run_writes_nothing(tmp_path):
    done = medvlm("fetch", "phantom", "--dry-run", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["settings"]["seed"] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_usage_error_exits_2():
    assert medvlm("fetch").returncode == 2
    assert medvlm("finetune", "--gpus", "0").returncode == 2


def test_a_bug_keeps_its_traceback(tmp_path):
    code = (
        "import sys; import medvlm_cli.verbs.fetch as v; from medvlm_cli.core import presets\n"
        "def broken(*a, **k): raise ZeroDivisionError('a bug')\n"
        "presets.find_preset = broken\n"
        "from medvlm_cli.app import main\n"
        "sys.argv = ['medvlm', 'fetch', 'phantom']; main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_escape_sequences_of_a_path_never_reach_the_terminal(tmp_path):
    done = medvlm("chat", "evil\x1b]0;title\x07.png", "-p", "What?", cwd=tmp_path)
    assert done.returncode == 4
    assert "\x1b" not in done.stdout + done.stderr
