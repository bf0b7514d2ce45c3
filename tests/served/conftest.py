"""A tiny random Llama, and a real vLLM that serves it: one of each for all tests of this folder."""

import os
import time

import pytest

from medvlm_cli.teachers.launch import PROGRAM, Serving, launched, served_name
from tests.served import tiny_llama

ON_CPU = ("--enforce-eager", "--dtype", "float32", "--max-num-seqs", "16")


@pytest.fixture(scope="session")
def environment():
    """1 GB for keys and values: the share of the machine's memory that is the default is not always free."""
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        patch.delenv("VLLM_API_KEY", raising=False)
        yield settings | {PROGRAM: os.environ[PROGRAM]}


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """Folder of the model."""
    folder = tmp_path_factory.mktemp("llama")
    tiny_llama.make(folder)
    return str(folder)


@pytest.fixture(scope="session")
def name(llama):
    """By which a server that we start calls the model."""
    return served_name(llama)


@pytest.fixture(scope="session")
def url(environment, llama, tmp_path_factory):
    """Address of a server; it ends with the tests."""
    log = tmp_path_factory.mktemp("served") / "vllm.log"
    began = time.monotonic()
    with launched(llama, log=log, tell=lambda *told: None, serving=Serving(extra=ON_CPU, timeout=600)) as url:
        print(f"served after {time.monotonic() - began:.1f} s")
        yield url
