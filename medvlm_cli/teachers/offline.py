"""Llama in this process: ``vllm.LLM`` without a server, for runs that shall come out the same again.

The same machine, the same vLLM and the same requests in the same lists give the same answers, which a server, that
mixes whatever arrives together, does not promise.

Source: vLLM's page on reproducibility, docs.vllm.ai, and its source code, version 0.32.
"""

import asyncio
import functools
import importlib.util
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from medvlm_cli.core.errors import ConfigError, ResourceError
from medvlm_cli.teachers.launch import HINT, JSON_ANSWERS, context, devices, model_config, tensor_parallel
from medvlm_cli.teachers.replies import AgainError, Reply, RowError, Usage, is_too_long
from medvlm_cli.teachers.vllm import stop_reason

_GATHER = 0.05
"""Seconds that a list waits for more requests: answers to the last one are on their way to disk."""
_SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # else the order in which requests meet is a matter of chance
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",  # standard output is ours
}

Told = Reply | RowError | AgainError
"""What becomes of one request of a list."""


class Offline:
    """A model that is loaded when it is first asked.

    Args:
        model: a folder or a hub id.
        name: by which rows call it; empty: by ``model``.
        seed: of the engine; each request has one of its own beside it.
        gpus: devices to split the model over; None: all that this machine has.
        engine: more arguments of ``vllm.LLM``; they win over ours.

    Raises:
        ConfigError: vLLM is not installed.
    """

    def __init__(self, model: str, *, name: str = "", seed: int = 0, gpus: int | None = None, **engine: Any) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError("offline: vLLM is not installed", f"pip install 'medvlm[vllm]'; {HINT}")
        self._model, self._name, self._seed, self._gpus, self._more = model, name or model, seed, gpus, engine

    @functools.cached_property
    def _engine(self) -> Any:
        os.environ.update(_SETTINGS)
        import vllm  # 10 s, and it reads the environment while it loads

        config = model_config(self._model)
        gpus = devices() if self._gpus is None else self._gpus
        arguments: dict[str, Any] = {
            "seed": self._seed,
            "max_model_len": context(config),
            "tensor_parallel_size": tensor_parallel(config, gpus) if gpus else 1,
            "structured_outputs_config": JSON_ANSWERS,
            "generation_config": "vllm",
        }
        try:
            return vllm.LLM(self._model, **(arguments | self._more))
        except (RuntimeError, ValueError, OSError) as error:
            raise ResourceError(f"vLLM cannot load {self._model}: {_first_line(error)}", HINT) from error

    def ask_many(self, bodies: Sequence[Mapping[str, Any]]) -> list[Told]:
        """The answers to some requests, in their order.

        Args:
            bodies: parameters of ``/v1/chat/completions``, as ``vllm.chat_body`` makes them.

        Returns:
            For each a reply, or the error that ``vllm.Servers.ask`` would raise.

        Raises:
            ResourceError: the model cannot be loaded, or the engine failed.
        """
        if not bodies:
            return []
        engine = self._engine
        from vllm.exceptions import VLLMValidationError

        try:
            parameters = [_parameters(body) for body in bodies]
            outputs = engine.chat([list(body["messages"]) for body in bodies], parameters, use_tqdm=False)
        except (ValueError, VLLMValidationError) as error:
            # Nothing was generated: the engine looks at all requests first, and one that it refuses ends the list.
            if len(bodies) > 1:
                half = len(bodies) // 2
                return self.ask_many(bodies[:half]) + self.ask_many(bodies[half:])
            said = _first_line(error)
            return [RowError("too_long" if is_too_long(said) else "invalid_request", said)]
        except RuntimeError as error:  # out of memory, a dead engine
            raise ResourceError(f"vLLM failed: {_first_line(error)}", HINT) from error
        return [self._told(output) for output in outputs]

    def _told(self, output: Any) -> Told:
        answer, cached = output.outputs[0], output.num_cached_tokens or 0
        try:
            stop = stop_reason(answer.finish_reason)
        except ValueError as error:
            return AgainError(str(error))
        usage = Usage(
            input_tokens=len(output.prompt_token_ids) - cached,
            output_tokens=len(answer.token_ids),
            cache_read=cached,
        )
        return Reply(
            text=answer.text, stop_reason=stop, usage=usage, served_model=self._name, provider_id=output.request_id
        )


class Gathered:
    """Makes lists of requests that come one by one; an asynchronous context manager.

    Args:
        offline: who answers, in a thread of its own.
    """

    def __init__(self, offline: Offline) -> None:
        self._offline = offline
        self._waiting: list[tuple[Mapping[str, Any], asyncio.Future[Told]]] = []
        self._wake = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, "vllm")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Gathered":
        self._task = asyncio.create_task(self._loop())
        return self

    async def __aexit__(self, *error: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def ask(self, body: Mapping[str, Any]) -> Reply:
        """The answer to one request; raises as ``vllm.Servers.ask``, and ``ResourceError`` as ``Offline.ask_many``."""
        future: asyncio.Future[Told] = asyncio.get_running_loop().create_future()
        self._waiting.append((body, future))
        self._wake.set()
        told = await future
        if isinstance(told, Reply):
            return told
        raise told

    async def _loop(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wake.wait()
            await asyncio.sleep(_GATHER)
            self._wake.clear()
            gathered, self._waiting = self._waiting, []
            try:
                told = await loop.run_in_executor(self._thread, self._offline.ask_many, [body for body, _ in gathered])
            except Exception as error:
                for _, future in gathered:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), one in zip(gathered, told, strict=True):
                if not future.done():
                    future.set_result(one)


def _parameters(body: Mapping[str, Any]) -> Any:
    """A body's sampling parameters in vLLM's own words."""
    from vllm import SamplingParams
    from vllm.sampling_params import StructuredOutputsParams

    form = body.get("response_format")
    return SamplingParams(
        max_tokens=body["max_tokens"],
        temperature=body["temperature"],
        seed=body["seed"],
        structured_outputs=StructuredOutputsParams(json=form["json_schema"]["schema"]) if form else None,
    )


def _first_line(error: Exception) -> str:
    return next((line.strip()[:300] for line in str(error).splitlines() if line.strip()), type(error).__name__)
