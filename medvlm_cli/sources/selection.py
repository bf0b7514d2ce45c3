"""Which articles to fetch: a search, a file of ids, or the bucket's inventory, written down before anything is fetched.

A selection is an articles/1 dataset beside the figures.  It is made once; a resumed run, and every shard of a run,
reads the same one.
"""

import asyncio
import dataclasses
import hashlib
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medvlm_cli.core.arrow import Harvest, write_all
from medvlm_cli.core.config import FetchConfig
from medvlm_cli.core.errors import ConfigError, DataError, LockedError
from medvlm_cli.core.http import Http
from medvlm_cli.core.pace import Patience
from medvlm_cli.core.record import MANIFEST
from medvlm_cli.core.schemas import ARTICLES
from medvlm_cli.core.tell import Tell
from medvlm_cli.sources import eutils, inventory
from medvlm_cli.sources.ledger import Versions

_ID = re.compile(r"(?:PMC)?(\d{1,10})(?:\.(\d{1,4}))?", re.I)
WAIT_SECONDS = 1800.0
"""Longest that one process waits for the selection that another is making: reading the inventory takes minutes."""
_POLL_SECONDS = 0.5
_SETTINGS = ("query", "pmcids", "inventory", "since", "limit", "license", "bucket", "eutils")


def select(config: FetchConfig, folder: Path, tell: Tell) -> Path:
    """The dataset of the selected articles, made now or by an earlier run.

    Args:
        config: one of ``query``, ``pmcids`` and ``inventory``, or none of them: the paper's five modalities.
        folder: where selections lie; each has a name of its own.
        tell: told how far it is.

    Raises:
        ConfigError: NCBI does not understand the search.
        DataError: a file that holds no ids, or nothing was found.
        RemoteError: NCBI or the bucket does not answer.
        LockedError: another process has been making the selection for half an hour.
    """
    settings = _settings(config)

    def make(_: str) -> Harvest:
        found = articles(config, tell)
        rows = [
            {
                "article_id": article,
                "versions": [{"version": number, "md5": md5} for number, md5 in versions],
                "wanted": None,
            }
            for article, versions in sorted(found.items())
        ]
        return Harvest(len(rows), rows, [])

    return make_once(folder, settings, make, tell)


def make_once(folder: Path, settings: Mapping[str, Any], make: Callable[[str], Harvest], tell: Tell) -> Path:
    """The selection of these settings: there already, made now, or waited for while another process makes it.

    Args:
        folder: where selections lie; each has a name of its own.
        settings: all that decides what is selected.
        make: selects; called at most once.
        tell: told that another process is waited for.

    Raises:
        LockedError: the other process takes longer than ``WAIT_SECONDS``.
    """
    out = _place(folder, settings)
    end = time.monotonic() + WAIT_SECONDS
    while not (out / MANIFEST).is_file():
        try:
            write_all(out, ARTICLES, make, stage="fetch", config=settings, keys=["selection"], tell=lambda *_: None)
        except LockedError as error:
            if time.monotonic() > end:
                what = f"waited {WAIT_SECONDS / 60:.0f} minutes for a selection: {error.what}"
                raise LockedError(what, "end that process, and run the same command again") from error
            tell("wait for the selection that another process makes", 0, None)
            time.sleep(_POLL_SECONDS)
    return out


def made(config: FetchConfig, folder: Path) -> Path | None:
    """The selection of these settings, if it is there already.

    Raises:
        DataError: the file of ids cannot be read.
    """
    out = _place(folder, _settings(config))
    return out if (out / MANIFEST).is_file() else None


def _place(folder: Path, settings: Mapping[str, Any]) -> Path:
    digest = hashlib.sha256(repr(sorted(settings.items())).encode()).hexdigest()
    return folder / f"selection-{digest[:12]}"


def check(config: FetchConfig) -> None:
    """Refuse what selects in no one way, before anybody is asked anything.

    Raises:
        ConfigError: there are several ways at once, or a day that is none or belongs to no inventory.
    """
    given = [name for name in ("mirror", "query", "pmcids", "inventory") if getattr(config, name)]
    if len(given) > 1:
        raise ConfigError(f"--{given[0]} and --{given[1]} select at once".replace("mirror", "from"), "give one of them")
    if config.since and not config.inventory:
        raise ConfigError(
            "--since without --inventory", "add --inventory, or a date to --query: 2026/11/1:3000[pmcrdat]"
        )
    inventory.moment(config.since)


