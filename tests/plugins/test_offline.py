"""Llama in this process: what is said where vLLM is not installed, and how requests that come one by one become lists.

vLLM itself, and lists of which it refuses one request, are in ``tests/served``.
"""

import asyncio
import importlib.util
import random
import re
import sys
import threading

import pytest

from medvlm_cli.core.errors import ConfigError, ResourceError
from medvlm_cli.teachers.offline import Gathered, Offline
from medvlm_cli.teachers.replies import AgainError, Reply, RowError
from tests import synthesis

ERRORS = {"long": RowError("too_long", ".."), "gone": AgainError("finish_reason is abort")}


class Lists:
    """Answers lists as ``Offline`` does, by what the bodies say, and keeps their lengths."""

    def __init__(self, hold=None):
        self.lengths, self.begun, self._hold = [], threading.Event(), hold

    def ask_many(self, bodies):
        self.lengths.append(len(bodies))
        self.begun.set()
        if self._hold is not None:
            self._hold.wait(30)
        if any(body["say"] == "crash" for body in bodies):
            raise ResourceError("vLLM failed: out of memory")
        return [ERRORS.get(one["say"]) or Reply(text=one["say"], stop_reason="end_turn") for one in bodies]


def gather(lists, *rounds):
    async def run():
        async with Gathered(lists) as gathered:
            return [
                await asyncio.gather(*(gathered.ask({"say": say}) for say in one), return_exceptions=True)
                for one in rounds
            ]

    return asyncio.run(run())


# ---------------------------------------------------------------------- without vLLM


def test_without_vllm_the_ways_to_it_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(ConfigError, match=re.escape("pip install 'medvlm[vllm]'")) as caught:
        Offline("llama")
    assert caught.value.what == "offline: vLLM is not installed" and "--llama-endpoint URL" in caught.value.fix


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
@pytest.mark.parametrize(("settings", "words"), [({}, "--launch"), ({"offline": "true"}, "offline")])
def test_the_command_says_that_vllm_is_missing_and_writes_the_captions_all_the_same(tmp_path, settings, words):
    figures = synthesis.write_figures(tmp_path / "figures", 3)
    given = (*synthesis.FREE, "--launch", tmp_path / "no-model")
    done = synthesis.synthesize(figures, tmp_path / "out", None, *given, env={"PATH": str(tmp_path)}, **settings)
    assert done.returncode == ConfigError.exit_code, done.stderr
    assert f"error: {words}: vLLM is not installed" in done.stderr and "pip install 'medvlm[vllm]'" in done.stderr
    assert (tmp_path / "out" / "captions" / "manifest.json").exists()
    assert not (tmp_path / "out" / "instruct").exists()


# ---------------------------------------------------------------------- requests made into lists


def test_requests_that_come_together_are_one_list_and_each_gets_its_own_answer_or_error():
    lists = Lists()
    first, second = gather(lists, ["a", "long", "b", "gone"], ["c"])
    assert [one.text for one in (first[0], first[2], second[0])] == ["a", "b", "c"]
    assert (first[1].code, first[3].what) == ("too_long", "finish_reason is abort")
    assert lists.lengths == [4, 1]


@pytest.mark.parametrize(("say", "kind"), [("long", RowError), ("gone", AgainError), ("crash", ResourceError)])
def test_an_error_is_raised_and_not_returned(say, kind):
    async def run():
        async with Gathered(Lists()) as gathered:
            await gathered.ask({"say": say})

    with pytest.raises(kind):
        asyncio.run(run())


def test_a_list_waits_for_requests_that_are_on_their_way():
    lists = Lists()

    async def run():
        async with Gathered(lists) as gathered:
            first = asyncio.create_task(gathered.ask({"say": "a"}))
            for _ in range(5):
                await asyncio.sleep(0)
            return await asyncio.gather(first, gathered.ask({"say": "b"}))

    assert [one.text for one in asyncio.run(run())] == ["a", "b"]
    assert lists.lengths == [2]


def test_what_comes_while_a_list_is_answered_is_the_next_list():
    hold = threading.Event()
    lists = Lists(hold)

    async def run():
        async with Gathered(lists) as gathered:
            first = asyncio.create_task(gathered.ask({"say": "a"}))
            await asyncio.to_thread(lists.begun.wait, 30)
            later = [asyncio.create_task(gathered.ask({"say": say})) for say in "bcd"]
            await asyncio.sleep(0.2)
            under_way = list(lists.lengths)
            hold.set()
            return under_way, await asyncio.gather(first, *later)

    under_way, replies = asyncio.run(run())
    assert under_way == [1] and lists.lengths == [1, 3]
    assert [one.text for one in replies] == ["a", "b", "c", "d"]


def test_whenever_three_hundred_requests_come_each_gets_its_own_answer():
    chance, lists = random.Random(0), Lists()
    delays = [chance.uniform(0, 0.5) for _ in range(300)]

    async def late(gathered, number):
        await asyncio.sleep(delays[number])
        return await gathered.ask({"say": str(number)})

    async def run():
        async with Gathered(lists) as gathered:
            return await asyncio.gather(*(late(gathered, number) for number in range(300)))

    assert [one.text for one in asyncio.run(run())] == [str(number) for number in range(300)]
    assert sum(lists.lengths) == 300 and len(lists.lengths) > 1


def test_a_request_that_nobody_waits_for_any_more_takes_nothing_from_the_others():
    hold = threading.Event()
    lists = Lists(hold)

    async def run():
        async with Gathered(lists) as gathered:
            asks = [asyncio.create_task(gathered.ask({"say": say})) for say in "abc"]
            await asyncio.to_thread(lists.begun.wait, 30)
            asks[1].cancel()
            hold.set()
            told = await asyncio.gather(*asks, return_exceptions=True)
            return told, await gathered.ask({"say": "d"})

    told, after = asyncio.run(run())
    assert [type(one) for one in told] == [Reply, asyncio.CancelledError, Reply]
    assert (told[0].text, told[2].text, after.text) == ("a", "c", "d")


def test_an_engine_that_fails_fails_every_request_of_the_list_and_no_later_one():
    first, second = gather(Lists(), ["a", "crash"], ["b"])
    assert [type(one) for one in first] == [ResourceError, ResourceError] and second[0].text == "b"
