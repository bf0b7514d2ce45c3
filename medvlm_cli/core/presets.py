"""From a preset and ``--set key=value`` to the settings of a verb.

Order: defaults, preset, ``--set``.  Types come from the dataclass, because YAML alone reads ``1e-3`` as a string.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml

from medvlm_cli.core.errors import ConfigError

Config = TypeVar("Config")


def load(kind: type[Config], preset: str | None, overrides: Sequence[str] = ()) -> Config:
    """Fill the settings of one verb.

    Args:
        kind: the dataclass, ``PretrainConfig`` for the section ``pretrain``.
        preset: name of a file in ``configs/``, or a path of a YAML file; None takes ``default_preset()``.
        overrides: ``key=value`` strings, the last one wins.

    Raises:
        ConfigError: no such preset, an unknown key (the nearest known one is named), or a value of another type.
    """
    path = find_preset(preset or default_preset())
    verb = kind.__name__.removesuffix("Config").lower()
    values: dict[str, Any] = {}
    for key, value in _section(path, verb).items():
        values[key] = _typed(kind, key, value, f"{path.name}, section {verb}", verb)
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise ConfigError(f"--set {override}: no '='", "write --set key=value")
        values[key.strip()] = _typed(kind, key.strip(), text.strip(), f"--set {override}", verb)
    return kind(**values)


def default_preset() -> str:
    """The preset of a verb called without ``-c``: the paper's where an NVIDIA driver is loaded, else ``tiny``."""
    return "llama3-med-8b" if Path("/dev/nvidiactl").exists() else "tiny"


def presets() -> dict[str, Path]:
    """Name and file of every preset that ships with medvlm."""
    package = Path(__file__).resolve().parents[1]
    folder = package / "configs"  # in a wheel
    if not folder.is_dir():
        folder = package.parent / "configs"  # in a checkout
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_preset(preset: str) -> Path:
    """The file of a preset, given by name or by path.

    Raises:
        ConfigError: there is neither.
    """
    known = presets()
    if preset in known:
        return known[preset]
    if Path(preset).is_file():
        return Path(preset)
    hint = difflib.get_close_matches(preset, known, 1)
    fix = f"did you mean '{hint[0]}'?" if hint else f"give a YAML file, or one of {', '.join(known)}"
    raise ConfigError(f"-c {preset}: no such preset", fix)


def _section(path: Path, verb: str) -> Mapping[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML ({str(error).splitlines()[0]})") from error
    verbs = ("fetch", "synthesize", "pretrain", "finetune", "eval", "chat")
    if not isinstance(content, dict) or not all(isinstance(part, dict | None) for part in content.values()):
        raise ConfigError(f"{path}: a preset is one section a verb, each with key: value lines")
    for name in content:
        if name not in verbs:
            raise ConfigError(f"{path}: no verb '{name}'", f"name the sections {', '.join(verbs)}")
    return content.get(verb) or {}


def _typed(kind: type, key: str, value: Any, where: str, verb: str) -> Any:
    types = get_type_hints(kind)
    if key not in types:
        hint = difflib.get_close_matches(key, types, 1)
        fix = f"did you mean '{hint[0]}'?" if hint else f"settings of {verb}: {', '.join(types)}"
        raise ConfigError(f"{where}: {verb} has no setting '{key}'", fix)
    try:
        return _cast(types[key], value)
    except (TypeError, ValueError) as error:
        wanted = getattr(types[key], "__name__", str(types[key]))
        raise ConfigError(f"{where}: '{key}' must be {wanted}, not {value!r}") from error


def _cast(type_: Any, value: Any) -> Any:
    """``value`` as ``type_``; text is read as a person writes it: ``32,64``, ``true``, ``1e-3``."""
    if get_origin(type_) is tuple:
        parts = value.strip("[]()").split(",") if isinstance(value, str) else value
        parts = parts if isinstance(parts, list | tuple) else [parts]
        return tuple(_cast(get_args(type_)[0], part.strip() if isinstance(part, str) else part) for part in parts)
    if type_ is bool:
        words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
        if str(value).lower() not in words:
            raise ValueError(value)
        return words[str(value).lower()]
    if type_ is int and isinstance(value, float) and not value.is_integer():
        raise ValueError(value)
    return type_(value)
