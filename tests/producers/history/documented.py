"""Answers of the venues' histories as their documents show them, and adapters that ask nobody."""

from __future__ import annotations

import json
from typing import Any

import databento_dbn

from infra.simulator.venues.tape import MINUTE_NS, SECOND_NS
from marketdata import dbn
from producers.venues import make_history
from producers.venues.kit.history import Access, Asked, History, TradeHistory

TS = 2_000_000_000 * SECOND_NS
START = 1_700_000_040  # a whole minute, in seconds
MS = START * 1000


EMPTY_DBN = bytes(
    databento_dbn.Metadata("GLBX.MDP3", 0, dbn.RAW_SYMBOL, dbn.INSTRUMENT_ID, databento_dbn.Schema.from_str("trades"))
)


def adapter(venue: str) -> History:
    """Return an adapter that asks nobody."""
    return make_history(venue, Access(key="key", secret="secret"))


def trade_adapter(venue: str) -> TradeHistory:
    """Return an adapter that asks nobody, of a venue that has trades of the past."""
    history = adapter(venue)
    assert isinstance(history, TradeHistory)
    return history


def asked(history: History, name: str, interval: str = "1m", minutes: float = 10) -> Asked:
    """Return a range of some minutes from START on."""
    start = START * SECOND_NS
    return Asked(instrument=history.instrument(name), start=start, end=start + int(minutes * MINUTE_NS),
                 interval=interval)  # fmt: skip


# Answers as the documents show them; numbers with zeros at the end, which no float keeps.
CANDLES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "bitfinex": (
        "BTC-USD",
        f"[[{MS},37000.10,37010.0,37020.50,36990,1.50000000]]",
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1.50000000"},
    ),
    "coinbase": (
        "BTC-USD",
        {"candles": [{"start": str(START), "low": "36990.00", "high": "37020.5", "open": "37000.10", "close": "37010",
                      "volume": "1.50"}]},
        {"open": "37000.10", "close": "37010", "high": "37020.5", "low": "36990.00", "volume": "1.50"},
    ),
    "binance_spot": (
        "BTC-USDT",
        [[MS, "37000.10000000", "37020.50000000", "36990.00000000", "37010.00000000", "1.50000000", MS + 59_999,
          "55512.34000000", 308, "0.75000000", "27756.17", "0"]],
        {"open": "37000.10000000", "close": "37010.00000000", "high": "37020.50000000", "low": "36990.00000000",
         "volume": "1.50000000", "quote_volume": "55512.34000000", "trades": 308, "buy_volume": "0.75000000"},
    ),
    "kraken": (
        "BTC-USD",
        {"error": [], "result": {"last": START, "XXBTZUSD": [
            [START, "37000.1", "37020.5", "36990.0", "37010.0", "37005.2", "1.50000000", 7]]}},
        {"open": "37000.1", "close": "37010.0", "high": "37020.5", "low": "36990.0", "volume": "1.50000000",
         "trades": 7},
    ),
    "alpaca": (
        "AAPL",
        '{"bars":[{"t":"2023-11-14T22:14:00Z","o":178.260,"h":178.30,"l":178.21,"c":178.210,"v":1118,"n":65}],"next_page_token":null}',
        {"open": "178.260", "high": "178.30", "low": "178.21", "close": "178.210", "volume": "1118", "trades": 65},
    ),
}  # fmt: skip


CANDLES["binance_usdm"] = CANDLES["binance_spot"]


CANDLES["bybit"] = (
    "BTC-USDT-PERP",
    {"retCode": 0, "retMsg": "OK", "result": {"symbol": "BTCUSDT", "category": "linear", "list": [
        [str(MS), "37000.10", "37020.5", "36990.00", "37010", "1.50", "55512.340"]]}, "time": MS},
    {"open": "37000.10", "close": "37010", "high": "37020.5", "low": "36990.00", "volume": "1.50",
     "quote_volume": "55512.340"},
)  # fmt: skip


