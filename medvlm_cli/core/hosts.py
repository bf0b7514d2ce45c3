"""Which hosts may be talked to: redirects, names that lead into a private network, addresses as errors show them."""

import ipaddress
import socket
from urllib.parse import urljoin, urlsplit

import aiohttp


def shown(url: str) -> str:
    """An address as errors show it: without user, query and fragment, where secrets lie."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def followed(url: str, location: str) -> str | None:
    """Where a redirect leads: to https at a public address, or to the same private host; None for anywhere else."""
    target = urljoin(url, location)
    old, new = urlsplit(url), urlsplit(target)
    if new.scheme == "https" and not is_private(new.hostname or ""):
        return target
    if is_private(old.hostname or "") and (new.hostname, new.port) == (old.hostname, old.port):
        return target
    return None


def is_private(host: str) -> bool:
    """Whether a host is named by an address of no public network, or is this machine."""
    if host in ("", "localhost") or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return host.replace(".", "").isdigit() or host.startswith("0x")  # inet_aton reads these as addresses


class PublicResolver(aiohttp.ThreadedResolver):
    """Names resolve to public addresses only, so that no name of a stranger's leads into the user's own network.

    Asked when the connection is made, so a name that changes its mind is caught too.

    Args:
        trusted: hosts that the user named; may grow.
    """

    def __init__(self, trusted: set[str]) -> None:
        super().__init__()
        self._trusted = trusted

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[aiohttp.abc.ResolveResult]:
        """The addresses of a host; raises ``OSError`` where none is public."""
        found = await super().resolve(host, port, family)
        if host in self._trusted:
            return found
        public = [one for one in found if ipaddress.ip_address(one["host"]).is_global]
        if not public:
            raise OSError(None, f"{host} leads into a private network")
        return public
