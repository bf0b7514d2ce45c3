"""``--launch MODEL``: a vLLM server of our own, on this machine, for as long as it is needed.

vLLM pins its own torch, so it may live in another environment: ``MEDVLM_VLLM`` names its ``vllm`` command, or the
Python of that environment.  The server listens on the loopback address only.
"""

import hashlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_cli.core.clean import clean
from medvlm_cli.core.commit import make_folder, refusals
from medvlm_cli.core.errors import ConfigError, RemoteError, ResourceError
from medvlm_cli.core.tell import Tell

PROGRAM = "MEDVLM_VLLM"
HOST = "127.0.0.1"
POSITIONS = 8192
"""Tokens of prompt and answer together, at most: all that Llama 3 has, and what our prompts are cut to."""
JSON_ANSWERS = {"backend": "guidance", "disable_any_whitespace": True}
"""How answers are kept to a schema.  The default backend lets control characters into strings of a bounded length, and
any backend may write white space until the answer is full, unless the engine, not the request, forbids it."""
GRACE = 20.0
"""Seconds that the server may take to end before it is killed."""
HINT = "a server that runs elsewhere, or in an environment of its own, is given with --llama-endpoint URL"

_WATCH = Path(__file__).with_name("watch.py")
_LOOK = 0.2
_TAIL_LINES = 12
_TAIL_BYTES = 64 << 10
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CAUSE = re.compile(r"\b\w*(?:Error|Exception)\b: (?!Engine core)|\berror: ")


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How a server is started."""

    copies: int = 1
    """Of the model, each on its share of the devices."""
    timeout: float = 3600.0
    """Seconds until it must serve; 140 GB of weights take their time."""
    extra: Sequence[str] = ()
    """More arguments of ``vllm serve``; they win over ours."""


@contextmanager
def launched(model: str, *, log: Path, tell: Tell, serving: Serving = Serving()) -> Iterator[str]:
    """Start ``vllm serve`` and wait until it serves; it ends with the ``with``, and with this process at the latest.

    Args:
        model: a folder or a hub id; the server serves it as ``served_name`` has it.
        log: file for all that the server prints; begun anew.
        tell: told how many seconds the start takes.
        serving: how to start it.

    Yields:
        The server's address.

    Raises:
        ConfigError: vLLM is not installed, or the devices cannot be shared out.
        ResourceError: the server ended, or did not serve in time; holds the last lines of its log.  Where it ends in
            the middle, in place of the ``RemoteError`` that this makes of what is asked.
    """
    port = _free_port()
    command = [*program(), *_arguments(model, port, serving)]
    watch = [sys.executable, "-I", "-S", str(_WATCH), str(os.getpid()), str(GRACE), *command]
    environment = {**os.environ, "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    make_folder(log.parent)
    with refusals(log.parent), log.open("wb") as file:
        process = subprocess.Popen(
            watch, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
    try:
        _wait(process, port, log, tell, serving.timeout)
        yield f"http://{HOST}:{port}"
    except RemoteError as error:
        if not _healthy(port):
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(GRACE)
                raise ResourceError(f"vLLM ended with status {status}:\n{tail(log)}", f"see {log}; {HINT}") from error
        raise
    finally:
        _end(process)


def program() -> list[str]:
    """The command that starts a server, up to where the model goes.

    Raises:
        ConfigError: there is none.
    """
    named = os.environ.get(PROGRAM)
    if named:
        if shutil.which(named) is None:
            raise ConfigError(f"{PROGRAM} is {named}, and that cannot be run", "name the vllm command, or a Python")
        return _module(named) if Path(named).name.startswith("python") else [named, "serve"]
    beside = Path(sys.executable).with_name("vllm")
    found = str(beside) if beside.exists() else shutil.which("vllm")
    if found:
        return [found, "serve"]
    if importlib.util.find_spec("vllm") is None:
        fix = f"pip install 'medvlm[vllm]', or set {PROGRAM} to the vllm command of another environment; {HINT}"
        raise ConfigError("--launch: vLLM is not installed", fix)
    return _module(sys.executable)


def _module(python: str) -> list[str]:
    """For a vLLM without its command; ``-P``: nothing in the present folder is taken for a library."""
    return [python, "-P", "-m", "vllm.entrypoints.openai.api_server", "--model"]


def _arguments(model: str, port: int, serving: Serving) -> list[str]:
    config = model_config(model)
    arguments = [model, "--served-model-name", served_name(model), "--host", HOST, "--port", str(port), "--seed", "0"]
    arguments += ["--structured-outputs-config", json.dumps(JSON_ANSWERS)]
    arguments += ["--enable-prompt-tokens-details", "--disable-uvicorn-access-log"]
    arguments += ["--generation-config", "vllm"]  # or the model's own top_p and penalties join in, recorded nowhere
    if positions := context(config):
        arguments += ["--max-model-len", str(positions)]
    gpus, copies = devices(), serving.copies
    if gpus % copies or (copies > 1 and not gpus):
        raise ConfigError(f"{gpus} GPUs cannot be shared out among {copies} copies of the model")
    if gpus:
        arguments += ["--tensor-parallel-size", str(tensor_parallel(config, gpus // copies))]
    if copies > 1:
        arguments += ["--data-parallel-size", str(copies)]
    return [*arguments, *serving.extra]


def served_name(model: str) -> str:
    """The name that a model is served under and that rows carry: a hub id as it is, a folder without its path.

    A folder's name is followed by 8 hex digits of the SHA-256 over its ``config.json`` and the names and sizes of its
    files: another model in a folder of that name is another teacher, whose answers are not those in the ledger.
    """
    folder = Path(model)
    if not folder.is_dir():
        return model
    files = sorted((path.name, path.stat().st_size) for path in folder.iterdir() if path.is_file())
    config = folder / "config.json"
    told = hashlib.sha256(json.dumps(files).encode() + (config.read_bytes() if config.is_file() else b"")).hexdigest()
    return f"{folder.resolve().name}@{told[:8]}"


def model_config(model: str) -> dict[str, Any]:
    """The model's ``config.json``, from its folder or from the hub; empty where it is not to be had: vLLM says why."""
    folder = Path(model)
    try:
        if not folder.is_dir():
            from huggingface_hub import hf_hub_download

            folder = Path(hf_hub_download(model, "config.json")).parent
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):  # the hub's errors are OSErrors, a name that is none a ValueError
        return {}
    return config.get("text_config") or config if isinstance(config, dict) else {}


