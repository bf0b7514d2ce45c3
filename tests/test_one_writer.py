"""Whatever must outlive the process is written by ``core.commit``: nobody else renames, removes or writes by hand."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "medvlm_cli"
METHODS = {"write_text", "write_bytes", "rename", "unlink", "rmdir", "touch", "mkdir", "save_pretrained", "hardlink_to"}
FUNCTIONS = {
    "os.replace", "os.rename", "os.unlink", "os.remove", "os.truncate", "os.write", "shutil.rmtree", "shutil.copyfile",
    "shutil.copytree", "shutil.move", "torch.save", "save_file",
}  # fmt: skip
ALLOWED = {
    "core/commit.py": "is the one",
    "demo.py": "the demo's picture and table, made anew by every demo",
    "core/http.py": "a part of what is downloaded, for the crew",
    "core/model/adapters.py": "files of a folder that is settled as a whole",
    "core/model/checkpoint.py": "files of a folder that is settled as a whole",
    "core/model/fresh.py": "a question to a process and its answer, in a temporary folder",
    "core/model/tiny.py": "files of a folder that is settled as a whole",
    "core/bad_step.py": "tensors of a batch, beside a durable description",
    "core/resume.py": "files of a checkpoint that is settled as a whole",
    "core/steps.py": "files of a checkpoint that is settled as a whole",
    "core/processes.py": "what the ranks of one run print, and its folder of errors",
    "teachers/launch.py": "what a server prints",
    "core/decoding.py": "a pipe to the parent",
    "terminal/history.py": "what its user typed; no result, and a full disk may lose it",
    "render.py": "a log, read by no run",
    "core/watch.py": "a line to the kernel, read by no later run",
}
"""Files that write by themselves, and why that loses nothing."""


def writes(path):
    """The calls in a file that change what is on the disk, each as ``name:line``."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = ast.unparse(node.func)
        method = name.rpartition(".")[2]
        is_path_replace = method == "replace" and len(node.args) == 1 and not node.keywords
        opened = method == "open" and any(
            isinstance(word, ast.Constant) and isinstance(word.value, str) and set(word.value) & set("wax+")
            and len(word.value) < 4 for word in (*node.args[:2], *(key.value for key in node.keywords))
        )  # fmt: skip
        by_module = name.startswith(("commit.", "self._", "file."))
        if name in FUNCTIONS or opened or is_path_replace or (method in METHODS and not by_module and "." in name):
            yield f"{method}:{node.lineno}"


FILES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def test_there_are_files_to_look_at():
    assert len(FILES) > 100
    assert set(ALLOWED) <= set(FILES)


@pytest.mark.parametrize("name", [name for name in FILES if name not in ALLOWED])
def test_a_file_leaves_writing_to_commit(name):
    assert list(writes(ROOT / name)) == []


def test_what_writes_by_hand_is_seen(tmp_path):
    path = tmp_path / "one.py"
    lines = [
        'open("x", "w")',
        'Path("x").write_text("")',
        "os.replace(a, b)",
        "some.path.replace(b)",
        '"a".replace("b", c)',
    ]
    path.write_text("\n".join(lines))
    assert list(writes(path)) == ["open:1", "write_text:2", "replace:3", "replace:4"]