CANDLES |= {
    "gemini": (
        "BTC-USD",
        f"[[{MS},37000.10,37020.50,36990,37010.0,1.50000000]]",
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1.50000000"},
    ),
    "kraken_futures": (
        "BTC-USD-PI",
        {"candles": [{"time": MS, "open": "37000.10", "high": "37020.50", "low": "36990", "close": "37010.0",
                      "volume": "1500"}], "more_candles": False},
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1500"},
    ),
    "coinbase_exchange": (
        "BTC-USD",
        f"[[{START},36990,37020.50,37000.10,37010.0,1.50000000]]",
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1.50000000"},
    ),
    "deribit": (
        "BTC-USD-PERPETUAL",
        (f'{{"result":{{"status":"ok","ticks":[{MS}],"open":[37000.50],"high":[37020.5],"low":[36990],'
        '"close":[37010.0],"volume":[0.04054],"cost":[1500.0]}}'),
        {"open": "37000.50", "close": "37010.0", "high": "37020.5", "low": "36990", "volume": "1500.0"},
    ),
    "okx": (
        "BTC-USDT",
        {"code": "0", "msg": "", "data": [[str(MS), "37000.10", "37020.50", "36990", "37010.0", "1.50000000",
                                           "55512.3", "55512.3", "1"]]},
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1.50000000"},
    ),
    "hyperliquid": (
        "BTC-USD-PERPETUAL",
        [{"t": MS, "T": MS + 59_999, "s": "BTC", "i": "1m", "o": "37000.10", "h": "37020.50", "l": "36990",
          "c": "37010.0", "v": "1.50000", "n": 189}],
        {"open": "37000.10", "close": "37010.0", "high": "37020.50", "low": "36990", "volume": "1.50000",
         "trades": 189},
    ),
}  # fmt: skip


def body(value: Any) -> bytes:
    """Return an answer; text stands for itself."""
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


KRAKEN_FRAME = (
    '{"channel":"trade","type":"update","data":[{"symbol":"BTC/USD","side":"sell","price":37000.10,"qty":0.50,'
    '"ord_type":"market","trade_id":61044952,"timestamp":"2023-11-14T22:14:00.123456Z"}]}'
)


KRAKEN_TRADES = (
    f'{{"error":[],"result":{{"XXBTZUSD":[["37000.10","0.50",{START}.123456,"s","m","",61044952]],'
    f'"last":"{START}123456000"}}}}'
)


# The same execution in the stream and in history: the frame, and the answer with its cursor.
SAME: dict[str, tuple[str, list[Any], Any, str | None]] = {
    "bitfinex": (
        "tBTCUSD",
        [{"event": "subscribed", "channel": "trades", "chanId": 5, "symbol": "tBTCUSD", "pair": "BTCUSD"},
         f'[5,"te",[401597395,{MS},-0.50,37000.10]]'],
        f"[[401597395,{MS},-0.50,37000.10]]",
        None,
    ),
    "coinbase": (
        "BTC-USD",
        [{"channel": "market_trades", "timestamp": "2023-11-14T22:14:01Z", "sequence_num": 0, "events": [
            {"type": "update", "trades": [{"product_id": "BTC-USD", "trade_id": "34", "price": "37000.10",
             "size": "0.50", "time": "2023-11-14T22:14:00.123456Z", "side": "BUY"}]}]}],
        {"trades": [{"product_id": "BTC-USD", "trade_id": "34", "price": "37000.10", "size": "0.50",
                     "time": "2023-11-14T22:14:00.123456Z", "side": "BUY", "bid": "", "ask": ""}]},
        f"{START}:60:0",
    ),
    "binance_spot": (
        "BTCUSDT",
        [{"e": "trade", "E": MS, "s": "BTCUSDT", "t": 12345, "p": "37000.10", "q": "0.50", "T": MS, "m": True}],
        [{"id": 12345, "price": "37000.10", "qty": "0.50", "quoteQty": "1", "time": MS, "isBuyerMaker": True,
          "isBestMatch": True}],
        "id:12345",
    ),
    "binance_usdm": (
        "BTCUSDT",
        [{"e": "aggTrade", "E": MS, "s": "BTCUSDT", "a": 777, "p": "37000.10", "q": "0.50", "f": 12345, "l": 12346,
          "T": MS, "m": True}],
        [{"a": 777, "p": "37000.10", "q": "0.50", "f": 12345, "l": 12346, "T": MS, "m": True}],
        "id:777",
    ),
    "bybit": (
        "BTCUSDT",
        [{"topic": "publicTrade.BTCUSDT", "ts": MS, "type": "snapshot", "data": [
            {"i": "2290000001189048101", "T": MS, "p": "37000.10", "v": "0.50", "S": "Sell", "s": "BTCUSDT"}]}],
        {"retCode": 0, "retMsg": "OK", "result": {"category": "spot", "list": [
            {"execId": "2290000001189048101", "symbol": "BTCUSDT", "price": "37000.10", "size": "0.50",
             "side": "Sell", "time": str(MS), "isBlockTrade": False}]}},
        None,
    ),
    "kraken": (
        "BTC/USD",
        [KRAKEN_FRAME],
        KRAKEN_TRADES,
        None,
    ),
}  # fmt: skip


