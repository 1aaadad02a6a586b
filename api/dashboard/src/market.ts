/** The selected market: its live streams and history, kept in bounded memory for the panels to draw. */

import {
  Book, type ConsolidatedData, type DerivativeData, type Interval, type LiquidationData, type MarketDataClient, type Market as Id,
  type Message, type MetricsData, type TickerData,
} from "@tickstream/client";
import { type Candle, candleOf, Candles, CANDLES_MAX } from "./candles";
import type { Delay } from "./delay";
import { parseTime } from "./format";
import { LINES_MAX, Tape } from "./tape";

/** More than the ladder shows, so that levels are there when better ones go. */
const DEPTH = 50;
const HISTORY_PAGE = 1_000;
/** Liquidations kept. */
const LIQUIDATIONS_MAX = 100;

export interface Watcher {
  book(): void;
  tape(): void;
  candles(): void;
  ticker(): void;
  /** Metrics, derivative data or the other venues' prices. */
  details(): void;
  /** History arrived, or the reason why not. */
  history(problem: string | null): void;
}

/** A value with its validity. */
export interface Valued<D> {
  data: D;
  valid: boolean;
  reason: string;
  timestamp: string;
  /** By the page's own clock. */
  receivedMs: number;
}

function valued<D>({ data, valid, reason, timestamp }: { data: D; valid: boolean; reason: string; timestamp: string }): Valued<D> {
  return { data, valid, reason, timestamp, receivedMs: performance.now() };
}

export class Market {
  readonly book = new Book();
  readonly tape = new Tape();
  readonly candles = new Candles();
  ticker: TickerData | null = null;
  tickerValid = false;
  last: { price: string; side: string } | null = null;
  metrics: Valued<MetricsData> | null = null;
  derivative: Valued<DerivativeData> | null = null;
  consolidated: Valued<ConsolidatedData> | null = null;
  /** Why there are no consolidated prices. */
  consolidatedRefused: string | null = null;
  /** Newest first. */
  liquidations: LiquidationData[] = [];
  private loadingOlder = false;
  private exhausted = false;
  private closed = false;
  private readonly stops: (() => void)[] = [];
  private stopCandles: (() => void) | null = null;

  constructor(
    private readonly client: MarketDataClient,
    readonly id: Id,
    public interval: Interval,
    private readonly delay: Delay,
    private readonly watcher: Watcher,
    kind?: string,
  ) {
    this.stops.push(
      client.subscribeBook(id, DEPTH, this.book, (message) => {
        if (message) this.time(message);
        watcher.book();
      }),
      client.subscribe("trades", id, { message: (message) => this.trade(message) }),
      client.subscribe("ticker", id, {
        message: (message) => {
          this.ticker = message.data;
          this.tickerValid = message.valid;
          this.time(message);
          watcher.ticker();
        },
      }),
      client.subscribe("metrics", id, {
        message: (message) => {
          this.metrics = valued(message);
          watcher.details();
        },
      }),
      client.subscribe("derivatives", id, { message: (message) => this.derive(message) }),
      client.subscribeConsolidated(id.symbol, {
        message: (message) => {
          this.consolidated = valued(message);
          watcher.details();
        },
        refused: (_code, text) => {
          this.consolidatedRefused = text;
          watcher.details();
        },
      }, kind === undefined ? {} : { kind }),
    );
    void this.loadTrades();
    this.follow(interval);
  }

  /** Shows another interval; book and tape go on. */
  follow(interval: Interval): void {
    this.interval = interval;
    this.candles.clear();
    this.exhausted = false;
    this.stopCandles?.();
    this.stopCandles = this.client.subscribe("candles", this.id, {
      message: (message) => {
        this.candles.live(candleOf(message.data, message.valid, message.reason));
        this.watcher.candles();
      },
      gap: () => void this.loadCandles(),
    }, { interval });
    void this.loadCandles();
  }

  /** What was missed while there was no connection. */
  async catchUp(): Promise<void> {
    await Promise.all([this.loadCandles(), this.loadTrades()]);
  }

  async loadOlder(): Promise<void> {
    const oldest = this.candles.oldest;
    if (!oldest || this.loadingOlder || this.exhausted || this.candles.items.length >= CANDLES_MAX) return;
    this.loadingOlder = true;
    await this.loadCandles(oldest.start);
    this.loadingOlder = false;
  }

  close(): void {
    this.closed = true;
    this.stopCandles?.();
    for (const stop of this.stops) stop();
  }

  private time(message: Message): void {
    if (message.valid && !message.snapshot && !message.conflated) this.delay.add(performance.timeOrigin + performance.now() - parseTime(message.timestamp));
  }

  private trade(message: Message<"trade">): void {
    this.tape.add([{ ...message.data, timeMs: parseTime(message.timestamp) }]);
    this.last = { price: message.data.price, side: message.data.side };
    this.time(message);
    this.watcher.tape();
  }

  private derive(message: Message<"derivative">): void {
    this.derivative = valued(message);
    // The state with which a stream begins has the last liquidations, oldest first; a change has its own.
    const known = message.snapshot ? [] : this.liquidations;
    this.liquidations = [...message.data.liquidations.slice().reverse(), ...known].slice(0, LIQUIDATIONS_MAX);
    this.watcher.details();
  }

  private async loadCandles(before?: string): Promise<void> {
    const { interval } = this;
    try {
      const query = before === undefined ? { interval, limit: HISTORY_PAGE } : { interval, limit: HISTORY_PAGE, end: before };
      const page = await this.client.candles(this.id, query);
      if (this.closed || interval !== this.interval) return;
      const candles: Candle[] = page.data.map((candle) => candleOf(candle, candle.valid, candle.reason));
      const oldest = this.candles.oldest;
      this.candles.history(candles);
      if (before !== undefined && this.candles.oldest === oldest) this.exhausted = true;
      this.watcher.history(null);
    } catch (error) {
      if (!this.closed && interval === this.interval) this.watcher.history(String((error as Error).message));
    }
  }

  private async loadTrades(): Promise<void> {
    try {
      const { data } = await this.client.trades(this.id, { limit: LINES_MAX });
      if (this.closed) return;
      this.tape.add(data.map((trade) => ({ ...trade, timeMs: parseTime(trade.timestamp) })));
      this.watcher.tape();
    } catch {
      // The tape still fills from the socket; the connection's own state tells the user that the API is away.
    }
  }
}
