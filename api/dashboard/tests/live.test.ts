import { Book, type ConnectionState, MarketDataClient, type Message } from "@tickstream/client";
import { afterEach, beforeEach, expect, test, vi } from "vitest";

/** The server's end of a socket, scripted by the test. */
class Wire {
  static all: Wire[] = [];
  readyState = 0;
  onopen: ((event: never) => void) | null = null;
  onmessage: ((event: never) => void) | null = null;
  onclose: ((event: never) => void) | null = null;
  asked: { op: string; id: number; channels: string[]; symbols: string[]; interval?: string; recipe?: string }[] = [];

  constructor(readonly url: string) {
    Wire.all.push(this);
  }

  send(text: string): void {
    this.asked.push(JSON.parse(text));
  }

  close(): void {
    this.readyState = 3;
  }

  open(): void {
    this.readyState = 1;
    this.onopen?.({} as never);
  }

  says(message: object): void {
    this.onmessage?.({ data: JSON.stringify(message) } as never);
  }

  acknowledge(): void {
    for (const { op, id, channels, symbols } of this.asked) {
      if (op === "subscribe") this.says({ type: "subscribed", id, channels, symbols });
    }
    this.asked = this.asked.filter(({ op }) => op !== "subscribe");
  }
}

const id = { venue: "coinbase", symbol: "BTC-USD" };

function trade(sequence: number, extra: object = {}): object {
  const data = { trade_id: `${sequence}`, price: "1", size: "1", side: "buy", liquidation: false };
  return { type: "trade", ...id, timestamp: "2026-01-01T00:00:00.000000Z", sequence, valid: true, reason: "", data, ...extra };
}

function candle(sequence: number, interval: string, recipe?: string): object {
  const data = { interval, ...(recipe === undefined ? {} : { recipe }) };
  return { type: "candle", ...id, timestamp: "2026-01-01T00:00:00.000000Z", sequence, valid: true, reason: "", data };
}

function consolidated(sequence: number, kind: string): object {
  const data = { kind };
  return { type: "consolidated", venue: "*", symbol: "BTC-USD", timestamp: "2026-01-01T00:00:00.000000Z", sequence, valid: true, reason: "", data };
}

function book(sequence: number, type: string, price: string): object {
  const data = { bids: [[price, "1"]], asks: [] };
  return { type, ...id, depth: 50, timestamp: "2026-01-01T00:00:00.000000Z", sequence, valid: true, reason: "", data };
}

let client: MarketDataClient;

beforeEach(() => {
  vi.useFakeTimers();
  Wire.all = [];
  client = new MarketDataClient({ url: "http://api.test:8080", webSocket: Wire });
});

afterEach(() => {
  client.close();
  vi.useRealTimers();
});

function wire(): Wire {
  return Wire.all[Wire.all.length - 1]!;
}

test("one request for each stream goes out when the socket opens", () => {
  client.subscribe("trades", id, { message: () => undefined });
  client.subscribe("candles", id, { message: () => undefined }, { interval: "5m" });
  expect(wire().url).toBe("ws://api.test:8080/ws");
  expect(wire().asked).toEqual([]);
  wire().open();
  const asked = wire().asked.filter(({ op }) => op === "subscribe");
  expect(asked).toMatchObject([
    { channels: ["trades"], symbols: ["BTC-USD"], venue: "coinbase" },
    { channels: ["candles"], symbols: ["BTC-USD"], interval: "5m" },
  ]);
});

test("candles of a recipe reach who asked by its name and who asked by its interval, and leaving one keeps the other", () => {
  const got: [string, number][] = [];
  const listen = (name: string) => ({ message: ({ sequence }: Message) => got.push([name, sequence]) });
  const leave = client.subscribe("candles", id, listen("recipe"), { recipe: "five_seconds" });
  client.subscribe("candles", id, listen("5s"), { interval: "5s" });
  client.subscribe("candles", id, listen("1m"), { interval: "1m" });
  wire().open();
  expect(wire().asked.filter(({ op }) => op === "subscribe").map(({ recipe }) => recipe)).toEqual(["five_seconds", undefined, undefined]);
  wire().acknowledge();
  wire().says(candle(1, "5s", "five_seconds"));
  wire().says(candle(1, "1m"));
  expect(got).toEqual([["5s", 1], ["recipe", 1], ["1m", 1]]);
  leave();
  expect(wire().asked.filter(({ op }) => op !== "ping").map(({ op, interval }) => [op, interval])).toEqual([
    ["unsubscribe", undefined], ["subscribe", "5s"], ["subscribe", "1m"],
  ]);
});

test("consolidated prices come by symbol and kind, of all venues", () => {
  const got: string[] = [];
  client.subscribeConsolidated("BTC-USD", { message: ({ data }) => got.push(`any ${data.kind}`) });
  client.subscribeConsolidated("BTC-USD", { message: ({ data }) => got.push(`perpetual ${data.kind}`) }, { kind: "perpetual" });
  wire().open();
  expect(wire().asked.filter(({ op }) => op === "subscribe")).toMatchObject([
    { channels: ["consolidated"], venue: "*" }, { channels: ["consolidated"], venue: "*", kind: "perpetual" },
  ]);
  wire().acknowledge();
  wire().says(consolidated(1, "spot"));
  expect(got).toEqual(["any spot"]);
});

