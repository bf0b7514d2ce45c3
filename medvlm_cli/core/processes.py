"""The processes of one training run: started, listened to, ended together.

On this machine ``torch.distributed.run`` starts this module once a rank, on several machines DeepSpeed's launcher does;
or ``srun`` or the user's own ``torchrun`` started the whole command once a rank (``ranks``), and each becomes one.

The first rank's progress comes over standard output, lines that begin with ``MARK``; everything else that any library
prints goes to ``launch.log`` in the state folder.  A rank that fails leaves its error in a file, with the time: the
earliest is the cause, unless it only says that its partner is gone.
"""

import contextlib
import ctypes
import importlib.util
import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch

from medvlm_cli.core import errors
from medvlm_cli.core.commit import remove, write_text
from medvlm_cli.core.ranks import is_here
from medvlm_cli.core.steps import Job
from medvlm_cli.core.tell import Tell, show
from medvlm_cli.core.train import fit
from medvlm_cli.core.watch import STOP, Company

MARK = "\x1emedvlm "
SECONDS_TO_SAVE = 120
"""How long the ranks may take to save and end when they are asked to."""
_TELL_SECONDS = 0.1
_SECONDS_TO_TELL = 3.0
"""How long the errors of the other ranks are awaited; less than ``watch.SECONDS_TO_LEAVE``."""


