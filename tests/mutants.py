"""``python -m tests.mutants STATEMENT CASE MODE FOLDER``: the walk of ``crash_cases`` without one statement.

The statements are all those of ``core.commit`` that settle something, give it its name, or lock; so one that is added
there is taken away here by itself.
"""

import ast
import hashlib
import sys

from medvlm_cli.core import commit

_TELLING = {"_sync", "sync_folder", "sync", "fsync", "settle", "publish", "rename", "flock"}


def statements():
    """The statements, as ``function: statement``."""
    return [name for name, _, _ in _found(_tree())]


def _tree():
    with open(commit.__file__, encoding="utf-8") as file:
        return ast.parse(file.read())


def _found(tree):
    """Name, list and position of each."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            for body in (getattr(node, name, None) for name in ("body", "orelse", "finalbody")):
                for at, statement in enumerate(body if isinstance(body, list) else ()):
                    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call) and _tells(statement):
                        yield f"{function.name}: {ast.unparse(statement)}", body, at


def _tells(statement):
    called = ast.unparse(statement.value.func).rpartition(".")[2]
    return called in _TELLING or (called == "replace" and len(statement.value.args) == 1)


def without(name):
    """Take a statement out of ``core.commit``; to be called before anything else imports from it."""
    tree = _tree()
    ((body, at),) = [(body, at) for found, body, at in _found(tree) if found == name]
    body[at] = ast.copy_location(ast.Pass(), body[at])
    exec(compile(tree, commit.__file__, "exec"), vars(commit))


NO_TEMPORARY_NAME = "DurableFile writes under the final name"


def _under_its_own_name(self, path):
    self.path, self.tmp, self.bytes, self._sha256, self.closed = path, path, 0, hashlib.sha256(), False
    commit.failpoint.reached("open", path)
    self._file = path.open("wb", buffering=0)


def main(statement, *walk):
    if statement == NO_TEMPORARY_NAME:
        commit.DurableFile.__init__ = _under_its_own_name
    else:
        without(statement)
    from tests import crash_cases

    crash_cases.main(*walk, impatient=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
