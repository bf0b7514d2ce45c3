"""The interactive prompt of ``medvlm chat``, in a real terminal."""

import os
import sys

import pexpect
from PIL import Image


def test_a_conversation_in_a_terminal_answers_starts_over_and_ends(tiny_checkpoint, tmp_path):
    Image.new("RGB", (60, 40), (90, 30, 30)).save(tmp_path / "image.png")
    argv = ["-m", "medvlm_cli", "chat", "image.png", "--checkpoint", str(tiny_checkpoint), "--set", "max_new_tokens=8"]
    environment = os.environ | {"TERM": "dumb", "OMP_NUM_THREADS": "1", "MEDVLM_WORKSPACE": str(tmp_path)}
    child = pexpect.spawn(sys.executable, argv, cwd=tmp_path, env=environment, encoding="utf-8", timeout=60)
    child.expect("research use only, not a medical device")
    child.expect("/quit ends")
    child.expect("> ")
    child.sendline("What is shown?")
    child.expect(r"What is shown\?\r*\n")
    child.expect("> ")
    child.sendline("/image nowhere.png")
    child.expect("error: .*nowhere.png")
    child.sendline("/reset")
    child.expect("started over")
    child.sendline("/quit")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
