"""Recipes: read exactly, refused with the field's name, and hashed by what they compute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from marketdata.clock import SECOND_NS
from marketdata.errors import SettingsError
from marketdata.recipes import interval_of, length_text, load_recipes, read_recipes

FILE = """
[recipes.five_seconds]
time = "5s"

[recipes.hundred_trades]
trades = 100

[recipes.ten_coins]
volume = "10.0"
symbols = ["coinbase:BTC-USD"]

[recipes.million]
value = 1000000
"""


def test_a_file_names_recipes_of_every_kind(tmp_path: Path) -> None:
    """TOML and JSON of the same recipes are equal, and every bar's interval states its size."""
    toml, as_json = tmp_path / "recipes.toml", tmp_path / "recipes.json"
    toml.write_text(FILE)
    as_json.write_text(
        json.dumps(
            {
                "recipes": {
                    "million": {"value": "1e6"},
                    "ten_coins": {"symbols": ["coinbase:BTC-USD"], "volume": "10"},
                    "hundred_trades": {"trades": 100},
                    "five_seconds": {"time": "5s"},
                }
            }
        )
    )
    recipes = load_recipes(toml)
    assert recipes == load_recipes(as_json)
    assert [(recipe.name, recipe.interval) for recipe in recipes] == [
        ("five_seconds", "5s"), ("hundred_trades", "tick:100"), ("million", "value:1000000"),
        ("ten_coins", "volume:10"),
    ]  # fmt: skip
    assert recipes[0].length_ns == 5 * SECOND_NS
    assert recipes[3].covers("coinbase:BTC-USD")
    assert not recipes[3].covers("kraken:BTC-USD")
    assert recipes[0].covers("kraken:BTC-USD")


def test_the_hash_depends_only_on_what_is_computed() -> None:
    """Names, symbols and notations do not change it, sizes and kinds do; and it never changes between releases."""

    def hash_of(fields: dict[str, Any], name: str = "one") -> str:
        return read_recipes({"recipes": {name: fields}})[0].hash

    assert hash_of({"time": "90s"}) == hash_of({"time": "90s", "symbols": ["a:B"]}, "two") == "10e6d1544eb03eaf"
    assert hash_of({"time": "120s"}) == hash_of({"time": "2m"})
    assert hash_of({"volume": "10"}) == hash_of({"volume": "10.00"}) == hash_of({"volume": 10})
    different: list[dict[str, Any]] = [
        {"time": "5s"},
        {"time": "6s"},
        {"trades": 10},
        {"volume": 10},
        {"value": 10},
        {"value": "10.1"},
    ]
    assert len({hash_of(fields) for fields in different}) == len(different)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "recipes: must be a table"),
        ({"recipes": {}, "recipe": {}}, "recipe: unknown; known are recipes"),
        ({"recipes": {"Fast": {"time": "5s"}}}, "recipes.Fast: a name is"),
        ({"recipes": {"fast": "5s"}}, "recipes.fast: must be a table"),
        ({"recipes": {"fast": {}}}, "recipes.fast: needs exactly one of time, trades, volume, value; it has none"),
        ({"recipes": {"fast": {"time": "5s", "trades": 1}}}, "recipes.fast: .*it has time and trades"),
        ({"recipes": {"fast": {"tme": "5s"}}}, "recipes.fast.tme: unknown"),
        ({"recipes": {"fast": {"time": "5"}}}, "recipes.fast.time: '5' is not"),
        ({"recipes": {"fast": {"time": "0s"}}}, "recipes.fast.time: '0s' is not"),
        ({"recipes": {"fast": {"time": "25h"}}}, "recipes.fast.time: '25h' is not"),
        ({"recipes": {"fast": {"time": 5}}}, "recipes.fast.time: 5 is not"),
        ({"recipes": {"fast": {"time": "60s"}}}, "recipes.fast.time: '60s' is a candle .*interval=1m"),
        ({"recipes": {"fast": {"trades": 0}}}, "recipes.fast.trades: 0 is not"),
        ({"recipes": {"fast": {"trades": True}}}, "recipes.fast.trades: True is not"),
        ({"recipes": {"fast": {"volume": 0.1}}}, "recipes.fast.volume: 0.1 is not"),
        ({"recipes": {"fast": {"volume": "-1"}}}, "recipes.fast.volume: '-1' is not"),
        ({"recipes": {"fast": {"value": "NaN"}}}, "recipes.fast.value: 'NaN' is not"),
        ({"recipes": {"fast": {"time": "5s", "symbols": ["BTC-USD"]}}}, "recipes.fast.symbols: 'BTC-USD' is not"),
        ({"recipes": {"fast": {"time": "5s", "symbols": "a:B"}}}, "recipes.fast.symbols: must be a list"),
        ({"recipes": {"a": {"time": "90s"}, "b": {"time": "90s"}}}, "recipes.b: has the same bars as recipes.a"),
        ({"recipes": {f"r{n}": {"trades": n + 1} for n in range(33)}}, "recipes: there are 33"),
    ],
)  # fmt: skip
def test_an_error_names_the_field(document: Any, message: str) -> None:
    """A recipe that cannot be used is refused at the start, with the field and the value."""
    with pytest.raises(SettingsError, match=message):
        read_recipes(document)


@pytest.mark.parametrize(
    ("name", "text"), [("a.toml", "[recipes"), ("a.json", "{"), ("a.toml", ""), ("a.toml", "recipes = 1")]
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, text: str) -> None:
    """The error of a file names it."""
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(SettingsError, match=str(path)):
        load_recipes(path)
    with pytest.raises(SettingsError, match="No such file"):
        load_recipes(tmp_path / "absent.toml")


def test_intervals_have_one_canonical_form() -> None:
    """A request may write a length or a size in any way."""
    assert [interval_of(text) for text in ("60s", "5s", "1440m", "tick:100", "volume:10.0", "value:1e3")] == [
        "1m", "5s", "1d", "tick:100", "volume:10", "value:1000",
    ]  # fmt: skip
    assert [interval_of(text) for text in ("", "5", "2d", "tick:0", "tick:1.5", "volume:", "other:1", "trades:x")] == [
        None
    ] * 8
    assert length_text(90 * SECOND_NS) == "90s"
