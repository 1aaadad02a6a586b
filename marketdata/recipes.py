"""Recipes of bars: what a bar is made of, read from one TOML or JSON file that is checked when a service starts.

A file names recipes; each has exactly one of `time`, `trades`, `volume` and `value`, and optionally `symbols`:

    [recipes.five_seconds]
    time = "5s"                          # any whole number of seconds, minutes or hours from 1s to 1d

    [recipes.hundred_trades]
    trades = 100                         # a bar ends with its 100th trade

    [recipes.ten_coins]
    volume = "10"                        # ... with the trade that brings its base volume to 10
    symbols = ["coinbase:BTC-USD"]       # only these; all symbols when it is left out

    [recipes.million]
    value = "1000000"                    # ... with the trade that brings its quote volume to 1,000,000

The hash identifies what a recipe computes: its kind and size, not its name or its symbols. Equal sizes have the same
hash in any notation (`"120s"` and `"2m"`, `"10.0"` and `"10"`).
"""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from marketdata.clock import MINUTE_NS, SECOND_NS
from marketdata.decimals import decimal, plain
from marketdata.errors import BadEvent, SettingsError
from marketdata.intervals import INTERVALS

RECIPES_MAX = 32
TRADES_MAX = 1_000_000
SYMBOLS_MAX = 1_000
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")
# Raised when bars of the same size would be computed differently, so that the hash changes with the arithmetic.
RULES_VERSION = 1

_HOUR_NS = 60 * MINUTE_NS
_DAY_NS = 24 * _HOUR_NS
_UNITS = {"d": _DAY_NS, "h": _HOUR_NS, "m": MINUTE_NS, "s": SECOND_NS}
_LENGTH = re.compile(r"([1-9][0-9]{0,5})([smhd])")
_SIZES = ("time", "trades", "volume", "value")
_BUILT_IN = {length: name for name, length in INTERVALS.items()}


class Recipe(msgspec.Struct, frozen=True, kw_only=True):
    """One recipe. `kind` is time, trades, volume or value.

    `length_ns` is the length of time bars (0 for others). `size` is what completes another bar: a number of trades, or
    a volume or value as an exact decimal (0 for time bars). `interval` is that of its bars: `5s`, `tick:100`,
    `volume:10` or `value:1000000`. `symbols` are keys (`venue:symbol`); empty means all.
    """

    name: str
    kind: str
    interval: str
    hash: str
    length_ns: int = 0
    size: Decimal = Decimal(0)
    symbols: frozenset[str] = frozenset()

    def covers(self, key: str) -> bool:
        """Return whether bars are made for a key (`venue:symbol`)."""
        return not self.symbols or key in self.symbols


def length_text(length_ns: int) -> str:
    """Return a length as the number of its largest whole unit: `90s`, `5m`, `1d`."""
    for unit, unit_ns in _UNITS.items():
        if length_ns % unit_ns == 0:
            return f"{length_ns // unit_ns}{unit}"
    raise ValueError(f"{length_ns} ns is not a whole number of seconds")


def read_length(text: str) -> int | None:
    """Return the nanoseconds of a length from `1s` to `1d`, such as `90s`; None if it is not one."""
    match = _LENGTH.fullmatch(text)
    if match is None:
        return None
    length = int(match[1]) * _UNITS[match[2]]
    return length if length <= _DAY_NS else None


def interval_of(text: str) -> str | None:
    """Return the canonical `interval` that a request names (`60s` is `1m`, `volume:10.0` is `volume:10`).

    None if no recipe could have it.
    """
    length = read_length(text)
    if length is not None:
        return length_text(length)
    kind, _, size = text.partition(":")
    kind = "trades" if kind == "tick" else kind
    if kind not in ("trades", "volume", "value"):
        return None
    try:
        return _recipe("name", {kind: int(size) if kind == "trades" and size.isdecimal() else size}).interval
    except SettingsError:
        return None


