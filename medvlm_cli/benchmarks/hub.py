"""Files of a Hugging Face data set, at one revision."""

import fnmatch
import os
from collections.abc import Sequence
from pathlib import Path

from medvlm_cli.core import commit
from medvlm_cli.core.errors import MedVLMError, RemoteError

SOURCE = "source.txt"
"""Name of the file that tells, once all is there, which data set and revision it is."""


def from_hub(repository: str, revision: str, wanted: Sequence[str], folder: Path) -> None:
    """Download some files of a data set, unless they are all there; ``HF_ENDPOINT`` names another hub.

    Args:
        repository: ``owner/name``.
        revision: full hash of a commit.
        wanted: names or patterns (``data/*.parquet``), each of which must match.
        folder: where the files go, under their own paths; made if need be.

    Raises:
        RemoteError: the hub cannot be reached, refuses, or has not what is wanted.
        ResourceError: the disk refuses.
    """
    told = f"https://huggingface.co/datasets/{repository} at {revision}\n"
    source = folder / SOURCE
    if source.is_file() and source.read_text(encoding="utf-8") == told:
        return
    try:
        with commit.refusals(folder):
            _download(repository, revision, wanted, folder)
            commit.write_text(source, told)
    except MedVLMError:
        raise
    except Exception as error:  # the hub's own errors, those of its HTTP library and of its download accelerator
        message = " ".join(str(error).split()) or type(error).__name__
        raise RemoteError(f"{repository} cannot be downloaded ({message})") from error


def _download(repository: str, revision: str, wanted: Sequence[str], folder: Path) -> None:
    from huggingface_hub import HfApi, hf_hub_download  # takes a second to import, and most runs need none of it
    from huggingface_hub.utils import disable_progress_bars, logging

    disable_progress_bars()  # they draw on the terminal, which only render.py may
    logging.set_verbosity_error()  # and so does a warning at every retry
    endpoint = os.environ.get("HF_ENDPOINT") or None
    there = HfApi(endpoint=endpoint).list_repo_files(repository, repo_type="dataset", revision=revision)
    for pattern in wanted:
        names = fnmatch.filter(there, pattern)
        if not names:
            raise RemoteError(f"{repository} at {revision} has no {pattern}")
        for name in names:
            hf_hub_download(
                repository, name, repo_type="dataset", revision=revision, local_dir=folder, endpoint=endpoint
            )