def context(config: dict[str, Any]) -> int | None:
    """Tokens that a model is served with: ``POSITIONS``, or fewer where it has fewer; None where that is unknown."""
    there = config.get("max_position_embeddings")
    return min(POSITIONS, there) if isinstance(there, int) else None


def devices() -> int:
    """GPUs that this process may use."""
    import torch  # 2 s

    return torch.cuda.device_count()


def tensor_parallel(config: dict[str, Any], gpus: int) -> int:
    """Over how many of the GPUs a copy of the model can be split: the heads of attention must divide."""
    heads = config.get("num_attention_heads") or gpus
    groups = config.get("num_key_value_heads") or heads
    return max(n for n in range(1, gpus + 1) if heads % n == 0 and (groups % n == 0 or n % groups == 0))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def _wait(process: subprocess.Popen, port: int, log: Path, tell: Tell, timeout: float) -> None:
    """Return when the server serves."""
    began = time.monotonic()
    while True:
        seconds = time.monotonic() - began
        tell("start vLLM, seconds", int(seconds), None)
        status = process.poll()
        if status is not None:
            what = f"vLLM ended with status {status} before it could serve"
            raise ResourceError(f"{what}:\n{tail(log)}", f"see {log}; {HINT}")
        if _healthy(port):
            return
        if seconds >= timeout:
            raise ResourceError(f"vLLM does not serve after {timeout:g} s:\n{tail(log)}", f"see {log}; {HINT}")
        time.sleep(_LOOK)


def _healthy(port: int) -> bool:
    connection = http.client.HTTPConnection(HOST, port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def tail(log: Path) -> str:
    """The last lines of a log, made printable; before them the last line that names an error, where that is earlier."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    lines = [clean(_COLOUR.sub("", line)).rstrip()[:400] for line in re.split(r"[\r\n]+", text) if line.strip()]
    last = lines[-_TAIL_LINES:]
    causes = [line for line in lines if _CAUSE.search(line)]
    if causes and causes[-1] not in last:
        last = [causes[-1], "...", *last]
    return "\n".join(f"    {line}" for line in last or ["(it printed nothing)"])


def _end(process: subprocess.Popen) -> None:
    """End the server and all its processes."""
    try:
        process.terminate()
        process.wait(GRACE + 5)
    except subprocess.TimeoutExpired:
        pass
    finally:  # a second Ctrl-C comes here too
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