def load_recipes(path: Path) -> tuple[Recipe, ...]:
    """Return the recipes of a `.toml` or `.json` file, ordered by name.

    Raises SettingsError that names the file and the field.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SettingsError(f"recipes file {path}: {error.strerror or error}") from None
    try:
        document = json.loads(data) if path.suffix == ".json" else tomllib.loads(data.decode())
    except ValueError as error:
        raise SettingsError(f"recipes file {path}: not valid {path.suffix[1:].upper() or 'TOML'}: {error}") from None
    try:
        return read_recipes(document)
    except SettingsError as error:
        raise SettingsError(f"recipes file {path}: {error}") from None


def read_recipes(document: Any) -> tuple[Recipe, ...]:
    """Return the recipes of a document as parsed from TOML or JSON, ordered by name.

    Raises SettingsError that names the field.
    """
    if not isinstance(document, dict) or not isinstance(document.get("recipes"), dict):
        raise SettingsError('recipes: must be a table of recipes by name, such as [recipes.fast] with time = "5s"')
    _refuse_unknown("", document, ("recipes",))
    named: Mapping[str, Any] = document["recipes"]
    if len(named) > RECIPES_MAX:
        raise SettingsError(f"recipes: there are {len(named)}; at most {RECIPES_MAX} are possible")
    recipes = tuple(_recipe(name, named[name]) for name in sorted(named))
    by_interval: dict[str, str] = {}
    for recipe in recipes:
        other = by_interval.setdefault(recipe.interval, recipe.name)
        if other != recipe.name:
            raise SettingsError(f"recipes.{recipe.name}: has the same bars as recipes.{other} ({recipe.interval})")
    return recipes


def _recipe(name: str, fields: Any) -> Recipe:
    place = f"recipes.{name}"
    if not NAME.fullmatch(name):
        raise SettingsError(f"{place}: a name is a lower-case letter, then at most 31 of a-z, 0-9 and _")
    if not isinstance(fields, dict):
        raise SettingsError(f'{place}: must be a table, such as time = "5s"')
    _refuse_unknown(f"{place}.", fields, (*_SIZES, "symbols"))
    given = [kind for kind in _SIZES if kind in fields]
    if len(given) != 1:
        found = f"it has {' and '.join(given)}" if given else "it has none"
        raise SettingsError(f"{place}: needs exactly one of {', '.join(_SIZES)}; {found}")
    kind = given[0]
    value, symbols = fields[kind], _symbols(place, fields.get("symbols", []))
    if kind == "time":
        length = _length(f"{place}.time", value)
        interval, canonical = length_text(length), str(length)
        return Recipe(
            name=name, kind=kind, interval=interval, hash=_hash(kind, canonical), length_ns=length, symbols=symbols
        )
    size = _size(f"{place}.{kind}", kind, value)
    interval = f"{'tick' if kind == 'trades' else kind}:{plain(size)}"
    return Recipe(name=name, kind=kind, interval=interval, hash=_hash(kind, plain(size)), size=size, symbols=symbols)


def _hash(kind: str, size: str) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of a recipe's canonical JSON."""
    canonical = json.dumps({"kind": kind, "rules": RULES_VERSION, "size": size}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _refuse_unknown(place: str, fields: Mapping[str, Any], known: Iterable[str]) -> None:
    for name in fields:
        if name not in known:
            raise SettingsError(f"{place}{name}: unknown; known are {', '.join(known)}")


def _length(place: str, value: Any) -> int:
    length = read_length(value) if isinstance(value, str) else None
    if length is None:
        raise SettingsError(f'{place}: {value!r} is not a whole number of s, m, h or d from 1s to 1d, such as "5s"')
    if length in _BUILT_IN:
        raise SettingsError(f"{place}: {value!r} is a candle that is always made (interval={_BUILT_IN[length]})")
    return length


def _size(place: str, kind: str, value: Any) -> Decimal:
    if kind == "trades":
        if type(value) is not int or not 1 <= value <= TRADES_MAX:
            raise SettingsError(f"{place}: {value!r} is not a whole number from 1 to {TRADES_MAX}")
        return Decimal(value)
    # A float has lost digits already, so that only whole numbers and strings are exact.
    text = str(value) if type(value) is int else value
    try:
        size = decimal(text, kind) if isinstance(text, str) else None
    except BadEvent:
        size = None
    if size is None or size <= 0:
        raise SettingsError(f'{place}: {value!r} is not a number above 0 as a decimal string, such as "10.5"')
    return Decimal(plain(size))


def _symbols(place: str, value: Any) -> frozenset[str]:
    if not isinstance(value, list) or len(value) > SYMBOLS_MAX:
        raise SettingsError(f"{place}.symbols: must be a list of at most {SYMBOLS_MAX} of venue:symbol")
    for one in value:
        venue, found, symbol = one.partition(":") if isinstance(one, str) else ("", "", "")
        if not (venue and found and symbol):
            raise SettingsError(f'{place}.symbols: {one!r} is not venue:symbol, such as "coinbase:BTC-USD"')
    return frozenset(value)