test("messages in sequence are delivered, a gap is reported and the stream subscribed again", () => {
  const got: number[] = [];
  const gaps: object[] = [];
  client.subscribe("trades", id, { message: (message: Message) => got.push(message.sequence), gap: (gap) => gaps.push(gap) });
  wire().open();
  wire().says(trade(1)); // before the acknowledgement: of an older subscription
  wire().acknowledge();
  wire().says(trade(7, { snapshot: true }));
  wire().says(trade(8));
  wire().says(trade(10));
  expect(got).toEqual([7, 8]);
  expect(gaps).toEqual([{ expected: 9, received: 10 }]);
  expect(wire().asked.slice(-2).map(({ op }) => op)).toEqual(["unsubscribe", "subscribe"]);
  wire().says(trade(11));
  wire().acknowledge();
  wire().says(trade(12, { snapshot: true }));
  wire().says(trade(13));
  expect(got).toEqual([7, 8, 12, 13]);
});

test("a conflated message restarts the count", () => {
  const got: number[] = [];
  client.subscribe("ticker", id, { message: ({ sequence }) => got.push(sequence), gap: () => got.push(-1) });
  wire().open();
  wire().acknowledge();
  wire().says({ ...trade(3), type: "ticker" });
  wire().says({ ...trade(9), type: "ticker", conflated: true });
  wire().says({ ...trade(10), type: "ticker" });
  expect(got).toEqual([3, 9, 10]);
});

test("a book with a gap is invalid until its new snapshot", () => {
  const kept = new Book();
  client.subscribeBook(id, 50, kept, () => undefined);
  wire().open();
  wire().acknowledge();
  wire().says(book(1, "l2_snapshot", "10"));
  wire().says(book(2, "l2_update", "11"));
  expect([kept.valid, kept.bids.length]).toEqual([true, 2]);
  wire().says(book(4, "l2_update", "12"));
  expect([kept.valid, kept.reason, kept.bids.length]).toEqual([false, "missed", 2]);
  wire().acknowledge();
  wire().says(book(5, "l2_snapshot", "13"));
  expect([kept.valid, kept.bids]).toEqual([true, [["13", "1"]]]);
});

test("a lost socket invalidates the book, pauses, and subscribes again", () => {
  const kept = new Book();
  const states: ConnectionState["kind"][] = [];
  client.onConnection(({ kind }) => states.push(kind));
  client.subscribeBook(id, 50, kept, () => undefined);
  wire().open();
  wire().acknowledge();
  wire().says(book(1, "l2_snapshot", "10"));
  wire().onclose?.({ code: 1006 } as never);
  expect([kept.valid, kept.reason]).toEqual([false, "offline"]);
  expect(states.at(-1)).toBe("waiting");
  vi.advanceTimersByTime(1_000);
  expect(Wire.all.length).toBe(2);
  wire().open();
  expect(wire().asked[0]).toMatchObject({ op: "subscribe", channels: ["book"], depth: 50 });
});

test("a socket that falls silent is opened again", () => {
  client.subscribe("trades", id, { message: () => undefined });
  wire().open();
  vi.advanceTimersByTime(30_000);
  expect(Wire.all.length).toBeGreaterThan(1);
});

test("while messages arrive nothing is sent, and only a silent socket is asked for a sign of life", () => {
  client.subscribe("trades", id, { message: () => undefined });
  wire().open();
  wire().acknowledge();
  wire().asked = [];
  for (let second = 1; second <= 120; second++) {
    vi.advanceTimersByTime(1_000);
    wire().says(trade(second, { snapshot: true }));
  }
  expect(wire().asked).toEqual([]);
  vi.advanceTimersByTime(22_000);
  expect(wire().asked).toMatchObject([{ op: "ping" }]);
  wire().says({ type: "pong", id: wire().asked[0]!.id });
  vi.advanceTimersByTime(14_000);
  expect(Wire.all.length).toBe(1);
});

test("a socket that has WebSocket pings uses them, and their answers are signs of life", () => {
  let pings = 0;
  const listeners: (() => void)[] = [];
  client.close();
  client = new MarketDataClient({
    url: "http://api.test:8080",
    webSocket: class extends Wire {
      ping(): void {
        pings += 1;
        for (const listener of listeners) listener();
      }
      on(_event: string, listener: () => void): void {
        listeners.push(listener);
      }
    },
  });
  Wire.all = [];
  client.subscribe("trades", id, { message: () => undefined });
  wire().open();
  wire().acknowledge();
  wire().asked = [];
  vi.advanceTimersByTime(120_000);
  expect(pings).toBeGreaterThan(3);
  expect(wire().asked).toEqual([]);
  expect(Wire.all.length).toBe(1);
});

test("the round trip is that of the last request", () => {
  const states: ConnectionState[] = [];
  client.onConnection((state) => states.push(state));
  client.subscribe("trades", id, { message: () => undefined });
  wire().open();
  vi.advanceTimersByTime(25);
  wire().acknowledge();
  expect(states.at(-1)).toMatchObject({ kind: "open", roundTripMs: 25 });
});

test("what concerns a whole connection reaches the streams of its venue", () => {
  const got: string[] = [];
  client.subscribe("status", id, { message: ({ symbol }) => got.push(symbol) });
  wire().open();
  wire().acknowledge();
  wire().says({ ...trade(1), type: "status", symbol: "*" });
  wire().says({ ...trade(1), type: "status", symbol: "*", venue: "other" });
  expect(got).toEqual(["*"]);
});

test("a server that is not ready is asked again", () => {
  client.subscribe("trades", id, { message: () => undefined });
  wire().open();
  const first = wire().asked.find(({ op }) => op === "subscribe")!;
  wire().asked = [];
  wire().says({ type: "error", id: first.id, code: "not_ready", message: "" });
  vi.advanceTimersByTime(1_000);
  expect(wire().asked.some(({ op, id: asked }) => op === "subscribe" && asked !== first.id)).toBe(true);
});
