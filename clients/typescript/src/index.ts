/** Client of a Tickstream API: REST history, and live streams that repair themselves. */

import { Book } from "./book.js";
import { ALL_VENUES, type ConnectionState, Live, type SequenceGap, type Socket } from "./live.js";
import { type Query, Rest } from "./rest.js";
import type {
  Answer, BookData, CandleData, Channel, ConsolidatedData, Explanation, Gap, Health, LatestDerivative, Message, Paged,
  StoredAnomaly, StoredDerivative, StoredMetrics, StoredTrade, SymbolAnswer, SymbolInfo, TickerData,
  VenueSummary,
} from "./types.js";

export * from "./decimal.js";
export { Book } from "./book.js";
export type { ConnectionState, SequenceGap, Socket } from "./live.js";
export { ProblemError } from "./rest.js";
export * from "./types.js";

export interface ClientOptions {
  /** Address of the API, such as `http://127.0.0.1:8080`. */
  url: string;
  /** For Node before 22; everywhere else the standard one is used. */
  webSocket?: new (url: string) => Socket;
  fetch?: typeof fetch;
  timeoutMs?: number;
  /** A half-open connection is noticed, and the socket opened again, within this time; 30 seconds unless given. */
  silenceMs?: number;
  reconnectFirstMs?: number;
  reconnectMaxMs?: number;
}

export interface Market {
  venue: string;
  symbol: string;
}

/** `start` inclusive, `end` exclusive, RFC 3339 with a zone; `cursor` is the `next_cursor` of the page before. */
export type Span = {
  start?: string;
  end?: string;
  limit?: number;
  cursor?: string;
};

/** Candles of a length such as `1m`, or the bars of a recipe by its name. */
export type Series = { interval: string; recipe?: never } | { recipe: string; interval?: never };

export interface StreamHandlers<M> {
  message(message: M): void;
  gap?(gap: SequenceGap): void;
  refused?(code: string, text: string): void;
}

type MessageOf = {
  ticker: Message<"ticker">;
  trades: Message<"trade">;
  candles: Message<"candle">;
  derivatives: Message<"derivative">;
  metrics: Message<"metrics">;
  anomalies: Message<"anomaly">;
  status: Message<"status">;
};

export class MarketDataClient {
  private readonly rest: Rest;
  private readonly live: Live;

  constructor(options: ClientOptions) {
    const fetcher = options.fetch ?? ((...given: Parameters<typeof fetch>) => fetch(...given));
    this.rest = new Rest(options.url, fetcher, options.timeoutMs ?? 10_000);
    const socketUrl = new URL("/ws", options.url);
    socketUrl.protocol = socketUrl.protocol === "https:" ? "wss:" : "ws:";
    this.live = new Live({
      url: socketUrl.href,
      webSocket: options.webSocket ?? (WebSocket as unknown as new (url: string) => Socket),
      silenceMs: options.silenceMs ?? 30_000,
      pauseFirstMs: options.reconnectFirstMs ?? 500,
      pauseMaxMs: options.reconnectMaxMs ?? 10_000,
    });
  }

  // ---------------------------------------------------------------- history

  symbols(query: { venue?: string } = {}): Promise<Answer<SymbolInfo[]>> {
    return this.rest.get("/api/v1/market/symbols", query);
  }

  ticker({ venue, symbol }: Market): Promise<SymbolAnswer<TickerData>> {
    return this.market(symbol, "ticker", { venue });
  }

  orderBook({ venue, symbol }: Market, depth = 20): Promise<SymbolAnswer<BookData>> {
    return this.market(symbol, "orderbook", { venue, depth });
  }

  /** Newest first. */
  trades({ venue, symbol }: Market, query: Span = {}): Promise<SymbolAnswer<StoredTrade[]> & Paged> {
    return this.market(symbol, "trades", { venue, ...query });
  }

  /** What the venue sent, newest first, and the newest value of each field in `latest`. */
  derivatives(
    { venue, symbol }: Market,
    query: Span = {},
  ): Promise<SymbolAnswer<StoredDerivative[]> & Paged & { latest: LatestDerivative }> {
    return this.market(symbol, "derivatives", { venue, ...query });
  }

  /** Newest first; made of the venue's trades, or with `source` "venue" as the venue itself sends them. */
  candles({ venue, symbol }: Market, query: Span & Series & { source?: "trades" | "venue" }): Promise<SymbolAnswer<CandleData[]> & Paged> {
    return this.market(symbol, "candles", { venue, ...query });
  }

