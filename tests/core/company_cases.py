"""A rank without a model, as a program: it meets the others, adds numbers with them, and the last one meets a fault.

It does what ``processes.work`` does, with another job; so ranks start in a tenth of the time.
"""

import os
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch

from medvlm_cli.core.errors import DataError
from medvlm_cli.core.watch import Company


def raise_it(company: Company) -> None:
    raise DataError("figure 9: not a readable image", "drop it")


def bug(company: Company) -> None:
    raise KeyError("x")


def kill(company: Company) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop(company: Company) -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def hang(company: Company) -> None:
    time.sleep(1000)


def see_itself(company: Company) -> None:
    """Be the first to notice that it is oneself who hangs."""
    company._end_of(company.rank)
    time.sleep(1000)


def nothing(company: Company) -> None:
    """No fault: the sums go on until somebody asks to end."""


def main(state: Path, token: str, fault: str) -> None:
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    company = Company()
    company.watch(state)
    try:
        company.roll_call(state / "job.json", token, seconds=1)
        torch.distributed.init_process_group("gloo", timeout=timedelta(seconds=30))
        for step in range(1000):
            if step == 3 and company.rank == company.world - 1:
                globals()[fault](company)
            torch.distributed.all_reduce(torch.ones(1))
            time.sleep(0.02)
        torch.distributed.destroy_process_group()
    except BaseException as error:
        company.fail(error)
        os._exit(1)
    company.rest()


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
