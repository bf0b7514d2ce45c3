"""``synthesize`` over many figures with both teachers on loopback: what it takes beside the teachers' own time.

``python tests/bench/synthesize_rows.py [ROWS]``: processor time a row, memory and seconds of the whole command, from
its start to the finished datasets; seconds until a killed run asks again; and, as the peer, the Anthropic SDK alone in
a loop of ``asyncio.gather`` that keeps its answers in memory and writes them at the end, as LLaVA-Med's script does: no
ledger, no cap, no parsing.  The teachers answer in a process of their own and at once.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
GIVEN = ("--accept-terms", "claude,llama3", "--max-cost", "5000", "--json", "-q")
SETTINGS = {"batch_rows": 1000, "poll": 0.5}
PEER = """
import asyncio, json, sys
import anthropic
from medvlm_cli.core.arrow import open_dataset
from medvlm_cli.core.config import SynthesizeConfig
from medvlm_cli.core.schemas import FIGURES
from medvlm_cli.teachers.asks import Composer, families
from medvlm_cli.teachers.prompt import load

url, figures, out, rows = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
composer, family = Composer(prompt=load(), seed=0), families(SynthesizeConfig())["claude"]

async def main():
    client = anthropic.AsyncAnthropic(api_key="test-key", base_url=url)
    found = open_dataset(figures, FIGURES)
    bodies = [composer.body(family, composer.user(found.row_at(n))) for n in range(rows)]
    said = []
    for first in range(0, rows, 64):
        calls = [client.messages.create(**body) for body in bodies[first : first + 64]]
        said += [block.text for answer in await asyncio.gather(*calls) for block in answer.content]
    with open(out, "w") as file:
        file.writelines(json.dumps({"text": text}) + "\\n" for text in said)

asyncio.run(main())
"""


class Server:
    """The teachers, in a process of their own that logs what it is asked."""

    def __init__(self, log: Path) -> None:
        options = ["--batch-seconds", "2", "--refusals", "0.01", "--malformed", "0.01", "--log", str(log)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.anthropic_server", *options],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def end(self) -> None:
        """Let it end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def run(argv: Sequence[str], kill_after: int = 0, log: Path | None = None) -> dict[str, Any]:
    """Run a command to its end, or until ``log`` holds so many lines; seconds, CPU seconds, bytes and its output."""
    from tests import synthesis

    began = time.monotonic()
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(argv, cwd=ROOT, env=synthesis.environment(), stdout=said, stderr=errors)
        peak, status, used = 0, 0, None
        while used is None:
            peak = max(peak, peak_of(process.pid))
            if kill_after and log is not None and lines_of(log) >= kill_after:
                os.kill(process.pid, signal.SIGKILL)  # send_signal would bury it, and its usage with it
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            used = usage if ended else None
            time.sleep(0.1)
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        errors.seek(0)
        out, trouble = said.read().decode(), errors.read().decode()
    if process.returncode not in (0, 3, -signal.SIGKILL):
        raise SystemExit(f"exit {process.returncode}: {trouble[-2000:]}")
    return {
        "seconds": time.monotonic() - began,
        "cpu": used.ru_utime + used.ru_stime,
        "peak_bytes": peak,
        "out": out,
    }


def peak_of(pid: int) -> int:
    """The most memory that a process ever had in use, in bytes; 0 for one that has ended.

    Not ``ru_maxrss``: that counts the process it was forked from.
    """
    try:
        told = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in told.splitlines() if line.startswith("VmHWM")), 0)


def lines_of(log: Path) -> int:
    """Lines of a file that may not be there yet."""
    return log.read_bytes().count(b"\n") if log.exists() else 0


def first_asked_again(argv: Sequence[str], log: Path) -> float:
    """Seconds from the start of a resumed command to its first request; the command then goes on to its end."""
    from tests import synthesis

    before = -1
    while before != (before := lines_of(log)):  # batches of the run that was killed end, and are written down
        time.sleep(5)
    began = time.monotonic()
    process = subprocess.Popen(
        argv, cwd=ROOT, env=synthesis.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while lines_of(log) == before and process.poll() is None:
        time.sleep(0.05)
    seconds = time.monotonic() - began
    process.wait()
    return seconds


def main() -> None:
    """Print the figures and the ratio."""
    from tests import synthesis

    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        figures = synthesis.write_figures(place / "figures", rows)
        server = Server(place / "first.log")
        argv = synthesis.command(figures, place / "out", server, *GIVEN, **SETTINGS)
        whole = run(argv)
        told = json.loads(whole["out"])
        counted = told["instruct"]["conversations"] + told["instruct"]["rejected"]
        assert counted == rows, f"{counted:,} of {rows:,} figures came out"
        each = 1000 * whole["cpu"] / rows
        peak = whole["peak_bytes"] / 1e6
        print(f"{rows:,} rows: {whole['seconds']:.0f} s, {each:.3f} ms of CPU a row, peak {peak:.0f} MB", flush=True)
        server.end()

        server = Server(place / "second.log")
        argv = synthesis.command(figures, place / "again", server, *GIVEN, **SETTINGS)
        run(argv, kill_after=rows // 2, log=place / "second.log")
        again = first_asked_again(argv, place / "second.log")
        print(f"resumed after a kill in the middle: {again:.1f} s to its first request", flush=True)

        few = min(rows, 4000)
        peer = run([sys.executable, "-c", PEER, server.url, str(figures), str(place / "peer.jsonl"), str(few)])
        peer_each = 1000 * peer["cpu"] / few
        ratio = each / peer_each
        print(f"peer, the SDK alone, {few:,} rows: {peer_each:.3f} ms of CPU a row; ratio ours/peer {ratio:.2f}")
        server.end()


if __name__ == "__main__":
    main()