def run_processes(
    job: Job, world: int, tell: Tell, hostfile: Path | None = None, hosts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Do a job in ``world`` processes.

    Args:
        job: what every rank does.
        world: ranks.
        tell: progress of the first rank.
        hostfile: DeepSpeed host file of other machines; None trains on this one.
        hosts: what it says.

    Returns:
        The first rank's outcome.

    Raises:
        MedVLMError: of the class, and with the text, of the rank that failed first.
        ConfigError: a host does not see the state folder.
        ResourceError: a rank was killed, or hangs.
        RuntimeError: a rank hit a bug; holds its traceback.
        SystemExit: SIGTERM came, here or to a rank; the state was saved.
    """
    state = Path(job.state)
    token = write_job(job)
    command = launcher(state, token, world, hostfile, hosts)
    here = max(hosts.values()) if hosts else world
    threads = max(1, len(os.sched_getaffinity(0)) // here)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (state / "launch.log").open("w", encoding="utf-8") as log, _sigterm_raises():
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            start_new_session=True, preexec_fn=die_with_parent,
        )  # fmt: skip
        try:
            outcome = None
            for message in _messages(process, log):
                if "tell" in message:
                    tell(*message["tell"])
                elif "figures" in message:
                    show(tell, message["figures"])
                elif "error" in message:  # of a rank that cannot write it itself
                    told = message["error"]
                    write_text(state / "errors" / f"rank-{told['rank']}.json", json.dumps(told))
                else:
                    outcome = message["outcome"]
            if process.wait() or outcome is None:
                raise cause(state, world)
            return outcome
        finally:
            _end(process, state if hosts else None)


def write_job(job: Job) -> str:
    """Put a job where its ranks find it, and clear away what an earlier start left.

    Returns:
        A token, which is in the file: who reads it there sees this start's file and not another one's.
    """
    state, token = Path(job.state), secrets.token_hex(8)
    shutil.rmtree(state / "errors", ignore_errors=True)
    for old in (STOP, "launch.log"):
        remove(state / old)
    (state / "errors").mkdir()
    write_text(state / "job.json", json.dumps({"token": token, "job": asdict(job)}))
    return token


def launcher(
    state: Path, token: str, world: int, hostfile: Path | None = None, hosts: Mapping[str, int] | None = None
) -> list[str]:
    """The command that starts the ranks.

    DeepSpeed's launcher would add ``--local_rank`` to our arguments; it would run one foreign host's share here, and
    ask for a login by ssh to this machine.

    Raises:
        ConfigError: deepspeed is not installed, or there is no ``pdsh`` to reach other hosts with.
    """
    rank = [__name__, str(state / "job.json"), token]
    if hosts is None:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(world)]
        return [*command, "--shutdown_timeout", str(SECONDS_TO_SAVE), "-m", *rank]
    if importlib.util.find_spec("deepspeed") is None:
        raise errors.ConfigError("--hostfile needs deepspeed to start the ranks", "pip install 'medvlm[train]'")
    command = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", str(hostfile), "--no_local_rank"]
    command += ["--master_port", str(_free_port())]
    if len(hosts) == 1 and is_here(next(iter(hosts))):
        command += ["--no_ssh_check", "--master_addr", "127.0.0.1"]
    elif shutil.which("pdsh"):
        command.append("--force_multi")
    else:
        fix = "install pdsh, or start this command once a GPU with srun or torchrun, without --hostfile"
        raise errors.ConfigError("--hostfile names other hosts, and there is no pdsh to reach them by", fix)
    return [*command, "--module", *rank]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("", 0))
        return listener.getsockname()[1]


def _messages(process: subprocess.Popen, log: Any) -> Iterator[dict[str, Any]]:
    assert process.stdout
    for line in process.stdout:
        before, mark, message = line.partition(MARK)
        if mark and re.fullmatch(r"(\S+: )?", before):  # pdsh puts the host in front
            yield json.loads(message)
        else:
            log.write(line)
            log.flush()


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM ends the ``with`` like Ctrl-C does, so that the ranks are ended with it."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: subprocess.Popen, state: Path | None) -> None:
    """Ask the ranks to save and end; kill what is left of them.

    Args:
        process: the launcher.
        state: state folder, where the ranks look for ``STOP`` because a signal to DeepSpeed's launcher would not let
            them save: it kills them after 30 s, and those of other hosts at once.
    """
    if process.poll() is not None:
        return
    if state:
        with contextlib.suppress(errors.ResourceError):
            write_text(state / STOP, "")
    else:
        process.terminate()
    try:
        process.communicate(timeout=SECONDS_TO_SAVE + 10)
    except BaseException:  # out of patience, or a second Ctrl-C; they die with their parent
        if state:
            os.killpg(process.pid, signal.SIGTERM)  # DeepSpeed's launcher ends the other hosts' ranks then
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=10)
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        raise


def cause(state: Path, world: int) -> BaseException:
    """The error of the rank that failed first; one that only lost its partner did not."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((state / "errors").glob("rank-*.json"))]
    own = [error for error in found if not error["lost"]]
    silent = sorted(set(range(world)) - {error["rank"] for error in found})
    if not own and (silent or not found):
        return _killed(state, world, silent)
    first = min(own or found, key=lambda error: error["time"])
    if first["type"] == "SystemExit":
        return SystemExit(first["code"])
    if first["type"] == "KeyboardInterrupt":
        return KeyboardInterrupt()
    kind = getattr(errors, first["type"], None)
    elsewhere = "" if first["host"] == socket.gethostname() else f" on {first['host']}"
    who = f"rank {first['rank']} of {world}{elsewhere}"
    if kind is None:
        return RuntimeError(f"{who}:\n{first['traceback']}")
    return kind(f"{who}: {first['what']}", first["fix"])


def _killed(state: Path, world: int, silent: list[int]) -> BaseException:
    """What is known of ranks that ended without a word: who they are, and the status where a launcher printed it."""
    log = next((path for path in (state / "launch.log", *sorted(state.glob("rank-*.log"))) if path.exists()), None)
    text = log.read_text(encoding="utf-8", errors="replace") if log else ""
    said = re.search(r"Root Cause.*?rank\s*: (\d+).*?exitcode\s*: (-?\d+)", text, re.DOTALL)
    if said and int(said[1]) in silent:
        who = f"rank {said[1]} of {world} ended with status {said[2]}"
    elif len(silent) < world:
        who = f"rank {', '.join(map(str, silent))} of {world} left no word: it was killed, or hangs"
    else:
        who = f"the {world} ranks ended early"
    see = f", see {log}" if log else ""
    return errors.ResourceError(f"{who}{see}", "is there memory for all? the same command goes on from here")


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, however that dies (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def work(file: Path, token: str, company: Company, tell: Tell) -> dict[str, Any]:
    """Do a job as one of the ranks that have met, and leave word of what goes wrong.

    Args:
        file: the job, as ``write_job`` wrote it.
        token: what it returned.
        company: this rank and the others.
        tell: progress.

    Returns:
        The outcome, which only the first rank has.

    Raises:
        BaseException: what this rank met; ``cause`` tells which rank's was the first.
    """
    company.watch(file.parent)
    try:
        company.roll_call(file, token)
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        # here and not in a library, which would have a limit of its own; `watch` comes first and knows who hangs
        waiting = timedelta(seconds=company.limit + 60)
        torch.distributed.init_process_group("nccl" if gpu else "gloo", timeout=waiting)
        outcome = fit(Job(**json.loads(file.read_text(encoding="utf-8"))["job"]), tell)
        torch.distributed.destroy_process_group()
    except BaseException as error:
        company.fail(error)
        raise
    company.rest()
    return outcome


def work_first(job: Job, company: Company, tell: Tell) -> dict[str, Any]:
    """Do a job as the first of the ranks that the environment started; raises as ``run_processes``."""
    file, token = Path(job.state) / "job.json", write_job(job)
    company.hand_out({"file": str(file), "token": token})
    try:
        outcome = work(file, token, company, tell)
    except BaseException:
        raise _awaited_cause(file.parent, company) from None
    company.await_others(SECONDS_TO_SAVE)
    return outcome


def follow(company: Company) -> NoReturn:
    """Be one of the other ranks that the environment started, until the end of this process.

    It says nothing: what is printed goes to a log in the state folder, and the first rank speaks for all.
    """
    try:
        told = company.receive()
    except RuntimeError:  # the first rank is gone
        os._exit(1)
    if "code" in told:  # finished before, or refused
        company.done()
        os._exit(told["code"])
    file, code = Path(told["file"]), 0
    try:
        _redirect(file.with_name(f"rank-{company.rank}.log"))
        work(file, told["token"], company, lambda what, done, total: None)
        _redirect(Path(os.devnull))  # the first rank removes the folder of the log
        company.done()
    except BaseException:
        code = exit_code(_awaited_cause(file.parent, company))
    os._exit(code)  # as in `main`


def exit_code(error: BaseException) -> int:
    """The status that the command ends with after an error."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 130 if isinstance(error, KeyboardInterrupt) else getattr(error, "exit_code", 1)


def _awaited_cause(state: Path, company: Company) -> BaseException:
    """As ``cause``, when the other ranks had a moment to leave their errors."""
    until = time.monotonic() + _SECONDS_TO_TELL
    while time.monotonic() < until and (count := len(list((state / "errors").glob("rank-*.json")))) < company.world:
        time.sleep(0.1 if count else 0.02)
    error = cause(state, company.world)
    company.code = exit_code(error)
    return error


def _redirect(path: Path) -> None:
    """Send what this process prints to a file; to nowhere, where there is no such folder."""
    with (path if path.parent.is_dir() else Path(os.devnull)).open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def _speak(message: dict[str, Any]) -> None:
    os.write(1, f"\n{MARK}{json.dumps(message)}\n".encode())  # one write: lines of ranks do not mix


def main() -> None:
    """One rank that ``run_processes`` started."""
    die_with_parent()
    file, token, last = Path(sys.argv[1]), sys.argv[2], 0.0
    company = Company()

    def tell(what: str, done: int, total: int | None) -> None:
        nonlocal last
        if company.rank == 0 and (done == total or not done or time.monotonic() - last > _TELL_SECONDS):
            last = time.monotonic()
            _speak({"tell": [what, done, total]})

    if company.rank == 0:
        tell.figures = lambda values: _speak({"figures": dict(values)})  # type: ignore[attr-defined]
    try:
        outcome = work(file, token, company, tell)
    except BaseException as error:
        if company.unwritten:
            _speak({"error": company.unwritten})
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(exit_code(error))
    if company.rank == 0:
        _speak({"outcome": outcome})
    os._exit(0)  # the ordinary way out aborts now and then, in a thread of gloo that the interpreter did not stop


if __name__ == "__main__":
    main()