def _settings(config: FetchConfig) -> dict[str, Any]:
    settings = {name: getattr(config, name) for name in _SETTINGS}
    settings["license"] = config.license or "commercial"
    if config.pmcids:
        settings["pmcids"] = hashlib.sha256(_read(Path(config.pmcids)).encode()).hexdigest()
    return settings


def articles(config: FetchConfig, tell: Tell) -> dict[str, Versions]:
    """The selected articles, each with its versions where they are known; errors as ``select``."""
    if config.pmcids:
        return read_ids(Path(config.pmcids))
    found = asyncio.run(_from_inventory(config, tell) if config.inventory else _from_search(config, tell))
    if not found:
        raise DataError("no article was found", "change the selection; --dry-run says how many it finds")
    return found


def read_ids(path: Path) -> dict[str, Versions]:
    """Articles of a file: ids such as PMC7096066, 7096066 or PMC7096066.2, apart by lines, blanks, commas.

    ``#`` begins a comment.  A first line of words is a header.  A version given is the one that is taken; of several,
    the one that would be taken of all.

    Raises:
        DataError: the file is missing, holds none, or something else; names the line.
    """
    found: dict[str, Versions] = {}
    first = True
    for number, line in enumerate(_read(path).splitlines(), 1):
        text = line.partition("#")[0]
        words = [word for word in re.split(r"[\s,;\"']+", text) if word]
        header = first and bool(words) and not any(map(str.isdigit, text))
        first = first and not words
        for word in [] if header else words:
            match = _ID.fullmatch(word)
            if match is None:
                fix = "give ids such as PMC7096066, one a line; DOIs and PubMed ids must be converted first"
                raise DataError(f"{path}, line {number}: {word[:60]!r} is no PMC id", fix)
            versions = found.setdefault(f"PMC{int(match[1])}", [])
            if match[2] and (int(match[2]), None) not in versions:
                versions.append((int(match[2]), None))
    if not found:
        raise DataError(f"{path} holds no PMC id", "give ids such as PMC7096066, one a line")
    return {article: sorted(versions) for article, versions in found.items()}


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})", "give a file of PMC ids with --pmcids") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text", "give a file of PMC ids with --pmcids") from error


async def _from_search(config: FetchConfig, tell: Tell) -> dict[str, Versions]:
    """Ids of one search, or of the paper's modalities in equal parts."""
    searches = eutils.terms(config.query, config.license or "commercial")
    async with Http(3, Patience(tries=config.tries)) as http:
        search = eutils.Search(config.eutils, http)
        lists = [
            await search.ids(term, config.limit, _teller(tell, f"search {name}")) for name, term in searches.items()
        ]
    return {one: [] for one in _in_turn(lists, config.limit)}


def _in_turn(lists: Sequence[Sequence[str]], most: int) -> list[str]:
    """Ids of each list in turn, no id twice, until there are as many as wanted (0: all); a list that ends is passed."""
    found: dict[str, None] = {}
    queues = [iter(ids) for ids in lists]
    while queues:
        for queue in list(queues):
            if most and len(found) == most:
                return list(found)
            new = next((one for one in queue if one not in found), None)
            if new is None:
                queues.remove(queue)
            else:
                found[new] = None
    return list(found)


async def _from_inventory(config: FetchConfig, tell: Tell) -> dict[str, Versions]:
    """Articles of the inventory; with a limit, a fair sample of all years."""
    base, told = config.bucket.rstrip("/"), _teller(tell, "inventory")
    async with Http(8, Patience(tries=config.tries)) as http:
        return (await inventory.select(base, http, config.since, config.limit, told))[0]


def _teller(tell: Tell, phase: str) -> Callable[[int, int], None]:
    return lambda done, total: tell(phase, done, total)


def matches(config: FetchConfig) -> int | None:
    """How many articles the selection has, before the limit; None where only the whole inventory could tell.

    Raises:
        DataError: a file that holds no ids.
        RemoteError: NCBI does not answer.
    """
    if config.pmcids:
        return len(read_ids(Path(config.pmcids)))
    if config.inventory:
        return None

    async def count() -> int:
        patience = dataclasses.replace(Patience(), tries=1, connect=5.0)
        async with Http(3, patience) as http:
            search = eutils.Search(config.eutils, http)
            terms = eutils.terms(config.query, config.license or "commercial")
            return sum([await search.count(term) for term in terms.values()])

    return asyncio.run(count())
