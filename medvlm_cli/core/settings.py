"""What the settings of all verbs share: how they are checked, and how they go into JSON."""

import dataclasses
from typing import Any
from urllib.parse import urlsplit

from medvlm_cli.core.errors import ConfigError

CACHE_PRECISIONS = ("exact", "int8")


def is_address(text: str) -> bool:
    """Whether keys may be put behind this address."""
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, half an IPv6 address
        return False
    return known and not any(one.isspace() or one in "?#" for one in text)


def at_least(config: Any, least: int, *names: str) -> None:
    """Refuse settings that are below the least value.

    Raises:
        ConfigError: names the first one.
    """
    for name in names:
        if getattr(config, name) < least:
            raise ConfigError(f"{name} is {getattr(config, name)}, below {least}")


def one_of(config: Any, name: str, allowed: tuple) -> None:
    """Refuse a setting that is not one of the allowed values.

    Raises:
        ConfigError: lists them.
    """
    if getattr(config, name) not in allowed:
        given = ", ".join(str(value) for value in allowed)
        raise ConfigError(f"{name} is {getattr(config, name)!r}", f"give one of {given}")


def as_dict(config: Any) -> dict[str, Any]:
    """The settings as JSON takes them, for ``run.json`` and the fingerprint."""
    return {
        key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(config).items()
    }
