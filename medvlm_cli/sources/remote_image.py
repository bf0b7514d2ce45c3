"""An image from an address that a user typed: from a public host over https, bounded, and nothing else.

Who pastes an address into a conversation may have got it from a stranger, whose host must not lead into the user's own
network.  So every address is judged before it is asked, redirects too; a name is resolved once, for the connection
itself, to public addresses only; and the last word is with the socket, which is not made for any other.
"""

import asyncio
import contextlib
import ipaddress
import re
import socket
from collections.abc import Collection
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

import aiohttp

from medvlm_cli import __version__
from medvlm_cli.core.errors import ConfigError, RemoteError
from medvlm_cli.core.hosts import PublicResolver, followed, is_private, shown
from medvlm_cli.sources.opening import AS_IT_IS, Opened, View, open_picture

MAX_BYTES = 50_000_000
SECONDS = 20.0
"""Longest that an image may take, from the first look at the address to the last byte."""
SLOWEST = 10_000
"""Bytes that must come in every ``WINDOW``."""
WINDOW = 5.0
"""Seconds."""
_REDIRECTS = 3
_PLAIN = re.compile(r"[!-\[\]-~]+").fullmatch
"""Printable ASCII without the backslash, which programs read differently."""


def open_url(url: str, view: View = AS_IT_IS, *, trusted: Collection[str] = ()) -> Opened:
    """Fetch a picture and open it.

    Args:
        url: begins with ``https://``, without user or password.
        view: a window for greyscale of more than 8 bits.
        trusted: ``host:port`` of servers that may be private, and spoken to without TLS; for the tests.

    Raises:
        ConfigError: the address is not one that is fetched; nothing was asked of anybody.
        DataError: what came is not a picture.
        RemoteError: nothing came, or too much or too slowly, or a redirect leads where it may not.
    """
    trouble = _trouble(url, trusted)
    if trouble:
        raise ConfigError(
            f"{named(url)}: {trouble}", "give an https:// address of a public host, or download the image"
        )
    try:
        data = asyncio.run(_bounded(url, trusted))
    except TimeoutError:
        raise RemoteError(f"{named(url)}: not there after {SECONDS:g} s", "download it, and give the file") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        words = getattr(error, "strerror", None) or type(error).__name__
        raise RemoteError(f"{named(url)}: {words}", "check the address, or download the image") from None
    return open_picture(data, url, PurePosixPath(unquote(urlsplit(url).path)).name, view)


def named(url: str) -> str:
    """An address as it may be shown: without what may be a secret, whatever it is made of."""
    try:
        return shown(url)
    except ValueError:
        return "the address"


def _trouble(url: str, trusted: Collection[str]) -> str:
    """Why an address is not asked; empty where it may be."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "not an address"
    if not _PLAIN(url):
        return "an address with characters that do not belong there"
    if f"{host}:{port}" in trusted:
        return ""
    if parts.scheme != "https":
        return "only https:// is fetched"
    if "@" in parts.netloc:
        return "an address with a user or a password"
    return "the host is in a private network" if is_private(host) else ""


async def _bounded(url: str, trusted: Collection[str]) -> bytes:
    async with asyncio.timeout(SECONDS):
        return await _fetched(url, trusted)


async def _fetched(url: str, trusted: Collection[str]) -> bytes:
    """The body at an address, after at most three redirects.

    Raises:
        RemoteError: there is none, or none that may be taken.
    """
    hosts = {each.rpartition(":")[0] for each in trusted}

    def public_socket(address: Any) -> socket.socket:
        family, kind, protocol, _, place = address
        if place[0] not in hosts and not ipaddress.ip_address(place[0]).is_global:
            raise OSError(None, "the host leads into a private network")
        made = socket.socket(family, kind, protocol)
        made.setblocking(False)
        return made

    connector = aiohttp.TCPConnector(limit=1, resolver=PublicResolver(hosts), socket_factory=public_socket)
    headers = {"User-Agent": f"medvlm/{__version__}", "Accept": "image/*", "Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(
        connector=connector, headers=headers, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar()
    ) as session:
        for _ in range(_REDIRECTS + 1):
            async with session.get(url, allow_redirects=False) as response:
                if response.status == 200:
                    return await _body(response, url)
                if not 300 <= response.status < 400 or "Location" not in response.headers:
                    raise RemoteError(f"{named(url)}: status {response.status}", "check the address")
                target = followed(url, response.headers["Location"])
            if target is None or _trouble(target, trusted):
                raise RemoteError(f"{named(url)}: redirects to where images are not fetched from")
            url = target
    raise RemoteError(f"{named(url)}: more than {_REDIRECTS} redirects")


async def _body(response: aiohttp.ClientResponse, url: str) -> bytes:
    """The whole body.

    Raises:
        RemoteError: it is too long or too slow.
        aiohttp.ClientError: it is shorter than announced.
    """
    if (response.content_length or 0) > MAX_BYTES:
        raise RemoteError(f"{named(url)}: {response.content_length:,} bytes, over the limit of {MAX_BYTES:,}")
    loop, body = asyncio.get_running_loop(), bytearray()
    while not response.content.at_eof():
        size, end = len(body), loop.time() + WINDOW
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(end):
                while piece := await response.content.readany():
                    body += piece
                    if len(body) > MAX_BYTES:
                        raise RemoteError(f"{named(url)}: over the limit of {MAX_BYTES:,} bytes")
                return bytes(body)
        if len(body) - size < SLOWEST:
            raise RemoteError(f"{named(url)}: {len(body) - size:,} bytes in {WINDOW:g} s are too slow")
    return bytes(body)
