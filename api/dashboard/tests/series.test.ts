import type { CandleData } from "@tickstream/client";
import { describe, expect, test } from "vitest";
import { candleOf, Candles, CANDLES_MAX } from "../src/candles";
import { padded, parseTime, percent, rounded } from "../src/format";
import { LINES_MAX, Tape, type TimedTrade } from "../src/tape";

function candle(minute: number, close: string, change: Partial<CandleData> = {}) {
  const start = new Date(Date.UTC(2026, 0, 1, 0, minute)).toISOString();
  const data: CandleData = {
    interval: "1m", start, end: start, open: "1", high: "1", low: "1", close, volume: "1", quote_volume: "1", buy_volume: "1",
    trades: 1, state: "open", revision: 0, origin: "live", valid: true, reason: "", vwap: "1", ...change,
  };
  return candleOf(data, true, "");
}

function trade(id: string, price: string, size: string, timeMs: number): TimedTrade {
  return { trade_id: id, price, size, side: "buy", liquidation: false, timeMs };
}

describe("figures", () => {
  test.each([
    ["0.0001", "0.01 %"], ["-0.00012500", "-0.0125 %"], ["0", "0 %"], ["1.5", "150 %"], ["0.55", "55 %"], ["0.1", "10 %"], ["2", "200 %"],
  ])("the fraction %s is %s, exactly", (fraction, text) => expect(percent(fraction)).toBe(text));

  test.each([
    ["65058.68092341", 9, "65058.6809"], ["0.00000000012345", 3, "0.000000000123"], ["-0.25", 3, "-0.25"], ["12.500000000", 9, "12.5"],
    ["0.000000000000", 3, "0"], ["123456789012", 9, "123456789012"], ["", 5, ""],
  ])("%s with %i digits is %s", (text, digits, short) => expect(rounded(text, digits)).toBe(short));
});

describe("tape", () => {
  test("trades with other conditions are other lines, and one that sets no price is marked", () => {
    const tape = new Tape();
    const odd: Partial<TimedTrade> = { conditions: ["@", "I"], excluded_from: ["high_low", "open_close"] };
    tape.add([trade("1", "10", "1", 5), trade("2", "10", "2", 5), { ...trade("3", "10", "4", 5), ...odd }]);
    expect(tape.lines.map(({ size, conditions, unpriced }) => [size, conditions, unpriced])).toEqual([
      ["4", ["@", "I"], true], ["3", [], false],
    ]);
  });
});

describe("candles", () => {
  test("history fills what is missing and does not undo what came live", () => {
    const candles = new Candles();
    candles.live(candle(2, "live"));
    candles.history([candle(1, "old"), candle(2, "stored")]);
    expect(candles.items.map(({ close }) => close)).toEqual(["old", "live"]);
  });

  test("a correction with a higher revision wins, a late message about the open candle does not", () => {
    const candles = new Candles();
    candles.live(candle(1, "final", { state: "final" }));
    candles.live(candle(1, "late"));
    expect(candles.newest?.close).toBe("final");
    candles.history([candle(1, "revised", { state: "revised", revision: 1 })]);
    expect(candles.newest?.close).toBe("revised");
  });

  test("only what changed is to be drawn", () => {
    const candles = new Candles();
    expect(candles.taken()).toBeNull();
    candles.live(candle(1, "a"));
    candles.live(candle(2, "b"));
    expect(candles.taken()?.map(({ close }) => close)).toEqual(["a", "b"]);
    expect(candles.taken()).toEqual([]);
  });

  test("memory is bounded", () => {
    const candles = new Candles();
    for (let minute = 0; minute < CANDLES_MAX + 10; minute += 1) candles.live(candle(minute, "x"));
    expect(candles.items.length).toBe(CANDLES_MAX);
  });
});

describe("tape", () => {
  test("trades of one sweep at one price are one line with the exact sum", () => {
    const tape = new Tape();
    tape.add([trade("1", "10", "0.1", 5)]);
    tape.add([trade("2", "10", "0.2", 5)]);
    tape.add([trade("3", "11", "0.2", 5)]);
    expect(tape.lines.map(({ price, size, count }) => [price, size, count])).toEqual([["11", "0.2", 1], ["10", "0.3", 2]]);
  });

  test("a trade is shown once, whether it came stored, live or both, in order of time", () => {
    const tape = new Tape();
    tape.add([trade("1", "10", "1", 10)]);
    tape.add([trade("4", "13", "1", 40)]);
    tape.add([trade("4", "13", "1", 40), trade("3", "12", "1", 30), trade("2", "11", "1", 20), trade("1", "10", "1", 10)]);
    tape.add([trade("2", "11", "1", 20)]);
    expect(tape.lines.map(({ price }) => price)).toEqual(["13", "12", "11", "10"]);
  });

  test("what was canceled or corrected is shown no more", () => {
    const tape = new Tape();
    tape.add([trade("1", "10", "1", 10), trade("2", "99", "1", 20), trade("3", "12", "1", 30)]);
    tape.add([{ ...trade("2", "99", "1", 90), action: "cancel" }]);
    tape.add([{ ...trade("c", "11", "1", 91), side: "unknown", action: "correct", original_id: "1" }]);
    tape.add([{ ...trade("?", "1", "1", 92), action: "cancel" }]);
    expect(tape.lines.map(({ price, timeMs, side }) => [price, timeMs, side])).toEqual([["12", 30, "buy"], ["11", 10, "buy"]]);
  });

  test("memory is bounded", () => {
    const tape = new Tape();
    for (let n = 0; n < 10 * LINES_MAX; n += 1) tape.add([trade(`${n}`, `${n}`, "1", n)]);
    expect(tape.lines.length).toBe(LINES_MAX);
    expect(tape.lines[0]?.price).toBe(`${10 * LINES_MAX - 1}`);
  });
});

describe("format", () => {
  test("microseconds are kept", () => {
    expect(parseTime("2026-08-09T21:05:48.228568Z") - Date.parse("2026-08-09T21:05:48Z")).toBeCloseTo(228.568, 3);
  });

  test("points are aligned without a digit that was not sent", () => {
    expect(padded("1.5", 2)).toBe("1.5 ");
    expect(padded("1", 2)).toBe("1   ");
    expect(padded("1.25", 2)).toBe("1.25");
  });
});