SAME |= {
    "gemini": (
        "BTCUSD",
        [{"E": MS * 1_000_000, "s": "btcusd", "t": 1234, "p": "37000.10", "q": "0.50", "m": True}],
        [{"timestamp": START, "timestampms": MS, "tid": 1234, "price": "37000.10", "amount": "0.50",
          "exchange": "gemini", "type": "sell"}],
        None,
    ),
    "kraken_futures": (
        "PI_XBTUSD",
        [('{"feed":"trade","product_id":"PI_XBTUSD","uid":"45ee9737-1877","side":"sell","type":"fill","seq":5,'
         f'"time":{MS},"qty":15000,"price":37000.50}}')],
        ('{"result":"success","history":[{"time":"2023-11-14T22:14:00.000Z","trade_id":81,"price":37000.50,'
        '"size":15000,"side":"sell","type":"fill","uid":"45ee9737-1877"}]}'),
        None,
    ),
    "coinbase_exchange": (
        "BTC-USD",
        [{"type": "match", "product_id": "BTC-USD", "trade_id": 34, "time": "2023-11-14T22:14:00.123456Z",
          "side": "buy", "price": "37000.10", "size": "0.50", "sequence": 9, "maker_order_id": "a",
          "taker_order_id": "b"}],
        [{"trade_id": 34, "time": "2023-11-14T22:14:00.123456Z", "side": "buy", "price": "37000.10",
          "size": "0.50"}],
        "34",
    ),
    "deribit": (
        "BTC-PERPETUAL",
        [('{"jsonrpc":"2.0","method":"subscription","params":{"channel":"trades.BTC-PERPETUAL.100ms","data":['
         f'{{"trade_seq":7,"trade_id":"48077291","timestamp":{MS},"price":37000.50,"instrument_name":"BTC-PERPETUAL",'
         '"direction":"sell","amount":10.0,"liquidation":"T"}]}}')],
        (f'{{"result":{{"trades":[{{"trade_seq":7,"trade_id":"48077291","timestamp":{MS},"price":37000.50,'
        '"instrument_name":"BTC-PERPETUAL","direction":"sell","amount":10.0,"liquidation":"T"}],"has_more":false}}'),
        None,
    ),
}  # fmt: skip


BINANCE_ROW = {"id": 0, "price": "37000.10", "qty": "0.50", "quoteQty": "1", "time": MS, "isBuyerMaker": True}


# The venue's own levels: a body of REST, the number or time, and prices and sizes of bids and of asks.
BOOKS: dict[str, tuple[str, Any, int]] = {
    "binance_spot": ("BTC-USDT", {"lastUpdateId": 1027024, "bids": [["4.00", "431.0"]], "asks": [["4.2", "12"]]},
                     1027024),
    "binance_usdm": ("BTC-USDT", {"lastUpdateId": 1027024, "E": MS, "T": MS, "bids": [["4.00", "431.0"]],
                                  "asks": [["4.2", "12"]]}, 1027024),
    "bybit": ("BTC-USDT", {"retCode": 0, "result": {"s": "BTCUSDT", "b": [["4.00", "431.0"]], "a": [["4.2", "12"]],
                                                    "ts": MS + 20, "u": 230704, "seq": 1432604333, "cts": MS}},
              MS * 1_000_000),
    "coinbase": ("BTC-USD", {"pricebook": {"product_id": "BTC-USD", "bids": [{"price": "4.00", "size": "431.0"}],
                                           "asks": [{"price": "4.2", "size": "12"}],
                                           "time": "2023-11-14T22:14:00.000Z"}}, MS * 1_000_000),
    "coinbase_exchange": ("BTC-USD", {"sequence": 13051505638, "bids": [["4.00", "431.0", 2]],
                                      "asks": [["4.2", "12", 1]], "time": "2023-11-14T22:14:00Z"}, 13051505638),
    "deribit": ("BTC-PERPETUAL", ('{"result":{"timestamp":1,"change_id":474988,"bids":[[4.00,431.0]],'
                '"asks":[[4.2,12]]}}'), 474988),
    "okx": ("BTC-USDT", {"code": "0", "msg": "", "data": [{"bids": [["4.00", "431.0", "0", "4"]],
                                                          "asks": [["4.2", "12", "0", "1"]], "ts": str(MS)}]},
            MS * 1_000_000),
    "hyperliquid": ("BTC", {"coin": "BTC", "time": MS, "levels": [[{"px": "4.00", "sz": "431.0", "n": 1}],
                                                                  [{"px": "4.2", "sz": "12", "n": 2}]]},
                    MS * 1_000_000),
}  # fmt: skip
