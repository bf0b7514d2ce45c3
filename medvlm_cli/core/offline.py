"""``--offline``: nothing leaves this machine.  And with or without it, no library tells its makers that it was used.

Two guards, because each sees what the other does not: variables that the libraries read before they look for a network,
and an audit hook that refuses, in this process and in every one of ours that it starts, to connect to or to look up
anything but this machine.  Sockets of one machine stay: ranks, workers and a server on it talk to each other by them.
"""

import ipaddress
import os
import socket
import sys
from collections.abc import MutableMapping
from typing import Any
from urllib.parse import urlsplit

from medvlm_cli.core.errors import RemoteError

VARIABLE = "MEDVLM_OFFLINE"

SILENT = {
    "DO_NOT_TRACK": "1",
    "DISABLE_SAFETENSORS_CONVERSION": "1",  # transformers asks a service to convert who has pickles only
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "WANDB_ERROR_REPORTING": "false",
}
"""What tells libraries to tell nobody; where the user has said otherwise, it stays."""

_ALONE = {
    VARIABLE: "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "NO_PROXY": "*",
    "no_proxy": "*",
}
_LOOPBACK = {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
"""By what interface ranks of one machine find each other; called so on Linux."""
_WAYS_OUT = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "wss_proxy", "trackio_space_id", "ray_address")
"""Variables, in small letters, by which even a socket of this machine leads out of it."""
_NO = ("", "0", "false", "no", "off")
_ADDRESSED = ("socket.connect", "socket.sendto", "socket.sendmsg")
_LOOKED_UP = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")
_state = {"hooked": False}


class OfflineError(RemoteError):
    """Something outside of this machine is needed, and the user has said that nothing outside is to be asked."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"offline: {what} is not on this machine, and is not asked",
            f"leave --offline out (and {VARIABLE} unset), or give a file or folder that is here",
        )


def silence(environment: MutableMapping[str, str] = os.environ) -> None:
    """Switch the telemetry of every library off that has any; call it before they are imported."""
    for name, value in SILENT.items():
        environment.setdefault(name, value)


def is_offline() -> bool:
    """Whether ``--offline`` was given, to this process or to the one that started it, or ``MEDVLM_OFFLINE`` set."""
    return os.environ.get(VARIABLE, "").strip().lower() not in _NO


def go_offline() -> None:
    """Keep this process, and all that it starts, on this machine; call it before libraries are imported."""
    for name in [name for name in os.environ if name.lower() in _WAYS_OUT]:
        del os.environ[name]
    if os.environ.get("WANDB_MODE") == "online":
        del os.environ["WANDB_MODE"]  # `core.tracking` keeps curves here then; set to offline, accelerate prints so
    os.environ.update(_ALONE)
    if sys.platform == "linux":
        os.environ.update(_LOOPBACK)
    if not _state["hooked"]:
        sys.addaudithook(_watch)  # cannot be taken off again, so it asks every time whether it is still meant
        _state["hooked"] = True


def refuse(*addresses: str) -> None:
    """Refuse what would be asked later, before anything is done.

    Args:
        addresses: URLs, or ``host:port``.

    Raises:
        OfflineError: this run is offline, and one of them is not on this machine.
    """
    if not is_offline():
        return
    for address in addresses:
        parts = urlsplit(address if "//" in address else f"//{address}")
        if not is_here(parts.hostname):
            raise OfflineError(parts.hostname or address)


def is_here(host: object) -> bool:
    """Whether a host, as sockets take it, is this machine."""
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if not isinstance(host, str):
        return host is None or isinstance(host, int)  # any of our own; an address of netlink, which is the kernel
    name = host.strip("[]").rstrip(".").lower().partition("%")[0]
    if name in ("", "localhost", socket.gethostname().lower()) or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse to leave this machine; called by the interpreter before whatever it audits."""
    if not event.startswith("socket.") or not is_offline():
        return
    if event in _ADDRESSED:
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) and address else None  # a path of AF_UNIX is no tuple
    elif event in _LOOKED_UP:
        host = arguments[0]
    else:
        return
    if not is_here(host):
        raise OfflineError(host.decode("ascii", "replace") if isinstance(host, bytes) else str(host))
