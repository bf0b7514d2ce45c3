"""Sources, teachers and benchmarks are looked up in plain dicts of strings, and imported when they are asked for."""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from medvlm_cli.core.errors import ConfigError


def resolve(name: str, registry: Mapping[str, str], what: str) -> Any:
    """What ``registry`` says ``name`` stands for: a module (``"package.module"``), or ``"package.module:member"``.

    Args:
        name: the plug-in asked for, ``pmc``.
        registry: name -> target, ``{"pmc": "medvlm_cli.sources.pmc"}``.
        what: the kind of plug-in, for the message: ``source``.

    Raises:
        ConfigError: the registry has no such name; the message lists the names, the fix names the nearest one.
    """
    if name not in registry:
        near = difflib.get_close_matches(name, registry, 1, cutoff=0.4)
        names = ", ".join(sorted(registry))
        raise ConfigError(f"no {what} '{name}'; there are {names}", f"did you mean '{near[0]}'?" if near else "")
    module, _, member = registry[name].partition(":")
    found = importlib.import_module(module)
    return getattr(found, member) if member else found
