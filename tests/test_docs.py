"""README's help texts and tree agree with the program; run as a script it writes the help texts anew."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
VERBS = ("fetch", "synthesize", "pretrain", "finetune", "eval", "chat")


def help_text(verb: str) -> str:
    environment = os.environ | {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    command = [
        sys.executable,
        "-c",
        "import sys; sys.argv[0] = 'medvlm'; from medvlm_cli.app import main; main()",
        verb,
    ]
    done = subprocess.run([*command, "--help"], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=60)
    return "\n".join(line.rstrip() for line in done.stdout.strip().splitlines())


def block(verb: str, text: str) -> str:
    return f"<!-- help {verb} -->\n```\n{text}\n```\n<!-- end -->"


@pytest.mark.parametrize("verb", VERBS)
def test_the_readme_shows_the_help_of_every_verb(verb):
    assert block(verb, help_text(verb)) in (ROOT / "README.md").read_text(), "run `make help-texts`"


def test_the_tree_in_the_readme_names_every_source_file_and_no_other():
    tree = (ROOT / "README.md").read_text().partition("<!-- tree -->")[2].partition("<!-- end -->")[0]
    shown = set(re.findall(r"\S+\.py\b", tree))
    there = {
        path.name
        for folder in ("medvlm_cli", "kernels/medvlm_kernels")
        for path in (ROOT / folder).rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    assert len(there) > 30
    assert there == shown


if __name__ == "__main__":
    readme = ROOT / "README.md"
    content = readme.read_text()
    for name in VERBS:
        pattern = re.compile(rf"<!-- help {name} -->.*?<!-- end -->", re.DOTALL)
        content = pattern.sub(lambda _, name=name: block(name, help_text(name)), content)
    readme.write_text(content)
