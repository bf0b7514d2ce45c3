"""Commands that are forked, followed, limited and ended: what the tests of this folder do to the verbs.

``Forks`` is the test's side of ``tests.warm``.  Run as a module, this is the process that is forked.  A command's
progress is what it does to the disk, one byte an operation in a file of its own: kills and signals go by that and not
by a clock, so that none of them comes before the work or after it.
"""

import fcntl
import functools
import gc
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests import warm

ROOM = resource.RLIM_INFINITY


class Forks(warm.Warm):
    """Starts commands, each in a process group of its own; a context manager, which kills what is left at its end."""

    def __enter__(self):
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MEDVLM_WORKSPACE": ""}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        command = [sys.executable, "-m", "tests.faults.forks"]
        self.process = subprocess.Popen(command, cwd=warm.ROOT, env=environment, **pipes)
        self.running = set()
        return self

    def __exit__(self, *error):
        for pid in self.running:
            os.kill(pid, signal.SIGKILL)
        super().__exit__(*error)

    def start(self, argv, log, room=ROOM, gate="", locks=True):
        """Start ``medvlm ARGV``.

        Args:
            argv: the words of the command.
            log: what it says goes there, and its progress to a file beside.
            room: bytes that no file of it may grow past.
            gate: once it has a lock, it waits until this file is there; it says so by a byte in ``<gate>.held``.
            locks: whether the kernel refuses a lock that another has; a mutation where not.
        """
        message = {"argv": [str(word) for word in argv], "log": str(log), "room": room}
        message |= {"gate": str(gate), "locks": locks}
        progress = log.with_suffix(".progress")
        before = progress.stat().st_size if progress.exists() else 0
        pid = self._ask(message | {"progress": str(progress)})
        self.running.add(pid)
        return Fork(self, pid, progress, before)

    def run(self, argv, log, **more):
        """The exit status of a command that nobody disturbs, as a shell shows it."""
        return self.start(argv, log, **more).wait()


@dataclass
class Fork:
    """One command under way."""

    forks: Forks
    pid: int
    progress: Path
    before: int

    def operations(self):
        """How much it has done to the disk so far."""
        return (self.progress.stat().st_size if self.progress.exists() else 0) - self.before

    def poll(self):
        """Its exit status; None while it runs."""
        return None if self.forks.is_running(self.pid) else self.wait()

    def follow(self, operations, seconds):
        """Wait until it has done so much, and some time longer, or until it ends."""
        while self.operations() < operations and self.forks.is_running(self.pid):
            time.sleep(0.0005)
        time.sleep(seconds)

    def end(self, number):
        """Send a signal to it and its workers, where it still runs; its exit status as a shell shows it."""
        if self.forks.is_running(self.pid):
            os.killpg(self.pid, number)
        return self.wait()

    def wait(self):
        """Its exit status, as a shell shows it: 128 and the number of the signal that ended it."""
        status = self.forks.wait(self.pid)
        self.forks.running.discard(self.pid)
        return 128 - status if status < 0 else status


def _run(plain, argv, log, progress, room, gate, locks):
    """The forked process: a command, followed and limited."""
    from medvlm_cli.core import failpoint

    os.setpgid(0, 0)
    file = os.open(progress, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    failpoint.reached = lambda operation, path, to=None: os.write(file, operation[:1].encode())
    if not locks:
        fcntl.flock = lambda file, how: None
    if gate:
        _linger(Path(gate))
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, resource.RLIM_INFINITY))
    plain(argv, log, os.devnull)


def _linger(gate):
    """Have this process wait, once it has a lock, until a file is there."""
    from medvlm_cli.core.commit import Lock

    acquire = Lock.acquire

    def lingering(lock):
        acquire(lock)
        with gate.with_suffix(".held").open("ab", buffering=0) as file:
            file.write(b"x")
        while not gate.exists():
            time.sleep(0.001)

    Lock.acquire = lingering


def _prepare():
    """Import what the commands need, and make small what would make a tiny run one of a single step."""
    import medvlm_cli.stages.finetune
    import medvlm_cli.stages.pretrain
    import medvlm_cli.stages.synthesize
    import medvlm_cli.teachers.page  # noqa: F401
    from medvlm_cli.core import writer
    from medvlm_cli.stages import fetch
    from tests.crash_cases import SMALL, Alone, medvlm

    fetch.Crew = Alone
    for function in (writer.Writer.__init__, writer.write_all):
        function.__kwdefaults__["keys_per_shard"] = KEYS
    os.fsync = lambda file: None  # a kill leaves the kernel what it was given; losing that is ``test_crash``'s
    with tempfile.TemporaryDirectory() as folder:
        medvlm("fetch", "phantom", "-o", folder, "--set", "n=2", *SMALL)
    gc.freeze()  # or the collector of every fork would copy what it shares


KEYS = 2
"""Keys a shard holds on average here."""


def main():
    """Fork as often as asked."""
    _prepare()
    warm._run = functools.partial(_run, warm._run)
    warm.main()
    sys.stderr.flush()
    os._exit(0)  # the libraries' ways out take time, and tell of what was never freed


if __name__ == "__main__":
    main()
