"""A small call of each verb, and ways to make each of them end with each exit code that it can end with."""

import os
import resource
from contextlib import contextmanager

from medvlm_cli import render
from medvlm_cli.core.commit import Lock
from medvlm_cli.terminal import answer

VERBS = ("fetch", "synthesize", "pretrain", "finetune", "eval", "chat")
TRAINING = (
    "batch=11", "micro_batch=11", "epochs=1", "precision=fp32", "checkpointing=none", "save_every=100", "proven=false",
)  # fmt: skip


class Calls:
    """Arguments of every verb, over data that lies ready.

    Args:
        root: folder with ``questions``, a questions/1 dataset, and ``image.png``.
        data: folder with ``figures``, ``captions`` and ``instruct``.
        parts: folders of a tower and of a language model.
        checkpoint: a model.
    """

    def __init__(self, root, data, parts, checkpoint):
        figures = ("--figures", data / "figures")
        model = (f"tower={parts[0]}", f"llm={parts[1]}", "scales=32,64,96")
        words = settings("max_new_tokens=2")
        self.root, self.checkpoint = root, checkpoint
        self.argv = {
            "fetch": ("phantom", "--set", "n=3"),
            "synthesize": (data / "figures", "--teacher", "template"),
            "pretrain": (data / "captions", *figures, *settings(*TRAINING, *model)),
            "finetune": (data / "instruct", *figures, "--from", checkpoint, *settings(*TRAINING)),
            "eval": ("--bench", root / "questions", "--checkpoint", checkpoint, *words),
            "chat": (root / "image.png", "-p", "What is shown?", "--checkpoint", checkpoint, *words),
        }  # fmt: skip

    def of(self, verb, out):
        """The call of a verb that ends well and writes to ``out``."""
        where = ("--save", out) if verb == "chat" else ("-o", out)
        return (verb, *self.argv[verb], *where, "-w", out.parent / "workspace")

    def refused(self, verb):
        """A call that needs something which is not on this machine."""
        figures = self.argv["synthesize"][0]
        return {
            "fetch": ("fetch", "pmc", "-q"),
            "synthesize": ("synthesize", figures, "--teacher", "claude", "--accept-terms", "claude"),
            "pretrain": ("pretrain", *self.argv["pretrain"], *settings("llm=nobody/nothing")),
            "finetune": ("finetune", "--from", self.checkpoint, "--benchmark", "vqa-rad"),
            "eval": ("eval", "--bench", "vqa-rad", "--checkpoint", self.checkpoint),
            "chat": ("chat", *self.argv["chat"][:3], "--checkpoint", "nobody/nothing"),
        }[verb]  # fmt: skip


MISSING = {
    "fetch": ("fetch", "folder", "nowhere", "--captions", "nowhere.csv"),
    "synthesize": ("synthesize",),
    "pretrain": ("pretrain",),
    "finetune": ("finetune",),
    "eval": ("eval", "--bench", "phantom-vqa"),
    "chat": ("chat", "nowhere.png", "-p", "What?"),
}
"""Calls whose input is not there."""


def settings(*pairs):
    return tuple(word for pair in pairs for word in ("--set", pair))


def locked_folder(verb, out):
    """Where the lock of a run lies: of a training beside its output, of conversations in each dataset."""
    places = {"pretrain": out.parent / f".{out.name}.state", "synthesize": out / "captions"}
    return (places | {"finetune": places["pretrain"]}).get(verb, out)


@contextmanager
def held(folder):
    """Another process's lock on a folder."""
    folder.mkdir(parents=True)
    lock = Lock(folder)
    lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def no_room():
    """Every write of this process fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def signal_when_it_works(number, monkeypatch):
    """Have this process get a signal when a run says how far it is, or a chat its first word; once."""
    sent = []

    def then(method):
        def told(*given):
            if not sent:
                sent.append(number)
                os.kill(os.getpid(), number)
            return method(*given)

        return told

    for kind, name in ((render._Heartbeat, "__call__"), (answer._Plain, "add")):
        monkeypatch.setattr(kind, name, then(getattr(kind, name)))
    return sent
