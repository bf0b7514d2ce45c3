"""What tests of the client of Llama's servers share: one request, answers to it, and what comes of asking."""

import asyncio

from medvlm_cli.teachers.vllm import Servers, chat_body
from tests.openai_server import MODEL, OpenAIServer

BODY = chat_body(MODEL, "Be brief.", [{"role": "user", "content": "Größe?"}], max_tokens=9, temperature=0.0, seed=3)
PAGE = b"<html><title>Bad gateway</title></html>"
SAID = {"error": {"message": "something is wrong", "type": "BadRequestError", "code": 400}}
TOO_LONG = {"error": {"message": "This model's maximum context length is 8192 tokens. However, ...", "code": 400}}


def ask(*urls, body=BODY, times=1, timeout=10.0, model=MODEL):
    """What comes of asking ``times`` times, one after the other: replies, or the errors in their place."""

    async def run():
        told = []
        async with Servers(urls, model, connections=8, timeout=timeout) as servers:
            for _ in range(times):
                told += await asyncio.gather(servers.ask(body), return_exceptions=True)
        return told

    return asyncio.run(run())


def check(*urls, model=MODEL):
    async def run():
        async with Servers(urls, model, connections=8, timeout=10.0) as servers:
            await servers.check()

    asyncio.run(run())


def error_of(status, told, headers=None):
    with OpenAIServer((status, told, headers or {})) as server:
        [error] = ask(server.url)
    return error