  /** Every revision of each closed candle, newest first. */
  candleRevisions({ venue, symbol }: Market, query: Span & Series & { source?: "trades" | "venue" }): Promise<SymbolAnswer<CandleData[]> & Paged> {
    return this.market(symbol, "candles/revisions", { venue, ...query });
  }

  /** Which trades made the candle that starts at `start`, and which did not; at most `limit` of each in full. */
  explainCandle({ venue, symbol }: Market, query: Series & { start: string; limit?: number }): Promise<Explanation> {
    return this.market(symbol, "candles/explain", { venue, ...query });
  }

  /** Spread, depth, imbalance and order flow of a book, newest first. */
  metrics({ venue, symbol }: Market, query: Span = {}): Promise<SymbolAnswer<StoredMetrics[]> & Paged> {
    return this.market(symbol, "metrics", { venue, ...query });
  }

  /** The best bid and offer over all venues; `kind` where the symbol means several instruments. */
  consolidated(symbol: string, query: { kind?: string } = {}): Promise<SymbolAnswer<ConsolidatedData>> {
    return this.market(symbol, "consolidated", query);
  }

  /** Newest first. */
  anomalies(query: Span & { venue?: string; symbol?: string } = {}): Promise<Answer<StoredAnomaly[]> & Paged> {
    return this.rest.get("/api/v1/anomalies", query);
  }

  /** Latest first. */
  gaps(query: Span & { venue?: string; symbol?: string; state?: Gap["state"] } = {}): Promise<Answer<Gap[]> & Paged> {
    return this.rest.get("/api/v1/gaps", query);
  }

  /** Validity, age and line of every symbol's data. */
  status(query: { venue?: string; symbol?: string; valid?: string; reason?: string; limit?: number; cursor?: string } = {}): Promise<Answer<Health> & Paged> {
    return this.rest.get("/api/v1/status", query);
  }

  /** How many symbols of each venue are valid, and why the others are not: small however many symbols there are. */
  statusSummary(): Promise<Answer<VenueSummary[]>> {
    return this.rest.get("/api/v1/status/summary");
  }

  private market<T>(symbol: string, what: string, query: Query): Promise<T> {
    return this.rest.get(`/api/v1/market/${encodeURIComponent(symbol)}/${what}`, query);
  }

  // ------------------------------------------------------------------- live

  /** Follows one channel of one market; returns the function that stops it. Every reconnect subscribes again. */
  subscribe<C extends keyof MessageOf>(
    channel: C,
    { venue, symbol }: Market,
    handlers: StreamHandlers<MessageOf[C]>,
    options: { interval?: string; recipe?: string } = {},
  ): () => void {
    return this.live.subscribe({ channel: channel as Channel, venue, symbol, ...options }, handlers as StreamHandlers<Message>);
  }

  /** Follows the best bid and offer over all venues; `kind` where the symbol means several instruments. */
  subscribeConsolidated(
    symbol: string,
    handlers: StreamHandlers<Message<"consolidated">>,
    options: { kind?: string } = {},
  ): () => void {
    const request = { channel: "consolidated" as const, venue: ALL_VENUES, symbol, ...options };
    return this.live.subscribe(request, handlers as StreamHandlers<Message>);
  }

  /** Keeps a book; `changed` is called after each message, and when a gap or a lost connection makes it invalid. */
  subscribeBook({ venue, symbol }: Market, depth: number, book: Book, changed: (message: Message | null) => void): () => void {
    const lost = (reason: string): void => {
      book.invalidate(reason);
      changed(null);
    };
    const stopState = this.live.onState((state) => {
      if (state.kind !== "open" && book.timestamp) lost("offline");
    });
    const stop = this.live.subscribe({ channel: "book", venue, symbol, depth }, {
      message: (message) => {
        book.apply(message as Message<"l2_snapshot" | "l2_update">);
        changed(message);
      },
      gap: () => lost("missed"),
      refused: (_code, text) => lost(text),
    });
    return () => {
      stopState();
      stop();
    };
  }

  get connection(): ConnectionState {
    return this.live.state;
  }

  onConnection(listener: (state: ConnectionState) => void): () => void {
    return this.live.onState(listener);
  }

  retryNow(): void {
    this.live.retryNow();
  }

  close(): void {
    this.live.close();
  }
}
