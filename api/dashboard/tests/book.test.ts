import { addDecimals, Book, compareDecimals, type Level, type Message, subtractDecimals } from "@tickstream/client";
import { describe, expect, test } from "vitest";

function message(type: "l2_snapshot" | "l2_update", bids: Level[], asks: Level[], reason = ""): Message<"l2_snapshot" | "l2_update"> {
  const timestamp = "2026-08-09T21:05:48.228568Z";
  return { type, venue: "v", symbol: "A-B", timestamp, sequence: 1, valid: reason === "", reason, data: { bids, asks } };
}

describe("decimals", () => {
  test("sums and differences are exact where floats are not", () => {
    expect(addDecimals("0.1", "0.20")).toBe("0.30");
    expect(subtractDecimals("64123.50", "64123.49")).toBe("0.01");
    expect(subtractDecimals("1", "1.5e-3")).toBe("0.9985");
    expect(addDecimals("9007199254740993", "0.00000001")).toBe("9007199254740993.00000001");
  });

  test("order is exact beyond the digits of a float", () => {
    expect(compareDecimals("0.10000000000000000001", "0.1")).toBeGreaterThan(0);
    expect(compareDecimals("100.0", "100.00")).toBe(0);
    expect(compareDecimals("-2", "1")).toBeLessThan(0);
  });

  test("what is no decimal is refused", () => {
    expect(() => addDecimals("NaN", "1")).toThrow(RangeError);
  });
});

describe("book", () => {
  test("an update before a snapshot changes nothing", () => {
    const book = new Book();
    book.apply(message("l2_update", [["1", "1"]], []));
    expect(book.bids).toEqual([]);
    expect(book.valid).toBe(false);
  });

  test("sides are sorted best first, in the venue's own digits", () => {
    const book = new Book();
    book.apply(message("l2_snapshot", [["9.50", "1"], ["10.0", "2"]], [["11", "1"], ["10.5", "0.10"]]));
    expect(book.bids.map(([price]) => price)).toEqual(["10.0", "9.50"]);
    expect(book.asks).toEqual([["10.5", "0.10"], ["11", "1"]]);
  });

  test("an update sets, inserts and removes levels, whatever notation the price has", () => {
    const book = new Book();
    book.apply(message("l2_snapshot", [["10.0", "2"], ["9.5", "1"]], []));
    book.apply(message("l2_update", [["10", "3"], ["9.7", "1"], ["9.50", "0.000"], ["1", "0"]], []));
    expect(book.bids).toEqual([["10", "3"], ["9.7", "1"]]);
  });

  test("an invalid book keeps its levels and says why; only a snapshot heals a gap", () => {
    const book = new Book();
    book.apply(message("l2_snapshot", [["10", "2"]], []));
    book.apply(message("l2_update", [], [], "gap"));
    expect([book.valid, book.reason, book.bids.length]).toEqual([false, "gap", 1]);
    book.invalidate("missed");
    book.apply(message("l2_update", [["11", "1"]], []));
    expect([book.valid, book.reason, book.bids.length]).toEqual([false, "missed", 1]);
    book.apply(message("l2_snapshot", [["11", "1"]], []));
    expect([book.valid, book.bids[0]]).toEqual([true, ["11", "1"]]);
  });
});
