"""The command as a process of its own without its seconds of imports: forked from one that has imported all.

``Warm`` is the test's side.  Run as a module, this is the process that is forked: it reads a command a line on standard
input and says the pid of each, and its exit status when it is asked to wait for it.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Warm:
    """Starts commands; a context manager, at whose end no more can be started."""

    def __enter__(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MEDVLM_WORKSPACE": ""}
        command = [sys.executable, "-m", "tests.warm"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, **pipes)
        return self

    def __exit__(self, *error):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait()

    def start(self, argv, log, batches):
        """Start ``medvlm ARGV``; its pid stays its own until ``wait``.

        What it says goes to the file ``log``, and a line for each batch of questions that it begins to ``batches``.
        """
        return self._ask({"argv": [str(word) for word in argv], "log": str(log), "batches": str(batches)})

    def wait(self, pid):
        """The exit status of a command, minus the signal that ended it."""
        return self._ask({"wait": pid})

    def is_running(self, pid):
        """Whether a command that nobody waited for has not ended."""
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

    def _ask(self, message):
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def _run(argv, log, batches):
    """The forked process: the command, and nothing of the process that it was forked from."""
    from medvlm_cli.__main__ import main

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (file, 1), (file, 2)):
        os.dup2(descriptor, target)
    sys.argv = ["medvlm", *argv]
    _note_batches(batches)
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(end.code or 0)
    finally:
        sys.stdout.flush()
    os._exit(0)


def _note_batches(log):
    """Have this process append a line to ``log`` when it begins a batch: what is asked, and with which image."""
    from medvlm_cli.core.generate import Generator

    answers = Generator.answers

    def noted(generator, requests, batch, max_new_tokens):
        asked = [[request.where, request.pictures[0]().where] for request in requests]
        with Path(log).open("a") as file:
            file.write(json.dumps(asked) + "\n")
        return answers(generator, requests, batch, max_new_tokens)

    Generator.answers = noted


def main():
    """Import everything, then fork as often as asked."""
    import medvlm_cli.stages.evaluate
    import medvlm_cli.verbs.eval  # noqa: F401

    for line in sys.stdin:
        message = json.loads(line)
        if "wait" in message:
            reply = os.waitstatus_to_exitcode(os.waitpid(message["wait"], 0)[1])
        else:
            reply = os.fork()
            if not reply:
                _run(**message)
        sys.stdout.write(json.dumps(reply) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
