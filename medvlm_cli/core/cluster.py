"""Work as tasks of a Ray cluster (the extra ``cluster``); on a laptop, of one that lives as long as the command."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medvlm_cli.core import offline
from medvlm_cli.core.errors import ConfigError, MedVLMError, ResourceError
from medvlm_cli.core.tell import Tell


@contextmanager
def connected() -> Iterator[int]:
    """A connection to the cluster of ``RAY_ADDRESS``, else to one made here; gives its number of processors.

    Raises:
        ConfigError: Ray is not installed, or the cluster is not there.
        OfflineError: nothing but this machine may be asked; Ray has its processes talk by its outer address.
    """
    offline.silence()  # tasks may start in processes that no command line started
    if offline.is_offline():
        raise offline.OfflineError("a cluster of Ray")
    os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--engine ray needs Ray", "pip install 'medvlm[cluster]'") from error
    try:
        ray.init(
            address=os.environ.get("RAY_ADDRESS") or "local",
            log_to_driver=False,
            include_dashboard=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        fix = "start one, or unset RAY_ADDRESS; of a cluster that asks for a token, set RAY_AUTH_MODE=token"
        raise ConfigError(f"no Ray cluster to connect to ({error})", fix) from error
    try:
        yield max(1, int(ray.cluster_resources().get("CPU", 1)))
    finally:
        ray.shutdown()


def run(function: Callable[..., Any], calls: Sequence[tuple], tell: Tell) -> list[Any]:
    """Call a function once for each tuple of arguments, each as a task of one processor.

    Every task is waited for, so that one that fails does not waste the work of the others.

    Args:
        function: of a module that is installed on every machine of the cluster; called in the folder that is this
            process's, so that paths mean the same.
        calls: the arguments of each call.
        tell: told how many parts are done.

    Returns:
        What each call returned, in order.

    Raises:
        MedVLMError: what the first task to fail raised.
        ResourceError: the cluster lost a task, and did so again when it was repeated.
    """
    import ray

    remote = ray.remote(num_cpus=1, max_retries=2)(_in_folder)
    tasks = [remote.remote(Path.cwd(), function, *call) for call in calls]
    waiting = list(tasks)
    failure: Exception | None = None
    tell("parts", 0, len(tasks))
    while waiting:
        (finished,), waiting = ray.wait(waiting, num_returns=1)
        try:
            ray.get(finished)
        except ray.exceptions.RayTaskError as error:
            failure = failure or (error.cause if isinstance(error.cause, MedVLMError) else error)
        except ray.exceptions.RayError as error:
            what = f"the cluster lost a task ({str(error).splitlines()[0]})"
            failure = failure or ResourceError(what, "run the same command again: it resumes")
        tell("parts", len(tasks) - len(waiting), len(tasks))
    if failure is not None:
        raise failure
    return ray.get(tasks)


def _in_folder(folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """What a task of Ray does: a worker of a cluster starts in some folder of its own."""
    os.chdir(folder)
    return function(*arguments)
