"""Twelve addresses that lead where a user's own network is, at every door that takes addresses: nobody is asked there.

The doors: a server that ``fetch`` was told to read from and that redirects, an address typed into ``chat``, and one
typed into ``chat`` whose server redirects.  The audit hook of the interpreter sees every connection, also those that
would reach nobody.
"""

import asyncio
import sys
from contextlib import contextmanager

import aiohttp
import pytest

from medvlm_cli.core.errors import MedVLMError
from medvlm_cli.core.http import Http
from medvlm_cli.core.pace import Patience
from medvlm_cli.sources.opening import open_place
from medvlm_cli.sources.remote_image import open_url
from tests.attacks.listening import listening
from tests.core.report_cases import png
from tests.plugins.test_opening_url import serving

ADDRESSES = {
    "link-local": "https://169.254.169.254/latest/meta-data",
    "file": "file:///etc/hostname",
    "ftp": "ftp://127.0.0.1:{port}/x.png",
    "IPv4 in IPv6": "https://[::ffff:127.0.0.1]:{port}/x.png",
    "decimal": "https://2130706433:{port}/x.png",
    "octal": "https://0177.0.0.1:{port}/x.png",
    "hexadecimal": "https://0x7f.0.0.1:{port}/x.png",
    "a user before the host": "https://public.example@127.0.0.1:{port}/x.png",
    "a name of this machine": "https://x.localhost:{port}/x.png",
    "a name that was public when it was looked at": "https://rebinding.example:{port}/x.png",
    "plain http": "http://public.example:{port}/x.png",
    "a name of the network": "https://db.internal:{port}/x.png",
}
PUBLIC = "198.41.0.4"
"""What names resolve to at first; never connected to."""
_watched = []
"""Lists that get what is connected to."""


def _watch(event, arguments):
    if _watched and event == "socket.connect":
        _watched[-1].append(arguments[1])


sys.addaudithook(_watch)


@contextmanager
def connections():
    """A list of every address that this process connects to meanwhile."""
    seen = []
    _watched.append(seen)
    try:
        yield seen
    finally:
        _watched.remove(seen)


@pytest.fixture(autouse=True)
def rebinding(monkeypatch):
    """Every name of a stranger's leads to this machine whenever it is looked up for a connection."""

    async def resolve(self, host, port=0, family=0):
        return [{"host": "127.0.0.1", "hostname": host, "port": port, "family": 2, "proto": 0, "flags": 0}]

    monkeypatch.setattr(aiohttp.ThreadedResolver, "resolve", resolve)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: [(2, 1, 6, "", (PUBLIC, 443))])
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def fetched(url):
    """The body at an address, as ``fetch`` asks for it."""

    async def get():
        async with Http(1, Patience(tries=1), redirects=5) as http:
            return (await http.get(url, limit=1000))[0]

    return asyncio.run(get())


def by_a_redirect_to_fetch(server, _):
    return fetched(server.url("away"))


def typed_into_chat(_, address):
    return open_place(address, allow_url=True)


def by_a_redirect_to_chat(server, _):
    return open_url(server.url("away"), trusted={server.place})


DOORS = {one.__name__: one for one in (by_a_redirect_to_fetch, typed_into_chat, by_a_redirect_to_chat)}


def test_there_are_twelve_of_them():
    assert len(ADDRESSES) == 12


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("name", ADDRESSES)
def test_nobody_is_asked_at_a_forbidden_address(door, name):
    with listening(png()) as forbidden:
        address = ADDRESSES[name].format(port=forbidden.port)
        with serving({"away": (302, b"", {"Location": address})}) as server, connections() as seen:
            with pytest.raises(MedVLMError):
                DOORS[door](server, address)
            asked = [one for one in seen if one[1] != server.port]
    assert (asked, forbidden.connections) == ([], 0)


def test_the_watch_sees_a_connection():
    with serving({"": (200, b"x", {})}) as server, connections() as seen:
        assert fetched(server.url("")) == b"x"
    assert [one[1] for one in seen] == [server.port]
