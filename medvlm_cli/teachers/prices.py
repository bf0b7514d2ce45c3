"""What teachers cost: a dated table of prices, and the arithmetic of money.

Money is counted in whole billionths of a dollar (nanodollars), always rounded up, so that sums of a million rows are
exact and never below what is billed.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from medvlm_cli.core.errors import ConfigError
from medvlm_cli.teachers.replies import Usage

NANO = 10**9
"""Nanodollars in a dollar."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """Of one model, in nanodollars a token; a batch costs ``batch`` times as much."""

    input: Fraction
    output: Fraction
    read: Fraction
    write_5m: Fraction
    write_1h: Fraction
    batch: Fraction
    dated: str
    """Day of the table."""
    above: int = 0
    """Input tokens of a request above which ``dear`` holds; 0: never."""
    dear: "Price | None" = None

    def cost(self, usage: Usage, *, batch: bool) -> int:
        """What a request with this usage is billed, in nanodollars, rounded up.

        Args:
            usage: tokens as the provider counted them.
            batch: whether it came in a Message Batch.
        """
        read = usage.input_tokens + usage.cache_read + usage.cache_write_5m + usage.cache_write_1h
        if self.dear is not None and read > self.above:
            return self.dear.cost(usage, batch=batch)
        total = (
            self.input * usage.input_tokens
            + self.output * usage.output_tokens
            + self.read * usage.cache_read
            + self.write_5m * usage.cache_write_5m
            + self.write_1h * usage.cache_write_1h
        )
        return -int(-total * (self.batch if batch else 1) // 1)

    def most(self, tokens_in: int, tokens_out: int, *, kept: int, batch: bool) -> int:
        """The most that a request of so many tokens can be billed, in nanodollars, rounded up.

        Args:
            tokens_in: all that is read.
            tokens_out: all that is written.
            kept: of ``tokens_in``, those that a cache may take or give; each at the dearest that this can cost.
            batch: whether it goes in a Message Batch.
        """
        prices = (self, self.dear or self)
        total = max(
            one.input * (tokens_in - kept)
            + max(one.input, one.read, one.write_5m, one.write_1h) * kept
            + one.output * tokens_out
            for one in prices
        )
        return -int(-total * (self.batch if batch else 1) // 1)


def price_of(model: str, *, table: Path | None = None, given: str = "") -> Price:
    """The price of a model.

    Args:
        model: the name that is sent; a snapshot's date behind a known name is allowed.
        table: a YAML file in the form of ``prices.yaml``, instead of the one that ships with medvlm.
        given: ``input,output`` in dollars a million tokens, instead of any table.

    Raises:
        ConfigError: the table is none, or does not know the model.
    """
    where = str(table) if table else "prices.yaml"
    text = table.read_text("utf-8") if table and table.is_file() else _shipped() if table is None else None
    if text is None:
        raise ConfigError(f"prices={table}: no such file", "give a table in the form of medvlm's prices.yaml")
    try:
        content = yaml.safe_load(text)
        batch, dated, models = Fraction(str(content["batch"])), str(content["dated"]), content["models"]
        if given:
            price_in, price_out = given.split(",")
            return _price({"input": price_in, "output": price_out}, batch, "given by the user")
        known = [name for name in models if model == name or _is_snapshot(model, name)]
        if known:
            return _price(models[max(known, key=len)], batch, dated)
    except (yaml.YAMLError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        what = f"price={given}" if given else f"{where}: not a table of prices"
        fix = "give --set price=INPUT,OUTPUT in dollars a million tokens, or a table as medvlm's prices.yaml"
        raise ConfigError(f"{what} ({str(error).splitlines()[0]})", fix) from error
    fix = f"give its price with --set price=INPUT,OUTPUT (dollars a million tokens); known: {', '.join(models)}"
    raise ConfigError(f"{where} has no price of {model}", fix)


def table_id(table: Path | None) -> str:
    """First 12 hex digits of the SHA-256 of a table."""
    text = table.read_text("utf-8") if table else _shipped()
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def dollars(nano: int) -> float:
    """Nanodollars as dollars."""
    return nano / NANO


def _shipped() -> str:
    return files("medvlm_cli.teachers").joinpath("prices.yaml").read_text("utf-8")


def _is_snapshot(model: str, name: str) -> bool:
    date = model.removeprefix(f"{name}-")
    return model.startswith(f"{name}-") and date.isdigit() and len(date) == 8


def _price(entry: Mapping[str, Any], batch: Fraction, dated: str) -> Price:
    base, output = _fraction(entry["input"]), _fraction(entry["output"])
    rest = {
        "read": _fraction(entry["read"]) if "read" in entry else base / 10,
        "write_5m": _fraction(entry["write_5m"]) if "write_5m" in entry else base * 5 / 4,
        "write_1h": _fraction(entry["write_1h"]) if "write_1h" in entry else base * 2,
    }
    above = entry.get("above")
    dear = _price(above, batch, dated) if above else None
    tokens = int(above["tokens"]) if above else 0
    return Price(input=base, output=output, **rest, batch=batch, dated=dated, above=tokens, dear=dear)


def _fraction(value: Any) -> Fraction:
    """Dollars a million tokens as nanodollars a token."""
    price = Fraction(str(value).strip())
    if price < 0:
        raise ValueError(f"{value} is below 0")
    return price * 1000
